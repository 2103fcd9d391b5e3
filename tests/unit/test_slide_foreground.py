"""Where tissue lies on a slide: neither glass nor the dark ground of scanners, with and without colour."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import UInt8

from glimpse.sources import SlideSource
from glimpse.sources.slide.foreground import tissue

RNG = np.random.default_rng(0)
TISSUE = (slice(40, 80), slice(50, 100))


def painted(
    ground: tuple[int, ...], inside: tuple[int, ...], noise: float = 1.0
) -> UInt8[np.ndarray, "channel height width"]:
    """An overview of 128 x 128 pixels of one colour, with a block of tissue, and the same noise in all channels."""
    image = np.full((3, 128, 128), 0.0)
    image += np.array(ground, np.float64)[:, None, None]
    image[(slice(None), *TISSUE)] = np.array(inside, np.float64)[:, None, None]
    return (image + RNG.normal(0, noise, (1, 128, 128))).clip(0, 255).round().astype(np.uint8)


def tissue_only() -> np.ndarray:
    expected = np.zeros((128, 128), bool)
    expected[TISSUE] = True
    return expected


def test_tissue_is_what_is_saturated():
    overview = np.full((3, 10, 10), 250, np.uint8)
    overview[:, 2:5, 3:7] = np.array([200, 120, 180], np.uint8)[:, None, None]
    overview[:, 8] = 40  # a grey mark is dark but not saturated
    expected = np.zeros((10, 10), bool)
    expected[2:5, 3:7] = True
    source = SlideSource("never_opened.svs")
    np.testing.assert_array_equal(source.foreground(overview), expected)
    assert source.foreground(np.full_like(overview, 255)).all(), "a blank slide can be looked at everywhere"


@pytest.mark.parametrize("colour", [(0, 0, 0), (2, 0, 1), (6, 3, 2), (12, 10, 14)])
@pytest.mark.parametrize("noise", [0, 1])
def test_the_dark_ground_of_a_scanner_is_no_tissue(colour: tuple[int, int, int], noise: int) -> None:
    overview, ground = painted((242, 241, 243), (205, 120, 175)), painted(colour, colour, noise)
    frame = np.zeros((128, 128), bool)
    frame[:, :30] = frame[100:] = True
    overview[:, frame] = ground[:, frame]
    overview[:, :100, 30] = (overview[:, :100, 29] * 0.7 + overview[:, :100, 31] * 0.3).astype(np.uint8)  # its rim
    np.testing.assert_array_equal(tissue(overview), tissue_only())


def test_a_uniform_dark_gap_inside_is_no_tissue() -> None:
    overview = painted((242, 241, 243), (205, 120, 175))
    overview[:, 90:120, 20:60] = np.array((6, 3, 2), np.uint8)[:, None, None]
    np.testing.assert_array_equal(tissue(overview), tissue_only())


@pytest.mark.parametrize("colour", [(40, 18, 60), (30, 12, 38), (28, 16, 10)])
def test_dark_tissue_stays_tissue(colour: tuple[int, int, int]) -> None:
    """Heavily stained or pigmented tissue is as dark as a scanner's ground, but coloured."""
    np.testing.assert_array_equal(tissue(painted((242, 241, 243), colour)), tissue_only())


def test_near_black_tissue_with_a_texture_stays_tissue() -> None:
    overview = painted((242, 241, 243), (205, 120, 175))
    dark = (slice(None), slice(50, 70), slice(60, 90))
    overview[dark] = (np.array((14, 10, 15))[:, None, None] + RNG.integers(-3, 4, (1, 20, 30))).astype(np.uint8)
    np.testing.assert_array_equal(tissue(overview), tissue_only())


def test_a_slide_that_is_dark_ground_but_for_blank_glass_is_looked_at_on_the_glass() -> None:
    overview = np.full((3, 64, 64), 244, np.uint8)
    overview[:, :20] = np.array((6, 3, 2), np.uint8)[:, None, None]
    mask = tissue(overview)
    assert not mask[:20].any() and mask[21:].all()
    assert tissue(np.full((3, 64, 64), 3, np.uint8)).all(), "never empty"


@pytest.mark.parametrize(
    ("ground", "inside"),
    [(240, 120), (225, 170), (3, 90), (5, 32), (60, 150), (0, 255)],
    ids=[
        "bright field",
        "pale",
        "fluorescence",
        "dim fluorescence",
        "fluorescence on a grey ground",
        "black and white",
    ],
)
@pytest.mark.parametrize("noise", [0, 1, 4])
def test_slides_without_colour(ground: int, inside: int, noise: float) -> None:
    mask = tissue(painted((ground,) * 3, (inside,) * 3, noise))
    wrong = (mask != tissue_only()).mean()
    assert wrong <= (0.002 if noise == 4 else 0), (
        "of a ground and a tissue that noise makes overlap, all but a few pixels"
    )


def test_a_bright_field_without_colour_in_a_dark_frame() -> None:
    overview = painted((240,) * 3, (120,) * 3)
    overview[:, :20] = overview[:, -20:] = overview[:, :, :20] = overview[:, :, -20:] = 4
    overview[:, 20, 20:-20] = 100  # the rim of the frame, mixed with glass
    np.testing.assert_array_equal(tissue(overview), tissue_only())


@pytest.mark.parametrize("shade", [lambda y, x: y / 127, lambda y, x: x / 127])
def test_fluorescence_of_uneven_brightness(shade: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    y, x = np.mgrid[:128, :128]
    overview = painted((3, 3, 3), (0, 0, 0), 0.5)
    bright = (70 + 130 * shade(y, x)).astype(np.uint8)
    overview[(slice(None), *TISSUE)] = bright[TISSUE]
    found = tissue(overview)
    assert not found[~tissue_only()].any() and found[TISSUE].mean() > 0.95


def test_tissue_that_reaches_the_edge_of_a_slide_without_colour() -> None:
    overview = painted((240,) * 3, (240,) * 3)
    overview[:, :50] = 120  # all of one side and parts of two others
    np.testing.assert_array_equal(tissue(overview), overview[0] == 120)


def test_blank_glass_without_colour_is_looked_at_everywhere() -> None:
    assert tissue(painted((240,) * 3, (240,) * 3, 2)).all()


def test_a_tiny_piece_of_pale_tissue_is_found_by_its_colour() -> None:
    overview = np.full((3, 256, 256), 242, np.uint8)
    overview[:, 100:103, 100:105] = np.array((240, 225, 236), np.uint8)[:, None, None]
    mask = tissue(overview)
    assert mask.sum() == 15 and mask[100:103, 100:105].all()
