"""Sheets of tissue of any size from small images, by image quilting (Efros and Freeman, SIGGRAPH 2001).

Patches are laid in rows so that they overlap, and each is cut along the path on which it differs least from what is
there already. A sheet continues itself on all sides, so that windows of it may run over its edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from glimpse.synthetic.slides.enlarging import bordered, enlarged

COARSE = 4
"""Pixels per cell of the maps on which patches are compared."""

DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density of an 8-bit intensity."""

_TRIES, _BEST = 12, 3


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """One of the 8 turns and flips of a square image, as a view."""
    return np.rot90(image, turn % 4)[:, :: 1 - turn // 4 * 2]


def block_means(image: np.ndarray, factor: int) -> np.ndarray:
    """Means over blocks of factor x factor pixels: (height, width, ...), whole blocks, to float32."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    rows = image.reshape(height, factor, width * factor, *image.shape[2:]).sum(1, dtype=np.float32)
    return rows.reshape(height, width, factor, *image.shape[2:]).sum(2) / np.float32(factor**2)


@dataclass(frozen=True)
class Source:
    """Where patches of one kind of tissue are taken from.

    Attributes:
        patch: side of a patch in pixels, a multiple of `COARSE`.
        images: uint8 (height, width, 3).
        coarse: their optical densities at every `COARSE` pixels.
        corners: for each image, the upper left corners (number, 2) of patches that lie in that kind of tissue, in cells
            of `COARSE` pixels.
    """

    patch: int
    images: Sequence[np.ndarray]
    coarse: Sequence[np.ndarray]
    corners: Sequence[np.ndarray]

    @classmethod
    def of(cls, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], patch: int) -> "Source":
        """Takes patches that lie inside the masks (one cell for `COARSE` pixels), but for 3.5 % of a patch."""
        side, corners = patch // COARSE, []
        for mask in masks:
            share = scipy.ndimage.uniform_filter(mask.astype(np.float32), side, mode="constant")
            found = np.argwhere(share > 0.965) - side // 2
            corners.append(found[((found >= 0) & (found + side <= mask.shape)).all(1)])
        return cls(patch, images, [block_means(DENSITY[image], COARSE) for image in images], corners)

    def draw(self, rng: np.random.Generator, turn: int, wanted: np.ndarray, compared: np.ndarray) -> "Candidate":
        """One of the best few of some random patches.

        Args:
            rng: Source of randomness.
            turn: Which of the 8 turns the patch has.
            wanted: Densities that are there already, (cells, cells, 3).
            compared: Cells on which the patch should agree with them, bool (cells, cells).
        """
        side = self.patch // COARSE
        weights = np.sqrt([len(corners) for corners in self.corners])  # a large image must not drown a small one
        image = int(rng.choice(len(self.images), p=weights / weights.sum()))
        corners = self.corners[image][rng.integers(len(self.corners[image]), size=_TRIES)]
        patches = [turned(self.coarse[image][y : y + side, x : x + side], turn) for y, x in corners]
        costs = [((patch - wanted) ** 2).sum(-1) for patch in patches]
        order = np.argsort([float(cost[compared].sum()) for cost in costs], kind="stable")
        best = int(order[rng.integers(_BEST)])  # not always the best: it is often the same
        y, x = corners[best] * COARSE
        pixels = turned(self.images[image][y : y + self.patch, x : x + self.patch], turn)
        return Candidate(pixels, patches[best], costs[best])


@dataclass(frozen=True)
class Candidate:
    """A patch that may be laid: its pixels, its coarse densities, and how much each cell differs from what is there."""

    pixels: np.ndarray
    coarse: np.ndarray
    cost: np.ndarray


def quilt(rng: np.random.Generator, source: Source, side: int, overlap: int, coherent: bool = False) -> np.ndarray:
    """Makes a sheet that continues itself on all sides.

    Args:
        rng: Source of randomness.
        source: Where patches come from.
        side: Of the sheet in pixels; a whole number, at least 3, of patches less their overlap.
        overlap: Of neighbouring patches in pixels, a multiple of `COARSE`.
        coherent: Whether fibres keep their direction over several patches; otherwise each patch is turned at random.

    Returns:
        uint8 (side, side, 3).
    """
    step, cells, width = source.patch - overlap, source.patch // COARSE, overlap // COARSE
    count = side // step
    if count * step != side or count < 3:
        raise ValueError(f"side={side}: expected a whole number, at least 3, of steps of {step} pixels.")
    sheet = np.zeros((side, side, 3), np.uint8)
    coarse = np.zeros((side // COARSE, side // COARSE, 3), np.float32)
    turns = rng.integers(8, size=(count, count))
    if coherent:
        slow = scipy.ndimage.gaussian_filter(rng.standard_normal((count, count)), 3, mode="wrap")
        turns = (2.5 * slow / slow.std()).astype(int) % 8
    for row, column in np.ndindex(count, count):
        rows, columns = (place * step + np.arange(source.patch) for place in (row, column))
        fine, small = (
            np.ix_(rows[::pitch] // pitch % (side // pitch), columns[::pitch] // pitch % (side // pitch))
            for pitch in (1, COARSE)
        )
        # What is there: to the left, above, and, at the far ends, what the first column and row hold.
        there = [column > 0, row > 0, column == count - 1, row == count - 1]
        old = coarse[small]
        new = source.draw(rng, int(turns[row, column]), old, _strips(there, cells, width))
        share = _share(new.cost, there, width)
        coarse[small] = share[..., None] * new.coarse + (1 - share[..., None]) * old
        share = enlarged(bordered(share), COARSE)[..., None]
        sheet[fine] = (share * new.pixels + (1 - share) * sheet[fine] + np.float32(0.5)).astype(np.uint8)
    return sheet


def _strips(there: Sequence[bool], cells: int, width: int) -> np.ndarray:
    """Cells along those sides (left, upper, right, lower) of a patch where there is something already."""
    mask = np.zeros((cells, cells), bool)
    for side, present in enumerate(there):
        if present:
            np.rot90(mask, side)[:, :width] = True
    return mask


def _share(cost: np.ndarray, there: Sequence[bool], width: int) -> np.ndarray:
    """Share of the new patch in every cell: 0 on the far side of each cut, 1 elsewhere."""
    share = np.ones_like(cost)
    for side, present in enumerate(there):
        if present:
            part = np.rot90(share, side)
            part[:, :width] *= seam(np.rot90(cost, side)[:, :width])
    return share


def seam(cost: np.ndarray) -> np.ndarray:
    """Cheapest path from the first row to the last, one column a row and no more than one column aside.

    Args:
        cost: (rows, columns).

    Returns:
        float32 of the same shape: 1 on the path and to the right of it, 0 to the left.
    """
    total = cost.astype(np.float64)
    total[:, 0] += 1e9  # a path along the patch's own border would leave a hard edge
    before = np.full(cost.shape[1] + 2, np.inf)
    for row in range(1, len(total)):
        before[1:-1] = total[row - 1]
        total[row] += np.minimum(np.minimum(before[:-2], before[2:]), before[1:-1])
    path = [int(total[-1].argmin())]
    for line in total[-2::-1]:
        first = max(path[-1] - 1, 0)
        path.append(first + int(line[first : path[-1] + 2].argmin()))
    return (np.arange(cost.shape[1]) >= np.array(path[::-1])[:, None]).astype(np.float32)
