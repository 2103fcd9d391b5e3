"""The report to click through: what is in it, and that nothing is loaded or injected."""

import base64
import inspect
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from stable_baselines3.common.logger import TensorBoardOutputFormat

from glimpse.errors import EvaluationError
from glimpse.pictures.pages import page_record, page_text
from glimpse.predicting.work import failures_table, predictions_table
from glimpse.reading.records import Reading
from glimpse.report.html.learning import learning_curves
from glimpse.report.html.writing import _shown, write_report
from tests.commands import ran
from tests.reports import GLIMPSES, HOSTILE, NAMES, readings_of, write_pages, write_run

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "input", "img", "br", "use", "path", "link"}


class Page(HTMLParser):
    """The elements of a page, with their attributes and texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID or (tag in ("use", "path") and not self.rawdata_closes()):
            self._open.append(tag)

    def rawdata_closes(self) -> bool:
        return (self.get_starttag_text() or "").endswith("/>")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text.strip() for name, text in self.texts if name == tag and text.strip()]


@pytest.fixture(scope="module")
def readings() -> list[Reading]:
    return readings_of()


@pytest.fixture(scope="module")
def run(readings: list[Reading], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run") / "one", readings)
    events = TensorBoardOutputFormat(str(folder))
    for step, loss in enumerate([2.0, 1.5, float("nan"), 1.25], start=1):
        events.write({"warm_up/loss": loss, "validation/auc": 0.5}, {"warm_up/loss": (), "validation/auc": ()}, step)
    events.write({"warm_up/second_look": 4.5}, {"warm_up/second_look": ()}, 5)
    events.close()
    return folder


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    written = write_report(run)
    assert (written.cases, written.pages, written.folder) == (6, 6, None)
    return written.file


# ---------------------------------------------------------------------------------------------- the file
def check_page(page: Page) -> None:
    """Nothing is loaded, no id occurs twice, and who does not see pictures or uses no mouse is told everything."""
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "data", "action", "xlink:href", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert not re.match(r"(\w+:)?//|javascript:", attributes.get("href") or "")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?:|@import|url\((?!#)", page.source)
    assert not page.all("link") and not page.all("iframe")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all("alt" in image for image in page.all("img"))
    assert all(svg.get("aria-label") for svg in page.all("svg") if svg.get("viewbox"))
    assert page.all("html")[0]["lang"] == "en" and len(page.all("main")) == 1 and page.text("title")
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none';") and "script-src 'sha256-" in policy


def test_the_file_has_the_table_charts_and_cases_and_loads_nothing(report: Path, run: Path) -> None:
    page = Page(report)
    check_page(page)
    row = json.loads((run / "metrics.json").read_text())["readers"]["ppo"]["auc"]
    assert f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" in page.text("td")
    few = "6 cases of 6 patients. Bootstrapped intervals of so few patients are too narrow."
    assert f"Split test, at most 3 glimpses: {few}" in page.text("span")
    charts = [svg["aria-label"] or "" for svg in page.all("svg") if svg.get("viewbox")]
    for name in ("Confusion matrix", "Calibration: 1", "Thresholds: 1", "Warm-up: loss", "Validation"):
        assert sum(label.startswith(name) for label in charts) == 1
    assert "In the end: loss 1.25, loss of answers in the second look 4.5." in page.text("figcaption")
    assert {"answer", "target", "threshold on the probability", "share of cases", "loss"} <= set(page.text("text"))
    assert len([one for one in page.all("tr") if "data-page" in one]) == 6


def test_no_name_of_a_case_becomes_part_of_the_page(report: Path) -> None:
    page = Page(report)
    own = [one for one in page.all("script") if one.get("type") != "application/json"]
    assert len(own) == 2 and len(page.all("script")) == 2 + len(NAMES)
    assert set(NAMES) <= set(page.text("a")) and not any(one.get("src") == "x" for one in page.all("img"))
    records = [json.loads(text) for tag, text in page.texts if tag == "script" and text.startswith('{"form"')]
    assert [record["id"] for record in records] == list(NAMES)


def test_further_metrics_have_a_chart_of_their_own(tmp_path: Path) -> None:
    events = TensorBoardOutputFormat(str(tmp_path))
    events.write({"validation/auc": 0.5, "validation/brier": 0.25}, {"validation/auc": (), "validation/brier": ()}, 1)
    events.close()
    charts = {title: list(curves) for title, _, _, curves in learning_curves(tmp_path, {"brier"})}
    assert charts == {"Validation": ["AUC"], "Validation: further metrics": ["Brier"]}


def test_large_cohorts_have_pages_beside_the_file(run: Path, tmp_path: Path) -> None:
    written = write_report(run, tmp_path / "r.html", megabytes=0)
    page = Page(written.file)
    check_page(page)
    links = [one["href"] for one in page.all("a") if (one.get("href") or "").startswith("r/")]
    assert len(links) == len(NAMES) == len(list((tmp_path / "r").iterdir())) and written.folder == tmp_path / "r"
    assert len(written.file.read_text()) < 0.8 * len((run / "report.html").read_text())
    for place, link in enumerate(links):
        one = Page(tmp_path / unquote(str(link)))
        check_page(one)
        to = {one["id"]: one.get("href") for one in one.all("a")}
        back, _, row = str(to["back"]).partition("#")
        assert (tmp_path / "r" / unquote(back)).resolve() == written.file and f'id="{row}"' in written.file.read_text()
        for name, neighbour in (("case-before", place - 1), ("case-after", place + 1)):
            there = 0 <= neighbour < len(links)
            assert (to[name] is not None) == there and (not there or links[neighbour] == f"r/{to[name]}")


def test_pages_have_a_folder_of_their_own_and_pass_over_damaged_records(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    damaged = sorted((copy / "pages").glob("*.json"))[1]
    damaged.write_text('{"half": ')
    written = write_report(copy, tmp_path / "report", megabytes=0)
    assert written.file == tmp_path / "report" and written.folder == tmp_path / "report-pages"
    pages = list(written.folder.iterdir())
    assert len(pages) == len(NAMES) - 1
    for page in pages:
        links = {one["id"]: one.get("href") for one in Page(page).all("a")}
        for name in ("case-before", "case-after", "back"):
            file = unquote(str(links[name]).partition("#")[0])
            assert not links[name] or (written.folder / file).resolve().is_file()


@pytest.mark.parametrize(
    ("name", "said"),
    [("run", "this is a folder, and no report"), ("run/metrics.json", "this is another file, and no report")],
)
def test_a_report_takes_the_place_of_reports_only(run: Path, name: str, said: str, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    before = (copy / "metrics.json").read_bytes()
    with pytest.raises(EvaluationError, match=f"{said}. Choose another name with output="):
        write_report(copy, tmp_path / name)
    assert (copy / "metrics.json").read_bytes() == before
    (tmp_path / "empty.html").touch()
    for _ in range(2):
        assert write_report(copy, tmp_path / "empty.html").cases == len(NAMES)


def test_folders_and_files_that_are_no_run_say_what_to_give(run: Path, tmp_path: Path) -> None:
    (tmp_path / "demo" / "predictions").mkdir(parents=True)
    (tmp_path / "demo" / "predictions" / "manifest.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"there are predictions in .*demo/predictions. Give that folder"):
        write_report(tmp_path / "demo")
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "metrics.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"metrics.json: cannot be read .it lacks 'readers'"):
        write_report(copy)


def test_lists_show_the_columns_that_pictures_show() -> None:
    assert _shown(["a", "b"], range(2)) == ["b"] and _shown(["a"], range(1)) == ["a"]
    assert _shown(list("abcde"), range(5)) == [] and _shown(list("abcde"), [0]) == ["a"]


def test_predictions_have_answers_failures_and_no_targets(readings: list[Reading], tmp_path: Path) -> None:
    names = write_pages(tmp_path, readings)
    columns, looked = (
        readings[0].traced.task.columns,
        {"glimpses": 3, "share_read": 0.5, "spacing": None, "unit": None, "glimpse_spacings": []},
    )
    told = [
        {"slide_id": one.id, "path": "p", "answer": "1", "file": name, **looked}
        | {"probabilities": dict(zip(columns, map(float, one.probabilities[-1]), strict=True))}
        for one, name in zip(readings, names, strict=True)
    ]
    (tmp_path / "predictions.csv").write_text(predictions_table(told, columns))
    (tmp_path / "manifest.json").write_text(json.dumps({"arguments": {"model": ["runs/one"], "input": ["slides"]}}))
    (tmp_path / "failures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "failures" / "b.png")
    secret = tmp_path.parent / "secret.png"
    secret.write_bytes(b"not to be shown")
    failed = [
        {
            "slide_id": HOSTILE,
            "path": "a.svs",
            "error": "E",
            "reason": "it is <i>empty</i>",
            "thumbnail": "failures/b.png",
        },
        {"slide_id": "=c", "path": "c.svs", "error": "E", "reason": "gone", "thumbnail": "../secret.png"},
    ]
    (tmp_path / "failures.csv").write_text(failures_table(failed))
    page = Page(write_report(tmp_path).file)
    check_page(page)
    assert {"it is <i>empty</i>", "gone"} <= set(page.text("td")) and {HOSTILE, "=c"} <= set(page.text("th"))
    assert set(NAMES) <= set(page.text("a"))  # also the one that the CSV writes with an apostrophe
    assert not page.all("i") and base64.b64encode(b"not to be shown").decode() not in page.source
    assert "Target" not in page.text("button") and "runs/one" in page.text("dd")
    assert any((svg.get("aria-label") or "").startswith("Answers") for svg in page.all("svg"))


def test_a_record_that_is_damaged_costs_its_own_page_only(readings: list[Reading], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", readings)
    records = sorted((folder / "pages").iterdir())
    records[0].write_text(records[0].read_text()[:100])
    records[1].unlink()
    records[2].write_text(records[3].read_text())  # of another case
    written = write_report(folder)
    assert (written.cases, written.pages) == (6, 3)
    page = Page(written.file)
    assert "3 of 6 cases have a page: of the others nothing was recorded that could be shown." in page.text("p")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", "{", r"metrics\.json: cannot be read .* make it again"),
        (
            "predictions.csv",
            "reader,slide_id,case_id,target,p_0,p_1,glimpses\nppo,a,a,0,x,0.5,3\n",
            r"line of 'a' .*'x'",
        ),
        ("predictions.csv", "reader,slide_id\nppo,a\n", r"csv: cannot be read \(it has no column 'case_id'\)"),
        ("predictions.csv", "reader,slide_id,case_id,target,glimpses\nppo,a\n", r"\(line 2 is too short\)"),
    ],
)
def test_damaged_tables_are_named(file: str, content: str, message: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / file).write_text(content)
    with pytest.raises(EvaluationError, match=message):
        write_report(folder)


def test_what_is_no_metric_of_a_calibrated_run_is_no_column(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    plain = Page(write_report(folder).file).text("th")
    for row in metrics["readers"].values():
        row |= {"uncalibrated": {"brier": row["auc"]}, "confusion": {"classes": NAMES, "matrix": [[1, 0], [0, 1]]}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert Page(write_report(folder).file).text("th") == plain


def test_a_run_that_has_not_ended_shows_what_there_is(run: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", next(run.glob("events*")).name):
        shutil.copy(run / name, tmp_path)
    written = write_report(tmp_path)
    page, said = Page(written.file), "This training has not ended yet: there are no results, and no cases."
    said += f" If it was interrupted, glimpse train resume={tmp_path} goes on with it."
    assert said in page.text("p") and written.told.startswith(said) and "0 cases" not in written.told
    assert any((svg.get("aria-label") or "").startswith("Warm-up") for svg in page.all("svg"))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"there is no run here .* and there are no predictions"):
        write_report(tmp_path)


def test_the_command_and_its_settings(run: Path, tmp_path: Path) -> None:
    listed: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "report.yaml"))
    (_, *options), arguments = inspect.signature(write_report).parameters.values(), listed
    assert {one.name: one.default for one in options} == {name: arguments[name] for name in ("output", "megabytes")}
    done = ran("glimpse", "report", f"run={run}", f"output={tmp_path}/of one/r.html", folder=tmp_path)
    file = tmp_path / "of one" / "r.html"
    assert (done.returncode, done.stderr) == (0, "") and file.is_file()
    assert done.stdout == f"Written: {file}, 6 cases, 6 of them with a page in it.\n"


def test_numbers_that_are_not_finite_make_no_broken_record(readings: list[Reading]) -> None:
    broken = replace(readings[0], predictions=np.full_like(readings[0].predictions, np.nan))
    record = json.loads(page_text(page_record([broken])))
    assert record["readings"][0]["probabilities"][0] == [None, None]


# ---------------------------------------------------------------------------------------------- records
def pixels(data: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


@pytest.mark.parametrize("axes", [2, 3])
def test_a_record_shows_what_was_read(axes: int) -> None:
    reading = readings_of(["a"], axes)[0]
    record = json.loads(json.dumps(page_record([reading], (10,) * axes)))
    told, trace = record["readings"][0], reading.traced
    assert len(told["panels"]) == len(told["heat"]) == (1 if axes == 2 else 3)
    np.testing.assert_allclose(told["probabilities"], reading.probabilities, atol=1e-6)
    np.testing.assert_allclose(told["peaks"], trace.cells.reshape(len(trace.cells), -1).max(1), atol=1e-6)
    assert len(told["looks"]) == GLIMPSES and len(told["cuts"]) == GLIMPSES + 1
    assert len(told["overviews"]) == 1 + max(told["cuts"])
    look, box = told["looks"][1], reading.boxes[1] + 10
    assert look["where"].startswith({2: "x", 3: "z"}[axes] + f" {box[0, 1 if axes == 2 else 0]:.0f} to ")
    if axes == 2:
        left, top, width, height = look["boxes"][0]
        place = reading.boxes[1] / trace.frame.shape
        np.testing.assert_allclose([top, left, top + height, left + width], place.ravel(), atol=1e-4)
        heat, cells = pixels(told["heat"][0]), trace.cells[1]
        rows, columns = told["panels"][0]["grid"]
        assert heat.shape[:2] == (rows * (GLIMPSES + 1), columns)
        strength = heat[rows : 2 * rows, :, 3] / (0.85 * 255)
        np.testing.assert_allclose(strength, np.sqrt(cells / cells.max()), atol=0.03)
    else:
        assert [panel["name"] for panel in told["panels"]] == ["axial", "coronal", "sagittal"]
        assert len(told["overviews"]) > 1 and len(look["glimpse"]) == 3
