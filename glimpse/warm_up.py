"""Warm-up on glimpses that are encoded once: everything after the encoder learns what is worth finding.

What single glimpses tell about a whole image is little, so a policy that learns to answer needs many of them, and until
it has seen them it has nothing to search for. The encoder stays as it is here, so each glimpse is read and encoded once
and then seen in a hundred different sequences, which costs next to nothing.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glimpse.cohort import Case
from glimpse.networks.policy import GlimpsePolicy
from glimpse.sources import ImageSource
from glimpse.tasks import Task
from glimpse.views import Views


class TokenWarmUp(nn.Module):
    """Supervised learning on sequences of random glimpses of each case, from features that are computed once.

    The loss is the one of all agents: that of the last answer, of the mean over all prefixes, and of answers from
    single glimpses. A module, so that its optimizer is saved and restored with it.

    Args:
        policy: all of it but the encoder, the memory and the locator is trained.
        cases: of the training split.
        views: sizes of glimpses.
        task: what is asked.
        glimpses: read per case.
        most: glimpses read in all; with many cases, each gets fewer.
        longest: glimpses in a sequence.
        batch: cases per step.
        learning_rate: of AdamW; it follows half a cosine over `steps`.
        weight_decay: of AdamW.
        steps: how many there will be.
        prefix_coef: weight of the loss averaged over all prefixes.
        glimpse_coef: weight of the loss of answers from single glimpses.
        seed: of places, orders and batches.
        threads: that read.
    """

    def __init__(
        self,
        policy: GlimpsePolicy,
        cases: Sequence[Case],
        views: Views,
        task: Task,
        *,
        glimpses: int = 24,
        most: int = 150_000,
        longest: int = 16,
        batch: int = 64,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
        steps: int = 1000,
        prefix_coef: float = 0.5,
        glimpse_coef: float = 1.0,
        seed: int = 0,
        threads: int = 2,
    ) -> None:
        super().__init__()
        self._policy, self.task, self.steps, self.done = (policy,), task, steps, 0
        self.cases, self.views, self.threads = cases, views, threads
        self.glimpses = max(1, min(glimpses, most // max(1, len(cases))))
        self.longest, self.batch = min(longest, self.glimpses), min(batch, len(cases))
        self.prefix_coef, self.glimpse_coef = prefix_coef, glimpse_coef
        self.generator = torch.Generator().manual_seed(seed)
        self.seeds = np.random.default_rng(seed).integers(2**63, size=len(cases))
        idle = {id(p) for part in (policy.encoder, policy.memory, policy.locator) for p in part.parameters()}
        trained = [p for p in policy.parameters() if id(p) not in idle]
        self.optimizer = torch.optim.AdamW(trained, learning_rate, weight_decay=weight_decay)
        self.learning_rate = learning_rate

    # ------------------------------------------------------------------------------------------ reading, once
    @torch.no_grad()
    def encode(self, progress: Callable[[int], Any] = lambda count: None, at_once: int = 64) -> None:
        """Reads and encodes the glimpses of all cases, and their overviews where answers see them."""
        policy = self._policy[0]
        parts: dict[str, list[Tensor]] = {name: [] for name in ("features", "locations", "zooms", "overviews")}
        with ThreadPoolExecutor(self.threads, thread_name_prefix="warm-up") as pool:
            for start in range(0, len(self.cases), at_once):
                chosen = range(start, min(start + at_once, len(self.cases)))
                images, locations, zooms = zip(*pool.map(self._read, chosen), strict=True)
                flat = torch.from_numpy(np.concatenate(images)).to(policy.device)
                parts["features"].append(policy.summary_in_chunks(flat).unflatten(0, (len(chosen), -1)))
                parts["locations"].append(torch.from_numpy(np.stack(locations)))
                parts["zooms"].append(torch.from_numpy(np.stack(zooms)))
                if policy.overview_dropout < 1:
                    overviews = np.stack([self.views.overview(self.cases[index].source) for index in chosen])
                    parts["overviews"].append(policy.summary_in_chunks(torch.from_numpy(overviews).to(policy.device)))
                progress(len(chosen))
        self.kept = {name: torch.cat(tensors).to(policy.device) for name, tensors in parts.items() if tensors}
        self.targets = torch.from_numpy(self.task.stack([case.target for case in self.cases])).to(policy.device)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        source, rng = self.cases[index].source, np.random.default_rng(self.seeds[index])
        locations = self._places(source, rng)
        zooms = rng.integers(len(self.views.glimpse_extents), size=self.glimpses)
        both = zip(locations, zooms.tolist(), strict=True)
        return np.stack([self.views.glimpse(source, place, zoom) for place, zoom in both]), locations, zooms

    def _places(self, source: ImageSource, rng: np.random.Generator) -> np.ndarray:
        """Places (glimpse, d) that a pointer could point at: different cells, as long as there are enough."""
        policy = self._policy[0]
        foreground = torch.from_numpy(self.views.foreground(source).copy())[None]
        cells = np.flatnonzero(policy.open_cells(foreground)[0].numpy())
        chosen = rng.choice(cells, self.glimpses, replace=len(cells) < self.glimpses)
        return policy.cells.cpu().numpy()[chosen]

    # ------------------------------------------------------------------------------------------ learning
    def step(self) -> float:
        """One update; returns its loss."""
        policy = self._policy[0]
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * 0.5 * (1 + np.cos(np.pi * self.done / self.steps))
        cases = torch.randperm(len(self.cases), generator=self.generator)[: self.batch].to(policy.device)
        tokens, first = self._tokens(cases)
        every = self._losses(policy.answer_head(policy.aggregator(torch.cat([first[:, None], tokens], 1))), cases)
        single = self._losses(policy.glimpse_head(tokens), cases)
        loss = every[:, -1].mean() + self.prefix_coef * every.mean() + self.glimpse_coef * single.mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(itertools.chain.from_iterable(g["params"] for g in self.optimizer.param_groups), 1.0)
        self.optimizer.step()
        self.done += 1
        return loss.item()

    def _tokens(self, cases: Tensor) -> tuple[Tensor, Tensor]:
        """Glimpse tokens (batch, time, embed) in a new order, and the first tokens (batch, embed)."""
        policy = self._policy[0]
        order = torch.rand(len(cases), self.glimpses, generator=self.generator).argsort(1)[:, : self.longest]
        rows = cases[:, None], order.to(cases.device)
        where = policy.position(self.kept["locations"][rows]) + policy.scale(self.kept["zooms"][rows] + 1)
        tokens = policy.pool.token(self.kept["features"][rows]) + where
        first = policy.scale.weight[0].expand(len(cases), -1)
        if "overviews" in self.kept:
            first = policy.overview_in_answers(policy.pool.token(self.kept["overviews"][cases]) + first)
        return tokens, first

    def _losses(self, predictions: Tensor, cases: Tensor) -> Tensor:
        """The task's loss (batch, time) of predictions (batch, time, output)."""
        target = self.targets[cases]
        return self.task.loss(predictions, target[:, None].expand(-1, predictions.shape[1], *target.shape[1:]))
