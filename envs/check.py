"""The contract of environments, and a checker of it for everyone who adds one: `glimpse.envs.check(env)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from glimpse.envs.probe import NotCheckedError, Probe, Trace
from glimpse.spaces import OBSERVATION_KEYS

TOLERANCE = 1e-5  # of rewards
PIXEL_TOLERANCE = 1.0  # mean grey levels by which a glimpse may differ from what lies at its location


class ContractError(Exception):
    """An environment breaks its contract; the message names every rule it breaks."""


def check(env: gymnasium.Env[Any, Any], seed: int = 0) -> tuple[str, ...]:
    """Checks an environment against the contract of `GlimpseEnv`.

    The rules: spaces; observations lie in them; rewards are gains in score less the cost of glimpses; glimpses are read
    where the location says, in array axis order; `stop` ends the episode; the budget ends it; the target is never in
    the observation; a seed fixes everything; reset options; infos.

    Args:
        env: A `GlimpseEnv`, or any environment with its spaces; in `FlattenAction` or not. It is reset and stepped, and
            not closed.
        seed: Of the actions tried, and of the resets.

    Returns:
        Notes on rules that could not be checked on this environment; empty for a `GlimpseEnv`.

    Raises:
        ContractError: At least one rule is broken; the message has a line for each finding.
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
        dtype, axes = (np.float32, 1) if key in ("location", "remaining") else (np.uint8, ndim + 1)
        if not isinstance(box, gymnasium.spaces.Box) or box.dtype != dtype or len(box.shape) != axes:
            yield f"expected {key} as a Box of {np.dtype(dtype)} with {axes} axes, got {box}"
    shapes = {key: space[key].shape or () for key in OBSERVATION_KEYS}
    if shapes["foreground"] != (1, *shapes["overview"][1:]):
        yield f"expected foreground of shape (1, *overview_size), got {shapes['foreground']} and {shapes['overview']}"
    if shapes["glimpse"][0] != shapes["overview"][0]:
        yield f"expected glimpse and overview with equal channels, got {shapes['glimpse']} and {shapes['overview']}"
    if shapes["location"] != (ndim,) or shapes["remaining"] != (1,):
        yield f"expected location ({ndim},) and remaining (1,), got {shapes['location']} and {shapes['remaining']}"


def _observations(probe: Probe) -> Iterator[str]:
    trace = probe.run()
    for step, observation in enumerate(trace.observations):
        for key, box in probe.env.observation_space.items():  # type: ignore[attr-defined]
            value = np.asarray(observation.get(key))
            if value.dtype != box.dtype or value.shape != box.shape:
                yield f"{key} at step {step}: expected {box.dtype} {box.shape}, got {value.dtype} {value.shape}"
            elif not box.contains(value):
                yield f"{key} at step {step} is outside [{box.low.min()}, {box.high.max()}]"
    first = trace.observations[0]
    for key in ("glimpse", "location"):
        if np.any(first[key]):
            yield f"expected {key} to be zeros at reset"
    for step, (observation, action) in enumerate(zip(trace.observations[1:], trace.actions, strict=True), start=1):
        read = not trace.ended or step < len(trace.actions)
        if read and not np.allclose(observation["location"], action.location, atol=1e-6):
            yield f"location at step {step}: expected {action.location} as asked, got {observation['location']}"
    yield from _remaining(trace, probe.budget)


def _remaining(trace: Trace, budget: int | None) -> Iterator[str]:
    if budget is None:
        return
    for step, observation in enumerate(trace.observations):
        expected = max(0, budget - step) / max(1, budget)
        if not np.allclose(observation["remaining"], expected, atol=1e-6):
            yield f"remaining at step {step}: expected {expected:.4f}, got {observation['remaining']}"


def _rewards(probe: Probe) -> Iterator[str]:
    """Each prediction's score is found by giving it as the first answer and stopping."""
    trace = probe.run()
    scores = [probe.run([action._replace(stop=np.asarray(True))]).rewards[0] for action in trace.actions]
    cost = probe.attribute("glimpse_cost")
    reads = np.array([not trace.ended or step < len(scores) - 1 for step in range(len(scores))])
    expected = np.diff([0.0, *scores]) - cost * reads
    for step, (got, wanted) in enumerate(zip(trace.rewards, expected, strict=True)):
        if abs(got - wanted) > TOLERANCE:
            yield f"step {step}: expected score gained less cost {wanted:.6f}, got {got:.6f}"
    final = trace.infos[-1].get("score")
    if final is not None and abs(sum(trace.rewards) - (final - cost * reads.sum())) > TOLERANCE * len(scores):
        yield f"the return {sum(trace.rewards):.6f} is not the final score {final:.6f} less {reads.sum()} glimpses"


