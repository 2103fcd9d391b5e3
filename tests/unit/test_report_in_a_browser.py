"""The report in a headless browser, where there is one: lists are sorted, cases are gone through look by look."""

import re
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse.reading.records import Reading
from glimpse.report.html.writing import write_report
from tests.browsers import dumped, in_a_browser, in_a_frame, said_in
from tests.reports import HOSTILE, readings_of, write_run

DRIVER = """
const wait = () => new Promise((done) => setTimeout(done, 50));
const by = (id) => document.getElementById(id);
const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const rows = () => [...by("cases-table").tBodies[0].rows].filter((row) => !row.hidden);
const ids = () => rows().map((row) => row.cells[1].textContent);
const column = (name) => [...by("cases-table").querySelectorAll("th button")].find((one) => one.textContent === name);
addEventListener("load", async () => {
  const said = { title: document.title };
  column("p_1").click();
  said.rising = ids();
  said.sorted = column("p_1").parentElement.getAttribute("aria-sort");
  column("p_1").click();
  said.falling = ids();
  by("search").value = "B  c";
  by("search").dispatchEvent(new Event("input"));
  said.found = ids();
  said.count = by("count").textContent;
  by("search").value = "";
  const verdicts = document.querySelector("select[data-filter=verdict]");
  verdicts.value = "wrong";
  verdicts.dispatchEvent(new Event("change"));
  said.wrong = ids();
  verdicts.value = "";
  verdicts.dispatchEvent(new Event("change"));
  document.querySelector("tr[data-page=page-0] a").click();
  await wait();
  said.listHidden = by("list").hidden;
  said.heading = by("case-title").textContent;
  said.focused = document.activeElement.id;
  said.steps = [by("slider").value];
  said.bars = [...document.querySelectorAll("#looks-table .bar i")].map((one) => parseFloat(one.style.width));
  press("ArrowLeft");
  said.told = by("told").textContent;
  said.steps.push(by("slider").value);
  for (let i = 0; i < 5; i += 1) press("ArrowLeft");
  said.steps.push(by("slider").value);
  said.before = by("told").textContent;
  said.disabled = by("before").disabled;
  press("ArrowRight");
  said.steps.push(by("slider").value);
  const svg = document.querySelector("#panels svg");
  const heat = () => document.querySelector("#panels svg svg")?.getAttribute("viewBox") ?? null;
  said.heat = [heat()];
  by("heat").value = "after";
  by("heat").dispatchEvent(new Event("change"));
  said.heat.push(heat());
  by("heat").value = "off";
  by("heat").dispatchEvent(new Event("change"));
  said.heat.push(heat());
  said.views = [svg.getAttribute("viewBox")];
  press("+");
  said.views.push(svg.getAttribute("viewBox"));
  svg.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", shiftKey: true, bubbles: true }));
  said.views.push(svg.getAttribute("viewBox"));
  press("0");
  said.views.push(svg.getAttribute("viewBox"));
  press("End");
  const tags = [...svg.querySelectorAll("g rect")].map((one) => one.getBoundingClientRect());
  said.tags = tags.length;
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  const plates = [...document.querySelectorAll(".scale, .panel figcaption")].map((one) => one.getBoundingClientRect());
  said.hidden = tags.some((a) => plates.some((b) => b.width && !apart(a, b)));
  said.covered = tags.some((a, i) => tags.some((b, j) => i < j && !apart(a, b)));
  const pressed = (on, key) => on.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  pressed(by("boxes"), "ArrowLeft");
  said.fromBox = by("slider").value;
  pressed(by("slider"), "ArrowLeft"); // the slider moves by itself
  said.fromSlider = by("slider").value;
  by("case-after").click();
  await wait();
  said.next = by("case-title").textContent;
  pressed(by("slider"), "Escape");
  await wait();
  said.back = !by("list").hidden && by("case").hidden;
  said.backAt = document.activeElement.textContent;
  const result = document.createElement("pre");
  result.id = "said";
  result.textContent = JSON.stringify(said);
  document.body.append(result);
});
"""


@pytest.fixture(scope="module")
def readings() -> list[Reading]:
    """Readings, the first of which would hardly answer otherwise without one of its looks."""
    first, *others = readings_of()
    assert first.traced.without is not None
    without = first.predictions[-1] + (first.traced.without - first.predictions[-1]) / 10
    return [replace(first, trace=replace(first.traced, without=without)), *others]


@pytest.fixture(scope="module")
def run(readings: list[Reading], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "one", readings)


