"""Folders of DICOM slices that make no plain stack: tilted gantries, several volumes in one series, enhanced files."""

from pathlib import Path

import numpy as np
import pytest

from glimpse.sources import UnsupportedImageError, open_source
from tests.checks import found_in
from tests.unit.test_dicom_series import (
    AXIAL,
    _cache,  # noqa: F401 - a fixture that every test uses
    canonical,
    pydicom,
    stored_values,
    whole,
    write_slice,
)


# ---------------------------------------------------------------------------------------------- tilted gantries
def test_slices_of_a_tilted_gantry_are_put_where_they_lie(tmp_path: Path) -> None:
    """Rows 0.75 mm apart; each slice lies 2 rows (1.5 mm) further to posterior, so the last one begins 4 rows below."""
    values = stored_values(3, 6, 5)
    for index, one in enumerate(values):
        write_slice(tmp_path / "ct" / f"{index}.dcm", one, (-10, -20 + 1.5 * index, 2.5 * index))
    source = open_source(tmp_path / "ct", windows=[0, 255])
    with pytest.warns(UserWarning, match=r"up to 4\.0 pixels \(31\.0 degrees, as by a tilted gantry\).* 10 x 5 pixels"):
        assert (source.shape, source.spacing) == ((3, 10, 5), (2.5, 0.75, 0.5))
    expected = np.stack([np.full((10, 5), one.min()) for one in values])
    for index, one in enumerate(values):
        expected[index, 2 * index : 2 * index + 6] = one
    np.testing.assert_array_equal(whole(source)[0], canonical(expected))
    corner = source.grid.positions(np.array([[0.5, 0.5, 0.5]]))[0]  # the centre of the first pixel of the first slice
    np.testing.assert_allclose(corner, (10, 20, 0))


def test_a_tilt_between_pixels_is_interpolated(tmp_path: Path) -> None:
    values = np.full((2, 6, 4), 1124, np.uint16)
    values[:, 3] = 1224
    for index, one in enumerate(values):  # half a row and one more, towards anterior
        write_slice(tmp_path / "ct" / f"{index}.dcm", one, (0, -1.125 * index, 2.5 * index))
    with pytest.warns(UserWarning, match="tilted gantry"):
        shown = whole(open_source(tmp_path / "ct", windows=[0, 255]))[0]
    assert shown.shape == (2, 8, 4)
    assert shown[0, ::-1, 0].tolist() == [100, 100, 100, 100, 100, 200, 100, 100], "two rows before the first one"
    assert shown[1, ::-1, 0].tolist() == [100, 100, 100, 150, 150, 100, 100, 100], "half-way between two rows"


def test_a_tilt_is_told_whenever_a_volume_is_opened_and_by_check(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "ct"
    for index, one in enumerate(stored_values(3, 24, 20)):
        write_slice(folder / f"{index}.dcm", one, (-10, -20 + 1.5 * index, 2.5 * index))
    for _ in range(2):  # the second one finds it converted
        with pytest.warns(
            UserWarning, match=r"ct: slices shifted by up to 4\.0 pixels .* tilted gantry.* 28 x 20 pixels"
        ):
            open_source(folder).check()
    sizes = ("env.make.overview_size=16", "env.make.glimpse_size=8", "env.make.glimpse_extents=[8px]")
    for _ in range(2):
        told = [one for one in found_in(folder.parent, "ct", settings=sizes) if one.rule == "remark"]
        assert len(told) == 1 and told[0].note and "tilted gantry" in told[0].what


def test_slices_that_hardly_lie_above_each_other_are_refused(tmp_path: Path) -> None:
    for index, one in enumerate(stored_values(3, 4, 4)):
        write_slice(tmp_path / "ct" / f"{index}.dcm", one, (3 * index, 0, 2.5 * index))
    with pytest.raises(UnsupportedImageError, match=r"ct: its slices are shifted.* 12\.0 pixels, so far.*dcm2niix"):
        open_source(tmp_path / "ct").check()


# ---------------------------------------------------------------------------------------------- several in one series
def test_volumes_at_one_place_are_chosen_by_frame(tmp_path: Path) -> None:
    values = stored_values(2, 3, 4, 4)
    for echo in (1, 0):  # written in the other order
        for index, one in enumerate(values[echo]):
            write_slice(tmp_path / "mr" / f"{echo}{index}.dcm", one, (0, 0, 2 * index), EchoNumbers=echo + 1)
    with pytest.raises(UnsupportedImageError, match=r"mr: it holds 2 volumes, a case is one.*env\.cohort\.frame=0"):
        open_source(tmp_path / "mr").check()
    for echo in (0, 1):
        got = whole(open_source(tmp_path / "mr", frame=echo, windows=[0, 255]))[0]
        np.testing.assert_array_equal(got, canonical(values[echo]))
    with pytest.raises(UnsupportedImageError, match=r"frame=2, but it holds 2 volumes"):
        open_source(tmp_path / "mr", frame=2).check()


def enhanced(path: Path, values: np.ndarray, times: int = 1, between: float | None = None) -> None:
    """One file with frames (time, slice, row, column), from the top down, 2.5 mm apart; it may state a distance."""
    group, many = pydicom.dataset.Dataset, np.ascontiguousarray(values.reshape(-1, *values.shape[-2:]))
    write_slice(path, many[0], (0, 0, 0), ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
    data = pydicom.dcmread(path)
    data.NumberOfFrames, data.PixelData = len(many), many.astype("<u2").tobytes()
    shared, measures, direction = group(), group(), group()
    measures.PixelSpacing, direction.ImageOrientationPatient = [0.75, 0.5], list(AXIAL)
    if between is not None:
        measures.SpacingBetweenSlices = between
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [direction]
    data.SharedFunctionalGroupsSequence, frames = [shared], []
    for index in range(len(many)):
        frame, place, content, meaning = group(), group(), group(), group()
        place.ImagePositionPatient = [-10, -20, 100 - 2.5 * (index % (len(many) // times))]
        content.TemporalPositionIndex = 1 + index // (len(many) // times)
        meaning.RescaleSlope, meaning.RescaleIntercept = 2, -2048
        frame.PlanePositionSequence, frame.FrameContentSequence = [place], [content]
        frame.PixelValueTransformationSequence = [meaning]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    data.save_as(path)


def test_frames_of_an_enhanced_file_are_slices(tmp_path: Path) -> None:
    values = stored_values(4, 5, 6)
    enhanced(tmp_path / "ct" / "one.dcm", values)
    source = open_source(tmp_path / "ct", windows=[0, 510])
    assert (source.shape, source.spacing) == ((4, 5, 6), (2.5, 0.75, 0.5))
    np.testing.assert_array_equal(whole(source)[0], canonical(values[::-1]))


def test_times_of_an_enhanced_file_are_volumes(tmp_path: Path) -> None:
    values = stored_values(3, 4, 5, 6)
    enhanced(tmp_path / "ct" / "one.dcm", values, times=3)
    with pytest.raises(UnsupportedImageError, match="it holds 3 volumes"):
        open_source(tmp_path / "ct").check()
    got = whole(open_source(tmp_path / "ct", frame=1, windows=[0, 510]))[0]
    np.testing.assert_array_equal(got, canonical(values[1, ::-1]))
