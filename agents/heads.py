"""Heads of a full scan: they turn the embedded patches of a case into a prediction, and learn from few cases."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from glimpse.cohort.splits import folds
from glimpse.errors import SettingsError
from glimpse.networks.aggregator import AttentionPooling
from glimpse.networks.top_k import TopKHead
from glimpse.settings.options import above_zero, at_least
from glimpse.settings.progress import silent
from glimpse.tasks import Classification, Survival, Task, metric_title

ATTENTION, TOP_K, AUTO = "attention", "top_k", "auto"
_APART = 1000  # between the seeds of two heads
_LINEAR = 4  # a single linear layer takes steps so many times as long as a network


@dataclass(frozen=True)
class HeadTraining:
    """Which head a full scan has, and how it is trained.

    Attributes:
        head: "attention", "top_k", or "auto": both are trained, and the better one on the validation split is taken.
        k: How many of a case's patches, those with the highest scores, answer in the head "top_k".
        ensemble: How many heads are trained from different initial weights; their outputs are averaged.
        folds: Without validation cases, the training cases are divided into so many parts. For each part, one head
            learns from all others, and the part takes the place of the validation split.
        epochs: Largest number of passes over the training cases.
        patience: Training ends after so many passes without a lower validation loss.
        batch: Cases per step.
        learning_rate: Learning rate of AdamW for the head "attention"; that of "top_k" is 4 times as high.
        weight_decay: Weight decay of AdamW.
        dropout: Dropout in the head "attention".
    """

    head: Literal["auto", "attention", "top_k"] = "auto"
    k: int = 4
    ensemble: int = 3
    folds: int = 5
    epochs: int = 100
    patience: int = 15
    batch: int = 16
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    dropout: float = 0.25

    def __post_init__(self) -> None:
        if self.head not in (AUTO, ATTENTION, TOP_K):
            raise SettingsError(f"Expected head of the full scan to be auto, attention or top_k, got {self.head!r}.")
        for name in ("k", "ensemble", "epochs", "patience", "batch"):
            at_least(f"{name} of the full scan", getattr(self, name), 1, whole=True)
        at_least("folds of the full scan", self.folds, 2, whole=True)
        above_zero("learning_rate of the full scan", self.learning_rate)
        at_least("weight_decay of the full scan", self.weight_decay, 0)
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"Expected dropout of the full scan from 0 to below 1, got {self.dropout}.")


@dataclass(frozen=True)
class Examples:
    """Cases to learn from: the embeddings of the patches of each, targets, patients, and strata (see `Task.strata`)."""

    bags: Sequence[Float[Tensor, "_ embed"]]
    targets: Tensor
    patients: Sequence[str]
    strata: Sequence[str]

    def __len__(self) -> int:
        return len(self.bags)

    def some(self, rows: Sequence[int]) -> "Examples":
        """Returns the cases with these indices."""
        patients, strata = ([names[i] for i in rows] for names in (self.patients, self.strata))
        return Examples([self.bags[i] for i in rows], self.targets[list(rows)], patients, strata)


# ---------------------------------------------------------------------------------------------- heads
class AttentionHead(nn.Module):
    """Gated attention over patches (Ilse, Tomczak, Welling 2018), with the layers of CLAM (Lu et al. 2021).

    A linear layer, ReLU and dropout make a token of each patch. The tokens are averaged with the weights of gated
    attention, and a linear layer predicts the target from the average.
    """

    def __init__(self, embed: int, task: Task, dropout: float, hidden: int = 64) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(embed, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.pool = AttentionPooling(hidden, hidden)
        self.answer = nn.Linear(hidden, task.outputs)

    def forward(self, patches: Float[Tensor, "tile embed"], lengths: list[int]) -> Float[Tensor, "batch output"]:
        tokens = self.project(patches)
        logs = pad_sequence(self.pool.attention(tokens).split(lengths), batch_first=True, padding_value=-torch.inf)
        padded = pad_sequence(tokens.split(lengths), batch_first=True)
        return self.answer((logs.softmax(-1)[:, None] @ padded)[:, 0])


class Ensemble(nn.Module):
    """Standardises embeddings, and averages the outputs of heads of one kind.

    Args:
        mean: mean of each feature over the patches of the training cases, (embed,).
        std: its standard deviation.
        heads: the heads, which were trained with equal weight of all classes.
        offset: is added to the outputs, (output,): it shifts them to the frequencies of the classes.
    """

    def __init__(self, mean: Tensor, std: Tensor, heads: Sequence[nn.Module], offset: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.offset: Tensor
        for name, value in (("mean", mean), ("std", std), ("offset", offset)):
            self.register_buffer(name, value)
        self.heads = nn.ModuleList(heads)

    @classmethod
    def of(cls, several: Sequence["Ensemble"]) -> "Ensemble":
        """Returns one ensemble of the heads of several, which have the same statistics and offset."""
        first = several[0]
        return cls(first.mean, first.std, [head for one in several for head in one.heads], first.offset).eval()

    def outputs(self, bags: Sequence[Float[Tensor, "_ embed"]]) -> Float[Tensor, "batch output"]:
        """Returns the outputs for some cases from the embeddings of their patches, without the offset."""
        patches, lengths = self.standardised(bags), [len(bag) for bag in bags]
        return torch.stack([head(patches, lengths) for head in self.heads]).mean(0)

    def standardised(self, bags: Sequence[Float[Tensor, "_ embed"]]) -> Float[Tensor, "tile embed"]:
        """Returns the standardised embeddings of the patches of some cases, one case after another."""
        return (torch.cat(list(bags)).to(self.mean.device).float() - self.mean) / self.std

    def forward(self, bags: Sequence[Float[Tensor, "_ embed"]]) -> Float[Tensor, "batch output"]:
        """Returns the predictions for some cases from the embeddings of their patches."""
        return self.outputs(bags) + self.offset


# ---------------------------------------------------------------------------------------------- learning
class HeadTrainer:
    """Trains the heads of a full scan, and chooses between them.

    With validation cases, each head is kept at its lowest validation loss, and several heads of one kind are trained
    from different initial weights. Without them, or if all are of one class (or without an event), the training cases
    are divided into folds (see `HeadTraining`).

    With `head="auto"` the kind with the better AUC is taken, on the validation cases or on the cases of the folds
    together; with the better score where the task has no AUC. Where these are equal, the lower loss decides.

    Classes have equal weight in training, and the outputs are shifted to their frequencies afterwards. Where the task
    has class weights, those hold, and nothing is shifted.

    Args:
        task: what is predicted.
        how: how heads are trained.
        seed: seed of initial weights, dropout, folds, and the order of cases.
        device: where heads are trained.
        progress: whether to show a bar.
    """

    def __init__(
        self, task: Task, how: HeadTraining, seed: int = 0, device: torch.device | str = "cpu", progress: bool = False
    ) -> None:
        self.task, self.how, self.seed, self.device, self.progress = task, how, seed, torch.device(device), progress
        self.choice = ""
        self._weights: Tensor | None = None  # of classes

    def fit(self, train: Examples, val: Examples | None = None) -> Ensemble:
        """Returns the trained heads, in evaluation mode; `choice` says in words which kind was taken, and why."""
        if val is not None and isinstance(self.task, Classification) and len(val.targets.unique()) == 1:
            val = None  # it would be best to answer with this class always
        if val is not None and isinstance(self.task, Survival) and not val.targets[:, 1].any():
            val = None  # it would be best to answer that no event ever comes
        statistics = _statistics(train.bags)
        self._weights, offset = _balance(self.task, train.targets)
        splits = list(self._splits(train, val))
        kinds = (ATTENTION, TOP_K) if self.how.head == AUTO else (self.how.head,)
        total = len(kinds) * len(splits) * self.how.epochs
        cuda = [self.device] if self.device.type == "cuda" else []
        found: dict[str, list[Ensemble]] = {}
        with (
            torch.random.fork_rng(devices=cuda),
            tqdm(total=total, desc="full scan (heads)", unit="epoch", disable=silent(self.progress)) as bar,
        ):
            for kind in kinds:
                found[kind] = []
                for index, (learned, checked) in enumerate(splits):
                    torch.manual_seed(self.seed + _APART * index)
                    one = Ensemble(*statistics, [self._head(kind, learned.bags[0].shape[1])], offset)
                    found[kind].append(self._train(one.to(self.device), learned, checked, bar.update).eval())
        return self._chosen(found, splits, val)

    def _splits(self, train: Examples, val: Examples | None) -> list[tuple[Examples, Examples | None]]:
        """Returns for each head the cases that it learns from, and those that say when it is best."""
        if val is not None:
            return [(train, val)] * self.how.ensemble
        parts = folds(train.patients, train.strata, self.how.folds, self.seed)
        if len(parts) < 2:
            return [(train, None)] * self.how.ensemble
        return [(train.some(sorted({*range(len(train))} - {*part})), train.some(part)) for part in parts]

    def _head(self, kind: str, embed: int) -> nn.Module:
        if kind == TOP_K:
            return TopKHead(embed, self.task, self.how.k)
        return AttentionHead(embed, self.task, self.how.dropout)

    def _train(
        self, one: Ensemble, train: Examples, val: Examples | None, advance: Callable[[int], object]
    ) -> Ensemble:
        """Trains until the validation loss has not fallen for `patience` epochs; returns the best state."""
        how, rate = self.how, self.how.learning_rate
        for head in one.heads:
            if isinstance(head, TopKHead):
                self._begin(one, head, train)
                rate = _LINEAR * how.learning_rate
        optimizer = torch.optim.AdamW(one.parameters(), rate, weight_decay=how.weight_decay)
        best, lowest, waited, done = copy.deepcopy(one), math.inf, 0, 0
        while done < how.epochs and waited < how.patience:
            one.train()
            for rows in torch.randperm(len(train)).split(how.batch):
                some = train.some(rows.tolist())
                loss = self._losses(one.outputs(some.bags), some.targets).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            done += 1
            advance(1)
            reached = -math.inf if val is None else self._mean_loss(self._outputs(one, val), val.targets)
            if val is None or reached < lowest:
                best, lowest, waited = copy.deepcopy(one), reached, 0
            else:
                waited += 1
        advance(how.epochs - done)
        return best

    def _begin(self, one: Ensemble, head: TopKHead, train: Examples) -> None:
        """Starts a linear head in the direction in which the averages of the patches of cases differ.

        From random weights, the highest patches are random too, and nothing may be learned from them. The direction is
        the gradient of the loss at zero weights if all patches count; between two classes, it is the difference of
        their means. Scores have a standard deviation of 1 at the start.
        """
        weight = head.score.weight
        nn.init.zeros_(weight)
        nn.init.zeros_(head.score.bias)
        rows, moments = range(0, len(train), self.how.batch), torch.zeros(2, len(weight), 1, device=self.device)
        parts = [train.some(range(start, min(start + self.how.batch, len(train)))) for start in rows]
        with head.of_all():
            losses = (self._losses(one.outputs(part.bags), part.targets).sum() for part in parts)
            gradient = sum((torch.autograd.grad(loss, weight)[0] for loss in losses), torch.zeros_like(weight))
        with torch.no_grad():
            weight.copy_(-gradient)
            for bag in train.bags:
                scores = head.score(one.standardised([bag]))
                moments += torch.stack([scores.sum(0), (scores**2).sum(0)])[..., None] / sum(map(len, train.bags))
            weight /= (moments[1] - moments[0] ** 2).clamp_min(1e-12).sqrt()

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        targets = targets.to(self.device)
        losses = self.task.loss(outputs, targets)
        return losses if self._weights is None else losses * self._weights.to(self.device)[targets]

    def _mean_loss(self, outputs: Tensor, targets: Tensor) -> float:
        return float(self._losses(outputs, targets).mean())

    @torch.no_grad()
    def _outputs(self, one: Ensemble, cases: Examples) -> Tensor:
        """Returns the outputs for all cases in evaluation mode, (case, output), without the shift to frequencies."""
        one.eval()
        batch = self.how.batch
        return torch.cat([one.outputs(cases.bags[i : i + batch]) for i in range(0, len(cases), batch)])

    # ------------------------------------------------------------------------------------------ choosing
    def _chosen(
        self, found: dict[str, list[Ensemble]], splits: list[tuple[Examples, Examples | None]], val: Examples | None
    ) -> Ensemble:
        """Returns the heads of the better kind, together; of both kinds where nothing says which is better."""
        together = {kind: Ensemble.of(ones) for kind, ones in found.items()}
        if len(found) == 1:
            (kind,) = found
            self.choice = f"full_scan: the head is {kind!r}, as it was set."
            return together[kind]
        if any(checked is None for _, checked in splits):
            self.choice = "full_scan: too few patients to choose a head; the answers of both are averaged."
            return Ensemble.of([one for ones in found.values() for one in ones])
        worth = {kind: self._worth(ones, splits, val) for kind, ones in found.items()}
        best, other = sorted(worth, key=lambda kind: worth[kind].order, reverse=True)
        where = "validation" if val is not None else f"{len(splits)}-fold cross-validation"
        self.choice = f"full_scan: the head is {best!r} ({where}: {worth[best]}; {other!r}: {worth[other]})."
        return together[best]

    def _worth(
        self, ones: list[Ensemble], splits: list[tuple[Examples, Examples | None]], val: Examples | None
    ) -> "_Worth":
        """Measures one kind of heads: on the validation cases, or on the cases that each head did not learn from."""
        if val is not None:
            outputs, targets = self._outputs(Ensemble.of(ones), val), val.targets
        else:
            pairs = [(one, held) for one, (_, held) in zip(ones, splits, strict=True) if held is not None]
            outputs = torch.cat([self._outputs(one, held) for one, held in pairs])
            targets = torch.cat([held.targets for _, held in pairs])
        name = "auc" if "auc" in self.task.metric_names else "score"
        predictions = (outputs + ones[0].offset).cpu().numpy().astype(np.float64)
        metrics = self.task.weighted_metrics(predictions, targets.numpy(), np.ones((1, len(targets))))
        return _Worth(name, float(metrics[name][0]), self._mean_loss(outputs, targets))


@dataclass(frozen=True)
class _Worth:
    """How good heads are: the value of a metric, NaN where it is not defined, and the loss."""

    metric: str
    value: float
    loss: float

    @property
    def order(self) -> tuple[float, float]:
        """The greater, the better."""
        return (-math.inf if math.isnan(self.value) else round(self.value, 6), -self.loss)

    def __str__(self) -> str:
        return f"{metric_title(self.metric)} {self.value:.3f}, loss {self.loss:.3f}"


# ---------------------------------------------------------------------------------------------- statistics
def _statistics(bags: Sequence[Float[Tensor, "_ embed"]]) -> tuple[Float[Tensor, " embed"], Float[Tensor, " embed"]]:
    """Returns mean and standard deviation of each feature over the patches of all cases."""
    count = sum(len(bag) for bag in bags)
    mean = torch.stack([bag.double().sum(0) for bag in bags]).sum(0) / count
    square = torch.stack([((bag.double() - mean) ** 2).sum(0) for bag in bags]).sum(0) / count
    return mean.float(), square.sqrt().clamp_min(1e-6).float()


def _balance(task: Task, targets: Tensor) -> tuple[Float[Tensor, " classes"] | None, Float[Tensor, " output"]]:
    """Returns the weights of classes in training, None where there are none, and what makes up for them in outputs.

    The weight of a class with n_k of n cases is w_k = n / (K n_k), with K the number of classes that occur, and its
    logit gets log(1 / w_k) afterwards. Then the softmax is that of the frequencies in training (Bayes' rule).
    """
    if not isinstance(task, Classification) or task.class_weights is not None:  # the loss has weights of its own
        return None, torch.zeros(task.outputs)
    counts = torch.bincount(targets, minlength=task.outputs).double()
    weights = len(targets) / (counts.clamp_min(1) * (counts > 0).sum())
    weights = torch.where(counts > 0, weights, 1.0).float()
    return weights, -weights.log()
