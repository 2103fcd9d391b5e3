"""Means over boxes: by sums, where boxes hold many pixels, and by weights of all pixels, where they hold few."""

import numpy as np
import pytest

from glimpse.sources import resampling
from glimpse.sources.resampling import Cut


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64, bool])
def test_sums_and_weights_give_the_same_means(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        ndim = int(rng.integers(1, 4))
        shape, size = rng.integers(1, 60, ndim), tuple(rng.integers(1, 6, ndim).tolist())
        image = (rng.random(tuple(shape)) * 255).astype(dtype)
        cut = Cut.of(rng.uniform(-10, 30, ndim).tolist(), rng.uniform(0.5, 70, ndim).tolist(), size)
        found = []
        for many in (0, 10**9):
            monkeypatch.setattr(resampling, "_MANY", many)
            found.append(cut.means(image))
        (by_sums, cover), (by_weights, expected) = found
        np.testing.assert_allclose(by_sums, by_weights, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(cover, expected, atol=1e-6)


def test_the_highest_values_do_not_overflow() -> None:
    image = np.full((60_000, 3), np.iinfo(np.uint16).max, np.uint16)
    means, _ = Cut.of((0.0, 0.0), (59_999.5, 3.0), (1, 1)).means(image)
    np.testing.assert_array_equal(means, np.iinfo(np.uint16).max)


def test_a_very_high_value_changes_no_other_box() -> None:
    image = np.ones(1000, np.float64)
    image[17] = 1e30
    means, _ = Cut.of((0.25,), (999.5,), (10,)).means(image)
    np.testing.assert_array_equal(means[1:], 1)
