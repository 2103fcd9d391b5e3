"""`glimpse predict` on the same tissue, scanned at two magnifications: the same places, pixels and answers."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from glimpse.errors import SettingsError
from glimpse.geometry import Extent
from glimpse.modalities import Modality
from glimpse.predict import predict
from glimpse.predicting.agent import load
from glimpse.predicting.order import Order
from glimpse.predicting.readings import CaseReading
from glimpse.sources import ImageSource
from glimpse.synthetic.slides.svs import write_svs
from glimpse.views import Views
from tests.checks import without_mpp
from tests.geojson import valid
from tests.predictions import slide_run, tissue_on_glass, write_slide

# What 64 pixels of a glimpse span, and how many micrometres each of them.
EXTENTS = {"um": ("[64um]", (1.0,)), "mpp": ("[4mpp,1mpp]", (4.0, 1.0))}


@dataclass(frozen=True)
class Run:
    folder: Path
    spacings: tuple[float, ...]


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


@pytest.fixture(scope="module", params=EXTENTS)
def run(request: pytest.FixtureRequest, tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    text, spacings = EXTENTS[request.param]
    return Run(slide_run(tmp_path_factory.mktemp("runs") / "one", tiny_slides, text), spacings)


def reduced(image: np.ndarray, factor: int) -> np.ndarray:
    high, wide = (n // factor for n in image.shape[:2])
    return image.reshape(high, factor, wide, factor, 3).mean((1, 3)).round().astype(np.uint8)


def pair(folder: Path, lossless: bool) -> dict[float, Path]:
    """The same tissue at 20x and at 40x, 256 um a side: of each 40x pixel, four make one of 20x."""
    made = {}
    image = tissue_on_glass(3, 1024, grain=16)
    for mpp, pixels in ((0.5, image), (0.25, image.repeat(2, 0).repeat(2, 1))):
        path = folder / f"{mpp}" / "s.svs"
        if lossless:
            write_slide(path, mpp=mpp, image=pixels)
        else:
            path.parent.mkdir(parents=True)
            write_svs(path, [pixels, reduced(pixels, 4)], mpp=mpp, magnification=round(10 / mpp), quality=95)
        made[mpp] = path
    return made


@pytest.mark.parametrize("lossless", [True, False], ids=["lossless", "jpeg"])
def test_the_same_tissue_is_read_alike_at_both_magnifications(run: Run, tmp_path: Path, lossless: bool) -> None:
    agent, readings, tables = load(run.folder), dict[float, CaseReading](), dict[float, list[dict[str, str]]]()
    paths, count = pair(tmp_path, lossless), 6 if lossless else 1  # without training, many places are nearly equal
    for mpp, path in paths.items():
        predict(run.folder, path, tmp_path / f"out-{mpp}", max_glimpses=count)
        readings[mpp], tables[mpp] = agent.read(path, count), rows(tmp_path / f"out-{mpp}" / "looks" / "s.csv")
    coarse, fine = readings[0.5], readings[0.25]
    np.testing.assert_array_equal(coarse.scanpath, fine.scanpath)
    assert coarse.zooms.tolist() == fine.zooms.tolist()
    np.testing.assert_array_equal(coarse.boxes * 0.5, fine.boxes * 0.25)  # micrometres
    if lossless:
        np.testing.assert_array_equal(coarse.traced.glimpses, fine.traced.glimpses)
        np.testing.assert_array_equal(coarse.probabilities, fine.probabilities)
    else:
        assert np.abs(coarse.traced.glimpses.astype(int) - fine.traced.glimpses).mean() < 2
        np.testing.assert_allclose(coarse.probabilities, fine.probabilities, atol=0.01)
        sources = [agent.open(path) for path in paths.values()]
        for place in np.random.default_rng(0).uniform(-0.4, 0.4, (8, 2)):
            one, other = (agent.views.glimpse(source, place).astype(int) for source in sources)
            assert np.abs(one - other).mean() < 5 and one.std() > 20
    for one, other in zip(tables[0.5], tables[0.25], strict=True):
        for name in ("minx", "miny", "width", "height"):
            assert float(one[name]) * 0.5 == float(other[name]) * 0.25
        assert float(one["width"]) * 0.5 == 64 * run.spacings[int(one["level"])]


def test_every_output_says_how_large_a_pixel_was_that_was_seen(run: Run, tmp_path: Path) -> None:
    predict(run.folder, list(pair(tmp_path, True).values()), out := tmp_path / "out", max_glimpses=6)
    lines = rows(out / "predictions.csv")
    assert [(one["spacing"], one["unit"], one["glimpse_spacing"]) for one in lines] == [
        (text, "um", "; ".join(f"{size:g} x {size:g}" for size in run.spacings))
        for text in ("0.25 x 0.25", "0.5 x 0.5")
    ]
    for line in lines:
        page = json.loads((out / "pages" / f"{line['file']}.json").read_text())
        for look in page["readings"][0]["looks"]:
            assert look["where"].endswith(f" µm, seen at {run.spacings[look['level']]:g} µm per pixel")
        features = valid(json.loads((out / "geojson" / f"{line['file']}.geojson").read_text()))
        for look, feature in zip(rows(out / "looks" / f"{line['file']}.csv"), features, strict=True):
            size = run.spacings[int(look["level"])]
            assert (look["spacing"], look["unit"]) == (f"{size:g} x {size:g}", "um")
            told = feature["properties"]
            parent = page["readings"][0]["looks"][int(look["order"]) - 1]["parent"]
            several = str(parent) if len(run.spacings) > 1 else None
            assert look.get("inside") == several and (int(look["level"]) == 0) == (parent == 0)
            assert told["measurements"].get("inside") == (None if several is None else parent)
            assert told["measurements"]["spacing_x_um"] == told["measurements"]["spacing_y_um"] == size
            # One glimpse is of one level only, but the names of all cases of a run go together.
            levels = f": level {look['level']}" if len(run.spacings) > 1 else ""
            assert told["classification"]["name"] == f"Look{levels}"
    manifest = json.loads((out / "manifest.json").read_text())
    assert [one["glimpse_spacings"] for one in manifest["spacings"]] == [[[size] * 2 for size in run.spacings]] * 2


def test_a_pixel_size_that_no_factor_divides_is_told_as_it_was_seen(run: Run, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.svs", mpp=0.2525, image=tissue_on_glass(3, 2048, grain=16))
    reading = load(run.folder).read(slide, 3)  # 64 um are 253.47 pixels: four for each of 64 pixels would be 256
    for look in reading.looks:
        size = np.array(look.size) * 0.2525 / 64
        assert look.spacing == pytest.approx(size, abs=1e-6)
        assert abs(size[0] - run.spacings[look.level]) <= 0.0101 * run.spacings[look.level]
        assert reading.glimpse_spacings[look.level] == pytest.approx(size, abs=1e-6)


def test_a_slide_without_a_pixel_size_fails_and_the_column_mpp_mends_it(run: Run, tmp_path: Path) -> None:
    image = tissue_on_glass(3, 1024, grain=16)
    without_mpp(tmp_path / "s.svs", 0, image=image)
    assert predict(run.folder, tmp_path / "s.svs", tmp_path / "out").done.failed == ["s"]
    (failure,) = rows(tmp_path / "out" / "failures.csv")
    assert str(tmp_path / "s.svs") in failure["reason"] and "column 'mpp'" in failure["reason"]
    assert "micrometres" in failure["reason"] and "does not state" in failure["reason"]
    (tmp_path / "in.csv").write_text("path,mpp\ns.svs,0.5\n")
    assert predict(run.folder, tmp_path / "in.csv", tmp_path / "mended").done.failed == []
    (line,) = rows(tmp_path / "mended" / "predictions.csv")
    assert (line["spacing"], line["glimpse_spacing"]) == (
        "0.5 x 0.5",
        "; ".join(f"{size:g} x {size:g}" for size in run.spacings),
    )
    assert predict(run.folder, tmp_path / "s.svs", tmp_path / "out", mpp=0.5).done.failed == []
    assert rows(tmp_path / "out" / "predictions.csv") == [line] and not (tmp_path / "out" / "failures.csv").exists()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["arguments"]["mpp"] == 0.5


def test_a_pixel_size_of_all_images_gives_way_to_the_column_mpp(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_slide(tmp_path / f"{name}.svs", mpp=0.25, image=tissue_on_glass(3, 1024, grain=16))
    (tmp_path / "in.csv").write_text("path,mpp\na.svs,\nb.svs,0.5\n")
    with pytest.warns(UserWarning, match=r"according to mpp, but 0\.25 um according to the file"):
        predict(run.folder, tmp_path / "in.csv", tmp_path / "out", mpp=0.4)
    assert [line["spacing"] for line in rows(tmp_path / "out" / "predictions.csv")] == ["0.4 x 0.4", "0.5 x 0.5"]
    with pytest.raises(SettingsError, match="Expected mpp above 0, got -1"):
        predict(run.folder, tmp_path / "in.csv", tmp_path / "out", mpp=-1)


def test_a_pixel_size_is_refused_at_once_where_what_reads_images_takes_none() -> None:
    class Scan(ImageSource):
        def __init__(self, path: str) -> None:
            self.path = path

    order = Order(("run",), ("images",), "out", mpp=0.5)
    vars(order)["agents"] = [SimpleNamespace(modality=Modality("scan", Scan))]
    with pytest.raises(SettingsError, match=r"mpp=0\.5: Scan, which reads images of scan, takes no mpp"):
        order.items  # noqa: B018 - it says what is wrong


def test_micrometres_per_pixel_are_an_extent_of_glimpses() -> None:
    for text, size, expected in (("0.5mpp", (64, 64), ("32um",)), ("2mpp", (32, 64), ("64um", "128um"))):
        (extent,) = Views((64, 64), size, (text,)).glimpse_extents  # type: ignore[arg-type]
        assert extent == Extent.parse(list(expected))
    for wrong, size in ((["1mpp", "1mpp", "1mpp"], (64, 64)), (["1mpp", "64um"], (64, 64))):
        with pytest.raises(ValueError, match=r"axes|one unit"):
            Views((64, 64), size, (wrong,))  # type: ignore[arg-type]
