"""Pages of a report on narrow and wide screens, of planes and of volumes, and what older browsers make of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glimpse.reading.records import Reading
from glimpse.report.html.writing import write_report
from tests.browsers import console, in_a_browser, in_a_frame, in_frames
from tests.reports import readings_of, write_run

PARTS = Path(__file__).resolve().parents[2] / "glimpse" / "report" / "html" / "parts"
NAMES = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A run of planes and one of volumes, by their number of axes."""
    folder = tmp_path_factory.mktemp("runs")
    return {axes: write_run(folder / f"{axes}d", readings_of(NAMES, axes)) for axes in (2, 3)}


def report_of(run: Path, folder: Path) -> str:
    return write_report(run, folder / "report.html").file.read_text("utf-8")


@in_a_browser
@pytest.mark.parametrize("axes", [2, 3])
def test_pages_say_nothing_on_the_console(runs: dict[int, Path], axes: int, tmp_path: Path) -> None:
    together = write_report(runs[axes], tmp_path / "one.html").file.as_uri()
    apart = write_report(runs[axes], tmp_path / "many.html", megabytes=0)
    assert apart.folder is not None
    case = next(apart.folder.iterdir()).as_uri()
    for address in (together, f"{together}#page-0", apart.file.as_uri(), case):
        assert console(address) == []


@in_a_browser
def test_what_the_console_says_is_heard(runs: dict[int, Path], tmp_path: Path) -> None:
    page = report_of(runs[2], tmp_path).replace("</body>", "<script>1</script></body>")
    (tmp_path / "other.html").write_text(page)
    assert "Content Security Policy" in "".join(console((tmp_path / "other.html").as_uri()))


@in_a_browser
@pytest.mark.parametrize("axes", [2, 3])
def test_pages_are_as_wide_as_the_screen(runs: dict[int, Path], axes: int, tmp_path: Path) -> None:
    frames = [(width, place) for width in (400, 1400) for place in ("", "#page-0")]
    script = "const page = document.documentElement; tell([innerWidth, page.clientWidth, page.scrollWidth]);"
    told = in_frames(report_of(runs[axes], tmp_path), script, frames, tmp_path)
    for (width, _), (screen, inside, needed) in zip(frames, told, strict=True):
        assert screen == width and needed <= inside <= screen


@in_a_browser
def test_volumes_are_gone_through_in_three_planes(runs: dict[int, Path], tmp_path: Path) -> None:
    script = """
        const names = () => [...document.querySelectorAll("#panels figcaption")].map((one) => one.textContent);
        const images = () => [...document.querySelectorAll("#panels > figure > svg > image")];
        const cuts = () => images().map((one) => one.href.baseVal);
        const said = { names: names(), last: cuts(), told: document.getElementById("told").textContent };
        document.getElementById("first").click();
        tell({ ...said, first: cuts(), start: document.getElementById("told").textContent });
    """
    said = in_a_frame(report_of(runs[3], tmp_path), script, 1400, tmp_path, "#page-0")
    assert said["names"] == ["axial (R on the left)", "coronal (R on the left)", "sagittal (A on the left)"]
    assert said["told"].startswith("Look 3 of 3: ") and said["start"].startswith("Before the first look: ")
    assert len(said["first"]) == len(said["last"]) == 3
    assert said["first"] != said["last"], "each look is shown in the cuts that go through it"


def with_looks(reading: Reading, count: int) -> Reading:
    """A reading with many looks at about one place."""
    trace, rng = reading.traced, np.random.default_rng(0)
    places = (0.9 + rng.uniform(-0.02, 0.02, (count, 2))).astype(np.float32)

    def repeated(rows: np.ndarray, many: int = count) -> np.ndarray:
        return np.resize(rows, (many, *rows.shape[1:]))

    assert trace.chances is not None and trace.without is not None
    changed = replace(
        trace,
        glimpses=repeated(trace.glimpses),
        extents=repeated(trace.extents),
        cells=repeated(trace.cells, count + 1),
        parents=np.full(count, -1),
        shown=None,
        chances=repeated(trace.chances),
        without=repeated(trace.without),
    )
    return replace(
        reading,
        scanpath=places,
        zooms=np.zeros(count, np.int64),
        glimpses=count,
        predictions=repeated(reading.predictions, count + 1),
        trace=changed,
    )


