"""Plays complete episodes in a vector of environments, and stores them in one `Episodes` record."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from glimpse.envs.vector import GlimpseVecEnv
from glimpse.networks.devices import arrived, columns_on_host, leaving, on_host, to_device
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import NEVER, OWN_CONDUCT, Conduct, Decision, Episodes, Glimpses, WideGlimpses
from glimpse.ranks.group import largest

OnStep = Callable[[list[dict[str, Any]]], bool]


@dataclass
class _Step:
    """One step of all lanes; `alive` is True for lanes whose episode had not ended before this step."""

    decision: Decision
    alive: np.ndarray
    exhausted: np.ndarray
    reward: np.ndarray
    glimpse: np.ndarray


class EpisodePlayer:
    """Plays one episode per lane, with several lanes for each case, and stacks what learning needs.

    Args:
        env: vector of flattened glimpse environments.
        policy: the policy that plays.
        max_glimpses: budget of the episodes.
        stack_targets: turns a list of `info["target"]` into an array, as `Task.stack` does.
        encodes_overviews: whether overviews are encoded; if not, their features are zeros.
        view: makes of glimpses, uint8 (lane, channel, *size), and the indices of their fields of view what the policy
            sees of them; None: it sees them as they are.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: GlimpsePolicy,
        max_glimpses: int,
        stack_targets: Callable[[list[Any]], np.ndarray],
        encodes_overviews: bool = True,
        view: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.env, self.policy, self.max_glimpses, self.stack_targets = env, policy, max_glimpses, stack_targets
        self.encodes_overviews, self.view = encodes_overviews, view

    @torch.no_grad()
    def play(
        self, cases: Sequence[int], rollouts: int, on_step: OnStep, conduct: Conduct = OWN_CONDUCT
    ) -> Episodes | None:
        """Plays one complete episode in every lane.

        Args:
            cases: The index of the case of each lane; `rollouts` adjacent lanes have the same case.
            rollouts: Number of lanes per case.
            on_step: Called after each step with the infos of episodes that have just ended; False stops playing.
            conduct: How the policy acts.

        Returns:
            The episodes, or None if `on_step` has returned False.
        """
        self.env.set_options([{"case": int(case), "max_glimpses": self.max_glimpses} for case in cases])
        first: Any = self.env.reset()
        names, device = ("overview", "foreground", "extents"), self.policy.device
        shown = tuple(torch.from_numpy(first[name][::rollouts].copy()) for name in names)
        features = None if self.encodes_overviews else self.policy.blank_features(len(shown[0]))
        overview, foreground, extents = (to_device(one, device) for one in shown)
        scene = self.policy.scene(overview, foreground, extents, features, conduct)
        state = self.policy.begin(scene, rollouts, self.max_glimpses)
        exhausted, alive = first["remaining"][:, 0] <= 0, np.ones(len(cases), bool)
        steps: list[_Step] = []
        seen: list[Tensor] = []
        views = Views(self.policy, len(cases))
        targets: list[Any] = [None] * len(cases)
        going = bool(alive.any())
        while going:
            decision = self.policy.decide(scene, state, to_device(torch.from_numpy(exhausted), device), conduct=conduct)
            zoom, (observation, reward, done, infos) = self._step(decision)
            for lane in np.flatnonzero(alive & (done | (len(steps) == 0))):
                targets[lane] = infos[lane]["target"]
            glimpse = self._shown(observation["glimpse"], zoom)
            steps.append(_Step(decision, alive, exhausted, np.where(alive, reward, 0.0), glimpse))
            if not on_step([infos[lane] for lane in np.flatnonzero(alive & done)]):
                return None
            alive = alive & ~done
            going = bool(largest(int(alive.any())))  # as one process does, ranks play until all episodes have ended
            if going:
                chosen = (decision.location, decision.cell, decision.zoom)
                unchanged = None if self.view is None else to_device(torch.from_numpy(observation["glimpse"]), device)
                read = to_device(torch.from_numpy(glimpse), device)
                state = self.policy.observe(state, read, *chosen, conduct, unchanged, zoom)
                seen.append(leaving(state.seen))
                views.add(state.wide, len(seen) - 1, alive)
                exhausted = np.where(alive, observation["remaining"][:, 0] <= 0, True)
        arrived(device)
        pooled = torch.stack(seen, 1) if seen else state.seen.cpu()[:, None][:, :0]
        return self._stack((*shown, scene.features.cpu()), pooled, steps, self.stack_targets(targets), views)

    def _shown(self, glimpse: np.ndarray, zoom: Tensor) -> np.ndarray:
        return glimpse if self.view is None else self.view(torch.from_numpy(glimpse), zoom).numpy()

    def _step(self, decision: Decision) -> tuple[Tensor, tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]]:
        """Steps the lanes; also returns the fields of view on the host, whatever the device."""
        parts = on_host(decision.location, decision.stop, decision.prediction, decision.zoom)
        return parts[-1], self.env.step(self.policy.layout.pack(*(part.numpy() for part in parts)))

    def _stack(
        self, of_cases: tuple[Tensor, ...], seen: Tensor, steps: list[_Step], targets: np.ndarray, views: "Views"
    ) -> Episodes:
        overview, foreground, extents, features = of_cases

        decisions = [step.decision for step in steps]
        columns = columns_on_host(decisions, "location", "cell", "zoom", "prediction", "log_prob", "value")
        alive = torch.from_numpy(np.stack([step.alive for step in steps], 1))
        length = alive.sum(1) - 1
        last = length[:, None]
        exhausted = torch.from_numpy(np.stack([step.exhausted for step in steps], 1))
        glimpse = np.stack([step.glimpse for step in steps[:-1]], 1) if len(steps) > 1 else _none_like(steps[0].glimpse)
        return Episodes(
            overview=overview,
            foreground=foreground,
            extents=extents.view(len(extents), self.policy.layout.zooms, -1),
            features=features,
            glimpse=torch.from_numpy(glimpse),
            seen=seen,
            location=columns["location"][:, :-1],
            cell=columns["cell"][:, :-1],
            zoom=columns["zoom"][:, :-1],
            length=length,
            budget=torch.full_like(length, self.max_glimpses),
            forced=exhausted.gather(1, last)[:, 0],
            prediction=columns["prediction"].clamp(-self.policy.layout.limit, self.policy.layout.limit),
            log_prob=columns["log_prob"],
            value=columns["value"],
            reward=torch.from_numpy(np.stack([step.reward for step in steps], 1)).float(),
            target=torch.from_numpy(targets),
            **views.stacked(),
        )


