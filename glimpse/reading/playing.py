"""The loop in which a policy plays one episode on each of several cases, for evaluation; it returns readings."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor

from glimpse.cohort import Case
from glimpse.errors import EvaluationError
from glimpse.networks.devices import on_host, to_device
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Conduct, Decision, Scene, State
from glimpse.networks.where import CellDistribution, Choice, GaussianDistribution
from glimpse.reading.lanes import Access, Ending, Lanes, Seen, Start
from glimpse.reading.records import Reading, Trace
from glimpse.spaces import Action, axes_and_channels


@dataclass
class _Notes:
    """What is recorded of one lane while its episode goes on; all but predictions only if a trace is wanted."""

    predictions: list[np.ndarray] = field(default_factory=list)
    glimpses: list[np.ndarray] = field(default_factory=list)
    cells: list[np.ndarray] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)  # the candidate at which each glimpse lies
    chances: list[float] = field(default_factory=list)  # how probable it was
    tokens: list[Tensor] = field(default_factory=list)  # of the overview, as answers use it, and of each glimpse


@dataclass
class _Aside:
    """Counts the seconds that only traces take: what reading costs must not depend on whether it is shown."""

    seconds: float = 0.0

    @contextmanager
    def noting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


@torch.no_grad()
def play(
    policy: GlimpsePolicy,
    access: Access,
    lanes: Lanes,
    cases: Sequence[Case],
    budget: int,
    conduct: Conduct,
    trace: bool = False,
    generator: torch.Generator | None = None,
) -> list[Reading]:
    """Reads some cases side by side with the policy's most probable choices, each to the end of its episode.

    Args:
        policy: It gives the predictions, and chooses the locations unless the conduct names another locator. It must be
            in evaluation mode.
        access: Says how large the views are and what the task is; only traces need it.
        lanes: There must be at least as many lanes as cases. Lanes that are left over repeat the last case, so that the
            policy always computes on the same number of rows.
        cases: What to read.
        budget: How many glimpses of each case may be read.
        conduct: How the policy acts; a locator in it has one row per lane.
        trace: Whether readings keep the overview, the glimpses and the probabilities of cells, for pictures.
        generator: If given, choices are drawn with it, instead of the most probable ones.

    Returns:
        One reading per case, in the order of the cases.
    """
    began = time.perf_counter()
    filled = [*cases, *[cases[-1]] * (lanes.width - len(cases))]
    _check_kinds(policy, cases)
    start, aside = lanes.start(filled, budget), _Aside()
    with policy.kept.unchanged():
        notes = _to_the_end(policy, lanes, start, len(cases), budget, conduct, aside if trace else None, generator)
    endings = [lanes.ending(lane) for lane in range(len(cases))]
    seconds = (time.perf_counter() - began - aside.seconds) / len(cases)
    readings = []
    for lane, (case, noted, ending) in enumerate(zip(cases, notes, endings, strict=True)):
        kept = _trace(policy, access, case, start, lane, noted, ending) if trace else None
        readings.append(_reading(case, noted, ending, seconds, kept))
    return readings


def _to_the_end(
    policy: GlimpsePolicy,
    lanes: Lanes,
    start: Start,
    count: int,
    budget: int,
    conduct: Conduct,
    aside: _Aside | None,
    generator: torch.Generator | None,
) -> list[_Notes]:
    """Steps all lanes until the first `count` of them have ended; nothing more is recorded of a lane that has ended.

    What traces need is recorded if there is an `aside`.
    """
    notes, going, exhausted = [_Notes() for _ in range(count)], list(range(count)), start.exhausted
    overview, foreground, extents = (_tensor(policy, one) for one in (start.overview, start.foreground, start.extents))
    scene = policy.scene(overview, foreground, extents, conduct=conduct)
    state = policy.begin(scene, budget=budget)
    token = scene.token
    while True:
        decision = policy.decide(scene, state, _tensor(policy, exhausted), generator is None, generator, conduct)
        action = _action(policy, decision)
        places = cells = None
        if aside is not None:
            with aside.noting():
                places, cells = place_probabilities(policy, scene, state, decision, conduct)
        seen = lanes.step(action)
        for lane in going:
            notes[lane].predictions.append(action.prediction[lane])
            if cells is not None:
                notes[lane].cells.append(cells[lane].reshape(scene.candidates.grid.cells))
                notes[lane].tokens.append(token[lane])
        going = [lane for lane in going if not seen.ended[lane]]
        if not going:
            return notes
        for lane in going if places is not None else ():
            assert places is not None
            notes[lane].glimpses.append(seen.glimpse[lane])
            notes[lane].chosen.append(int(decision.cell[lane]))
            notes[lane].chances.append(float(places[lane, int(decision.cell[lane])]))
        zoom = torch.from_numpy(np.asarray(action.zoom, np.int64))
        state, exhausted = _observed(policy, state, seen, decision, conduct, zoom), seen.exhausted
        if aside is not None:
            with aside.noting():
                token = policy.glimpse_token(state.seen, _tensor(policy, seen.location), decision.zoom)


def _observed(
    policy: GlimpsePolicy, state: State, seen: Seen, decision: Decision, conduct: Conduct, zoom: Tensor
) -> State:
    """Returns the policy's state after it has taken in the glimpses that the lanes show; `zoom` is on the host."""
    glimpse, location = _tensor(policy, seen.glimpse), _tensor(policy, seen.location)
    return policy.observe(state, glimpse, location, decision.cell, decision.zoom, conduct, on_host=zoom)


