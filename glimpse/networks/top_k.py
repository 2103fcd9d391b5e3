"""Scores of single patches, of which the highest answer: top-k pooling in multiple-instance learning."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from glimpse.tasks import Classification, MultiTask, Regression, Task


class TopKHead(nn.Module):
    """A linear layer gives each patch its scores, and the highest k of each score are averaged.

    There is one score for each class or label. Of two classes there is one score: the logit of the second less that of
    the first. A quantity is the average over all patches.

    Args:
        embed: The number of features of a patch.
        task: What is to be answered.
        k: How many patches of each score are averaged; all, where a case has fewer.
    """

    def __init__(self, embed: int, task: Task, k: int) -> None:
        super().__init__()
        self.kinds, self.k = _kinds(task), k
        self.score = nn.Linear(embed, len(self.kinds))

    def forward(self, patches: Float[Tensor, "tile embed"], lengths: list[int]) -> Float[Tensor, "batch output"]:
        """Returns an answer for each case; `lengths` says how many of the patches, in their order, each case has."""
        scores = self.score(patches).split(lengths)
        padded = pad_sequence(scores, batch_first=True, padding_value=-torch.inf)
        highest = padded.topk(min(self.k, padded.shape[1]), 1).values
        counts = torch.tensor(lengths, device=highest.device)[:, None, None]
        there = torch.arange(highest.shape[1], device=highest.device)[:, None] < counts  # padding is the lowest
        tops = torch.where(there, highest, 0.0).sum(1) / there.sum(1)  # a score of -inf stays: a divergence is seen
        if "mean" in self.kinds:
            means = torch.stack([one.mean(0) for one in scores])
            tops = torch.where(torch.tensor([kind == "mean" for kind in self.kinds], device=tops.device), means, tops)
        return self.answers_of(tops)

    def answers_of(self, scores: Float[Tensor, "*batch score"]) -> Float[Tensor, "*batch output"]:
        """Returns the answers that scores stand for."""
        outputs: list[Tensor] = []
        for score, kind in zip(scores.unbind(-1), self.kinds, strict=True):
            outputs += [-score / 2, score / 2] if kind == "two" else [score]
        return torch.stack(outputs, -1)

    @contextmanager
    def of_all(self) -> Iterator[None]:
        """Inside, all patches count, as if k were large."""
        k, self.k = self.k, sys.maxsize
        try:
            yield
        finally:
            self.k = k


def answers_along(
    heads: Sequence[TopKHead], scores: Sequence[Float[Tensor, "batch time score"]]
) -> Float[Tensor, "batch time output"]:
    """Returns the mean answer of several heads after each patch of sequences, from all patches until then.

    Args:
        heads: The heads, of one task.
        scores: What the `score` of each of them gives for the patches; -inf for those that do not count. The answer
            from none is that from scores of 0.
    """
    kinds = [kind for head in heads for kind in head.kinds]
    together = torch.cat(list(scores), -1)
    tops = means_of_highest(together, [head.k for head in heads for _ in head.kinds])
    if "mean" in kinds:
        there = together != -torch.inf
        means = torch.where(there, together, 0.0).cumsum(1) / there.cumsum(1).clamp_min(1)
        tops = torch.where(torch.tensor([kind == "mean" for kind in kinds], device=tops.device), means, tops)
    parts = tops.split([len(head.kinds) for head in heads], -1)
    return torch.stack([head.answers_of(part) for head, part in zip(heads, parts, strict=True)]).mean(0)


def means_of_highest(
    scores: Float[Tensor, "batch time score"], k: int | Sequence[int]
) -> Float[Tensor, "batch time score"]:
    """Returns the mean of the k highest values of each score among the first t, for every t.

    Values of -inf are passed over; where there are fewer than k others, the mean is of these, and that of none is 0.

    Args:
        scores: The scores.
        k: One number for all scores, or one for each.
    """
    each = [k] * scores.shape[2] if isinstance(k, int) else list(k)
    most, counts = min(max(each), scores.shape[1]), torch.tensor(each, device=scores.device)
    rows = _highest_so_far(scores.detach(), most)
    padded = F.pad(scores, (0, 0, 0, 1))  # what stands for none adds 0
    values = padded.gather(1, rows.flatten(1, 2)).view(rows.shape)
    there = (rows < scores.shape[1]) & (values != -torch.inf)
    there &= torch.arange(rows.shape[2], device=scores.device)[:, None] < counts
    return torch.where(there, values, 0.0).sum(2) / there.sum(2).clamp_min(1)


def _highest_so_far(scores: Float[Tensor, "batch time score"], k: int) -> Int[Tensor, "batch time highest score"]:
    """Returns which have the highest values among the first t, from high to low; `time` stands for none."""
    batch, time, count = scores.shape
    best = scores.new_full((batch, k, count), -torch.inf)
    rows = torch.full(best.shape, time, device=scores.device)
    found = rows.new_empty(batch, time, *rows.shape[1:])
    for step in range(time):
        values = torch.cat([best, scores[:, step : step + 1]], 1)
        candidates = torch.cat([rows, torch.full_like(rows[:, :1], step)], 1)
        best, order = values.topk(k, 1)
        rows = found[:, step] = candidates.gather(1, order)
    return found


def _kinds(task: Task) -> list[str]:
    """Returns for each score of patches what it stands for: two classes, a quantity ("mean"), or one class or label."""
    if isinstance(task, MultiTask):
        return [kind for part in task.tasks.values() for kind in _kinds(part)]
    if isinstance(task, Classification) and task.outputs == 2:
        return ["two"]
    return ["mean" if isinstance(task, Regression) else "one"] * task.outputs
