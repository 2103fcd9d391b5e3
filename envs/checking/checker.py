"""Checks whether an environment keeps the contract of `GlimpseEnv`: `glimpse.envs.check(env)`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from glimpse.envs.checking.places import PIXEL_TOLERANCE, Places, differ, find_places, other_orders, read_at
from glimpse.envs.checking.probe import LONGEST, NotCheckedError, Probe, ProbedEpisode
from glimpse.envs.episode import cost_of
from glimpse.sources import ImageSource
from glimpse.spaces import OBSERVATION_KEYS
from glimpse.tasks import Task
from glimpse.views import misordered

TOLERANCE = 1e-5  # allowed error of rewards
CASES = 12  # so many cases are tried to find telling places, and traces of the target
CLASSES = 12  # with at most so many classes, every class is tried as the target


class ContractError(Exception):
    """An environment breaks the contract; the message names every rule that it breaks."""


def check(env: gymnasium.Env[Any, Any], seed: int = 0) -> tuple[str, ...]:
    """Checks an environment against the contract of `GlimpseEnv`.

    The rules are: the spaces are right and contain all observations; fields of view go from wide to fine; rewards are
    gains in score less the cost of glimpses; glimpses are read at the location of the action, in the order of the
    array's axes; `stop` ends the episode, and so does the budget; observations do not depend on the target; episodes
    with equal seeds are equal; the reset options work; infos are complete, and name the locations and the fields of
    view that were asked for.

    Args:
        env: A `GlimpseEnv`, or any environment with the same spaces, with or without `FlattenAction`. It is reset and
            stepped, but not closed.
        seed: Seed of the random actions and of the resets.

    Returns:
        Notes on rules that could not be checked on this environment; usually empty for a `GlimpseEnv`.

    Raises:
        ContractError: At least one rule is broken; the message has a line for each mistake.
    """
    broken: list[str] = []
    notes: list[str] = []
    try:
        probe = Probe(env, seed)
    except Exception as error:
        raise ContractError(f"- spaces: {error}") from error
    for name, rule in RULES.items():
        try:
            broken += [f"- {name}: {finding}" for finding in rule(probe)]
        except NotCheckedError as reason:
            notes.append(f"{name}: not checked, {reason}")
        except Exception as error:
            broken.append(f"- {name}: raised {type(error).__name__}: {error}")
    if broken:
        raise ContractError(f"{env} breaks the contract of environments:\n" + "\n".join(dict.fromkeys(broken)))
    return tuple(notes)


def _spaces(probe: Probe) -> Iterator[str]:
    space = probe.env.observation_space
    if not isinstance(space, gymnasium.spaces.Dict) or set(space.spaces) != set(OBSERVATION_KEYS):
        yield f"expected observations Dict({', '.join(OBSERVATION_KEYS)}), got {space}"
        return
    ndim = probe.layout.ndim
    for key in OBSERVATION_KEYS:
        box = space[key]
        dtype, axes = (np.float32, 1) if key in ("location", "remaining", "extents") else (np.uint8, ndim + 1)
        if not isinstance(box, gymnasium.spaces.Box) or box.dtype != dtype or len(box.shape) != axes:
            yield f"expected {key} as a Box of {np.dtype(dtype)} with {axes} axes, got {box}"
    shapes = {key: space[key].shape or () for key in OBSERVATION_KEYS}
    if shapes["foreground"] != (1, *shapes["overview"][1:]):
        yield f"expected foreground of shape (1, *overview_size), got {shapes['foreground']} and {shapes['overview']}"
    if shapes["glimpse"][0] != shapes["overview"][0]:
        yield f"expected glimpse and overview with equal channels, got {shapes['glimpse']} and {shapes['overview']}"
    if shapes["location"] != (ndim,) or shapes["remaining"] != (1,):
        yield f"expected location ({ndim},) and remaining (1,), got {shapes['location']} and {shapes['remaining']}"
    if shapes["extents"] != (probe.layout.zooms * ndim,):
        yield f"expected extents of shape (zoom * d,) = ({probe.layout.zooms * ndim},), got {shapes['extents']}"


def _observations(probe: Probe) -> Iterator[str]:
    trace = probe.run()
    for step, observation in enumerate(trace.observations):
        for key, box in probe.env.observation_space.items():  # type: ignore[attr-defined]
            value = np.asarray(observation.get(key))
            if value.dtype != box.dtype or value.shape != box.shape:
                yield f"{key} at step {step}: expected {box.dtype} {box.shape}, got {value.dtype} {value.shape}"
            elif not box.contains(value):
                yield f"{key} at step {step} is outside [{box.low.min()}, {box.high.max()}]"
        if beside := sorted(set(observation) - set(OBSERVATION_KEYS)):
            yield f"expected the keys {', '.join(OBSERVATION_KEYS)} at step {step}, got {', '.join(beside)} beside them"
    first = trace.observations[0]
    for key in ("overview", "foreground", "extents"):
        for step, observation in enumerate(trace.observations):
            if not np.array_equal(observation[key], first[key]):
                yield f"{key} at step {step} is not that of the reset; within an episode it stays"
    if why := misordered(np.reshape(first["extents"], (probe.layout.zooms, -1)), "of the image's sides"):
        yield f"extents: {why}"
    if not np.all(first["extents"] > 0):
        yield f"expected extents above 0 (a glimpse's sides as shares of the image's sides), got {first['extents']}"
    for key in ("glimpse", "location"):
        if np.any(first[key]):
            yield f"expected {key} to be zeros at reset"
    for step, (observation, action) in enumerate(zip(trace.observations[1:], trace.actions, strict=True), start=1):
        read = not trace.ended or step < len(trace.actions)
        if read and not np.allclose(observation["location"], action.location, atol=1e-6):
            yield f"location at step {step}: expected {action.location} as asked, got {observation['location']}"
    yield from _nothing_read_at_the_end(trace)
    if probe.budget is not None:
        yield from _remaining(trace, probe.budget, probe.budget)


def _nothing_read_at_the_end(trace: ProbedEpisode) -> Iterator[str]:
    if not trace.ended:
        return
    for key in ("glimpse", "location"):
        if not np.array_equal(trace.observations[-1][key], trace.observations[-2][key]):
            yield f"{key} changes with the action that ends the episode, which reads nothing"


def _remaining(trace: ProbedEpisode, given: int, budget: int) -> Iterator[str]:
    """Checks `remaining` in an episode with the budget `given`; the environment's own budget is `budget`."""
    for step, observation in enumerate(trace.observations):
        read = step - (trace.ended and step == len(trace.actions))
        expected = min(1.0, (given - read) / max(1, budget))
        if not np.allclose(observation["remaining"], expected, atol=1e-6):
            yield f"remaining at step {step}: expected {expected:.4f}, got {observation['remaining']}"