def read_ahead(env: VecEnv, device: torch.device, queue: Iterable[int], own: slice) -> None:
    """Begins to read the overviews of the next rollout, while a GPU computes the update from the last one.

    Args:
        env: vector of environments; one that cannot read ahead reads later.
        device: where the update is computed; on the CPU, reading would take its cores.
        queue: the cases that come next; those of the next pass through the cohort are not drawn yet.
        own: which rows of a rollout are this process's.
    """
    if device.type == "cuda" and isinstance(env, GlimpseVecEnv):
        env.read_ahead(list(queue)[own])


class Views:
    """The wide glimpses of some rows, as they are read.

    Args:
        policy: The policy.
        rows: The number of rows.
    """

    def __init__(self, policy: GlimpsePolicy, rows: int) -> None:
        self.policy = policy
        self.kept: list[list[tuple[Tensor, Tensor, int]]] = [[] for _ in range(rows)]

    def add(self, wide: WideGlimpses | None, step: int, alive: np.ndarray) -> None:
        """Adds the wide glimpses of a step, in the rows whose episodes go on; they may arrive later (see `leaving`)."""
        if wide is None:
            return
        features, opened = leaving(wide.features), leaving(wide.opened)
        for index, row in enumerate(wide.on_host.tolist()):
            if alive[row]:
                self.kept[row].append((features[index], opened[index], step))

    def stacked(self) -> dict[str, Tensor]:
        """Returns the columns of `Episodes` that are about wide glimpses, once they have arrived."""
        most = max(map(len, self.kept))
        maps = self.policy.blank_views(len(self.kept) * most).cpu().unflatten(0, (len(self.kept), most))
        opened = torch.zeros(len(self.kept), most, len(self.policy.view_cells), dtype=torch.bool)
        step = torch.full((len(self.kept), most), NEVER)
        for row, kept in enumerate(self.kept):
            for view, (one, cells, read) in enumerate(kept):
                maps[row, view], opened[row, view], step[row, view] = one, cells, read
        return {"maps": maps, "opened": opened, "view_step": step}


def _none_like(glimpse: np.ndarray) -> np.ndarray:
    return np.zeros((len(glimpse), 0, *glimpse.shape[1:]), glimpse.dtype)


def join(parts: list[Episodes]) -> Episodes:
    """Joins the episodes of several waves in one record; shorter ones are padded."""
    if len(parts) == 1:
        return parts[0]
    time = max(part.cell.shape[1] for part in parts)
    columns: dict[str, Tensor] = {}
    for field in fields(Episodes):
        tensors = [getattr(part, field.name) for part in parts]
        if field.name in ("glimpse", "seen", "location", "cell", "zoom"):
            tensors = [_padded(tensor, time) for tensor in tensors]
        elif field.name in ("maps", "opened", "view_step"):
            most = max(part.view_step.shape[1] for part in parts)
            value = NEVER if field.name == "view_step" else 0
            tensors = [_padded(tensor, most, value) for tensor in tensors]
        elif field.name in ("prediction", "log_prob", "value", "reward"):
            tensors = [_padded(tensor, time + 1) for tensor in tensors]
        columns[field.name] = torch.cat(tensors)
    return Episodes(**columns)


def _padded(tensor: Tensor, time: int, value: int = 0) -> Tensor:
    extra = tensor.new_full((tensor.shape[0], time - tensor.shape[1], *tensor.shape[2:]), value)
    return torch.cat([tensor, extra], 1)


def regrouped(episodes: Episodes, repeats: int) -> Episodes:
    """Keeps one overview per case; `repeats` says how often each overview is there."""
    if repeats > 1:
        for name in ("overview", "foreground", "extents", "features"):
            setattr(episodes, name, getattr(episodes, name)[::repeats])
    return episodes


def shared_glimpses(episodes: Episodes, rollouts: int) -> Glimpses:
    """Returns for each row the glimpses of all `rollouts` of its case."""

    def of_case(values: Tensor) -> Tensor:
        """Turns values (batch, time, ...) into (batch, rollouts * time, ...)."""
        return values.unflatten(0, (-1, rollouts)).flatten(1, 2).repeat_interleave(rollouts, 0)

    return Glimpses(of_case(episodes.seen), of_case(episodes.location), of_case(episodes.zoom))