def _locations(probe: Probe) -> Iterator[str]:
    """Reads again from the source, by [-1, 1] -> pixels alone: (location + 1) / 2 * shape."""
    cases, views = probe.attribute("cases"), probe.attribute("views")
    trace = probe.run()
    source = next(case.source for case in cases if case.slide_id == trace.infos[0]["case"])
    plain = True
    for action, observation in list(zip(trace.actions, trace.observations[1:], strict=True))[: trace.reads]:
        extent = views.extent(source, int(action.zoom))
        there, swapped = (
            source.read((location.astype(np.float64) + 1) / 2 * np.array(source.shape), extent, views.glimpse_size)
            for location in (action.location, action.location[::-1])
        )
        plain = plain and _differ(there, swapped) <= PIXEL_TOLERANCE
        if _differ(observation["glimpse"], there) <= PIXEL_TOLERANCE:
            continue
        mirrored = _differ(observation["glimpse"], swapped) <= PIXEL_TOLERANCE
        reason = "the order of axes is swapped, array order is (y, x)" if mirrored else "it shows another place"
        yield f"the glimpse at location {np.round(action.location, 3)} is not what lies there: {reason}"
    if plain and probe.layout.ndim > 1 and trace.reads:
        raise NotCheckedError("the image is too plain to tell (y, x) from (x, y)")


def _differ(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float32) - other.astype(np.float32)).mean())


def _stop(probe: Probe) -> Iterator[str]:
    for before in (0, 1) if probe.budget != 0 else (0,):
        actions = probe.actions(before + 1)
        actions[-1] = actions[-1]._replace(stop=np.asarray(True))
        trace = probe.run(actions)
        if not trace.ended:
            yield f"expected stop at step {before} to end the episode, but it goes on"
        elif len(trace.infos[-1].get("scanpath", [None] * before)) != before:
            yield f"expected {before} glimpses when stopping at step {before}, got {trace.infos[-1]['scanpath']}"


def _budget(probe: Probe) -> Iterator[str]:
    budget = int(probe.attribute("max_glimpses"))
    trace = probe.run(probe.actions(budget + 3))
    if not trace.ended:
        yield f"expected the episode to end when {budget} glimpses are read, but it goes on"
    elif len(trace.rewards) != budget + 1:
        yield f"expected {budget + 1} steps for {budget} glimpses, got {len(trace.rewards)}"


def _hidden_target(probe: Probe) -> Iterator[str]:
    """Changes the targets behind the environment's back; the same actions must then show the same."""
    cases = probe.attribute("cases")
    before = probe.run()
    others = {case.slide_id: _other_target(case.target, cases, probe.layout.outputs) for case in cases}
    changed = [dataclasses.replace(case, target=others[case.slide_id]) for case in cases]
    base = probe.env.unwrapped
    try:
        base.cases = changed  # type: ignore[attr-defined]
        after = probe.run()
    finally:
        base.cases = cases  # type: ignore[attr-defined]
    if _equal(after.infos[0].get("target"), before.infos[0].get("target")):
        raise NotCheckedError("its targets do not come from its attribute `cases`")
    for step, (one, other) in enumerate(zip(before.observations, after.observations, strict=False)):
        for key in one:
            if not np.array_equal(one[key], other[key]):
                yield f"{key} at step {step} changes with the target"


def _other_target(target: Any, cases: Any, outputs: int) -> Any:
    if isinstance(target, (int, np.integer)):
        return (int(target) + 1) % max(2, outputs)
    for case in cases:
        if not _equal(case.target, target):
            return case.target
    raise NotCheckedError("all cases have the same target")


def _equal(one: Any, other: Any) -> bool:
    """Whether two targets are the same: numbers, arrays, or several of them by name or in a row."""
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
        if got != cases[index].slide_id:
            yield f"expected the option case={index} to give {cases[index].slide_id!r}, got {got!r}"
    if budget > 1:
        trace = probe.run(probe.actions(budget + 3), options={"max_glimpses": 1})
        if len(trace.rewards) != 2:
            yield f"expected 2 steps with the option max_glimpses=1, got {len(trace.rewards)}"


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
