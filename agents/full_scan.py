"""The baseline that is common today: all foreground patches are embedded, and a head pools the embeddings."""

import copy
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from glimpse.agents.bags import Bag, halved, keep, kept
from glimpse.agents.heads import Ensemble, Examples, HeadTrainer, HeadTraining
from glimpse.agents.seen_tiles import SeenTiles
from glimpse.agents.tiles import blocks, foreground_tiles, read_tiles, tile_locations
from glimpse.cohort import Case
from glimpse.cohort.remembered import options_of
from glimpse.errors import SettingsError
from glimpse.geometry import Extent
from glimpse.ranks.group import everyones, largest, once
from glimpse.ranks.sharing import share_of
from glimpse.reading.costs import multiply_adds
from glimpse.reading.playing import compute_threads
from glimpse.reading.readers import FULL_SCAN
from glimpse.reading.records import Reading
from glimpse.settings.options import at_least, option_names, sorted_into
from glimpse.settings.progress import silent
from glimpse.sources import ImageSource
from glimpse.tasks import Task
from glimpse.views import Views

Embed = Callable[[Tensor], Tensor]

BLOCK_PIXELS = 1 << 20  # neighbouring patches of about so many level-0 pixels are read together
_BATCH = 32  # patches that are encoded at once: with EfficientNet-Lite0 on a CPU, 16 and 64 are slower


@dataclass(frozen=True)
class Patches:
    """How large the patches of a full scan are.

    Attributes:
        extent: Field of view: 128, "64um", or one such value per axis; None for that of glimpses.
        size: Pixels, one number or one per axis; None for those of glimpses.
    """

    extent: float | str | Sequence[float | str] | None = None
    size: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        try:
            None if self.extent is None else Extent.parse(self.extent)
        except ValueError as error:
            raise SettingsError(f"extent of the full scan: {error}") from error
        for side in () if self.size is None else np.atleast_1d(self.size).tolist():
            at_least("size of the full scan", side, 1, whole=True)

    def of(self, views: Views, zoom: int) -> Views:
        """Returns views with one field of view, that of the patches.

        Raises:
            SettingsError: the patches have another number of axes than the images.
        """
        extent = views.glimpse_extents[zoom] if self.extent is None else Extent.parse(self.extent)
        size = np.atleast_1d(views.glimpse_size if self.size is None else self.size).tolist()
        for name, axes in (("extent", len(extent.values)), ("size", len(size))):
            if axes not in (1, views.ndim):
                raise SettingsError(
                    f"Expected {name} of the full scan as one number or {views.ndim} (one per axis of the images), got "
                    f"{axes}. Set report.full_scan.{name}=null for that of glimpses."
                )
        return Views(views.overview_size, tuple(size * views.ndim if len(size) == 1 else size), (extent,))


@dataclass(frozen=True)
class ScanOptions:
    """All options of a full scan."""

    patches: Patches = field(default_factory=Patches)
    learning: HeadTraining = field(default_factory=HeadTraining)


@dataclass
class _UnderWay:
    """A case whose patches are being read and embedded, in groups."""

    locations: Float[np.ndarray, "tile d"]
    groups: "list[Future[Tensor]]"