@in_a_browser
def test_a_browser_sorts_filters_and_steps(run: Path, readings: list[Reading], tmp_path: Path) -> None:
    driven = write_report(run).file.read_text()
    driven = re.sub(r"<meta http-equiv=[^>]*>", "", driven)  # which forbids scripts that are not the page's
    (tmp_path / "driven.html").write_text(driven.replace("</body>", f"<script>{DRIVER}</script></body>"))
    shown = dumped((tmp_path / "driven.html").as_uri())
    said: dict[str, Any] = said_in(shown)
    rising = [one.id for one in sorted(readings, key=lambda one: round(float(one.probabilities[-1, 1]), 6))]
    assert said["title"] == "Run one" and said["rising"] == rising and said["falling"] == rising[::-1]
    assert (said["sorted"], said["found"], said["count"]) == ("ascending", ["b & c"], "1 of 6 cases")
    wrong = {one.id for one in readings if one.prediction.argmax() != one.target}
    assert set(said["wrong"]) == wrong and 0 < len(wrong) < 6
    assert said["listHidden"] and said["heading"] == HOSTILE and said["focused"] == "case-title"
    assert said["steps"] == ["3", "2", "0", "1"] and said["disabled"]
    assert readings[0].contributions is not None
    adds = np.abs(np.asarray(readings[0].contributions)[:, 1])
    assert adds.max() < 0.005 and said["bars"] == pytest.approx(50 * adds / 0.01, abs=0.1)  # 0.000 has no bar
    before, after = readings[0].captions[1][0], readings[0].captions[2][0]
    assert said["told"].startswith("Look 2 of 3: x ") and f"After it {after}, before it {before}." in said["told"]
    assert said["before"] == f"Before the first look: {readings[0].captions[0][0]}."
    rows = len(readings[0].traced.cells[0])
    assert [one and float(one.split()[1]) for one in said["heat"]] == [0, rows, None]
    whole, near, moved, again = ([float(number) for number in view.split()] for view in said["views"])
    assert near[2] == pytest.approx(whole[2] / 1.5) and moved[0] == pytest.approx(near[0] + near[2] / 8)
    assert again == whole and said["tags"] == 3 and not said["covered"] and not said["hidden"]
    following = said["falling"][said["falling"].index(HOSTILE) + 1 :]
    assert said["fromBox"] == said["fromSlider"] == "2"  # of three, the last of which was shown
    assert said["next"] == said["backAt"] == (following or [HOSTILE])[0] and said["back"]


WAY = """
addEventListener("load", () => {
  const by = (id) => document.getElementById(id);
  location.hash = "#page-0";
  setTimeout(() => {
    const said = { looks: [...by("looks-table").tBodies[0].rows].map((row) => row.cells[0].textContent), told: [] };
    said.dashed = [];
    for (const step of [3, 2, 1]) {
      by("slider").value = step;
      by("slider").dispatchEvent(new Event("input"));
      said.told.push(by("told").textContent);
      said.dashed.push(document.querySelectorAll("#panels [stroke-dasharray]").length);
    }
    const result = document.createElement("pre");
    result.id = "said";
    result.textContent = JSON.stringify(said);
    document.body.append(result);
  }, 200);
});
"""


@in_a_browser
@pytest.mark.parametrize("zooms", [False, True])
def test_a_look_says_inside_which_wide_look_it_lies(readings: list[Reading], tmp_path: Path, zooms: bool) -> None:
    first = readings[0]
    if zooms:
        trace = replace(first.traced, parents=np.array([-1, 0, -1]))
        first = replace(first, zooms=np.array([0, 1, 0]), trace=trace)
    text = write_report(write_run(tmp_path / "one", [first])).file.read_text()
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", f"<script>{WAY}</script></body>")
    (tmp_path / "way.html").write_text(text)
    said = said_in(dumped((tmp_path / "way.html").as_uri()))
    assert said["looks"] == ["0", "1", "2 in 1" if zooms else "2", "3"]
    assert ["from the overview" in one for one in said["told"]] == [zooms, False, zooms]
    assert ["lies inside look 1." in one for one in said["told"]] == [False, zooms, False]
    assert said["dashed"] == [0, int(zooms), 0]


