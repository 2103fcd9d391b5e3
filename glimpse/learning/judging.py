"""Judges: what glimpses say, single ones and along sequences, by scores that have learned from whole cases.

A label says little about one glimpse of many. A head that learns it from each glimpse learns the cases by heart, and
what it says of a glimpse is mostly chance. A head that learns it from the mean of the highest scores of a case, as
multiple-instance learning does, has to find what few of the glimpses show, and cannot know a case by all the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from glimpse.errors import SettingsError
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.top_k import TopKHead, answers_along
from glimpse.ranks.sharing import add_gradients, of_all, sharing
from glimpse.tasks import Task

LOSS: Final = "loss"
SURPRISE: Final = "surprise"
WorthBy = Literal["loss", "surprise"]
"""By what judges say what glimpses are worth (see `minus_worth`)."""
_STEPS, _RATE, _DECAY = 150, 1e-2, 1e-2
_SHARE = 0.5  # of the glimpses of a case in each step, at random: others may be the highest then
_EACH = 2  # judges for each number, which differ by the glimpses that they saw
_SMALL = 1e-6
_MEAN = 0.03  # of surprise in nats: what it was without scaling, on 48 slides of which judges knew what tells


@dataclass
class Judges:
    """What some judges say of the glimpses of all cases.

    Attributes:
        heads: The judges.
        scores: What each of them gives the glimpses.
        answers: Their mean answer from each glimpse alone.
    """

    heads: list[TopKHead]
    scores: list[Float[Tensor, "case glimpse score"]]
    answers: Float[Tensor, "case glimpse output"]

    @torch.no_grad()
    def along(
        self, cases: Int[Tensor, " batch"], order: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch step output"]:
        """Returns their mean answer before any glimpse of a sequence, and after each glimpse: time + 1 answers.

        Until the first glimpse that they know, it is the mean of their answers from all single glimpses of all cases.

        Args:
            cases: The cases.
            order: Their glimpses, one after another; below 0: one of which judges know nothing, such as a wide one.
        """
        known = order >= 0
        rows = cases[:, None], order.clamp_min(0)
        told = answers_along(self.heads, [one[rows].masked_fill(~known[..., None], -torch.inf) for one in self.scores])
        nothing = self.answers.mean((0, 1)).expand(len(order), 1, -1)
        return torch.cat([nothing, torch.where(known.cumsum(1)[..., None] > 0, told, nothing)], 1)


def judges_of(
    features: Float[Tensor, "case glimpse pooled"],
    targets: Tensor,
    task: Task,
    highest: Sequence[int],
    seed: int,
    cross_fitted: bool = False,
    chunk: int = 64,
) -> Judges:
    """Returns some judges that have learned from these cases.

    A judge is linear, and learns to answer from the mean of the highest scores of half the glimpses of each case.
    Cross-fitted, each of two judges learns from one half of the cases, at random, and its scores are those of the other
    half: what it knows by heart has no say (Chernozhukov et al., Double/Debiased Machine Learning, 2018).

    Args:
        features: Pooled features of the glimpses.
        targets: The targets of the cases, as `task.stack` makes them.
        task: The task.
        highest: Of how many highest scores the mean is; there are two judges for each of these numbers.
        seed: Seed of the glimpses that a judge sees in each step, and of the halves.
        cross_fitted: Whether judges judge other cases than those they have learned from.
            `heads` then holds one of the two judges for each number, and `scores` those of both.
        chunk: Cases in each step at most, and how many are scored at once.

    Raises:
        SettingsError: judges are to be cross-fitted on one case.
    """
    mean, spread = features.mean((0, 1)), features.std((0, 1), correction=0) + _SMALL
    generator = torch.Generator().manual_seed(seed)
    heads: list[TopKHead] = []
    scores: list[Tensor] = []
    learned = [torch.arange(len(features))] * _EACH
    if cross_fitted:
        if len(features) < _EACH:
            raise SettingsError("Judges of other cases need two cases or more: set warm_up.cross_fitted=false.")
        learned = list(torch.randperm(len(features), generator=generator).tensor_split(_EACH))
    for count in highest:
        own: list[Tensor] = []
        for part in learned:
            with torch.random.fork_rng(devices=()):  # a training that goes on comes here with its generators restored
                judge = TopKHead(features.shape[-1], task, count).to(features.device)
            _teach(judge, features, (mean, spread), targets, task, generator, chunk, part)
            with torch.no_grad():
                own.append(torch.cat([judge.score((some - mean) / spread) for some in features.split(chunk)]))
            heads.append(judge)
        if cross_fitted:
            own = [_of_the_other(own, learned)]
            del heads[1 - _EACH :]
        scores += own
    answers = torch.stack([judge.answers_of(one) for judge, one in zip(heads, scores, strict=True)]).mean(0)
    return Judges(heads, scores, answers)


def _of_the_other(
    scores: Sequence[Float[Tensor, "case glimpse score"]], halves: Sequence[Int[Tensor, " half"]]
) -> Float[Tensor, "case glimpse score"]:
    """Returns for each case the scores of the judge that has not learned from it."""
    found = scores[0].clone()
    first = halves[0].to(found.device)
    found[first] = scores[1][first]
    return found


def minus_worth(
    answers: Float[Tensor, "case glimpse output"], targets: Tensor, task: Task, worth: WorthBy = LOSS
) -> Float[Tensor, "case glimpse"]:
    """Returns minus what glimpses are worth to a locator, up to a constant of each case.

    Args:
        answers: Answers of judges from single glimpses.
        targets: The targets of the cases; that of a case is that of all its glimpses.
        task: The task.
        worth: "loss": the task's loss of each answer. "surprise": minus the answer's divergence from the mean answer
            over all glimpses of all cases (see `Task.surprise`), whatever the targets are. How sure judges are depends
            on how many cases they saw, so divergences are scaled to a mean of 0.03 nats.
    """
    if worth == SURPRISE:
        found = task.surprise(answers, answers.mean((0, 1), keepdim=True)).clamp_min(0)  # but for rounding, none is
        return -_MEAN * found / found.mean().clamp_min(_SMALL)
    return task.loss(answers, targets[:, None].expand(-1, answers.shape[1], *targets.shape[1:]))


def answering_loss(
    answers: Float[Tensor, "batch step output"],
    every: Float[Tensor, "batch step"],
    prefix_coef: float,
    judges: Judges | None,
    cases: Int[Tensor, " batch"],
    order: Int[Tensor, "batch time"],
) -> Tensor:
    """Returns the loss of the aggregator's answers along sequences.

    With judges, answers are to equal theirs (smooth L1 loss), and labels have no say in this loss. Without, it is the
    loss of the last answer plus `prefix_coef` times the mean over all answers.

    Args:
        answers: The answers.
        every: Their losses by the labels.
        prefix_coef: The weight of the mean over all of these.
        judges: The judges; with None, labels teach.
        cases: The cases.
        order: Their glimpses, one after another (see `Judges.along`).
    """
    if judges is not None:
        return F.smooth_l1_loss(answers, judges.along(cases, order))
    return every[:, -1].mean() + prefix_coef * every.mean()


def single_answer_loss(
    policy: GlimpsePolicy, tokens: Float[Tensor, "batch glimpse embed"], judges: Judges | None, rows: Any
) -> Tensor:
    """Returns a loss: how much the aggregator's answers from one glimpse, and no overview, differ from judges' answers.

    The policy's `glimpse_head`, which also answers from single glimpses, learns from labels alone.

    Args:
        policy: The policy.
        tokens: The tokens of glimpses.
        judges: The judges; with None, the result is 0.
        rows: Which of the glimpses that they know the tokens are of.
    """
    if judges is None:
        return tokens.new_zeros(())
    own = policy.answer_head(policy.aggregator(tokens.flatten(0, 1)[:, None]))[:, 0]
    return F.smooth_l1_loss(own.unflatten(0, tokens.shape[:2]), judges.answers[rows])


@torch.enable_grad()  # glimpses are encoded without
def _teach(
    judge: TopKHead,
    features: Tensor,
    scale: tuple[Tensor, Tensor],
    targets: Tensor,
    task: Task,
    generator: torch.Generator,
    chunk: int,
    learned: Int[Tensor, " case"],
) -> None:
    """Trains a judge on the cases `learned`, from scores of 0, so that chance has no say in which are the highest."""
    torch.nn.init.zeros_(judge.score.weight)
    torch.nn.init.zeros_(judge.score.bias)
    optimizer = torch.optim.AdamW(judge.parameters(), _RATE, weight_decay=_DECAY)
    glimpses = features.shape[1]
    kept = max(1, round(_SHARE * glimpses))
    for _ in range(_STEPS):
        some = learned[torch.randperm(len(learned), generator=generator)[:chunk]]
        order = torch.rand(len(some), glimpses, generator=generator).argsort(1)[:, :kept]
        with sharing(len(some)) as own:
            rows = some[own, None].to(features.device), order[own].to(features.device)
            seen = (features[rows] - scale[0]) / scale[1]
            loss = of_all(task.loss(judge(seen.flatten(0, 1), [kept] * len(rows[0])), targets[rows[0][:, 0]]).mean())
        optimizer.zero_grad()
        loss.backward()
        add_gradients(optimizer)
        optimizer.step()
