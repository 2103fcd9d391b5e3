"""Warm-up with several fields of view: what looking is worth is learned from the bottom up.

Of each case, wide glimpses are read at random cells of the overview, finer ones at random cells of these, and so on,
once. Answers learn from sequences of all of them. What a glimpse of the finest field of view is worth is how much lower
the loss of the answer from it is than the mean over the case, or what it brings to random others (`look_contexts`). The
cells in which these glimpses lie learn to choose among them. A wider glimpse is worth what the choice inside it is
expected to bring, and the cells of the level above learn to choose by that, up to the cells of the overview. There is
no trial and error in this: a random look hits so rarely that there would be nothing to learn from.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glimpse.cohort import Case
from glimpse.learning.augment import Augment, still_augment
from glimpse.learning.branches import affordable, at_different_places
from glimpse.learning.contexts import losses_in_contexts
from glimpse.learning.judging import answering_loss, single_answer_loss
from glimpse.learning.looking import InnerWorth, Worth, looking_loss
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks.locator import PointerLocator, moments_of
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Conduct
from glimpse.networks.where import CLOSED
from glimpse.ranks.sharing import gathered, of_all, sharing, total
from glimpse.tasks import Task
from glimpse.views import Views

_FIXED = Conduct(train_encoder=False)
_AT_ONCE = 256  # glimpses that are encoded at once
_ORDERS, _LENGTHS = 8, 4  # in the end: of random orders of glimpses so many beginnings each, if contexts judge
_BEST = 0.99  # quantile of the scores at which the best places begin


@dataclass
class Level:
    """The glimpses of one field of view, of all cases; those in the same wider glimpse are neighbours.

    Attributes:
        features: Pooled features.
        at_cells: The features of the cells at which they lie, in the overview or in a wider glimpse.
        location: Their centres in [-1, 1]^d.
        open: Whether the locator could have chosen them.
        cells: The indices of these cells.
    """

    features: Float[Tensor, "case glimpse pooled"]
    at_cells: Float[Tensor, "case glimpse features"]
    location: Float[Tensor, "case glimpse d"]
    open: Bool[Tensor, "case glimpse"]
    cells: Int[Tensor, "case glimpse"]


@dataclass
class Shown:
    """Views in whose cells the glimpses of the next level will lie: the overview, or wide glimpses.

    Attributes:
        images: uint8 (view, channel, *size).
        places: The centres of the cells of each view in [-1, 1]^d of the image.
        opened: Which of them may be looked at.
    """

    images: np.ndarray
    places: Sequence[Float[np.ndarray, "cell d"]]
    opened: Sequence[Bool[np.ndarray, "cell"]]


@dataclass
class _Read:
    """What was read of a case at one level: as in `Level`, but with images in place of features."""

    images: np.ndarray
    cells: Int[np.ndarray, "glimpse"]
    location: Float[np.ndarray, "glimpse d"]
    open: Bool[np.ndarray, "glimpse"]


class ZoomWarmUp(TokenWarmUp):
    """Supervised learning on random glimpses of all fields of view, from features that are computed once.

    Args:
        policy: The policy to train, except its encoder and its memory.
        cases, views, task, **given: As for `TokenWarmUp`.

    Attributes:
        branches: How many glimpses of the first field of view are read of each case, of the next one in each of these,
            and so on.
    """

    def __init__(self, policy: GlimpsePolicy, cases: Sequence[Case], views: Views, task: Task, **given: Any) -> None:
        super().__init__(policy, cases, views, task, **given)
        asked = self.options.glimpses.branches_of(policy.layout.zooms)
        most = self.options.glimpses.max_total_glimpses // max(1, len(self.cases))
        self.branches = affordable(at_different_places(asked, policy), most)
        self.still: Augment | None = None
        if self.options.glimpses.augment is not None:
            shape = policy.observation_space["glimpse"].shape  # type: ignore[index]
            self.still = still_augment(shape, policy.encoder.background, self.options.glimpses.augment)
        self.levels: list[Level] = []
        self.brought: tuple[int, Tensor] | None = None  # after how many steps, and what was found then

    # ------------------------------------------------------------------------------------------ reading, once
    @torch.no_grad()
    def encode(self, progress: Callable[[int], Any] = lambda count: None, at_once: int = 4) -> None:
        """Reads and encodes the glimpses of all cases, from wide to fine, and their overviews."""
        policy = self.policy
        columns: list[list[list[Tensor]]] = [[[] for _ in fields(Level)] for _ in self.branches]
        overviews: list[Tensor] = []
        with ThreadPoolExecutor(self.threads, thread_name_prefix="warm-up") as pool:
            for indices, trees in self._read_ahead(pool, at_once, self._tree):
                shown = self._overviews_of(indices)
                overviews.append(policy.pool.summary(shown))
                for level, maps in enumerate(self._encoded(trees, shown)):
                    for column, tensor in zip(columns[level], maps, strict=True):
                        column.append(tensor)
                progress(len(indices))
        self.levels = [Level(*(gathered(torch.cat(column)) for column in level)) for level in columns]
        self.kept = {"overviews": gathered(torch.cat(overviews))}
        if not self.done:
            self._calibrate()
        self.targets = torch.from_numpy(self.task.stack([case.target for case in self.cases])).to(policy.device)
        self._judge([level.features for level in self._judged(self.levels)])

    def _overviews_of(self, indices: Sequence[int]) -> Tensor:
        shown = np.stack([self.views.overview(self.cases[index].source) for index in indices])
        return self.policy.features(torch.from_numpy(shown).to(self.policy.device), _FIXED)

    @torch.no_grad()
    def _tree(self, index: int) -> list[_Read]:
        """Reads random glimpses of a case, from wide to fine."""
        policy, views, source = self.policy, self.views, self.cases[index].source
        rng = np.random.default_rng(self.seeds[index])
        foreground = torch.from_numpy(views.foreground(source).copy())[None]
        places = [policy.cells.cpu().numpy()]  # of one view after another: their cells,
        opened = [policy.open_cells(foreground)[0].cpu().numpy()]  # and which of them may be looked at
        sides = 2 * torch.from_numpy(views.relative_extents(source)).float()[None].to(policy.device)
        shown, levels = Shown(np.array(views.overview(source))[None], places, opened), []
        for zoom, count in enumerate(self.branches):
            chosen = self._chosen(shown, count, zoom, rng)
            cells = np.concatenate(chosen)
            location = np.concatenate([at[some] for at, some in zip(shown.places, chosen, strict=True)])
            open_ = np.concatenate([inside[some] for inside, some in zip(shown.opened, chosen, strict=True)])
            where = np.clip(location, -1, 1).astype(np.float32)
            images = np.stack([views.glimpse(source, place, zoom) for place in where])
            levels.append(_Read(self._seen(images, index, cells, zoom), cells, where, open_))
            if zoom + 1 < len(self.branches):
                zooms = torch.full((len(where),), zoom, device=policy.device)
                at, around = torch.from_numpy(where).to(policy.device), sides.expand(len(where), -1, -1)
                inner = policy.view_places(at, zooms, around)
                opened = list(policy.open_view_cells(torch.from_numpy(images), inner).cpu().numpy())
                shown = Shown(images, list(inner.cpu().numpy()), opened)
        return levels

    def _chosen(self, shown: Shown, count: int, zoom: int, rng: np.random.Generator) -> list[Int[np.ndarray, "some"]]:
        """Draws so many cells of each view, in which glimpses of the field of view `zoom` will lie."""
        return [drawn(inside, count, rng) for inside in shown.opened]

    def _seen(self, images: np.ndarray, index: int, cells: Int[np.ndarray, "glimpse"], zoom: int) -> np.ndarray:
        """Returns the random views in which glimpses of a case are seen; wide ones are not moved."""
        if self.augment is None:
            return images
        augment = self.augment if zoom + 1 == len(self.branches) else self.still
        return self._augmented(images, index, cells, np.full(len(cells), zoom), augment)

    def _encoded(self, trees: list[list[_Read]], maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yields the columns of each level, given the feature maps of the overviews."""
        policy, cases = self.policy, len(trees)
        for zoom, count in enumerate(self.branches):
            reads = [tree[zoom] for tree in trees]
            cells = torch.from_numpy(np.concatenate([read.cells for read in reads])).to(policy.device)
            parents = maps.flatten(2).transpose(1, 2)  # (view, cell, features): `count` glimpses lie in each
            rows = torch.arange(len(parents), device=policy.device).repeat_interleave(count)
            at_cells = parents[rows, cells].unflatten(0, (cases, -1))
            images = torch.from_numpy(np.concatenate([read.images for read in reads]))
            if zoom + 1 < len(self.branches):
                maps = torch.cat(
                    [policy.view_features(part.to(policy.device), _FIXED) for part in images.split(_AT_ONCE)]
                )
                pooled = policy.pool.summary(maps)
            else:
                pooled = torch.cat(
                    [policy.look(part.to(policy.device), conduct=_FIXED) for part in images.split(_AT_ONCE)]
                )
            location = torch.from_numpy(np.stack([read.location for read in reads])).to(policy.device)
            inside = torch.from_numpy(np.stack([read.open for read in reads])).to(policy.device)
            yield pooled.unflatten(0, (cases, -1)), at_cells, location, inside, cells.unflatten(0, (cases, -1))

    def _calibrate(self) -> None:
        """Sets the statistics of tokens of each level, and of the features of its cells."""
        policy = self.policy
        policy.pool.calibrate(self.kept["overviews"], 0)
        for zoom, level in enumerate(self.levels):
            policy.pool.calibrate(level.features.flatten(0, 1), zoom + 1)
            if self.looks and self.options.losses.look_calibrated and isinstance(policy.locator, PointerLocator):
                policy.locator.calibrate(policy.narrow(level.at_cells), zoom)

    # ------------------------------------------------------------------------------------------ learning
    def step(self) -> Float[Tensor, ""]:
        """Makes one update and returns its loss, for which nobody waits as long as it stays on its device."""
        cases = torch.randperm(len(self.cases), generator=self.generator)[: self.batch].to(self.policy.device)
        order = torch.rand(len(cases), self._of_each, generator=self.generator).argsort(1)
        with sharing(len(cases)) as own:
            loss = of_all(self._loss(cases[own], order[own]))
            self._update(loss)
            summed = total(loss).detach()
        if self.looks and self.done == self.steps:
            self._value_levels()
        return summed

    @property
    def _of_each(self) -> int:
        """How many glimpses of a case there are."""
        return sum(level.features.shape[1] for level in self.levels)

    def _loss(self, cases: Int[Tensor, " case"], order: Int[Tensor, "case glimpse"]) -> Tensor:
        policy, losses = self.policy, self.options.losses
        tokens = [self._tokens_of(zoom, cases) for zoom in range(len(self.levels))]
        sequence = self._sequence(tokens, cases, order)
        answers = policy.answer_head(policy.aggregator(sequence))
        single = [self._losses(policy.glimpse_head(level), cases) for level in self._judged(tokens)]
        wider = self._of_each - tokens[-1].shape[1]  # glimpses of wider fields of view come first
        finest = order[:, : sequence.shape[1] - 1].to(cases.device) - wider  # below 0: a wider one
        loss = answering_loss(answers, self._losses(answers, cases), losses.prefix_coef, self.judges, cases, finest)
        loss = loss + losses.glimpse_coef * sum(part.mean() for part in single)
        loss = loss + single_answer_loss(policy, tokens[-1], self.judges, cases)
        if self.looks:
            known = [part[cases] for part in self.judged] or [part.detach() for part in single]
            if losses.look_contexts:
                lengths = torch.randint(sequence.shape[1], (losses.look_contexts,), generator=self.generator) + 1
                known[-1] = self._in_contexts(sequence, tokens[-1], cases, lengths.tolist())
            if self.expect is not None:
                expected = [self._expected(level) for level in self._judged(tokens)]
                loss = loss + sum(F.mse_loss(*pair) for pair in zip(expected, known, strict=True))
                known = [part.detach() for part in expected]
            loss = loss + losses.look_coef * self._looking(known, cases)
        return loss

    def _in_contexts(self, sequence: Tensor, tokens: Tensor, cases: Tensor, lengths: Sequence[int]) -> Tensor:
        """Returns minus what finest glimpses bring to the beginnings of sequences that have these lengths."""
        parts = self.policy.aggregator, self.policy.answer_head
        return losses_in_contexts(*parts, sequence, tokens, lengths, lambda found: self._losses(found, cases))

    def _judged(self, levels: Sequence[Any]) -> Sequence[Any]:
        """Returns those of all levels whose glimpses are worth what they answer: the finest one."""
        return levels[-1:] if self.options.losses.look_inside else levels

    def _sequence(
        self, tokens: Sequence[Tensor], cases: Tensor, order: Int[Tensor, "case glimpse"]
    ) -> Float[Tensor, "batch step embed"]:
        """Returns overviews and some glimpses of all levels, in an order."""
        policy, together = self.policy, torch.cat(list(tokens), 1)
        order = order[:, : self.options.glimpses.max_sequence]
        rows = torch.arange(len(together))[:, None]
        first = policy.scale.weight[0].expand(len(together), -1)
        if policy.overview_dropout < 1:
            first = policy.overview_in_answers(policy.pool.token(self.kept["overviews"][cases]) + first)
        return torch.cat([first[:, None], together[rows, order.to(together.device)]], 1)

    def _tokens_of(self, zoom: int, cases: Tensor) -> Float[Tensor, "batch glimpse embed"]:
        level = self.levels[zoom]
        features, location = level.features[cases], level.location[cases]
        zooms = torch.full(features.shape[:2], zoom, device=features.device)
        return self.policy.glimpse_token(features, location, zooms)

    def _looking(self, single: Sequence[Float[Tensor, "batch _"]], cases: Tensor) -> Tensor:
        """Returns the loss of the locator's choices at all levels, from the finest up to the overview's cells.

        Args:
            single: Losses of answers from glimpses of the finest level, or of all (see `_judged`), or minus worths.
            cases: The cases.
        """
        total, entropy = single[-1].new_zeros(()), self.options.losses.look_entropy
        for _, logits, worth in self._worths(single, cases):
            among = self._among(worth.shape[1])
            if among < worth.shape[1]:
                order = torch.randperm(worth.shape[1], generator=self.generator).to(worth.device)
                logits, worth = logits[:, order], worth[:, order]
            total = total + looking_loss(logits, -worth, among, entropy)
        return total

    def _among(self, count: int) -> int:
        """Among how many of so many glimpses of one field of view the locator learns to choose."""
        return min(self.options.glimpses.look_among or count, count)

    def _worths(
        self, single: Sequence[Float[Tensor, "batch _"]], cases: Tensor
    ) -> Iterator[tuple[int, Float[Tensor, "batch glimpse"], Float[Tensor, "batch glimpse"]]]:
        """Yields each level from fine to wide, with the locator's scores of its glimpses and what they are worth."""
        worths = [losses.mean(1, keepdim=True) - losses for losses in single]
        worth = worths.pop()
        for zoom in reversed(range(len(self.levels))):
            logits = self._logits(zoom, cases)
            yield zoom, logits, worth
            if worths:
                worth = worths.pop()
                continue
            inside = logits.detach().unflatten(1, (-1, self.branches[zoom])).softmax(-1)
            worth = (inside * worth.unflatten(1, (-1, self.branches[zoom]))).sum(-1)

    @torch.no_grad()
    def _all_worths(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Returns the locator's scores of all glimpses, and what they are worth, (case, glimpse), by level."""
        found: dict[int, list[tuple[Tensor, Tensor]]] = {zoom: [] for zoom in range(len(self.levels))}
        in_contexts = self.options.losses.look_contexts and self.expect is None
        brought = self._in_many_contexts() if in_contexts else None
        for cases in torch.arange(len(self.cases), device=self.policy.device).split(self.batch):
            tokens = self._judged([self._tokens_of(zoom, cases) for zoom in range(len(self.levels))])
            single = [self._known(part, cases, level) for level, part in enumerate(tokens)]
            if brought is not None:
                single[-1] = brought[cases]
            for zoom, logits, worth in self._worths(single, cases):
                found[zoom].append((logits, worth))
        return {
            zoom: (torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])) for zoom, parts in found.items()
        }

    def _in_many_contexts(self) -> Float[Tensor, "case glimpse"]:
        """Returns minus what the finest glimpses of all cases bring, the mean over many contexts; once after a step."""
        if self.brought is None or self.brought[0] != self.done:
            generator = torch.Generator().manual_seed(self.seed)  # the same contexts whenever it is asked
            training, found = self.policy.training, []
            self.policy.set_training_mode(False)  # else some answers would be without the overview, at random
            try:
                for cases in torch.arange(len(self.cases), device=self.policy.device).split(self.batch):
                    tokens = [self._tokens_of(zoom, cases) for zoom in range(len(self.levels))]
                    parts = []
                    for _ in range(_ORDERS):
                        order = torch.rand(len(cases), self._of_each, generator=generator).argsort(1)
                        sequence = self._sequence(tokens, cases, order)
                        lengths = torch.randint(sequence.shape[1], (_LENGTHS,), generator=generator) + 1
                        parts.append(self._in_contexts(sequence, tokens[-1], cases, lengths.tolist()))
                    found.append(torch.stack(parts).mean(0))
            finally:
                self.policy.set_training_mode(training)
            self.brought = self.done, torch.cat(found)
        return self.brought[1]

    def worth(self) -> Worth:
        """Returns what glimpses of all levels are worth now, as losses: the lower, the better."""
        found, among = self._all_worths(), self._among(self.branches[0])
        names, entropy = tuple(case.id for case in self.cases), self.options.losses.look_entropy
        inner = []
        for zoom, count in enumerate(self.branches[1:], 1):
            level = self.levels[zoom]
            parts = (level.cells, -found[zoom][1], level.open)
            inner.append(InnerWorth(self.levels[zoom - 1].location, *(one.unflatten(1, (-1, count)) for one in parts)))
        return Worth(names, self.levels[0].cells, -found[0][1], among, entropy, tuple(inner))

    @torch.no_grad()
    def _value_levels(self) -> None:
        """Tells the locator what its scores are worth at each level, over all cases, and by how much the best lead."""
        moments: list[Tensor] = []
        lead: list[Tensor] = []
        for logits, worth in self._all_worths().values():
            inside = logits > CLOSED / 2
            logits, worth = logits[inside], worth[inside]
            moments.append(moments_of(logits, worth))
            # nothing could be chosen at a level without logits, such as in images that are plain
            best = logits.kthvalue(max(1, round(_BEST * len(logits)))).values if len(logits) else logits.sum()
            lead.append(best - logits.mean() if len(logits) else best)
        locator: Any = self.policy.locator
        locator.value_levels(torch.stack(moments), torch.stack(lead))

    def _logits(self, zoom: int, cases: Tensor) -> Float[Tensor, "batch glimpse"]:
        """Returns the locator's scores of the glimpses of a level; those that it could not choose have a low one."""
        level = self.levels[zoom]
        zooms = torch.full((len(cases),), zoom, device=cases.device)
        _, unary = self.policy.describe(level.at_cells[cases], level.location[cases], zooms)
        return unary.masked_fill(~level.open[cases], CLOSED)


def drawn(inside: Bool[np.ndarray, "cell"], count: int, rng: np.random.Generator) -> Int[np.ndarray, "some"]:
    """Draws cells that are open, all different if possible; any cells where none is open."""
    cells = np.flatnonzero(inside) if inside.any() else np.arange(len(inside))
    return rng.choice(cells, count, replace=len(cells) < count)
