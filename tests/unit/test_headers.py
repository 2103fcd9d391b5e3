"""Headers that contradict themselves about the size of a pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimpse.inspecting.headers import contradictions
from tests.checks import found_in
from tests.radiograph_files import dataset, save, values
from tests.unit.test_dicom_series import write_slice
from tests.unit.test_dicom_volumes import enhanced


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"PixelSpacing": [0.2, 0.2], "ImagerPixelSpacing": [0.2, 0.2]}, None),  # nothing was calibrated
        ({"PixelSpacing": [0.14, 0.14], "ImagerPixelSpacing": [0.2, 0.2]}, None),  # magnified
        ({"ImagerPixelSpacing": [0.2, 0.2]}, None),
        ({}, None),
        (
            {"PixelSpacing": [0.4, 0.4], "ImagerPixelSpacing": [0.2, 0.2]},
            "a pixel is 0.4 mm wide according to PixelSpacing, but 0.2 mm according to ImagerPixelSpacing, and nothing",
        ),
        (
            {"PixelSpacing": [0.4, 0.2]},
            "a pixel is 0.2 mm wide, but 0.4 mm high, according to PixelSpacing",
        ),
        (
            {"ImagerPixelSpacing": [0.1, 0.2]},
            "a pixel is 0.2 mm wide, but 0.1 mm high, according to ImagerPixelSpacing",
        ),
    ],
)
def test_pixels_of_radiographs(tmp_path: Path, stated: dict[str, Any], said: str | None) -> None:
    path = save(dataset(values(300, 280), **stated), tmp_path / "chest.dcm")
    found = contradictions(path, 2)
    assert len(found) == (said is not None) and (said is None or found[0].startswith(said))
    assert contradictions(path, 2, given=True) == []
    rules = [one.rule for one in found_in(path, "xray", settings=()) if not one.note]
    assert rules == ["spacing"] * len(found)


def series(folder: Path, places: list[float], between: float | None, **elements: Any) -> Path:
    rng = np.random.default_rng(0)
    for number, place in enumerate(places):
        pixels = rng.integers(0, 999, (30, 32)).astype(np.int16)
        stated = {} if between is None else {"SpacingBetweenSlices": between}
        write_slice(folder / f"{number}.dcm", pixels, (0, 0, place), InstanceNumber=number, **stated, **elements)
    return folder


def test_distances_of_slices(tmp_path: Path) -> None:
    places = [2.5 * number for number in range(8)]
    for between in (None, 2.5, 2.51, -2.5, 0.0):
        assert contradictions(series(tmp_path / f"well {between}", places, between), 3) == []
    said = "slices lie 2.5 mm apart according to their positions, but 5 mm according to SpacingBetweenSlices"
    wrong = series(tmp_path / "wrong", places, 5.0)
    assert contradictions(wrong, 3) == [said]
    assert contradictions(wrong, 3, given=True) == []
    assert said in [one.what for one in found_in(wrong, "mri", settings=()) if one.rule == "spacing"]
    twice = [place + jitter for place in places for jitter in (0.0, 0.002)]  # two echoes of nearly each place
    assert contradictions(series(tmp_path / "echoes", twice, 2.5), 3, frame=1) == []
    assert len(contradictions(series(tmp_path / "wrong echoes", twice, 1.0), 3, frame=0)) == 1


def test_a_table_step_is_the_distance_of_slices_of_a_tilted_gantry(tmp_path: Path) -> None:
    tilt = np.radians(20.0)
    direction = (1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt)))
    for number in range(6):
        pixels = np.full((40, 32), 1100, np.int16)
        stated = {"SpacingBetweenSlices": 5, "InstanceNumber": number}
        write_slice(tmp_path / f"{number}.dcm", pixels, (0, 0, 5.0 * number), direction, **stated)
    assert contradictions(tmp_path, 3) == []


def test_slices_and_reduced_copies_contradict_nothing(tmp_path: Path) -> None:
    reformat = dataset(values(300, 280), PixelSpacing=[3.0, 0.7], Modality="CT")
    reduced = dataset(
        values(300, 280),
        PixelSpacing=[0.4, 0.4],
        ImagerPixelSpacing=[0.2, 0.2],
        ImageType=["DERIVED", "SECONDARY"],
    )
    for number, data in enumerate((reformat, reduced)):
        assert contradictions(save(data, tmp_path / f"{number}.dcm"), 2) == []


def test_only_the_chosen_series_counts(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    series(folder / "a", [0.0, 3.0, 6.0], 3.0, SeriesInstanceUID="1.2.3", SeriesNumber=1)
    series(folder / "b", [0.0, 3.0, 6.0], 1.0, SeriesInstanceUID="1.2.4", SeriesNumber=2)
    assert contradictions(folder, 3, series="1") == []
    assert len(contradictions(folder, 3, series=2)) == 1


@pytest.mark.parametrize(("between", "wrong"), [(None, False), (2.5, False), (4.0, True)])
def test_frames_of_enhanced_files_state_their_distance_in_groups(
    tmp_path: Path, between: float | None, wrong: bool
) -> None:
    enhanced(tmp_path / "one.dcm", np.full((5, 6, 7), 1100, np.uint16), between=between)
    found = contradictions(tmp_path, 3)
    assert len(found) == wrong and all("2.5 mm apart according to their positions, but 4 mm" in one for one in found)
