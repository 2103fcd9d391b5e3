"""Label maps are drawn over their images, with the patient's right on the left."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from glimpse.pictures.drawing import draw_labels, order_colours
from glimpse.pictures.label_map import label_map_picture, labels_of
from glimpse.sources.volume.grid import VoxelGrid

SHAPE = (8, 10, 12)  # voxels of 2 x 1 x 1 mm


def test_labels_lie_over_their_pixels_in_the_colours_of_the_looks() -> None:
    image, labels = np.full((1, 8, 8), 100, np.uint8), np.zeros((8, 8), int)
    labels[2:4, 5:7], labels[6, 0] = 1, 2
    picture = draw_labels(image, labels, 80)
    expected = np.full((80, 80, 3), 100)
    for place, colour in zip((np.s_[20:40, 50:70], np.s_[60:70, 0:10]), order_colours(2), strict=True):
        expected[place] = np.rint(40 + 0.6 * np.array(colour))
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(draw_labels(image, 0 * labels, 80), 100)


def files(folder: Path, towards_right: bool) -> tuple[Path, Path]:
    """A volume whose first axis runs to the patient's right or left, and a label map of its first quarter."""
    affine = np.diag([2.0 if towards_right else -2.0, 1.0, 1.0, 1.0])
    labels = np.zeros(SHAPE, np.uint8)
    labels[:2] = 1
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, affine), folder / "image.nii")  # type: ignore[attr-defined]
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "labels.nii.gz")  # type: ignore[attr-defined]
    return folder / "image.nii", folder / "labels.nii.gz"


@pytest.mark.parametrize("towards_right", [True, False])
def test_a_label_map_is_shown_as_radiologists_do_it(towards_right: bool, tmp_path: Path) -> None:
    picture = label_map_picture(*files(tmp_path, towards_right), height=120).astype(int)
    axial = picture[:100, :160]  # 10 x 16 mm, ten pixels each
    labelled = axial[..., 2] != axial[..., 0]  # all else is grey
    assert labelled.any(0).tolist() == ([False] * 120 + [True] * 40 if towards_right else [True] * 40 + [False] * 120)


def test_another_grid_is_refused(tmp_path: Path) -> None:
    image, labels = files(tmp_path, True)
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4)), labels)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="on the grid of"):
        label_map_picture(image, labels)


def test_the_finest_look_shows_a_voxel_best_and_of_several_the_first() -> None:
    grid = VoxelGrid((4, 1, 8), (2, 1, 0), (False, False, False), tuple(map(tuple, np.eye(4).tolist())))

    def box(low: int, high: int) -> list[list[float]]:
        return [[low, 0, 0], [high, 1, 4]]

    boxes = np.array([box(0, 6), box(1, 4), box(3, 8), box(2, 5)], np.float64)
    assert labels_of(boxes, grid, [0, 1, 0, 1])[0, 0].tolist() == [1, 2, 2, 2, 4, 1, 3, 3]
    assert labels_of(boxes, grid)[0, 0].tolist() == [1, 1, 1, 1, 1, 1, 3, 3]
