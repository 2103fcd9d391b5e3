"""What a photograph says of itself before its pixels are read, and how deeper colours become 8 bits."""

from dataclasses import dataclass

import numpy as np

from glimpse.sources.pictures.stored import Stored


@dataclass(frozen=True)
class Header:
    """What is known of a photograph before its pixels are decoded.

    Attributes:
        shape: pixels, (height, width).
        spacing: millimetres per pixel (y, x), or None where the file does not say.
        stored: where its red, green and blue lie uncompressed in the file, 8 bits each; None where they have to be
            decoded.
    """

    shape: tuple[int, int]
    spacing: tuple[float, float] | None = None
    stored: Stored | None = None


def eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Returns values of a number of bits as uint8: their highest 8 bits; fewer are spread over the range."""
    if bits == 8:
        return values.astype(np.uint8, copy=False)
    if bits > 8:
        return (values >> (bits - 8)).astype(np.uint8)
    return (values.astype(np.uint16) * 255 // ((1 << bits) - 1)).astype(np.uint8)


def on_black(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Returns colours (height, width, 3) as they are seen before black: ``colour * alpha / 255``, rounded.

    Black is what lies outside of a photograph, too, so that what is transparent is no other ground.
    """
    return ((colours.astype(np.uint16) * alpha[..., None] + 127) // 255).astype(np.uint8)
