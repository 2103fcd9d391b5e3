"""Random views: pixels that are only moved, stains by Beer and Lambert, and other colours; every image has its own."""

from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from glimpse.errors import SettingsError
from glimpse.learning.augment import Augment, check_augment
from glimpse.learning.colours import blurred, restained
from glimpse.settings import checking

MOVED: dict[str, Any] = {"quarter_turns": True, "zoom": 0.0, "tilt": 0.0, "shift": 0.0, "strength": 0.0, "noise": 0.0}
STILL: dict[str, Any] = {**MOVED, "quarter_turns": False, "turn": 0.0, "flips": False}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=seeded(9), dtype=torch.uint8)


def forms_of(image: np.ndarray, turns: tuple[int, ...], flips: list[tuple[int, ...]]) -> set[bytes]:
    """An image turned in its last plane and mirrored, computed with numpy."""
    turned = [np.rot90(image, k, (-2, -1)) for k in turns]
    return {np.flip(one, axes).astype(np.float32).tobytes() for one in turned for axes in flips}


@pytest.mark.parametrize(
    ("size", "flips", "turns", "expected"),
    [
        ((6,), True, (0,), [(), (1,)]),
        ((6, 6), False, (0, 1, 2, 3), [()]),
        ((6, 6), True, (0, 1, 2, 3), [(), (1,)]),
        ((6, 6), [False, True], (0, 1, 2, 3), [(), (2,)]),
        ((4, 6), False, (0, 2), [()]),
        ((3, 4, 4), True, (0, 1, 2, 3), [(), (1,), (2,), (1, 2)]),
        ((3, 4, 4), [True, False, False], (0, 1, 2, 3), [(), (1,)]),
    ],
)
def test_pixels_are_put_elsewhere_and_stay_what_they_are(
    size: tuple[int, ...], flips: Any, turns: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    image = noise(2, *size)
    views = Augment(size, 0.0, flips=flips, **MOVED)(image.expand(400, *image.shape), seeded())
    assert {view.tobytes() for view in views.numpy()} == forms_of(image.numpy(), turns, expected)


def test_shifts_are_whole_pixels_out_of_the_margin_and_reflected_beyond_it() -> None:
    image = torch.arange(12, dtype=torch.uint8).expand(300, 1, 12)
    views = Augment((8,), 0.0, **{**MOVED, "shift": 0.5, "flips": False})(image, seeded())
    found = {tuple(view) for view in views[:, 0].int().tolist()}
    line = [*range(12)][::-1] * 1 + [*range(12)] + [*range(12)][::-1]  # 12 is the index of the first pixel
    assert found == {tuple(line[12 + 2 + shift : 12 + 10 + shift]) for shift in range(-3, 4)}


def test_quarter_turns_keep_their_angle_where_images_are_zoomed() -> None:
    image = torch.zeros(64, 1, 9, 9)
    image[:, :, 1, 4] = 255
    views = Augment((9, 9), 0.0, flips=False, **{**MOVED, "zoom": 0.01})(image, seeded())[:, 0]
    assert {divmod(int(place), 9) for place in views.flatten(1).argmax(1)} == {(1, 4), (4, 1), (7, 4), (4, 7)}


def test_the_same_generator_gives_the_same_views_and_every_image_its_own() -> None:
    image = noise(1, 3, 12, 12).expand(6, 3, 12, 12)
    every = {"stain": 0.2, "stain_shift": 0.1, "brightness": 0.1, "gamma": 0.2, "blur": 1.0}
    one, again, other = (Augment((8, 8), 255.0, **every)(image, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert len({view.numpy().tobytes() for view in one}) == 6
    assert one.shape == (6, 3, 8, 8) and torch.isfinite(one).all()


# ---------------------------------------------------------------------------------------------- colours
def test_stains_change_in_optical_density() -> None:
    """Tissue of known amounts of both stains gets other amounts; glass stays glass where nothing is added."""
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    amounts = np.array([[0.0, 0.0], [0.8, 0.1], [0.2, 0.9]])
    scale, shift = np.array([1.2, 0.7]), np.array([0.0, 0.1])

    def seen(amounts: np.ndarray) -> np.ndarray:
        return 256 * np.exp(-amounts @ stains) - 1

    image = torch.from_numpy(seen(amounts).T[None, :, None]).float()
    other = restained(image, torch.tensor([scale]).float(), torch.tensor([shift]).float())
    np.testing.assert_allclose(other[0, :, 0].T, seen(amounts * scale + shift), atol=1e-2)
    same = restained(image, torch.ones(1, 2), torch.zeros(1, 2))
    np.testing.assert_allclose(same, image, atol=1e-3)


def test_what_is_neither_stain_stays_as_it_is() -> None:
    """An optical density across both stains has none of them, so their factors do not change it."""
    across = np.cross([0.65, 0.70, 0.29], [0.07, 0.99, 0.11])
    across = across / np.linalg.norm(across) * 0.3
    density = across + 0.6  # of all channels, so that no pixel is brighter than glass
    plain = np.full(3, 0.6)
    images = [torch.from_numpy(256 * np.exp(-one) - 1).float().view(1, 3, 1, 1) for one in (density, plain)]
    changed = [restained(one, torch.tensor([[1.5, 0.5]]), torch.zeros(1, 2)) for one in images]
    logs = [-((one + 1) / 256).log().flatten() for one in changed]
    np.testing.assert_allclose(logs[0] - logs[1], across, atol=1e-5)


def test_stains_are_refused_where_images_have_no_colours() -> None:
    with pytest.raises(SettingsError, match=r"augment\.stain=0\.2.*3 channels, these have 1\. Set both to 0"):
        Augment((8, 8), 0.0, stain=0.2)(noise(2, 1, 8, 8), seeded())


@pytest.mark.parametrize(
    ("option", "low", "high"),
    [
        ({"strength": 0.25}, 40 + 0.75 * 60, 40 + 1.25 * 60),  # about the background, 40
        ({"brightness": 0.1}, 100 - 25.5, 100 + 25.5),
        ({"gamma": 0.2}, 255 * (100 / 255) ** np.exp(0.2), 255 * (100 / 255) ** np.exp(-0.2)),
    ],
)
def test_grey_values_change_as_far_as_they_may(option: dict[str, float], low: float, high: float) -> None:
    image = torch.full((2000, 1, 2), 100, dtype=torch.uint8)
    views = Augment((2,), 40.0, **{**STILL, **option})(image, seeded())
    assert torch.equal(views[..., 0], views[..., 1])  # all pixels of an image alike
    assert low - 1e-3 <= views.min() < low + 0.5 and high - 0.5 < views.max() <= high + 1e-3


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_blur_is_a_gaussian_of_each_images_own_width(ndim: int) -> None:
    size = (15,) * ndim
    image = torch.zeros(2, 1, *size)
    image[(slice(None), 0, *[7] * ndim)] = 1.0
    found = blurred(image, torch.tensor([1.0, 2.0]))
    for row, spread in enumerate((1.0, 2.0)):
        along = np.exp(-0.5 * (np.arange(-6, 7) / spread) ** 2)
        along = np.pad(along / along.sum(), 1)
        expected = along
        for _ in range(ndim - 1):
            expected = np.multiply.outer(expected, along)
        np.testing.assert_allclose(found[row, 0], expected, atol=1e-6)


# ---------------------------------------------------------------------------------------------- settings
def test_options_that_do_not_exist_or_are_impossible_are_refused() -> None:
    with pytest.raises(SettingsError, match="'flips'"):
        Augment((8, 8), 0.0, flip=True)
    with pytest.raises(SettingsError, match=r"augment\.blur from 0 to 32"):
        Augment((8, 8), 0.0, blur=-1.0)


@pytest.mark.parametrize("wrong", [True, 3, [1, 2], "yes please"])
def test_what_is_no_options_at_all_is_refused_with_an_example(wrong: Any) -> None:
    with pytest.raises(SettingsError, match=r"augment as options, such as \{noise: 3, stain: 0\.1\}, or null, got"):
        check_augment(wrong)


def test_the_command_line_has_all_options() -> None:
    assert set(checking._SECTIONS["pretrain", "augment"]) == set(Augment.option_names())


def test_flips_of_each_axis_may_come_from_a_file_of_settings() -> None:
    flips = OmegaConf.create({"flips": [False, True]}).flips  # a list of OmegaConf, as recipes give it
    images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(64, -1, -1, -1)
    seen = Augment((4, 4), 0.0, **{**STILL, "flips": flips})(images, seeded()).round()
    rows = {tuple(int(value) for value in view[0, :, 0]) for view in seen}
    assert rows == {(0, 4, 8, 12), (3, 7, 11, 15)}  # mirrored along the last axis only
