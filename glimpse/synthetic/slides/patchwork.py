"""A large slide of which most is glass: images on a plain ground, cut into tiles without ever being one array."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Patch:
    """An image on a ground.

    Attributes:
        y: row of its upper left corner.
        x: its column.
        image: uint8 (height, width, 3).
    """

    y: int
    x: int
    image: np.ndarray


class Patchwork:
    """Patches on a ground of one colour: a level for `glimpse.synthetic.slides.svs.write_svs`.

    Args:
        size: Side of the square in pixels.
        ground: Colour around the patches, uint8 (3,).
        patches: They lie inside and do not overlap.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, size: int, ground: np.ndarray, patches: Sequence[Patch]) -> None:
        self.shape = (size, size, 3)
        self._ground, self._patches = ground, tuple(patches)

    def __getitem__(self, region: tuple[slice, slice]) -> np.ndarray:
        """Pixels of some rows and columns; where no patch lies, they are one pixel of the ground, repeated."""
        (top, bottom, _), (left, right, _) = (part.indices(self.shape[0]) for part in region)
        pixels = np.broadcast_to(self._ground, (bottom - top, right - left, 3))
        for patch in self._patches:
            height, width = patch.image.shape[:2]
            first, last = max(top, patch.y), min(bottom, patch.y + height)
            begin, end = max(left, patch.x), min(right, patch.x + width)
            if first >= last or begin >= end:
                continue
            pixels = pixels if pixels.flags.writeable else pixels.copy()
            own = patch.image[first - patch.y : last - patch.y, begin - patch.x : end - patch.x]
            pixels[first - top : last - top, begin - left : end - left] = own
        return pixels

    def reduced(self, factor: int) -> "Patchwork":
        """The same at a lower resolution: means of blocks.

        Args:
            factor: Side of a block; it divides the side of the square, and the corners and the sides of all patches.
        """
        images = {id(one.image): one.image for one in self._patches}  # several patches may show the same
        small = {key: np.asarray(Image.fromarray(image).reduce(factor)) for key, image in images.items()}
        patches = [Patch(one.y // factor, one.x // factor, small[id(one.image)]) for one in self._patches]
        return Patchwork(self.shape[0] // factor, self._ground, patches)