def _rewards(probe: Probe) -> Iterator[str]:
    """Checks rewards; the score of each prediction is measured by giving it as the first answer and stopping."""
    trace = probe.run()
    scores = [probe.run([action._replace(stop=np.asarray(True))]).rewards[0] for action in trace.actions]
    yield from _scores(probe, trace, scores)
    cost = probe.attribute("glimpse_cost")
    reads = np.array([not trace.ended or step < len(scores) - 1 for step in range(len(scores))])
    costs = np.array([cost_of(cost, int(action.zoom)) for action in trace.actions]) * reads
    expected = np.diff([0.0, *scores]) - costs
    for step, (got, wanted) in enumerate(zip(trace.rewards, expected, strict=True)):
        if abs(got - wanted) > TOLERANCE:
            yield f"step {step}: expected score gained less cost {wanted:.6f}, got {got:.6f}"
    final = trace.infos[-1].get("score")
    if final is not None and abs(sum(trace.rewards) - (final - costs.sum())) > TOLERANCE * len(scores):
        yield f"the return {sum(trace.rewards):.6f} is not the final score {final:.6f} less {reads.sum()} glimpses"


def _scores(probe: Probe, trace: ProbedEpisode, scores: list[float]) -> Iterator[str]:
    """Checks that the rewards of first answers are the task's scores, if the environment has a task."""
    if not probe.env.has_wrapper_attr("task") or not isinstance(task := probe.attribute("task"), Task):
        return
    predictions = np.stack([action.prediction for action in trace.actions])
    wanted = task.score(predictions, task.stack([trace.infos[0]["target"]] * len(predictions)))
    for step, (got, score) in enumerate(zip(scores, wanted.tolist(), strict=True)):
        if abs(got - score) > TOLERANCE:
            yield f"the answer of step {step}, given first, is worth {score:.6f} to the task, but is rewarded {got:.6f}"