class FullScan:
    """A reader that embeds every foreground patch of a case.

    Patches lie side by side and have the field of view and the size of a glimpse, or their own. They are embedded once,
    with a copy of the encoder that is made when this object is made: mean and maximum of each feature over the patch.
    `fit` trains heads on the embeddings (gated attention and the highest patches, see `glimpse.agents.heads`) and keeps
    the better kind; `choice` says which one, and why. `known_before` says whether the patches that were asked for last
    had been embedded before.

    As many patches are encoded at the same time as PyTorch has threads; others are read meanwhile.

    Args:
        policy: a policy, whose encoder is copied; or a function from images uint8 (batch, channel, *size) to embeddings
            (batch, embed).
        views: sizes of glimpses.
        task: what is to be predicted.
        folder: folder for embeddings, with one file per split, which are used again if they still fit; None saves none.
        zoom: index of the field of view of the patches, where the options give no `extent`; -1 is the finest.
        seed: seed of the heads' initial weights and of the order of cases.
        threads: how many threads read.
        progress: whether to show progress bars.
        **options: fields of `Patches` and `HeadTraining`.

    Raises:
        SettingsError: an option does not exist, or has an impossible value.
    """

    name = FULL_SCAN

    def __init__(
        self,
        policy: nn.Module | Embed,
        views: Views,
        task: Task,
        *,
        folder: str | os.PathLike[str] | None = None,
        zoom: int = -1,
        seed: int = 0,
        threads: int = 2,
        progress: bool = False,
        **options: Any,
    ) -> None:
        self.embed, self.device = _frozen(policy)
        self.seen = SeenTiles.of(policy)
        self.options = self.parse_options(options)
        self.views, self.task = self.options.patches.of(views, zoom), task
        self.folder = None if folder is None else Path(folder)
        self.seed, self.threads, self.progress = seed, max(1, threads), progress
        self.head: Ensemble | None = None
        self.choice = ""
        self.known_before = False
        self._counted, self._per_patch = dict[int, int](), 0  # multiply-adds, by the number of patches

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Returns the names of the options."""
        return option_names(ScanOptions)

    @classmethod
    def parse_options(cls, options: Mapping[str, Any]) -> ScanOptions:
        """Checks the options; it needs neither a policy nor a case.

        Raises:
            SettingsError: an option does not exist, or has an impossible value.
        """
        return sorted_into(ScanOptions, options, "report.full_scan")

    @classmethod
    def check_patches(cls, options: Mapping[str, Any], views: Views, cases: Iterable[Case]) -> None:
        """Checks that patches can be read of all cases; a run does so before it trains anything.

        Raises:
            SettingsError: an extent in micrometres or millimetres needs a spacing that a case does not state, or the
                patches have another number of axes than the images.
        """
        own = cls.parse_options(options).patches.of(views, -1)
        for case in cases:
            try:
                own.extent(case.source)
            except ValueError as error:
                raise SettingsError(
                    f"report.full_scan.extent={own.glimpse_extents[0]}: {error} Or set report.full_scan.extent=null."
                ) from error

    # ------------------------------------------------------------------------------------------ embedding
    def bags(self, cases: Sequence[Case], progress: bool = False) -> list[Bag]:
        """Returns the embedded patches of cases; if the folder has them already, they are loaded.

        Processes that train together all call it; each embeds its share, and all have all patches.
        """
        probe = self._probe(cases[0].source)
        images = [getattr(case, "fingerprint", "") for case in cases]
        options = [repr(options_of(case.source)) for case in cases]  # such as the size of a pixel
        meta: dict[str, object] = {
            "slides": [case.id for case in cases],
            "images": images,
            "views": repr(self.views),
            "options": options,
        }
        path = self.folder / f"full_scan-{cases[0].split or 'cases'}.safetensors" if self.folder else None
        found = kept(path, meta, probe) if path else None
        missing = largest(int(found is None))  # a shared disk may not show it to all of them yet
        self.known_before = not missing
        if found is not None and not missing:
            return found
        encoders = torch.get_num_threads()
        self._encoding = threading.Semaphore(encoders)
        workers = ThreadPoolExecutor(self.threads + encoders, thread_name_prefix="full-scan")
        with compute_threads(1), workers as pool:  # each worker encodes with one thread
            title, shown = f"full scan ({cases[0].split or 'cases'})", progress or self.progress
            own = cases[share_of(len(cases)).own]
            bar = tqdm(total=len(own), desc=title, unit="case", disable=silent(shown))
            made = halved(everyones(list(self._bags([case.source for case in own], pool, bar.update))))
        if path is not None:
            once(lambda: keep(path, meta, probe, made))
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
        tiles = foreground_tiles(self.views, source)
        area = float(np.prod(self.views.extent(source)))
        side = max(1, int((BLOCK_PIXELS / area) ** (1 / tiles.shape[1])))
        groups = blocks(tiles, side)
        locations = tile_locations(self.views, source, tiles[np.concatenate(groups)])
        return _UnderWay(locations, [pool.submit(self._embedded, source, tiles[group]) for group in groups])

    def _embedded(self, source: ImageSource, tiles: Int[np.ndarray, "tile d"]) -> Float[Tensor, "tile embed"]:
        known = None if self.seen is None else self.seen.embeddings(source, self.views, tiles)
        if known is not None:
            return known
        patches = read_tiles(self.views, source, tiles)
        with self._encoding:
            return self._embed(patches)

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
        """Embeds both splits and trains the heads; without validation cases, with folds of the training cases.

        Raises:
            ValueError: there are no training cases.
        """
        if not len(train):
            raise ValueError("A full scan needs training cases, got none: the training split is empty.")
        trainer = HeadTrainer(self.task, self.options.learning, self.seed, self.device, self.progress)
        self.head = trainer.fit(self._examples(train), self._examples(val) if len(val) else None)
        self.choice = trainer.choice
        return self

    def _examples(self, cases: Sequence[Case]) -> Examples:
        targets = [case.target for case in cases]
        return Examples(
            [bag.embeddings for bag in self.bags(cases)],
            torch.from_numpy(self.task.stack(targets)),
            [case.patient for case in cases],
            self.task.strata(targets),
        )

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
    def _reading(self, head: Ensemble, case: Case, bag: Bag) -> Reading:
        began = time.perf_counter()
        prediction = head([bag.embeddings]).cpu().numpy()
        zooms, locations = np.zeros(len(bag.locations), np.int64), bag.locations.numpy()
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
            multiply_adds=self._multiply_adds(head, case.source, bag.embeddings),
        )

    def _multiply_adds(self, head: Ensemble, source: ImageSource, embeddings: Tensor) -> int:
        """Returns what embedding all patches of a case and answering takes, counted once per number of patches."""
        count = len(embeddings)
        if count not in self._counted:
            if not self._counted:
                self._per_patch = multiply_adds(lambda: self._probe(source))
            self._counted[count] = count * self._per_patch + multiply_adds(lambda: head([embeddings]))
        return self._counted[count]


def _frozen(policy: nn.Module | Embed) -> tuple[Embed, torch.device]:
    """Returns a function that embeds, and its device; of a policy, the encoder and the pool are copied.

    Embeddings are the pool's summaries. Its projection would only mix them, and lose the half of them.
    """
    if not isinstance(policy, nn.Module):
        return policy, torch.device("cpu")
    parts: Any = policy
    encoder, pool = copy.deepcopy(parts.encoder).eval(), copy.deepcopy(parts.pool).eval()
    device = next(itertools.chain(encoder.parameters(), pool.parameters())).device
    return lambda images: pool.summary(encoder(images)), device
