"""GeoJSON of predictions: it is valid, and its rectangles lie where the agent has looked, bounds or not."""

import csv
import gzip
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image

from glimpse.predict import predict
from glimpse.predicting.agent import load
from tests.geojson import parsed, rfc7946, valid
from tests.predictions import slide_run, write_scn, write_slide


@pytest.fixture(scope="module")
def runs(tiny_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs whose glimpses span 64 micrometres, 64 pixels, and both 128 and 64 micrometres."""
    folder = tmp_path_factory.mktemp("runs")
    extents = {"um": "[64um]", "px": "[64]", "both": "[128um,64um]"}
    return {name: slide_run(folder / name, tiny_slides, text) for name, text in extents.items()}


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


@pytest.mark.parametrize("name", ["um", "px", "both"])
@pytest.mark.parametrize("packed", [False, True])
def test_geojson_is_valid_and_says_what_the_table_says(
    runs: dict[str, Path], tmp_path: Path, name: str, packed: bool
) -> None:
    slides = [write_slide(tmp_path / "in" / "a.svs", 0), write_slide(tmp_path / "in" / "b.svs", 1, 1024, 0.25)]
    predict(runs[name], slides, tmp_path / "out", max_glimpses=7, gzip=packed)
    seen = set()
    for line in rows(tmp_path / "out" / "predictions.csv"):
        path = tmp_path / "out" / "geojson" / f"{line['file']}.geojson"
        text = gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes()).decode() if packed else path.read_text()
        features = valid(parsed(text))
        looks = rows(tmp_path / "out" / "looks" / f"{line['file']}.csv")
        for feature, look in zip(features, looks, strict=True):
            corners = np.array(feature["geometry"]["coordinates"][0])
            assert corners.min(0).tolist() == [float(look["minx"]), float(look["miny"])]
            assert (corners.max(0) - corners.min(0)).tolist() == [float(look["width"]), float(look["height"])]
            measured = feature["properties"]["measurements"]
            for column in ("order", "level", "p_1", "gain", "locator_probability"):
                assert measured[column] == pytest.approx(float(look[column]), abs=1e-6)
            seen.add(feature["id"])
    assert len(seen) == 14


@pytest.mark.parametrize("name", ["um", "px", "both"])
@pytest.mark.parametrize(("written", "bounds"), [(write_slide, (0, 0, 512, 512)), (write_scn, (128, 96, 384, 352))])
def test_the_rectangle_of_a_look_is_what_the_agent_saw(
    runs: dict[str, Path], tmp_path: Path, written: Callable[..., Path], bounds: tuple[int, ...], name: str
) -> None:
    path = written(tmp_path / ("s.svs" if written is write_slide else "s.scn"))
    reading = load(runs[name]).read(path, max_glimpses=9)
    for kept in (False, True):
        predict(runs[name], path, tmp_path / f"{kept}", max_glimpses=9, subtract_bounds=not kept)
    slide = openslide.OpenSlide(path)
    stated = [slide.properties.get(f"openslide.bounds-{key}") for key in ("x", "y", "width", "height")]
    assert [int(one or zero) for one, zero in zip(stated, (0, 0, 512, 512), strict=True)] == list(bounds)
    level_0 = np.array(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    white = np.full_like(level_0, 255)  # outside of bounds the agent sees white
    (x, y, wide, high), margin = bounds, 256
    white[y : y + high, x : x + wide] = level_0[y : y + high, x : x + wide]
    whole = np.pad(white, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    for kept in (False, True):
        features = valid(parsed((tmp_path / f"{kept}" / "geojson" / "s.geojson").read_text()))
        shift = (margin, margin) if kept else (margin + x, margin + y)
        for feature, seen in zip(features, reading.traced.glimpses, strict=True):
            left, top = (int(value) for value in np.min(feature["geometry"]["coordinates"][0], axis=0) + shift)
            right, bottom = (int(value) for value in np.max(feature["geometry"]["coordinates"][0], axis=0) + shift)
            factor, rest = divmod(right - left, 64)
            assert rest == 0 and bottom - top == right - left and factor in (1, 2, 4)
            cut = whole[top:bottom, left:right].reshape(64, factor, 64, factor, 3).mean((1, 3))
            assert np.abs(cut.transpose(2, 0, 1) - seen).max() <= (0 if factor == 1 else 0.5 if factor == 2 else 1)


def test_a_look_between_pixels_is_told_as_it_is(runs: dict[str, Path], tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "a.svs", 1, mpp=0.4)  # 64 um are 160 pixels, shown in 64: 2.5 each
    reading = load(runs["um"]).read(slide)
    for look, seen in zip(reading.looks, reading.traced.glimpses, strict=True):
        (top, left), size = look.low, look.size
        assert size == pytest.approx((160, 160))
        first = math.floor(left), math.floor(top)
        wide = openslide.OpenSlide(slide).read_region(first, 0, (162, 162)).convert("RGB")
        box = (left - first[0], top - first[1], left - first[0] + 160, top - first[1] + 160)
        again = np.array(wide.resize((64, 64), Image.Resampling.BOX, box=box)).transpose(2, 0, 1)
        assert np.abs(again.astype(int) - seen).max() <= 1


# ---------------------------------------------------------------------------------------------- the validator
def square(**members: Any) -> dict[str, Any]:
    ring = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "id": "a", "geometry": geometry, "properties": {}} | members


def with_ring(*ring: Any) -> dict[str, Any]:
    return square(geometry={"type": "Polygon", "coordinates": [list(ring)]})


WRONG = {
    "closed": with_ring([0, 0], [1, 0], [1, 1], [0, 1]),
    "right-hand": with_ring([0, 0], [0, 1], [1, 1], [1, 0], [0, 0]),
    "four positions": with_ring([0, 0], [1, 0], [0, 0]),
    "stands still": with_ring([0, 0], [1, 0], [1, 0], [1, 1], [0, 0]),
    "numbers": with_ring([0, 0], [True, 0], [1, 1], [0, 1], [0, 0]),
    "elements are numbers": with_ring([0, 0], ["1", 0], [1, 1], [0, 1], [0, 0]),
    "two or three": with_ring([0], [1], [1], [0], [0]),
    "rings": square(geometry={"type": "Polygon", "coordinates": []}),
    "3.1.6: the type": square(geometry=None),
    "members": square(coordinates=[]),
    "3.2: the type": square(type="feature"),
    "properties": square(properties=[]),
    "ids": square(id=True),
}


@pytest.mark.parametrize("rule", WRONG)
def test_the_validator_refuses(rule: str) -> None:
    assert rfc7946({"type": "FeatureCollection", "features": [square()]})
    with pytest.raises(AssertionError, match=re.escape(rule)):
        rfc7946({"type": "FeatureCollection", "features": [WRONG[rule]]})


def test_the_validator_refuses_collections() -> None:
    for collection, rule in (
        ({"type": "FeatureCollection", "features": [square(), square()]}, "of one feature"),
        ({"type": "FeatureCollection"}, "an array"),
        ({"type": "FeatureCollection", "features": [], "crs": None}, "members"),
        ({"type": "GeometryCollection", "features": []}, "the type"),
    ):
        with pytest.raises(AssertionError, match=rule):
            rfc7946(collection)
    for text in ('{"a": NaN}', '{"a": 1, "a": 2}'):
        with pytest.raises(AssertionError):
            parsed(text)
    assert json.loads('{"a": 1, "a": 2}')  # which Python takes
