"""Thresholds that part an image from its ground."""

import numpy as np
from jaxtyping import UInt8


def otsu_threshold(values: UInt8[np.ndarray, "*size"]) -> int:
    """The threshold t that maximises the variance between values <= t and values > t.

    With w_0, w_1 the shares of the two classes and mu_0, mu_1 their means, it maximises
    ``sigma_b^2(t) = w_0 w_1 (mu_0 - mu_1)^2`` (Otsu, A threshold selection method from gray-level histograms, 1979).
    """
    counts = np.bincount(values.reshape(-1), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    above = below[-1] - below
    sum_below = np.cumsum(counts * np.arange(256))
    difference = sum_below / np.maximum(below, 1) - (sum_below[-1] - sum_below) / np.maximum(above, 1)
    return int(np.argmax(below * above * difference**2))
