"""Random views of images, in 1, 2 and 3 dimensions: how they lie, and what colours and noise they have."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from glimpse.errors import SettingsError
from glimpse.learning.colours import Colours, recoloured
from glimpse.ranks.sharing import own_rows
from glimpse.settings.options import at_least, option_names, sorted_into

Draw = Callable[..., Tensor]

_NO_MOTION = {"turn": 0.0, "quarter_turns": False, "tilt": 0.0, "zoom": 0.0, "flips": False}


@dataclass(frozen=True)
class Motion:
    """How images are moved.

    Without tilts and zoom, and with quarter turns, pixels are only put elsewhere: shifts are whole pixels, and fine
    texture stays as sharp as it was. Everything else interpolates, which blurs.

    Attributes:
        turn: largest turn in radians; it has no effect where `flips` allows every turn.
        quarter_turns: whether images are turned by multiples of 90 degrees in place of any angle. Where the last two
            axes differ in pixels or in length, only half turns are made.
        tilt: largest tilt in radians.
        zoom: largest relative change of scale.
        shift: largest shift, as a share of half the image.
        flips: whether images may be mirrored: one answer for all axes, or one per axis. Where the last two axes may
            both be mirrored, every turn is allowed.
    """

    turn: float = 0.4
    quarter_turns: bool = False
    tilt: float = 0.2
    zoom: float = 0.15
    shift: float = 0.18
    flips: bool | Sequence[bool] = True

    def __post_init__(self) -> None:
        for name, most in (("turn", 1e6), ("tilt", 1e6), ("zoom", 0.9), ("shift", 1.0)):
            at_least(f"augment.{name}", getattr(self, name), 0, most=most)


@dataclass(frozen=True)
class AugmentOptions:
    """All options of `Augment`."""

    motion: Motion
    colours: Colours


class Augment:
    """Makes a random view of each image: turned, tilted, flipped, zoomed, shifted, with other colours and noise.

    Learning without labels calls it twice on the same glimpses. Images are (batch, channel, *larger) in [0, 255]; views
    are float (batch, channel, *size) and come from the middle of the images, whose margin is room for shifts and turns.
    A turn of a volume is about its first axis, in the plane of the last two; tilts are small turns in the other planes.
    Every image has its own random numbers, and all of them come from the generator that is passed.

    Args:
        size: pixels of a view per axis.
        background: pixel value outside the image.
        sides: physical lengths of a view's axes, in any unit; the number of pixels when not given. They are needed
            where voxels are deeper than wide, so that a turned view still shows the object in its true proportions.
        **options: the fields of `Motion` and of `glimpse.learning.colours.Colours`.

    Raises:
        SettingsError: an option does not exist or has an impossible value, or does not fit the number of axes.
    """

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Returns the names of the options that `**options` takes."""
        return option_names(AugmentOptions)

    @classmethod
    def parse_options(cls, options: dict[str, Any]) -> AugmentOptions:
        """Returns the options as a record.

        Raises:
            SettingsError: an option does not exist or has an impossible value.
        """
        return sorted_into(AugmentOptions, options, "augment")

    def __init__(
        self, size: Sequence[int], background: float, sides: Sequence[float] | None = None, **options: Any
    ) -> None:
        made = self.parse_options(options)
        self.motion, self.colours = made.motion, made.colours
        self.size, self.background, flips = tuple(size), background, made.motion.flips
        ndim = len(self.size)
        mirrored = (flips,) * ndim if isinstance(flips, bool) else tuple(flips)
        if len(mirrored) != ndim or (sides is not None and len(sides) != ndim):
            raise SettingsError(
                f"Expected augment.flips for each of {ndim} axes, or one answer for all, got {flips}, and sides of as "
                f"many axes, got {sides}. Set augment.flips=true or false."
            )
        self.sides = torch.tensor([float(side) for side in sides or self.size][::-1])  # as PyTorch's grids: (x, y, z)
        self.mirrored = mirrored[::-1]
        self.any_turn = ndim > 1 and all(self.mirrored[:2]) and not self.motion.quarter_turns
        self.square = ndim > 1 and self.size[-1] == self.size[-2] and bool(self.sides[0] == self.sides[1])
        tilted = self.motion.tilt > 0 and ndim == 3
        turned = ndim > 1 and not self.motion.quarter_turns and (self.any_turn or self.motion.turn > 0)
        self.exact = self.motion.zoom == 0 and not tilted and not turned

    def check_channels(self, channels: int) -> None:
        """Refuses stains where images do not have three channels.

        Raises:
            SettingsError: the message says what to set instead.
        """
        if (self.colours.stain or self.colours.stain_shift) and channels != 3:
            raise SettingsError(
                f"augment.stain={self.colours.stain:g}, augment.stain_shift={self.colours.stain_shift:g}: stains are "
                f"changed in images of 3 channels, these have {channels}. Set both to 0, in the section that has them: "
                "pretrain, which warm_up takes over, or agent.algorithm."
            )

    def __call__(
        self, images: Tensor, generator: torch.Generator, moved: Bool[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channel *size"]:
        """Returns a random view of each image.

        Args:
            images: the images.
            generator: of the random numbers. They are drawn for all images, whichever are moved.
            moved: which images are moved, if they have no margin; the others only get colours and noise. None for all.
        """
        self.check_channels(images.shape[1])

        draw = functools.partial(torch.rand, generator=generator)

        def uniform(*shape: int) -> Tensor:
            return (own_rows(draw, *shape) * 2 - 1).to(images.device)

        view = self._moved(images, uniform) if self.exact else self._interpolated(images, uniform)
        if moved is not None:
            view = torch.where(_like(moved, view), view, images.float())
        view = recoloured(view, self.colours, self.background, uniform)
        noise = own_rows(functools.partial(torch.randn, generator=generator), *view.shape)
        return view + noise.to(images.device) * self.colours.noise

    def whole_pixels(
        self, images: Tensor, generator: torch.Generator, moved: Bool[Tensor, " batch"] | None = None
    ) -> UInt8[Tensor, "batch channel *size"]:
        """Makes a random view of each image, rounded to whole pixel values."""
        return self(images, generator, moved).round().clamp(0, 255).byte()

    # ------------------------------------------------------------------------------------------ whole pixels
    def _moved(self, images: Tensor, uniform: Draw) -> Float[Tensor, "batch channel *size"]:
        """Cuts views out at whole pixels, mirrors them, and turns them by multiples of 90 degrees."""
        batch, channels, ndim = len(images), images.shape[1], len(self.size)
        flipped = [(uniform(batch) < 0) & mirrored for mirrored in self.mirrored[::-1]]  # as the axes of images
        quarters = self._quarters(batch, uniform)
        if ndim > 1:
            flipped[-1] ^= (quarters == 1) | (quarters == 2)
            flipped[-2] ^= (quarters == 2) | (quarters == 3)
        where = []
        for axis, (have, want) in enumerate(zip(images.shape[2:], self.size, strict=True)):
            most = self.motion.shift * have / 2
            start = ((have - want) // 2 + (uniform(batch) * most).round().long())[:, None]
            places = _reflected(start + torch.arange(want, device=images.device), have)
            places = torch.where(flipped[axis][:, None], places.flip(1), places)
            where.append(places.view(batch, 1, *[want if other == axis else 1 for other in range(ndim)]))
        rows, planes = (torch.arange(n, device=images.device) for n in (batch, channels))
        view = images[(rows.view(-1, 1, *[1] * ndim), planes.view(1, -1, *[1] * ndim), *where)].float()
        return torch.where(_like(quarters % 2 == 1, view), view.mT, view) if self.square else view

    def _quarters(self, batch: int, uniform: Draw) -> Tensor:
        """Draws by how many quarters each image is turned, 0 to 3; only halves where the plane is not square."""
        if not self.motion.quarter_turns or len(self.size) == 1:
            return torch.zeros(batch, dtype=torch.long)
        drawn = ((uniform(batch) + 1) * 2).long().clamp_max(3)
        return drawn if self.square else drawn // 2 * 2

    # ------------------------------------------------------------------------------------------ interpolation
    def _interpolated(self, images: Tensor, uniform: Draw) -> Float[Tensor, "batch channel *size"]:
        batch, channels, ndim = images.shape[0], images.shape[1], len(self.size)
        content, size = images.float() - self.background, self.size
        if ndim == 1:  # grid_sample takes planes and volumes only
            content, size = content[:, :, None], (1, *size)
        theta = self._theta([have / want for have, want in zip(content.shape[2:], size, strict=True)], batch, uniform)
        where = F.affine_grid(theta, [batch, channels, *size], align_corners=False)
        view = F.grid_sample(content, where, align_corners=False, padding_mode="reflection")
        return view.view(batch, channels, *self.size) + self.background

    def _theta(self, margins: Sequence[float], batch: int, uniform: Draw) -> Float[Tensor, "batch d more"]:
        """Returns affine maps from positions in a view to positions in the image, both in [-1, 1]^d, axes (x, y, z).

        Turns are made in physical proportions: with S = diag(sides) and M = diag(margins), the linear part of the map
        of a motion A is (S M)^-1 A S.
        """
        margin = torch.tensor(list(margins[::-1]))
        sides = torch.cat([self.sides, torch.ones(len(margin) - len(self.sides))])
        motion = self._motion(batch, len(margin), uniform)
        linear = motion * (sides / (sides * margin)[:, None]).to(motion.device)
        return torch.cat([linear, uniform(batch, len(margin), 1) * self.motion.shift], -1)

    def _motion(self, batch: int, ndim: int, uniform: Draw) -> Float[Tensor, "batch d d"]:
        """Returns random matrices that turn, flip, zoom and tilt, axes (x, y, z)."""
        if self.motion.quarter_turns:
            angle = self._quarters(batch, uniform).to(self.sides) * (math.pi / 2)
        elif len(self.size) == 1:
            angle = uniform(batch) * 0
        else:
            angle = uniform(batch) * (math.pi if self.any_turn else self.motion.turn)
        motion = _rotation(angle, ndim, 0, 1)
        for axis, mirrored in enumerate(self.mirrored):
            if mirrored and not (self.any_turn and axis == 1):  # this flip equals half a turn and the other flip
                motion[:, :, axis] *= uniform(batch, 1).sign()
        motion = motion * (1 + uniform(batch, 1, 1) * self.motion.zoom)
        for axis in range(2 if ndim == 3 else 0):
            motion = _rotation(uniform(batch) * self.motion.tilt, ndim, axis, 2) @ motion
        return motion


def check_augment(options: Any) -> None:
    """Checks the options of random views, or None for none, before there are images.

    Raises:
        SettingsError: they are no options, or one of them does not exist or has an impossible value.
    """
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise SettingsError(f"Expected augment as options, such as {{noise: 3, stain: 0.1}}, or null, got {options!r}.")
    Augment.parse_options(dict(options))


def glimpse_augment(
    shape: Sequence[int], background: float, options: Mapping[str, Any], sides: Sequence[float] | None = None
) -> Augment:
    """Returns what makes random views of glimpses (channel, *size); these have no margin, so nothing is shifted.

    Args:
        shape: the shape of a glimpse.
        background: pixel value outside the image.
        options: the options of `Augment`.
        sides: as of `Augment`.

    Raises:
        SettingsError: an option does not exist, or does not fit the number of channels.
    """
    augment = Augment(shape[1:], background, sides, **{**options, "shift": 0.0})
    augment.check_channels(shape[0])
    return augment


def still_augment(
    shape: Sequence[int], background: float, options: Mapping[str, Any], sides: Sequence[float] | None = None
) -> Augment:
    """Returns `glimpse_augment` without motion: only colours and noise change.

    Wide glimpses are seen so, because what lies in their cells is looked at where it is.
    """
    return glimpse_augment(shape, background, {**options, **_NO_MOTION}, sides)


def _reflected(places: Tensor, count: int) -> Tensor:
    """Returns indices with those beyond either end of `count` pixels reflected at the edge, as often as it takes."""
    places = places % (2 * count)
    return torch.where(places < count, places, 2 * count - 1 - places)


def _like(chosen: Bool[Tensor, " batch"], images: Tensor) -> Tensor:
    return chosen.view(-1, *[1] * (images.ndim - 1)).to(images.device)


def _rotation(angle: Float[Tensor, " batch"], ndim: int, first: int, second: int) -> Float[Tensor, "batch d d"]:
    """Returns matrices that rotate by `angle` in the plane of two axes."""
    matrix = torch.eye(ndim, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, first, first] = matrix[:, second, second] = angle.cos()
    matrix[:, second, first] = angle.sin()
    matrix[:, first, second] = -angle.sin()
    return matrix
