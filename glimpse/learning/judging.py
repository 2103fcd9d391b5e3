"""Judges: what single glimpses say, by scores that have learned from whole cases.

A label says little about one glimpse of many. A head that learns it from each glimpse learns the cases by heart, and
what it says of a glimpse is mostly chance. A head that learns it from the mean of the highest scores of a case, as
multiple-instance learning does, has to find what few of the glimpses show, and cannot know a case by all the others.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.top_k import TopKHead
from glimpse.ranks.sharing import add_gradients, of_all, sharing
from glimpse.tasks import Task

LOSS: Final = "loss"
SURPRISE: Final = "surprise"
WorthBy = Literal["loss", "surprise"]
"""By what judges say what glimpses are worth (see `losses_of`)."""
_STEPS, _RATE, _DECAY = 150, 1e-2, 1e-2
_SHARE = 0.5  # of the glimpses of a case in each step, at random: others may be the highest then
_EACH = 2  # judges for each number, which differ by the glimpses that they saw
_SMALL = 1e-6
_MEAN = 0.03  # of surprise in nats: what it was without scaling, on 48 slides of which judges knew what tells


def judged_answers(
    features: Float[Tensor, "case glimpse pooled"],
    targets: Tensor,
    task: Task,
    highest: Sequence[int],
    seed: int,
    chunk: int = 64,
) -> Float[Tensor, "case glimpse output"]:
    """Returns the answer from each glimpse alone, the mean answer of some judges.

    A judge is linear, and learns to answer from the mean of the `highest` scores of half the glimpses of each case.

    Args:
        features: Pooled features of the glimpses.
        targets: The targets of the cases, as `task.stack` makes them.
        task: The task.
        highest: There are two judges for each of these numbers.
        seed: Seed of the glimpses that a judge sees in each step.
        chunk: Cases in each step at most.
    """
    mean, spread = features.mean((0, 1)), features.std((0, 1)) + _SMALL
    generator = torch.Generator().manual_seed(seed)
    total: Tensor | None = None
    for count in highest:
        for _ in range(_EACH):
            with torch.random.fork_rng(devices=()):  # a training that goes on comes here with its generators restored
                judge = TopKHead(features.shape[-1], task, count).to(features.device)
            _teach(judge, features, (mean, spread), targets, task, generator, chunk)
            with torch.no_grad():
                answers = torch.cat([judge.alone((part - mean) / spread) for part in features.split(chunk)])
            total = answers if total is None else total + answers
    assert total is not None, "there is one number at least"
    return total / (_EACH * len(highest))


def losses_of(
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


def unlike(
    policy: GlimpsePolicy, tokens: Float[Tensor, "batch glimpse embed"], answers: Tensor | None, rows: Any
) -> Tensor:
    """Returns how much the aggregator's answers from one glimpse, and no overview, differ from those of judges.

    The policy's `glimpse_head`, which also answers from single glimpses, learns from labels alone.

    Args:
        policy: The policy.
        tokens: The tokens of glimpses.
        answers: The answers of judges from all glimpses (case, glimpse, output); with None, the result is 0.
        rows: Which of these glimpses the tokens are of.
    """
    if answers is None:
        return tokens.new_zeros(())
    own = policy.answer_head(policy.aggregator(tokens.flatten(0, 1)[:, None]))[:, 0]
    return F.smooth_l1_loss(own.unflatten(0, tokens.shape[:2]), answers[rows])


@torch.enable_grad()  # glimpses are encoded without
def _teach(
    judge: TopKHead,
    features: Tensor,
    scale: tuple[Tensor, Tensor],
    targets: Tensor,
    task: Task,
    generator: torch.Generator,
    chunk: int,
) -> None:
    """Trains a judge from scores that are all 0, so that chance has no say in which glimpses are the highest."""
    torch.nn.init.zeros_(judge.score.weight)
    torch.nn.init.zeros_(judge.score.bias)
    optimizer = torch.optim.AdamW(judge.parameters(), _RATE, weight_decay=_DECAY)
    cases, glimpses = features.shape[:2]
    kept = max(1, round(_SHARE * glimpses))
    for _ in range(_STEPS):
        some = torch.randperm(cases, generator=generator)[:chunk]
        order = torch.rand(len(some), glimpses, generator=generator).argsort(1)[:, :kept]
        with sharing(len(some)) as own:
            rows = some[own, None].to(features.device), order[own].to(features.device)
            seen = (features[rows] - scale[0]) / scale[1]
            loss = of_all(task.loss(judge(seen.flatten(0, 1), [kept] * len(rows[0])), targets[rows[0][:, 0]]).mean())
        optimizer.zero_grad()
        loss.backward()
        add_gradients(optimizer)
        optimizer.step()
