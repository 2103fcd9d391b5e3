"""Small photographs for tests."""

import numpy as np
from PIL import Image

from glimpse.sources import PhotoSource

ORIENTATION = 0x0112


def colours(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """Noise, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(source: PhotoSource) -> np.ndarray:
    """All pixels at full resolution, (height, width, 3)."""
    height, width = source.shape
    return source.read((height / 2, width / 2), source.shape, source.shape).transpose(1, 2, 0)


def on_black(image: Image.Image) -> np.ndarray:
    """What Pillow makes of a picture before black, in red, green and blue."""
    ground = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB"))