@in_a_browser
def test_every_look_has_its_number_where_there_is_room(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [with_looks(one, 30) for one in readings_of(NAMES[:2])])
    script = """
        const tags = [...document.querySelectorAll("#panels svg > g")].pop();
        const boxes = [...tags.querySelectorAll("rect")].map((one) => one.getBoundingClientRect());
        const over = (a, b, low, high) => a[low] < b[high] - 1 && b[low] < a[high] - 1;
        const covers = (a, b) => over(a, b, "left", "right") && over(a, b, "top", "bottom");
        const clashes = boxes.filter((a, i) => boxes.some((b, j) => i < j && covers(a, b))).length;
        const numbers = [...tags.querySelectorAll("text")].map((one) => Number(one.textContent));
        // Zoomed in on the middle, no look is in view.
        for (let i = 0; i < 6; i += 1) document.getElementById("nearer").click();
        const shown = [...document.querySelectorAll("#panels svg > g")].pop().querySelectorAll("text").length;
        tell({ numbers, clashes, shown });
    """
    said = in_a_frame(report_of(run, tmp_path), script, 400, tmp_path, "#page-0")
    assert said["clashes"] == 0 and said["shown"] == 0
    assert sorted(said["numbers"]) == list(range(1, 31))


ROUNDED = """
    // A scale at which a bar of 120 pixels is a hair shorter than 1000, whose logarithm is 3 nevertheless.
    const unit = 1000 / 96;
    let scale = 120 / unit / 1000;
    const bar = () => 120 * (1 / scale / unit);
    for (let i = 0; i < 99 && !(bar() < 1000 && Math.floor(Math.log10(bar())) === 3); i += 1) scale *= 1 + 2 ** -52;
    window.rounds = bar() < 1000 && Math.floor(Math.log10(bar())) === 3;
    SVGGraphicsElement.prototype.getScreenCTM = () => new DOMMatrix([scale, 0, 0, scale, 0, 0]);
"""


@in_a_browser
def test_a_scale_bar_is_drawn_where_a_logarithm_is_rounded_up(runs: dict[int, Path], tmp_path: Path) -> None:
    script = "tell([window.rounds, document.querySelector('.scale').textContent]);"
    said = in_a_frame(report_of(runs[2], tmp_path), script, 1400, tmp_path, "#page-0", early=ROUNDED)
    assert said == [True, "1000 px"]


@in_a_browser
def test_what_is_not_known_is_sorted_last_in_either_direction(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", readings_of(NAMES))
    lines = (run / "predictions.csv").read_text().splitlines()
    place = lines[0].split(",").index("share_read")
    shares = iter(["0.3", "", "0.1", "0.2"])
    for number, line in enumerate(lines):
        cells = line.split(",")
        if cells[0] == "ppo":
            cells[place] = next(shares)
            lines[number] = ",".join(cells)
    (run / "predictions.csv").write_text("\n".join(lines) + "\n")
    script = """
        const table = document.getElementById("cases-table");
        const rows = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
        const buttons = [...document.querySelectorAll("#cases-table th button")];
        const said = [];
        for (let i = 0; i < 2; i += 1) {
          buttons.find((one) => one.textContent === "% of foreground").click();
          said.push(rows());
        }
        tell(said);
    """
    rising, falling = in_a_frame(report_of(run, tmp_path), script, 1400, tmp_path)
    assert rising == ["three", "four", "one", "two"] and falling == ["one", "four", "three", "two"]


@pytest.mark.parametrize("script", ["list.js", "viewer.js"])
def test_scripts_have_no_syntax_that_browsers_of_2021_refuse_whole(script: str) -> None:
    text = (PARTS / script).read_text("utf-8")
    for newer in ("(?<", "static {"):
        assert newer not in text
