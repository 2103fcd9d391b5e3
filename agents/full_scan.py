"""The baseline that is common today: all foreground patches are embedded, and gated attention pools the embeddings."""

import copy
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from glimpse.agents.seen_tiles import SeenTiles
from glimpse.agents.tiles import blocks, foreground_tiles, read_tiles, tile_locations
from glimpse.cohort import Case
from glimpse.errors import SettingsError
from glimpse.networks.aggregator import AttentionPooling
from glimpse.reading.playing import compute_threads
from glimpse.reading.readers import FULL_SCAN
from glimpse.reading.records import Reading
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.settings.options import above_zero, at_least, option_names, sorted_into
from glimpse.settings.progress import silent
from glimpse.sources import ImageSource
from glimpse.tasks import Task
from glimpse.views import Views

Embed = Callable[[Tensor], Tensor]

BLOCK_PIXELS = 1 << 20  # neighbouring patches of about so many level-0 pixels are read together
_HIDDEN, _BATCH = 64, 64  # width of the head; number of patches that are encoded at once


# ---------------------------------------------------------------------------------------------- embeddings
@dataclass
class Bag:
    """The embedded patches of one case, and the seconds from the end of the case before it to the end of this one."""

    embeddings: Float[Tensor, "tile embed"]
    locations: Float[Tensor, "tile d"]
    seconds: float


@dataclass
class _UnderWay:
    """A case whose patches are being read and embedded, in groups."""

    locations: Float[np.ndarray, "tile d"]
    groups: "list[Future[Tensor]]"


class _Head(nn.Module):
    """Standardises embeddings, pools them by gated attention (Ilse et al. 2018) and predicts the target."""

    def __init__(self, embeddings: Float[Tensor, "tile embed"], outputs: int, dropout: float) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        embed = embeddings.shape[1]
        self.register_buffer("mean", embeddings.mean(0))
        self.register_buffer("std", embeddings.std(0, correction=0).clamp_min(1e-6))
        self.project = nn.Sequential(nn.Linear(embed, _HIDDEN), nn.ReLU(), nn.Dropout(dropout))
        self.pool = AttentionPooling(_HIDDEN, _HIDDEN)
        self.answer = nn.Linear(_HIDDEN, outputs)

    def forward(
        self, embeddings: Float[Tensor, "batch tile embed"], real: Bool[Tensor, "batch tile"]
    ) -> Float[Tensor, "batch output"]:
        tokens = self.project((embeddings - self.mean) / self.std)
        weights = self.pool.attention(tokens).masked_fill(~real, -torch.inf).softmax(-1)
        return self.answer((weights[:, None] @ tokens)[:, 0])


@dataclass(frozen=True)
class HeadTraining:
    """How the head of a full scan is trained.

    Attributes:
        epochs: Largest number of passes over the training split.
        patience: Training ends after so many passes without a better validation loss.
        batch: Cases per step.
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        dropout: Dropout in the head.
    """

    epochs: int = 100
    patience: int = 15
    batch: int = 16
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    dropout: float = 0.25

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch", "learning_rate"):
            above_zero(f"{name} of the full scan", getattr(self, name))
        at_least("weight_decay of the full scan", self.weight_decay, 0)
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"Expected dropout of the full scan from 0 to below 1, got {self.dropout}.")


