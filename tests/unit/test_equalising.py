"""Patterns of one room: what is made equal is equal, and their forms stay different."""

import numpy as np
import pytest

from glimpse.synthetic.equalising import Stroke, equalised, strokes, without_block_means


def test_a_stroke_is_a_gabor_function() -> None:
    axes = (np.arange(-4.0, 5.0), np.arange(-4.0, 5.0))
    stroke = Stroke(wave=4.0, width=3.0, length=2.0)
    normal = np.array([[0.6, 0.8]])
    pattern = strokes(axes, np.array([[1.0, 0.0]]), normal, np.array([-2.0]), stroke)
    y, x = 3.0, -2.0  # the way from the middle is (2, -2): -0.4 along the normal
    expected = -2 * np.cos(2 * np.pi * -0.4 / 4) * np.exp(-0.16 / 18 - (8 - 0.16) / 8)
    assert pattern.dtype == np.float32 and pattern.shape == (9, 9)
    assert pattern[int(y) + 4, int(x) + 4] == pytest.approx(expected, rel=1e-5)
    assert pattern[5, 4] == pytest.approx(-2)


@pytest.mark.parametrize("ndim", [2, 3])
def test_block_means_are_taken_off(ndim: int) -> None:
    shape, sides = ((12, 10), (4, 5)) if ndim == 2 else ((4, 12, 10), (2, 4, 5))
    pattern = np.random.default_rng(0).random(shape, np.float32)
    left = without_block_means(pattern, sides)
    block = tuple(slice(0, side) for side in sides)
    assert left[block] == pytest.approx(pattern[block] - pattern[block].mean(), abs=1e-6)
    last = tuple(slice(-side, None) for side in sides)
    assert left[last] == pytest.approx(pattern[last] - pattern[last].mean(), abs=1e-6)


def test_equalised_patterns_differ_in_phases_only() -> None:
    """Of two very different patterns: amplitudes at every frequency, values, and the means of blocks."""
    rng = np.random.default_rng(0)
    sparse = (rng.random((64, 64)) < 0.05).astype(np.float32)
    smooth = np.cos(np.arange(64) / 3)[:, None] * np.sin(np.arange(64) / 4 + 1)[None] + 0.1 * rng.random((64, 64))
    first, second = equalised(
        sparse, smooth.astype(np.float32), lambda pattern: without_block_means(pattern, (8, 8)), rounds=40
    )
    for pattern in (first, second):
        assert np.abs(pattern.reshape(8, 8, 8, 8).mean((1, 3))).max() < 1e-5
        assert (pattern**2).mean() == pytest.approx(1, abs=0.05)
    spectra = [np.abs(np.fft.fft2(pattern)) for pattern in (first, second)]
    assert np.sqrt(((spectra[0] - spectra[1]) ** 2).mean() / (spectra[0] ** 2).mean()) < 0.15
    values = [np.sort(pattern, axis=None) for pattern in (first, second)]
    assert np.abs(values[0] - values[1]).mean() < 0.06
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.5
