"""Random views of glimpses for contrastive pretraining, in 1, 2 and 3 dimensions."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Draw = Callable[..., Tensor]


class Augment:
    """Makes a random view of each image: turned, tilted, flipped, zoomed, shifted, with other contrast and noise.

    Contrastive pretraining calls it twice on the same glimpses. Images are (batch, channel, *larger) in [0, 255]; views
    are (batch, channel, *size) and come from the middle of the images, whose margin is room for shifts and turns. A
    turn of a volume is about its first axis, in the plane of the last two; tilts are small turns in the other planes.
    The contrast of each channel changes by scaling the difference from the background.

    Args:
        size: pixels of a view per axis.
        background: pixel value outside the image.
        sides: physical lengths of a view's axes, in any unit; the number of pixels when not given. They are needed
            where voxels are deeper than wide, so that a turned view still shows the object in its true proportions.
        turn: largest turn in radians; it has no effect where `flips` allows every turn.
        tilt: largest tilt in radians.
        zoom: largest relative change of scale.
        shift: largest shift, as a share of half the image.
        strength: largest relative change of contrast.
        noise: standard deviation of the added noise, in pixel values.
        flips: whether images may be mirrored: one answer for all axes, or one per axis. Where the last two axes may
            both be mirrored, every turn is allowed.
    """

    def __init__(
        self,
        size: Sequence[int],
        background: float,
        sides: Sequence[float] | None = None,
        *,
        turn: float = 0.4,
        tilt: float = 0.2,
        zoom: float = 0.15,
        shift: float = 0.18,
        strength: float = 0.3,
        noise: float = 6.0,
        flips: bool | Sequence[bool] = True,
    ) -> None:
        self.size, self.background = tuple(size), background
        ndim = len(self.size)
        mirrored = (flips,) * ndim if isinstance(flips, bool) else tuple(flips)
        if len(mirrored) != ndim or (sides is not None and len(sides) != ndim):
            raise ValueError(f"Expected sides and flips for each of {ndim} axes, got sides={sides} and flips={flips}.")
        self.sides = torch.tensor([float(side) for side in sides or self.size][::-1])  # as PyTorch's grids: (x, y, z)
        self.mirrored = mirrored[::-1]
        self.any_turn = ndim > 1 and all(self.mirrored[:2])
        self.turn, self.tilt, self.zoom, self.shift, self.strength, self.noise = (
            turn if ndim > 1 else 0.0,
            tilt,
            zoom,
            shift,
            strength,
            noise,
        )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        def uniform(*shape: int) -> Tensor:
            return (torch.rand(shape, generator=generator) * 2 - 1).to(images.device)

        batch, channels, ndim = images.shape[0], images.shape[1], len(self.size)
        content, size = images.float() - self.background, self.size
        if ndim == 1:  # grid_sample takes planes and volumes only
            content, size = content[:, :, None], (1, *size)
        theta = self._theta([have / want for have, want in zip(content.shape[2:], size, strict=True)], batch, uniform)
        where = F.affine_grid(theta, [batch, channels, *size], align_corners=False)
        view = F.grid_sample(content, where, align_corners=False, padding_mode="reflection")
        view = view.view(batch, channels, *self.size)
        gain = 1 + uniform(batch, channels, *[1] * ndim) * self.strength
        noise = torch.randn(view.shape, generator=generator).to(images.device) * self.noise
        return view * gain + noise + self.background

    def _theta(self, margins: Sequence[float], batch: int, uniform: Draw) -> Float[Tensor, "batch d more"]:
        """Returns affine maps from positions in a view to positions in the image, both in [-1, 1]^d, axes (x, y, z).

        Turns are made in physical proportions: with S = diag(sides) and M = diag(margins), the linear part of the map
        of a motion A is (S M)^-1 A S.
        """
        margin = torch.tensor(list(margins[::-1]))
        sides = torch.cat([self.sides, torch.ones(len(margin) - len(self.sides))])
        motion = self._motion(batch, len(margin), uniform)
        linear = motion * (sides / (sides * margin)[:, None]).to(motion.device)
        return torch.cat([linear, uniform(batch, len(margin), 1) * self.shift], -1)

    def _motion(self, batch: int, ndim: int, uniform: Draw) -> Float[Tensor, "batch d d"]:
        """Returns random matrices that turn, flip, zoom and tilt, axes (x, y, z)."""
        motion = _rotation(uniform(batch) * (math.pi if self.any_turn else self.turn), ndim, 0, 1)
        for axis, mirrored in enumerate(self.mirrored):
            if mirrored and not (self.any_turn and axis == 1):  # this flip equals half a turn and the other flip
                motion[:, :, axis] *= uniform(batch, 1).sign()
        motion = motion * (1 + uniform(batch, 1, 1) * self.zoom)
        for axis in range(2 if ndim == 3 else 0):
            motion = _rotation(uniform(batch) * self.tilt, ndim, axis, 2) @ motion
        return motion


def _rotation(angle: Float[Tensor, " batch"], ndim: int, first: int, second: int) -> Float[Tensor, "batch d d"]:
    """Returns matrices that rotate by `angle` in the plane of two axes."""
    matrix = torch.eye(ndim, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, first, first] = matrix[:, second, second] = angle.cos()
    matrix[:, second, first] = angle.sin()
    matrix[:, first, second] = -angle.sin()
    return matrix
