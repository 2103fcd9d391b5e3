"""Holds the sizes of a training's views against the images, with the network that they are to go through."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from glimpse.errors import UserError
from glimpse.geometry import Extent, Frame, Numbers
from glimpse.inspecting.findings import SIZE, Finding, of_error
from glimpse.inspecting.inputs import Candidate
from glimpse.inspecting.looking import Seen
from glimpse.networks.policy import GlimpsePolicy
from glimpse.runs.loading import build_policy
from glimpse.settings.building import build
from glimpse.sources import ImageSource
from glimpse.spaces import ActionLayout, observation_space
from glimpse.views import Views


@dataclass(frozen=True)
class Network:
    """An untrained network for images of a kind.

    Attributes:
        views: the sizes of overviews and glimpses.
        policy: the network; None where it cannot be built.
        problem: why not; "" if it can.
    """

    views: Views
    policy: GlimpsePolicy | None
    problem: str = ""


def network_for(settings: Mapping[str, Any], channels: int, ndim: int) -> Network:
    """Builds the network of the settings of a training, for images of so many channels and axes.

    Raises:
        ValueError: the sizes of views are impossible.
    """
    make = settings["env"]["make"]
    extents = make["glimpse_extents"] if isinstance(make["glimpse_extents"], list) else [make["glimpse_extents"]]
    overview, glimpse = (
        tuple(size) if isinstance(size, list) else (int(size),) * ndim
        for size in (make["overview_size"], make["glimpse_size"])
    )
    views = Views(overview, glimpse, tuple(Extent.parse(one) for one in extents))
    try:
        layout = ActionLayout(ndim, build(settings["env"]["task"]).outputs, len(extents))
        return Network(views, build_policy(settings["network"], observation_space(channels, views), layout))
    except (UserError, ImportError, TypeError, ValueError) as error:
        return Network(views, None, " ".join(str(error).split()))


def coarse_cells(network: Network, cases: Sequence[tuple[int, Candidate, Seen]]) -> list[tuple[int, Finding]]:
    """Returns findings where parts of an image cannot be reached, since cells lie farther apart than glimpses are wide.

    Args:
        network: the network for these images.
        cases: images that could be opened, each with its position.
    """
    policy, found = network.policy, []
    for position, candidate, seen in cases if policy is not None else ():
        assert policy is not None, "without a network there are no cases"
        source = _Stated(Frame(tuple(seen.shape), None if seen.spacing is None else tuple(seen.spacing), seen.unit))
        if len(seen.shape) != network.views.ndim or network.views.problems(source):
            continue  # which is a finding already
        for problem in network.views.problems(source, policy.grid, policy.view_grid):
            error = UserError(problem.removeprefix(f"{source.name}: "))
            found.append((position, of_error(error, str(candidate.path), SIZE)))
    return found


class _Stated(ImageSource):
    """An image of which only the grid is known; it cannot be read.

    Args:
        frame: the grid.
    """

    def __init__(self, frame: Frame) -> None:
        self.path, self.name, self._frame = None, frame.name, frame

    @property
    def frame(self) -> Frame:
        return self._frame

    @property
    def channels(self) -> int:
        return 1

    @property
    def background(self) -> UInt8[np.ndarray, " channel"]:
        return np.zeros(1, np.uint8)

    @property
    def identity(self) -> Hashable:
        return self._frame

    def read(self, center: Numbers, extent: Numbers, size: Sequence[int]) -> UInt8[np.ndarray, "channel *size"]:
        raise NotImplementedError("only the grid of this image is known")
