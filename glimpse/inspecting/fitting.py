"""Holds the sizes of a training's views against the images, with the network that they are to go through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glimpse.cohort.proposals import advice
from glimpse.errors import UserError
from glimpse.geometry import Extent, Frame
from glimpse.inspecting.findings import SIZE, Finding, of_error
from glimpse.inspecting.inputs import Candidate
from glimpse.inspecting.looking import Seen
from glimpse.networks.policy import GlimpsePolicy
from glimpse.runs.loading import build_policy
from glimpse.settings.building import build
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
    views, policy = network.views, network.policy
    if policy is None:
        return []
    frames = [_frame(seen, str(candidate.path).rpartition("/")[2]) for _, candidate, seen in cases]
    coarse = [
        (position, frame, problem)
        for (position, _, _), frame in zip(cases, frames, strict=True)
        if not views.problems(frame)  # which would be a finding already
        for problem in views.problems(frame, policy.grid, policy.view_grid)
    ]
    remedy = advice(views, frames, policy.grid, policy.view_grid) if coarse else ""
    return [
        (position, of_error(UserError(f"{problem} {remedy}".rstrip()), frame.name, SIZE))
        for position, frame, problem in coarse
    ]


def _frame(seen: Seen, name: str) -> Frame:
    return Frame(tuple(seen.shape), None if seen.spacing is None else tuple(seen.spacing), seen.unit, name)