class FullScan:
    """A reader that embeds every foreground patch of a case.

    Patches lie side by side and have the field of view of a glimpse. They are embedded once, with a copy of the encoder
    that is made when this object is made. `fit` trains a head with gated attention on the embeddings, with early
    stopping on the validation split.

    Args:
        policy: a policy, whose encoder and pool are copied; or a function from images uint8 (batch, channel, *size) to
            embeddings (batch, embed).
        views: sizes of patches.
        task: what is to be predicted.
        folder: folder for embeddings, with one file per split, which are used again if they still fit; None saves none.
        zoom: index of the field of view of the patches.
        seed: seed of the head's initial weights and of the order of cases.
        threads: how many threads read and embed.
        progress: whether to show progress bars.
        **training: fields of `HeadTraining`.

    Raises:
        SettingsError: a field of `HeadTraining` does not exist, or has an impossible value.
    """

    name = FULL_SCAN

    def __init__(
        self,
        policy: nn.Module | Embed,
        views: Views,
        task: Task,
        *,
        folder: str | os.PathLike[str] | None = None,
        zoom: int = 0,
        seed: int = 0,
        threads: int = 2,
        progress: bool = False,
        **training: Any,
    ) -> None:
        self.embed, self.device = _frozen(policy)
        self.seen = SeenTiles.of(policy)
        self.views, self.task, self.zoom = views, task, zoom
        self.folder = None if folder is None else Path(folder)
        self.training = self.parse_options(training)
        self.seed, self.threads, self.progress = seed, max(1, threads), progress
        self.head: _Head | None = None

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Returns the names of the options of the head's training."""
        return option_names(HeadTraining)

    @classmethod
    def parse_options(cls, options: Mapping[str, Any]) -> HeadTraining:
        """Checks the options of the head's training; it needs neither a policy nor a case.

        Raises:
            SettingsError: an option does not exist, or has an impossible value.
        """
        return sorted_into(HeadTraining, options, "report.full_scan")

    # ------------------------------------------------------------------------------------------ embedding
    def bags(self, cases: Sequence[Case], progress: bool = False) -> list[Bag]:
        """Returns the embedded patches of cases; if the folder has them already, they are loaded."""
        probe = self._probe(cases[0].source)
        meta = {"slides": [case.id for case in cases], "views": repr(self.views), "zoom": self.zoom}
        path = self.folder / f"full_scan-{cases[0].split or 'cases'}.safetensors" if self.folder else None
        kept = _kept(path, meta, probe) if path else None
        if kept is not None:
            return kept
        # Several workers share the cores.
        with compute_threads(1), ThreadPoolExecutor(self.threads, thread_name_prefix="full-scan") as pool:
            title, shown = f"full scan ({cases[0].split or 'cases'})", progress or self.progress
            bar = tqdm(total=len(cases), desc=title, unit="case", disable=silent(shown))
            made = list(self._bags([case.source for case in cases], pool, bar.update))
        if path is not None:
            _keep(path, meta, probe, made)
        return made

    def _bags(
        self, sources: Sequence[ImageSource], pool: ThreadPoolExecutor, finished: Callable[[], object]
    ) -> Iterator[Bag]:
        """Yields the bags in order. The next case is begun before one is finished, so that no thread waits for others.

        The seconds of a case are those since the case before it was finished.
        """
        began, under_way = time.perf_counter(), deque[_UnderWay]()
        for source in itertools.chain(sources, [None]):
            if source is not None:
                under_way.append(self._begin(source, pool))
            while under_way and (source is None or len(under_way) > 1):
                first = under_way.popleft()
                embeddings = torch.cat([group.result() for group in first.groups])
                now = time.perf_counter()
                yield Bag(embeddings, torch.from_numpy(first.locations), now - began)
                began = now
                finished()

    def _begin(self, source: ImageSource, pool: ThreadPoolExecutor) -> "_UnderWay":
        tiles = foreground_tiles(self.views, source, self.zoom)
        area = float(np.prod(self.views.extent(source, self.zoom)))
        side = max(1, int((BLOCK_PIXELS / area) ** (1 / tiles.shape[1])))
        groups = blocks(tiles, side)
        locations = tile_locations(self.views, source, tiles[np.concatenate(groups)], self.zoom)
        return _UnderWay(locations, [pool.submit(self._embedded, source, tiles[group]) for group in groups])

    def _embedded(self, source: ImageSource, tiles: Int[np.ndarray, "tile d"]) -> Float[Tensor, "tile embed"]:
        known = None if self.seen is None else self.seen.embeddings(source, self.views, tiles, self.zoom)
        return self._embed(read_tiles(self.views, source, tiles, self.zoom)) if known is None else known

    @torch.no_grad()
    def _embed(self, patches: np.ndarray) -> Float[Tensor, "tile embed"]:
        parts = torch.from_numpy(patches).split(_BATCH)
        return torch.cat([self.embed(part.to(self.device)).float().cpu() for part in parts])

    def _probe(self, source: ImageSource) -> Tensor:
        """Embeds a fixed random image, which shows whether saved embeddings were made with the same weights."""
        size = (1, source.channels, *self.views.glimpse_size)
        return self._embed(np.random.default_rng(0).integers(0, 256, size, np.uint8))

    # ------------------------------------------------------------------------------------------ learning
    def fit(self, train: Sequence[Case], val: Sequence[Case] = ()) -> "FullScan":
        """Embeds both splits and trains the head; without validation cases all epochs are made."""
        if not len(train):
            raise ValueError("A full scan needs training cases, got none: the training split is empty.")
        bags, targets = self.bags(train), self._targets(train)
        checks = (self.bags(val), self._targets(val)) if len(val) else None
        cuda = [self.device] if self.device.type == "cuda" else []
        with compute_threads(1), torch.random.fork_rng(devices=cuda):
            torch.manual_seed(self.seed)
            head = _Head(torch.cat([bag.embeddings for bag in bags]), self.task.outputs, self.training.dropout)
            self.head = self._train(head.to(self.device), bags, targets, checks).eval()
        return self

    def _targets(self, cases: Sequence[Case]) -> Tensor:
        return torch.from_numpy(self.task.stack([case.target for case in cases]))

    def _train(self, head: _Head, bags: list[Bag], targets: Tensor, checks: tuple[list[Bag], Tensor] | None) -> _Head:
        """Trains until the validation loss has not fallen for `patience` epochs; returns the best head."""
        how = self.training
        optimizer = torch.optim.AdamW(head.parameters(), how.learning_rate, weight_decay=how.weight_decay)
        best, lowest, waited = copy.deepcopy(head), math.inf, 0
        for _ in tqdm(range(how.epochs), desc="full scan (head)", unit="epoch", disable=silent(self.progress)):
            head.train()
            for rows in torch.randperm(len(bags)).split(how.batch):
                loss = self._loss(head, [bags[row] for row in rows.tolist()], targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            reached = -math.inf if checks is None else self._validation_loss(head, *checks)
            if checks is None or reached < lowest:
                best, lowest, waited = copy.deepcopy(head), reached, 0
            else:
                waited += 1
            if waited >= how.patience:
                break
        return best

    def _loss(self, head: _Head, bags: list[Bag], targets: Tensor) -> Tensor:
        return self.task.loss(head(*_padded(bags, self.device)), targets.to(self.device)).mean()

    @torch.no_grad()
    def _validation_loss(self, head: _Head, bags: list[Bag], targets: Tensor) -> float:
        head.eval()
        batch = self.training.batch
        parts = [range(start, min(start + batch, len(bags))) for start in range(0, len(bags), batch)]
        losses = [self._loss(head, [bags[i] for i in part], targets[part.start : part.stop]) for part in parts]
        return sum(loss.item() * len(part) for loss, part in zip(losses, parts, strict=True)) / len(bags)

    # ------------------------------------------------------------------------------------------ reading
    def read(self, cases: Sequence[Case], *, trace: bool = False, progress: bool = False) -> list[Reading]:
        """Predicts the target of every case from all of its patches; `seconds` includes reading and embedding them.

        Args:
            cases: what to read.
            trace: has no effect, because there is only one answer.
            progress: whether to show a bar.

        Raises:
            RuntimeError: the head has not been trained.
        """
        if self.head is None:
            raise RuntimeError("The head has not been trained: call fit(train, val) before read().")
        bags = self.bags(cases, progress)
        return [self._reading(self.head, case, bag) for case, bag in zip(cases, bags, strict=True)]

    @torch.no_grad()
    def _reading(self, head: _Head, case: Case, bag: Bag) -> Reading:
        began = time.perf_counter()
        prediction = head(*_padded([bag], self.device)).cpu().numpy()
        zooms, locations = np.full(len(bag.locations), self.zoom), bag.locations.numpy()
        return Reading(
            id=case.id,
            patient=case.patient,
            target=case.target,
            prediction=prediction[0],
            predictions=prediction,
            scanpath=locations,
            zooms=zooms,
            glimpses=len(locations),
            share_read=self.views.share(case.source, locations, zooms),
            pixels_read=self.views.pixels_read(case.source, locations, zooms),
            seconds=bag.seconds + time.perf_counter() - began,
            hits=None if case.marks is None else self.views.hits(case.source, locations, zooms, case.marks),
        )


def _frozen(policy: nn.Module | Embed) -> tuple[Embed, torch.device]:
    """Returns a function that embeds, and its device; of a policy, the encoder and the pool are copied."""
    if not isinstance(policy, nn.Module):
        return policy, torch.device("cpu")
    parts = [part for part in (policy.encoder, policy.pool) if isinstance(part, nn.Module)]
    network = nn.Sequential(*(copy.deepcopy(part) for part in parts)).eval()
    return network, next(network.parameters()).device


def _padded(bags: list[Bag], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns embeddings (batch, tile, embed), padded with zeros, and which of them are not padding (batch, tile)."""
    lengths = torch.tensor([len(bag.embeddings) for bag in bags])
    embeddings = nn.utils.rnn.pad_sequence([bag.embeddings for bag in bags], batch_first=True)
    real = torch.arange(embeddings.shape[1]) < lengths[:, None]
    return embeddings.to(device), real.to(device)


# ---------------------------------------------------------------------------------------------- what is kept
def _keep(path: Path, meta: dict[str, object], probe: Tensor, bags: list[Bag]) -> None:
    tensors = {
        "probe": probe,
        "embeddings": torch.cat([bag.embeddings for bag in bags]),
        "locations": torch.cat([bag.locations for bag in bags]),
        "lengths": torch.tensor([len(bag.embeddings) for bag in bags]),
        "seconds": torch.tensor([bag.seconds for bag in bags], dtype=torch.float64),
    }
    Checkpoint(tensors, dict(meta)).save(path)


def _kept(path: Path, meta: dict[str, object], probe: Tensor) -> list[Bag] | None:
    """Returns saved embeddings if they are of the same cases, sizes and weights, and None otherwise."""
    try:
        file = Checkpoint.load(path)
    except CheckpointError:
        return None
    tensors = file.tensors
    if file.meta != meta or not torch.allclose(tensors["probe"], probe, rtol=1e-3, atol=1e-4):
        return None
    lengths = tensors["lengths"].tolist()
    parts = zip(tensors["embeddings"].split(lengths), tensors["locations"].split(lengths), strict=True)
    return [Bag(*both, seconds) for both, seconds in zip(parts, tensors["seconds"].tolist(), strict=True)]