def _locations(probe: Probe) -> Iterator[str]:
    """Compares glimpses with pixels from the source, at places where a wrong order of axes would show other pixels."""
    cases, views = probe.attribute("cases"), probe.attribute("views")
    if not isinstance(getattr(cases[0], "source", None), ImageSource):
        raise NotCheckedError("its cases have no sources")
    actions = probe.actions(LONGEST if probe.budget is None else min(probe.budget, LONGEST))
    if not actions:
        return
    index, places = _most_telling(probe, cases, np.array([int(action.zoom) for action in actions]))
    asked = [action._replace(location=place) for action, place in zip(actions, places.locations, strict=True)]
    trace = probe.run(asked, options={"case": index})
    source = next(case.source for case in cases if case.id == trace.infos[0]["case"])
    for action, observation in list(zip(trace.actions, trace.observations[1:], strict=True))[: trace.reads]:
        zoom, location = int(action.zoom), action.location
        if differ(observation["glimpse"], read_at(source, views, location, zoom)) <= PIXEL_TOLERANCE:
            continue
        others = (read_at(source, views, other, zoom) for other in other_orders(location))
        swapped = any(differ(observation["glimpse"], there) <= PIXEL_TOLERANCE for there in others)
        reason = "the order of axes is swapped, array order is (y, x)" if swapped else "it shows another place"
        yield f"the glimpse at location {np.round(location, 3)} is not what lies there: {reason}"
    if not places.telling.any():
        raise NotCheckedError("the images are too plain to tell (y, x) from (x, y)")


def _most_telling(probe: Probe, cases: Any, zooms: NDArray[np.int64]) -> tuple[int, Places]:
    """Returns the index and places of the case with the most telling places, of several cases."""
    best: tuple[int, Places] | None = None
    for index in _several(len(cases)):
        places = find_places(cases[index].source, probe.attribute("views"), zooms, probe.seed + index)
        if best is None or places.telling.sum() > best[1].telling.sum():
            best = index, places
        if places.telling.all():
            break
    assert best is not None, "there is at least one case"
    return best


def _several(count: int) -> list[int]:
    """Returns indices of at most `CASES` cases, evenly spread over the list."""
    return np.unique(np.linspace(0, count - 1, min(count, CASES)).astype(int)).tolist()


def _stop(probe: Probe) -> Iterator[str]:
    for before in (0, 1) if probe.budget != 0 else (0,):
        actions = probe.actions(before + 1)
        actions[-1] = actions[-1]._replace(stop=np.asarray(True))
        trace = probe.run(actions)
        if not trace.ended:
            yield f"expected stop at step {before} to end the episode, but it goes on"
        elif len(trace.infos[-1].get("scanpath", [None] * before)) != before:
            yield f"expected {before} glimpses when stopping at step {before}, got {trace.infos[-1]['scanpath']}"
        else:
            yield from _nothing_read_at_the_end(trace)


def _budget(probe: Probe) -> Iterator[str]:
    budget = int(probe.attribute("max_glimpses"))
    trace = probe.run(probe.actions(budget + 3))
    if not trace.ended:
        yield f"expected the episode to end when {budget} glimpses are read, but it goes on"
    elif len(trace.rewards) != budget + 1:
        yield f"expected {budget + 1} steps for {budget} glimpses, got {len(trace.rewards)}"


def _hidden_target(probe: Probe) -> Iterator[str]:
    """Changes the targets of the cases; the same actions must then give the same observations."""
    cases, base = probe.attribute("cases"), probe.env.unwrapped
    options: list[dict[str, Any] | None] = [None, *({"case": index} for index in _several(len(cases))[:3])]
    before = [probe.run(options=option) for option in options]
    seen = False
    for number, others in enumerate(_other_targets(cases, probe.layout.outputs)):
        changed = [_with_target(case, target) for case, target in zip(cases, others, strict=True)]
        try:
            base.cases = changed  # type: ignore[attr-defined]
            after = [probe.run(options=option) for option in (options if number == 0 else options[:1])]
        finally:
            base.cases = cases  # type: ignore[attr-defined]
        for one, other in zip(before, after, strict=False):
            seen = seen or not _equal(other.infos[0].get("target"), one.infos[0].get("target"))
            yield from _traces_of_the_target(one, other)
    if not seen:
        raise NotCheckedError("its targets do not come from its attribute `cases`")


def _traces_of_the_target(one: ProbedEpisode, other: ProbedEpisode) -> Iterator[str]:
    if len(one.rewards) != len(other.rewards):
        yield f"the episode's length changes with the target, from {len(one.rewards)} to {len(other.rewards)} steps"
    for step, (before, after) in enumerate(zip(one.observations, other.observations, strict=False)):
        for key in sorted({*before, *after}):
            if key not in before or key not in after or not np.array_equal(before[key], after[key]):
                yield f"{key} at step {step} changes with the target"