def _action(policy: GlimpsePolicy, decision: Decision) -> Action:
    """Returns the decision as an action: locations and predictions are clipped to the range of the action space."""
    parts = on_host(decision.location, decision.stop, decision.prediction, decision.zoom)
    return policy.layout.unpack(policy.layout.pack(*(part.numpy() for part in parts)))


def _tensor(policy: GlimpsePolicy, array: np.ndarray) -> Tensor:
    return to_device(torch.as_tensor(array), policy.device)


def place_probabilities(
    policy: GlimpsePolicy, scene: Scene, state: State, decision: Decision, conduct: Conduct
) -> tuple[Float[np.ndarray, "lane place"], Float[np.ndarray, "lane cell"]]:
    """Returns how probable it is that the next glimpse lies at each place, and in each cell of the overview.

    Places are the cells of the overview, then those of wide glimpses, and their probabilities are those with the field
    of view that was decided on; those of cells are with any. For a Gaussian, both are the normalised density.
    """
    zoom = decision.zoom
    where = policy.where(state.memory[:, None], *policy.choices(scene, state, conduct), conduct)
    if isinstance(where, GaussianDistribution):
        centres = scene.candidates.locations[None]
        logits = where.log_prob(Choice(centres, scene.candidates.nearest(centres)))
        density = logits.reshape(len(zoom), -1).softmax(-1).float().cpu().numpy()
        return density, density
    assert isinstance(where, CellDistribution)
    count = max(len(policy.cells), 0 if where.index is None else int(where.index.max()) + 1)
    probabilities = where.at(zoom[:, None]).of_all(count)[:, 0].float()
    cells = probabilities[:, : len(policy.cells)]
    if where.level is not None:
        cells = torch.zeros_like(cells)
        inside = scene.candidates.nearest(where.locations).expand(len(zoom), -1)
        for level, probability in enumerate(decision.zoom_log_probs.exp().unbind(-1)):
            with_it = where.at(torch.full_like(zoom, level)[:, None]).logits[:, 0].softmax(-1)
            cells = cells.scatter_add(-1, inside, (probability[:, None] * with_it).float())
    return probabilities.cpu().numpy(), cells.cpu().numpy()


def _check_kinds(policy: GlimpsePolicy, cases: Sequence[Case]) -> None:
    """Refuses cases whose number of axes or channels differs from what the policy was built for."""
    space = policy.observation_space
    assert isinstance(space, spaces.Dict)
    shape = space["overview"].shape or ()
    for case in cases:
        if (case.source.channels, case.source.ndim) != (shape[0], len(shape) - 1):
            named = case.id if case.source.path is None else f"{case.id}: {case.source.path}"
            raise EvaluationError(
                f"{named} has {axes_and_channels(case.source.ndim, case.source.channels)}, but the policy reads "
                f"images of {axes_and_channels(len(shape) - 1, shape[0])}. {_remedy(len(shape) - 1, shape[0])}"
            )


