"""Scores of single patches, of which the highest answer: top-k pooling in multiple-instance learning."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from glimpse.tasks import Classification, MultiTask, Regression, Task


class TopKHead(nn.Module):
    """A linear layer gives each patch its scores, and the highest k of each score are averaged.

    There is one score for each class or label. Of two classes there is one score: the logit of the second less that of
    the first. A quantity is the average over all patches.
    """

    def __init__(self, embed: int, task: Task, k: int) -> None:
        super().__init__()
        self.kinds, self.k = _kinds(task), k
        self.score = nn.Linear(embed, len(self.kinds))

    def forward(self, patches: Float[Tensor, "tile embed"], lengths: list[int]) -> Float[Tensor, "batch output"]:
        scores = self.score(patches).split(lengths)
        padded = pad_sequence(scores, batch_first=True, padding_value=-torch.inf)
        highest = padded.topk(min(self.k, padded.shape[1]), 1).values
        there = highest.isfinite()
        tops = torch.where(there, highest, 0.0).sum(1) / there.sum(1)
        if "mean" in self.kinds:
            means = torch.stack([one.mean(0) for one in scores])
            tops = torch.where(torch.tensor([kind == "mean" for kind in self.kinds], device=tops.device), means, tops)
        return self._outputs(tops)

    def alone(self, patches: Float[Tensor, "*tile embed"]) -> Float[Tensor, "*tile output"]:
        """Returns the answer from each patch as if it were the only one of its case."""
        return self._outputs(self.score(patches))

    def _outputs(self, scores: Float[Tensor, "*batch score"]) -> Float[Tensor, "*batch output"]:
        outputs: list[Tensor] = []
        for score, kind in zip(scores.unbind(-1), self.kinds, strict=True):
            outputs += [-score / 2, score / 2] if kind == "two" else [score]
        return torch.stack(outputs, -1)

    @contextmanager
    def of_all(self) -> Iterator[None]:
        """Inside, all patches count, as if k were large."""
        k, self.k = self.k, sys.maxsize
        yield
        self.k = k


def _kinds(task: Task) -> list[str]:
    """Returns for each score of patches what it stands for: two classes, a quantity ("mean"), or one class or label."""
    if isinstance(task, MultiTask):
        return [kind for part in task.tasks.values() for kind in _kinds(part)]
    if isinstance(task, Classification) and task.outputs == 2:
        return ["two"]
    return ["mean" if isinstance(task, Regression) else "one"] * task.outputs
