"""Draws the tree of a zoom: which wide glimpse led to which finer ones.

    (reading,) = reader.read([case], trace=True)
    Image.fromarray(zoom_tree(reading)).save("tree.png")

On the left is the overview with its wide glimpses, then each of these with the glimpses inside it, and to the right of
each the glimpses themselves. Numbers and colours tell the order, as in the scanpath.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from glimpse.pictures.drawing import DARK, below, beside, draw_scanpath, framed, order_colours, through_the_middle
from glimpse.pictures.planes import Picture
from glimpse.reading.records import Reading

_LEAVES = {1: 2, 2: 6, 3: 2}  # fine glimpses in a row, by the number of axes: volumes are three cuts each
_SMALLER = 0.45  # height of a fine glimpse, as a share of that of a wide one
_TALLEST = 900


def zoom_tree(reading: Reading, height: int = 128) -> Picture:
    """Shows which wide glimpse led to which finer ones.

    Args:
        reading: A reading with a trace.
        height: Height in pixels of a wide glimpse that led to others. The overview has twice as much, and all other
            glimpses a little less than half of it.

    Raises:
        ValueError: The reading has no trace.
    """
    return np.array(_Tree(reading, height).branch(-1))


class _Tree:
    def __init__(self, reading: Reading, height: int) -> None:
        self.reading, self.trace, self.height = reading, reading.traced, height
        self.colours = order_colours(reading.glimpses)
        self.children: dict[int, list[int]] = {}
        for index, parent in enumerate(self.trace.parents.tolist()):
            self.children.setdefault(parent, []).append(index)

    def branch(self, view: int) -> Image.Image:
        """Draws a view, -1 for the overview, and on its right everything to which it led."""
        inside = self.children.get(view, [])
        shown = self._view(view, inside)
        wide = [self.branch(child) for child in inside if child in self.children]
        leaves = [self._leaf(child) for child in inside if child not in self.children]
        count = _LEAVES[self.reading.scanpath.shape[1]]
        rows = [beside(leaves[first : first + count], gap=3) for first in range(0, len(leaves), count)]
        return beside([shown, *_columns([*wide, *rows])])

    def _view(self, view: int, inside: Sequence[int]) -> Image.Image:
        trace, places, extents = self.trace, self.reading.scanpath[inside], self.trace.extents[inside]
        image, height, sides = trace.overview, 2 * self.height, np.array(trace.sides)
        if view >= 0:
            centre, reach = self.reading.scanpath[view], trace.extents[view]
            places, extents, sides = (places - centre) / reach, extents / reach, sides * reach
            image, height = trace.glimpses[view], self.height
        # In a volume, the number of the look is in the lower right corner.
        order: dict[str, Any] = {"order": inside, "count": len(self.colours), "bar_aside": image.ndim == 3}
        drawn = draw_scanpath(image, places, extents, height, sides.tolist(), unit=trace.frame.unit, **order)
        colour, number = (self.colours[view], str(view + 1)) if view >= 0 else (DARK, "")
        return framed(Image.fromarray(drawn), colour, number, low=image.ndim > 3)  # cuts have their names above

    def _leaf(self, index: int) -> Image.Image:
        trace, height = self.trace, round(_SMALLER * self.height)
        sides, unit = trace.look_sides[index].tolist(), trace.frame.unit
        image = through_the_middle(trace.glimpses[index], height, sides, unit=unit)
        return framed(image, self.colours[index], str(index + 1))


def _columns(blocks: Sequence[Image.Image]) -> list[Image.Image]:
    """Stacks blocks, in several columns where one would be too tall."""
    count = max(1, math.ceil(sum(block.height for block in blocks) / _TALLEST))
    each = math.ceil(len(blocks) / count)
    return [below(blocks[first : first + each]) for first in range(0, len(blocks), max(1, each))]