def _other_targets(cases: Any, outputs: int) -> Iterator[list[Any]]:
    """Yields several lists of wrong targets for all cases: every other class, or targets of other cases."""
    targets = [case.target for case in cases]
    if all(isinstance(target, (int, np.integer)) for target in targets):
        classes = max(2, outputs)
        shifts = range(1, classes) if classes <= CLASSES else (1, classes // 2, classes - 1)
        yield from ([(int(target) + shift) % classes for target in targets] for shift in shifts)
        return
    distinct: list[Any] = []
    for target in targets:
        if len(distinct) < CLASSES and not any(_equal(target, other) for other in distinct):
            distinct.append(target)
    if len(distinct) < 2:
        raise NotCheckedError("all cases have the same target")
    for shift in range(min(3, len(distinct) - 1)):
        yield [[other for other in distinct if not _equal(other, target)][shift] for target in targets]


def _with_target(case: Any, target: Any) -> Any:
    if dataclasses.is_dataclass(case) and not isinstance(case, type):
        return dataclasses.replace(case, target=target)
    changed = copy.copy(case)
    try:
        changed.target = target
    except AttributeError as error:
        raise NotCheckedError(f"the target of {case!r} cannot be changed; make cases dataclasses") from error
    return changed


def _equal(one: Any, other: Any) -> bool:
    """Returns whether two targets are equal: numbers, arrays, or mappings or sequences of these."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return np.array_equal(one, other)


def _determinism(probe: Probe) -> Iterator[str]:
    one, other = probe.run(), probe.run()
    if one.rewards != other.rewards:
        yield f"equal seeds and actions gave the rewards {one.rewards} and {other.rewards}"
    for step, (first, second) in enumerate(zip(one.observations, other.observations, strict=False)):
        for key in first:
            if not np.array_equal(first[key], second[key]):
                yield f"equal seeds and actions gave different {key} at step {step}"
    orders = [[probe.reset(seed=seed)["case"], *(probe.reset()["case"] for _ in range(3))] for seed in [probe.seed] * 2]
    if orders[0] != orders[1]:
        yield f"equal seeds gave the cases {orders[0]} and {orders[1]}"


def _options(probe: Probe) -> Iterator[str]:
    cases, budget = probe.attribute("cases"), int(probe.attribute("max_glimpses"))
    for index in {0, len(cases) - 1}:
        got = probe.reset(options={"case": index})["case"]
        if got != cases[index].id:
            yield f"expected the option case={index} to give {cases[index].id!r}, got {got!r}"
    for given in sorted({0, 1, budget + 2} - {budget}):
        trace = probe.run(probe.actions(given + 3), options={"max_glimpses": given})
        if len(trace.rewards) != given + 1:
            yield f"expected {given + 1} steps with the option max_glimpses={given}, got {len(trace.rewards)}"
        else:
            yield from (f"with max_glimpses={given}, {finding}" for finding in _remaining(trace, given, budget))


def _infos(probe: Probe) -> Iterator[str]:
    trace = probe.run()
    for step, info in enumerate(trace.infos):
        for key in ("case", "target"):
            if key not in info:
                yield f"{key!r} is missing at step {step}"
    if not trace.ended:
        return
    last = trace.infos[-1]
    for key in ("scanpath", "zooms", "score", "pixels_read", "share_read"):
        if key not in last:
            yield f"{key!r} is missing at the end of the episode"
    zooms = np.array([action.zoom for action in trace.actions[:-1]], np.int64)
    got = np.asarray(last.get("zooms", zooms))
    if not np.issubdtype(got.dtype, np.integer) or not np.array_equal(got, zooms):
        yield f"expected the zooms {zooms.tolist()} that were asked for, as integers, got {got.tolist()} ({got.dtype})"
    asked = np.array([action.location for action in trace.actions[:-1]], np.float32).reshape(-1, probe.layout.ndim)
    path = np.asarray(last.get("scanpath", asked))
    if path.dtype != np.float32 or path.shape != asked.shape or not np.allclose(path, asked, atol=1e-6):
        yield f"expected the scanpath float32 {asked.shape} of the locations asked for, got {path.dtype} {path.shape}"


RULES: dict[str, Callable[[Probe], Iterator[str]]] = {
    "spaces": _spaces,
    "observations": _observations,
    "rewards": _rewards,
    "locations": _locations,
    "stop": _stop,
    "budget": _budget,
    "target hidden": _hidden_target,
    "determinism": _determinism,
    "reset options": _options,
    "infos": _infos,
}
