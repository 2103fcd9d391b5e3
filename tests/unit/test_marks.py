"""Masks of lesions become boxes in level-0 pixels of their image."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from glimpse.cohort import marks
from glimpse.cohort.marks import boxes, read_marks
from glimpse.sources import ArraySource, ImageReadError, UnsupportedImageError


def mask() -> np.ndarray:
    """Two parts: one of 2 x 3 pixels with a corner touching another pixel, and one single pixel."""
    found = np.zeros((10, 15), np.uint8)
    found[2:4, 5:8] = 1
    found[4, 8] = 7
    found[9, 0] = 255
    return found


BOXES = [[[2, 5], [5, 9]], [[9, 0], [10, 1]]]


@pytest.fixture
def plane() -> ArraySource:
    return ArraySource(np.zeros((1, 40, 60), np.uint8))


def test_parts_touching_at_corners_are_one():
    assert boxes(mask() > 0).tolist() == BOXES
    assert boxes(np.zeros((3, 4), bool)).shape == (0, 2, 2)


@pytest.mark.parametrize("form", ["grey.png", "two.png", "colour.png", "sixteen.png", "palette.png", "plain.tif"])
def test_a_plane_at_a_quarter_of_the_resolution(tmp_path: Path, plane: ArraySource, form: str):
    grey = mask()
    pictures = {
        "grey": Image.fromarray(grey),
        "two": Image.fromarray(grey > 0),
        "colour": Image.fromarray(np.stack([0 * grey, grey, 0 * grey, 0 * grey + 255], -1), "RGBA"),
        "sixteen": Image.fromarray(grey.astype(np.uint16)),
        "plain": Image.fromarray(grey),
    }
    indices = Image.fromarray(grey, "P")
    indices.putpalette([0, 0, 0] * 256)
    path = tmp_path / form
    {**pictures, "palette": indices}[path.stem].save(path)
    assert read_marks(path, plane).tolist() == (4.0 * np.array(BOXES)).tolist()


def test_of_a_pyramid_the_finest_level_that_fits(tmp_path: Path, plane: ArraySource, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(np.kron(mask(), np.ones((2, 2), np.uint8)), subifds=1, photometric="minisblack")
        file.write(mask(), subfiletype=1, photometric="minisblack")
    monkeypatch.setattr(marks, "MOST_PIXELS", 200)  # the first level has 600 pixels, the second 150
    assert read_marks(path, plane).tolist() == (4.0 * np.array(BOXES)).tolist()
    monkeypatch.setattr(marks, "MOST_PIXELS", 100)
    with pytest.raises(UnsupportedImageError, match=r"pyramid\.tif: a mask may have .* Save it smaller"):
        read_marks(path, plane)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("stored", [("R", "A", "S"), ("L", "P", "S"), ("S", "R", "P")])
def test_a_volume_in_canonical_axes(tmp_path: Path, stored: tuple[str, ...], suffix: str):
    values = np.zeros((20, 12, 6), np.uint8)  # x to the right, y to anterior, z to superior
    values[15:18, 2:4, 5:6] = 1
    canonical = nibabel.Nifti1Image(values, np.diag([1.0, 1, 3, 1]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(("R", "A", "S")), nibabel.orientations.axcodes2ornt(stored)
    )
    path = tmp_path / f"mask{suffix}"
    nibabel.save(canonical.as_reoriented(turn), path)
    volume = ArraySource(np.zeros((1, 6, 12, 20), np.uint8))
    assert read_marks(path, volume).tolist() == [[[5, 2, 15], [6, 4, 18]]]


def test_masks_that_cannot_be_used(tmp_path: Path, plane: ArraySource):
    volume = ArraySource(np.zeros((1, 6, 12, 20), np.uint8))
    with pytest.raises(ImageReadError, match=r"absent\.png: no such file"):
        read_marks(tmp_path / "absent.png", plane)
    for name in ("text.png", "text.tif", "text.nii"):
        (tmp_path / name).write_text("no mask")
        with pytest.raises(ImageReadError, match=f"{name}: cannot be read as"):
            read_marks(tmp_path / name, volume if name == "text.nii" else plane)
    Image.fromarray(mask()).save(tmp_path / "mask.png")
    with pytest.raises(UnsupportedImageError, match=r"mask\.png: the image has 3 axes; a mask is NIfTI"):
        read_marks(tmp_path / "mask.png", volume)
    with pytest.raises(UnsupportedImageError, match="the proportions of its image, 40 x 40 pixels, got a mask of 10"):
        read_marks(tmp_path / "mask.png", ArraySource(np.zeros((1, 40, 40), np.uint8)))
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "other.nii")
    with pytest.raises(UnsupportedImageError, match="the grid of its volume, 6 x 12 x 20 pixels, got a mask of 6 x 5"):
        read_marks(tmp_path / "other.nii", volume)


def test_rounded_proportions_are_forgiven(tmp_path: Path):
    Image.fromarray(np.ones((9, 14), np.uint8)).save(tmp_path / "mask.png")  # 10 x 15 less what was cut off
    found = read_marks(tmp_path / "mask.png", ArraySource(np.zeros((1, 40, 60), np.uint8)))
    np.testing.assert_allclose(found, [[[0, 0], [40, 60]]])