SORTED = """
addEventListener("load", () => {
  const buttons = [...document.querySelectorAll("#cases-table th button")];
  const column = (name) => buttons.find((one) => one.textContent === name);
  const rows = () => [...document.getElementById("cases-table").tBodies[0].rows];
  const said = {};
  for (const [name, at] of [["Target", 2], ["Case", 1]]) {
    column(name).click();
    said[name] = rows().map((row) => row.cells[at].textContent);
  }
  const filters = [...document.querySelectorAll("select[data-filter]")];
  said.filters = filters.filter((one) => !one.parentElement.hidden).length;
  const result = document.createElement("pre");
  result.id = "said";
  result.textContent = JSON.stringify(said);
  document.body.append(result);
});
"""


@in_a_browser
def test_numbers_are_sorted_as_numbers(run: Path, tmp_path: Path) -> None:
    text = re.sub(r"<meta http-equiv=[^>]*>", "", write_report(run, tmp_path / "report.html").file.read_text())
    targets, names = ("-0.1", "-2.119", "2.5 mm", "0.55", "12", "1.405"), ("s-10", "s-9", "s-2", "1.10", "a", "s-1")
    body = re.search(r"(?s)<table id=.cases-table.*?</table>", text)
    assert body is not None
    cells = "".join(
        f"<tr data-text='' data-target='{target}'><td></td><th scope=row>{name}</th><td>{target}</td></tr>"
        for target, name in zip(targets, names, strict=True)
    )
    head = "".join(f"<th><button type=button>{name}</button></th>" for name in ("", "Case", "Target"))
    table = f"<table id='cases-table'><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>"
    text = text[: body.start()] + table + text[body.end() :]
    (tmp_path / "sorted.html").write_text(text.replace("</body>", f"<script>{SORTED}</script></body>"))
    shown = dumped((tmp_path / "sorted.html").as_uri())
    said = said_in(shown)
    assert said["Target"] == ["-2.119", "-0.1", "0.55", "1.405", "2.5 mm", "12"]
    assert said["Case"] == ["1.10", "a", "s-1", "s-2", "s-9", "s-10"]
    assert said["filters"] == 0  # each case has a target of its own


# ---------------------------------------------------------------------------------------------- accessibility
AXE = "axe-core@4.14.1"  # MPL-2.0; nothing of it is kept
RULES = """
addEventListener("load", async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  const result = document.createElement("pre");
  result.id = "said";
  result.textContent = JSON.stringify(violations.map((one) => [one.impact, one.id, one.nodes.map((at) => at.html)]));
  document.body.append(result);
});
"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from the npm registry."""
    folder = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("axe-core cannot be had: npm is not installed")
    try:
        subprocess.run([npm, "pack", AXE], cwd=folder, check=True, capture_output=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"axe-core cannot be had from the npm registry ({error})")
    (packed,) = folder.glob("axe-core-*.tgz")
    with tarfile.open(packed) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["", "#page-0"])
def test_axe_finds_nothing_serious(run: Path, axe: str, page: str, scheme: str, tmp_path: Path) -> None:
    text = re.sub(r"<meta http-equiv=[^>]*>", "", write_report(run, tmp_path / "report.html").file.read_text())
    head, end = text.rsplit("</body>", 1)
    (tmp_path / "judged.html").write_text(f"{head}<script>{axe}</script><script>{RULES}</script></body>{end}")
    shown = dumped(
        (tmp_path / "judged.html").as_uri() + page, f"--blink-settings=preferredColorScheme={scheme == 'light':d}"
    )
    assert [one for one in said_in(shown) if one[0] in ("serious", "critical")] == []


@in_a_browser
@pytest.mark.parametrize("megabytes", [8, 0])
def test_the_pages_own_scripts_are_allowed_to_run(run: Path, tmp_path: Path, megabytes: float) -> None:
    written = write_report(run, tmp_path / "r.html", megabytes=megabytes)
    pages = sorted((tmp_path / "r").iterdir()) if written.folder else []
    address = pages[0].as_uri() if pages else f"{written.file.as_uri()}#page-0"
    shown = dumped(address)
    assert "Look 3 of 3: x " in shown and "<title>taken" not in shown


@in_a_browser
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("place", ["", "#page-0"])
def test_axe_finds_nothing_serious_on_a_narrow_screen(axe: str, axes: int, place: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", readings_of(("one", "two"), axes))
    rules = re.search(r"const \{ violations \}.*?;\n", RULES)
    assert rules is not None
    script = f"{rules[0]} tell(violations.map((one) => [one.impact, one.id, one.nodes.map((at) => at.html)]));"
    found = in_a_frame(write_report(run).file.read_text("utf-8"), script, 400, tmp_path, place, early=axe)
    assert [one for one in found if one[0] in ("serious", "critical")] == []