def _remedy(axes: int, channels: int) -> str:
    """Says what to do with an image of another kind than the policy reads."""
    kind = f"{'a picture' if axes == 2 else 'a volume'} of {channels} channel{'' if channels == 1 else 's'}"
    colours = " (red, green and blue)" if channels == 3 and axes == 2 else ""
    return f"Convert it to {kind}{colours}, leave the case out, or use a run that was trained on such images."


# ---------------------------------------------------------------------------------------------- records
def _reading(case: Case, notes: _Notes, ending: Ending, seconds: float, trace: Trace | None) -> Reading:
    return Reading(
        id=case.id,
        patient=case.patient,
        target=case.target,
        prediction=notes.predictions[-1],
        predictions=np.stack(notes.predictions),
        scanpath=ending.scanpath,
        zooms=ending.zooms,
        glimpses=len(ending.scanpath),
        share_read=ending.share_read,
        pixels_read=ending.pixels_read,
        seconds=seconds,
        hits=ending.hits,
        trace=trace,
    )


def _trace(
    policy: GlimpsePolicy, access: Access, case: Case, start: Start, lane: int, notes: _Notes, ending: Ending
) -> Trace:
    views, source = access.views, case.source
    blank = np.zeros((0, source.channels, *views.glimpse_size), np.uint8)
    extents = [views.extent(source, int(zoom)) / source.shape for zoom in ending.zooms]
    looks = zip(ending.scanpath, ending.zooms.tolist(), strict=True)
    shown = [views.shown(source, location, zoom) for location, zoom in looks]
    return Trace(
        task=access.task,
        frame=source.frame,
        overview=start.overview[lane],
        foreground=(start.foreground[lane] > 0).astype(np.uint8),
        glimpses=np.stack(notes.glimpses) if notes.glimpses else blank,
        extents=np.array(extents, np.float64).reshape(-1, source.ndim),
        cells=np.stack(notes.cells),
        parents=_parents(policy, np.array(notes.chosen, np.int64), ending.zooms),
        shown=np.array(shown, np.float64).reshape(-1, 2, source.ndim),
        chances=np.array(notes.chances, np.float64),
        without=_answers_without_each(policy, torch.stack(notes.tokens)),
    )


_ROWS_AT_ONCE = 64


def _answers_without_each(
    policy: GlimpsePolicy, tokens: Float[Tensor, "token embed"]
) -> Float[np.ndarray, "glimpse output"]:
    """Returns the last answer without the first glimpse, without the second, and so on.

    One token is left out of what the aggregator takes, at a time; the first one, of the overview, stays.
    """
    count = len(tokens) - 1
    if count == 0:
        return np.zeros((0, policy.layout.outputs), np.float32)
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # of which learning must see nothing
        tokens = torch.cat([policy.overview_in_answers(tokens[:1]), tokens[1:]])
    kept = torch.arange(count, device=tokens.device).expand(count, -1)
    kept = kept + (kept >= 1 + torch.arange(count, device=tokens.device)[:, None])  # row i lacks token i + 1
    answers = [policy.answer_head(policy.aggregator(tokens[rows])[:, -1]) for rows in kept.split(_ROWS_AT_ONCE)]
    return torch.cat(answers).float().cpu().numpy()


def _parents(
    policy: GlimpsePolicy, chosen: Int[np.ndarray, " glimpse"], zooms: Int[np.ndarray, " glimpse"]
) -> Int[np.ndarray, " glimpse"]:
    """Returns the indices of the wide glimpses in whose cells glimpses lie, -1 for the overview.

    `chosen` are indices of candidates: of cells of the overview, then of those of each wide glimpse in turn.
    """
    views = np.flatnonzero(zooms < policy.layout.zooms - 1)
    inside = chosen >= len(policy.cells)
    parents = np.full(len(chosen), -1)
    parents[inside] = views[(chosen[inside] - len(policy.cells)) // max(1, len(policy.view_cells))]
    return parents


@contextmanager
def evaluating(policy: GlimpsePolicy) -> Iterator[None]:
    """Puts the policy into evaluation mode inside, and back into its earlier mode afterwards."""
    training = policy.training
    policy.set_training_mode(False)
    try:
        yield
    finally:
        policy.set_training_mode(training)


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Makes PyTorch compute with so many threads inside; with 0 their number stays as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
