"""Random colours of images: stains of tissue, contrast, brightness, gamma and blur; every image has its own."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glimpse.settings.options import at_least

HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
"""Optical densities of the two stains in red, green and blue (Ruifrok and Johnston 2001), not of length 1."""

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MOST_BLUR = 32  # pixels; more would leave nothing of a glimpse
_REACH = 3  # of a Gaussian kernel, in standard deviations


@dataclass(frozen=True)
class Colours:
    """How the values of pixels are changed; with 0 they are not.

    Attributes:
        strength: largest relative change of contrast: the difference from the background is scaled, in each channel by
            another factor.
        stain: largest relative change of how much haematoxylin, and how much eosin, the tissue has (3 channels only).
        stain_shift: largest absolute change of both, in units of natural optical density (3 channels only).
        brightness: largest change of all pixels, as a share of 255.
        gamma: with gamma g, pixels become 255 (p / 255)^(e^u) with u between -g and g.
        noise: standard deviation of the added noise, in pixel values.
        blur: largest standard deviation of a Gaussian blur, in pixels. It takes away the texture by which tissues
            differ.
    """

    strength: float = 0.3
    stain: float = 0.0
    stain_shift: float = 0.0
    brightness: float = 0.0
    gamma: float = 0.0
    noise: float = 6.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        for one in fields(self):
            at_least(f"augment.{one.name}", getattr(self, one.name), 0, most=_MOST_BLUR if one.name == "blur" else 1e6)


def recoloured(
    images: Float[Tensor, "batch channel *size"], colours: Colours, background: float, uniform: Callable[..., Tensor]
) -> Float[Tensor, "batch channel *size"]:
    """Returns images in [0, 255] with random stains, gamma, contrast, brightness and blur, without noise.

    Args:
        images: the images.
        colours: how much may change.
        background: the pixel value whose contrast is 0.
        uniform: draws numbers between -1 and 1 of a shape.
    """
    batch, channels, *size = images.shape
    ones = [1] * len(size)
    if colours.stain or colours.stain_shift:
        images = restained(images, 1 + uniform(batch, 2) * colours.stain, uniform(batch, 2) * colours.stain_shift)
    if colours.gamma:
        power = (uniform(batch, 1, *ones) * colours.gamma).exp()
        images = 255 * (images.clamp(0, 255) / 255) ** power
    gain = 1 + uniform(batch, channels, *ones) * colours.strength
    images = (images - background) * gain + background
    if colours.brightness:
        images = images + uniform(batch, 1, *ones) * (255 * colours.brightness)
    return blurred(images, (uniform(batch) + 1) / 2 * colours.blur) if colours.blur else images


def restained(
    images: Float[Tensor, "batch 3 *size"], scale: Float[Tensor, "batch 2"], shift: Float[Tensor, "batch 2"]
) -> Float[Tensor, "batch 3 *size"]:
    """Returns images of stained tissue with other amounts of haematoxylin and eosin (Tellez et al. 2018).

    By Beer and Lambert, a pixel p has the optical density o = -log((p + 1) / 256) in each channel, and o = c S, where
    the rows of S are the stains' densities of length 1, with their cross product as third, and c is how much of each
    there is. The first two amounts c_k become c_k scale_k + shift_k; what is neither stain stays as it is.

    Args:
        images: pixels in [0, 255], red, green and blue.
        scale: factors of haematoxylin and eosin for each image.
        shift: what is added to both.
    """
    stains = F.normalize(torch.tensor([HAEMATOXYLIN, EOSIN], device=images.device), dim=1)
    third = F.normalize(torch.linalg.cross(stains[0], stains[1]), dim=0)
    whole = torch.cat([stains, third[None]])
    density = -((images.clamp(0, 255) + 1) / 256).log().flatten(2)  # (batch, 3, pixel)
    amounts = torch.linalg.inv(whole).T @ density
    change = amounts[:, :2] * (scale - 1)[..., None] + shift[..., None]
    return (256 * (-(density + stains.T @ change)).exp() - 1).view(images.shape)


def blurred(
    images: Float[Tensor, "batch channel *size"], spread: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channel *size"]:
    """Returns images blurred by Gaussians, each with its own standard deviation in pixels; edges are repeated."""
    batch, channels, *size = images.shape
    reach = math.ceil(_REACH * float(spread.max()))
    steps = torch.arange(-reach, reach + 1, device=images.device)
    kernels = (-0.5 * (steps / spread[:, None].clamp_min(1e-3)) ** 2).exp()
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    planes = images.reshape(1, batch * channels, *size)
    for axis in range(len(size)):
        shape = [2 * reach + 1 if other == axis else 1 for other in range(len(size))]
        margins = [side for other in reversed(range(len(size))) for side in ([reach] * 2 if other == axis else [0] * 2)]
        padded = F.pad(planes, margins, mode="replicate")
        planes = _CONVOLVE[len(size)](padded, kernels.view(-1, 1, *shape), groups=batch * channels)
    return planes.view(images.shape)
