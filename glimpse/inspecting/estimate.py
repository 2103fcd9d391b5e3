"""Estimates how long a training takes on this machine, and what it keeps on disk, from what looking has measured."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from glimpse.errors import SettingsError
from glimpse.inspecting.fitting import Network
from glimpse.inspecting.inputs import Candidate
from glimpse.inspecting.looking import Seen
from glimpse.networks.feature_store import default_folder
from glimpse.networks.policy import GlimpsePolicy
from glimpse.settings.options import check_device
from glimpse.sources.volume.unpacked import unpacked_folder

SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}  # of cases, where they are not split yet
_MOST = 4  # times warm_up.glimpses_per_case, where glimpses_per_patch asks for more
_BATCH = 8  # glimpses that are encoded to measure how long it takes
_OF_UPDATES = 3.0  # a pass forward and one backward take so many times as long as one forward
_BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Part:
    """A part of a training.

    Attributes:
        name: what it is.
        glimpses: how many glimpses are read.
        overviews: how many overviews are read.
        encoded: how many times as long as encoding each of them once it computes.
    """

    name: str
    glimpses: int
    overviews: int = 0
    encoded: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """How long a training takes, and what it keeps on disk.

    Attributes:
        env: the environment.
        cases: how many cases of it can be read.
        parts: what is read in each part of the training.
        read_seconds: of one glimpse, and of one overview, as measured on these cases.
        encode_seconds: of one glimpse, and of one overview, with the network of the settings; None if it cannot be
            built.
        threads: how many threads read.
        features: bytes of the cache of features.
        unpacked: bytes of the cache of unpacked volumes.
        free: bytes that are free where these caches lie.
        unknown: why encoding is not part of it; "" where it is.
    """

    env: str
    cases: int
    parts: tuple[Part, ...]
    read_seconds: tuple[float, float]
    encode_seconds: tuple[float, float] | None
    threads: int
    features: int
    unpacked: int
    free: int
    unknown: str = ""

    def seconds(self, part: Part) -> tuple[float, float]:
        """Returns how long a part reads, and how long it encodes."""
        read = (part.glimpses * self.read_seconds[0] + part.overviews * self.read_seconds[1]) / max(1, self.threads)
        glimpse, overview = self.encode_seconds or (0.0, 0.0)
        return read, part.encoded * (part.glimpses * glimpse + part.overviews * overview)

    @property
    def total(self) -> float:
        """Seconds of all parts: reading and encoding one after the other."""
        return sum(sum(self.seconds(part)) for part in self.parts)

    def record(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        parts = [
            {"part": part.name, "glimpses": part.glimpses, "overviews": part.overviews}
            | dict(
                zip(("read_seconds", "encode_seconds"), (round(value, 3) for value in self.seconds(part)), strict=True)
            )
            for part in self.parts
        ]
        return {
            "env": self.env,
            "cases": self.cases,
            "seconds": round(self.total, 3),
            "parts": parts,
            "seconds_per_glimpse": self.read_seconds[0],
            "seconds_per_overview": self.read_seconds[1],
            "seconds_to_encode": self.encode_seconds,
            "read_threads": self.threads,
            "features_bytes": self.features,
            "unpacked_bytes": self.unpacked,
            "free_bytes": self.free,
            "left_out": self.unknown,
        }


@dataclass
class _Counts:
    """How many cases each split has, and what looking at them has told on average.

    Patches are as large as a glimpse of the first field of view, fine ones as one of the finest.
    """

    train: int
    val: int
    test: int
    patches: float
    fine_patches: float
    glimpse: float
    overview: float
    unpacked: int = 0


def estimate(
    env: str, settings: Mapping[str, Any], network: Network, cases: Sequence[tuple[Candidate, Seen]]
) -> Estimate | None:
    """Estimates a training on some cases; None if none of them could be read.

    Args:
        env: the environment.
        settings: all settings of the training.
        network: the network of these settings.
        cases: the cases of this environment, with what looking at them has told.
    """
    seen = [(candidate, one) for candidate, one in cases if one.opened and one.glimpse_seconds]
    if not seen:
        return None
    counts = _counts(seen)
    parts = tuple(part for part in _parts(settings, counts) if part.glimpses or part.overviews)
    policy = network.policy
    encode, problem = None, network.problem
    try:
        check_device(settings["device"])
        encode = None if policy is None else _encode_seconds(policy, torch.device(settings["device"]))
    except (SettingsError, RuntimeError) as error:  # a GPU may have no memory left
        problem = problem or str(error).splitlines()[0]
    return Estimate(
        env,
        len(seen),
        parts,
        (counts.glimpse, counts.overview),
        encode,
        int(settings["read_threads"] or 1),
        0 if policy is None else _feature_bytes(settings, policy, parts, counts),
        counts.unpacked,
        _free(unpacked_folder() if counts.unpacked else default_folder()),
        problem,
    )


def _counts(seen: Sequence[tuple[Candidate, Seen]]) -> _Counts:
    split = [candidate.split for candidate, _ in seen]
    whole = len(seen)
    numbers = {name: split.count(name) if any(split) else round(share * whole) for name, share in SHARES.items()}
    patches = [(one.patches[0], one.patches[-1]) for _, one in seen if one.patches]
    return _Counts(
        **numbers,
        patches=fmean(wide for wide, _ in patches) if patches else 0.0,
        fine_patches=fmean(fine for _, fine in patches) if patches else 0.0,
        glimpse=median(second for _, one in seen for second in one.glimpse_seconds),
        overview=median([one.overview_seconds for _, one in seen if one.overview_seconds is not None] or [0.0]),
        unpacked=sum(one.unpacked for _, one in seen),
    )


# ---------------------------------------------------------------------------------------------- what is read
def _parts(settings: Mapping[str, Any], counts: _Counts) -> list[Part]:
    """Returns what each part of a training reads, by the settings of its stages."""
    pretrain, budget = settings["pretrain"], int(settings["max_glimpses"])
    pool = int(pretrain.get("pool") or 0)
    steps = int(pretrain.get("steps") or 0) * int(pretrain.get("batch") or 0)
    passes = 1 + (2 * _OF_UPDATES * steps / pool if pool else 0)  # each glimpse of a step gives two views
    return [
        Part("pretraining", pool, 0, passes),
        _warm_up(settings["warm_up"], settings, counts),
        _joint(settings["joint"], settings, counts),
        _report(settings["report"], budget, counts),
        _full_scan(settings["report"], counts),
    ]


def _warm_up(stage: Mapping[str, Any], settings: Mapping[str, Any], counts: _Counts) -> Part:
    if "glimpses_per_case" not in stage:  # of episodes at random places, or none
        return _episodes("warm-up", stage, settings, counts)
    least, per_patch = int(stage["glimpses_per_case"]), float(stage.get("glimpses_per_patch") or 0)
    each = min(max(least, round(per_patch * counts.patches)), _MOST * least) if per_patch else least
    extents = settings["env"]["make"].get("glimpse_extents")
    if isinstance(extents, list) and len(extents) > 1:
        branches = stage.get("branches") or ([16, 6] if len(extents) == 2 else [12, *[4] * (len(extents) - 1)])
        each = sum(math.prod(branches[: i + 1]) for i in range(len(branches)))
    count = min(each * counts.train, int(stage.get("max_total_glimpses") or 150_000))
    again = 2 if stage.get("second_look") else 1
    return Part("warm-up", again * count, counts.train)


def _joint(stage: Mapping[str, Any], settings: Mapping[str, Any], counts: _Counts) -> Part:
    return _episodes("joint stage", stage, settings, counts)


def _episodes(name: str, stage: Mapping[str, Any], settings: Mapping[str, Any], counts: _Counts) -> Part:
    """Episodes: updates x cases x rollouts x glimpses, and the validations between them."""
    updates, algorithm = int(stage.get("updates") or 0), stage.get("algorithm") or {}
    budget = int(algorithm.get("max_glimpses") or settings["max_glimpses"])
    cases = int(algorithm.get("cases_per_rollout") or 0)
    rollouts = cases * int(algorithm.get("rollouts_per_case") or 1)
    extra = algorithm.get("extra_glimpses")
    if extra is None:
        extra = budget if algorithm.get("min_glimpses") and algorithm.get("train_answers") is not False else 0
    every = int(stage.get("validate_every") or 0)
    validated = updates // every * counts.val if every else 0
    learning = float(algorithm.get("encoder_rate") or 0) > 0
    share = float(algorithm.get("encoder_share") or 1)
    encoded = 1 + (_OF_UPDATES * int(algorithm.get("n_epochs") or 1) * share if learning else 0)
    looks = sum({budget, *(stage.get("validate_glimpses") or ())})  # of a validation case
    glimpses = updates * rollouts * budget + updates // 4 * rollouts * int(extra) + validated * looks
    seen = min(updates * cases, counts.train) + (counts.val if validated else 0)  # overviews are read once, and kept
    return Part(name, glimpses, seen, encoded)


def _report(report: Mapping[str, Any], budget: int, counts: _Counts) -> Part:
    readers = [name for name in report.get("readers") or () if name not in ("full_scan", "overview")]
    return Part("report", (1 + len(readers)) * counts.test * budget, counts.test)


def _full_scan(report: Mapping[str, Any], counts: _Counts) -> Part:
    """Every patch of the foreground of every case, at the finest field of view, for the comparison at the end."""
    wanted = "full_scan" in (report.get("readers") or ())
    cases = counts.train + counts.val + counts.test
    return Part("full scan (report.readers)", round(counts.fine_patches * cases) if wanted else 0)


# ---------------------------------------------------------------------------------------------- what is computed
@torch.no_grad()
def _encode_seconds(policy: GlimpsePolicy, device: torch.device) -> tuple[float, float]:
    """Returns how long the encoder takes for a glimpse, and for an overview, on one image among several."""
    space: Any = policy.observation_space
    before, found = policy.device, []
    encoder = policy.encoder.eval().to(device)
    for name, batch in (("glimpse", _BATCH), ("overview", 1)):
        images = torch.zeros((batch, *space[name].shape), dtype=torch.uint8, device=device)
        times = []
        for _ in range(3):  # the first call is slower
            began = time.perf_counter()
            encoder(images).sum().item()  # which waits for the device
            times.append((time.perf_counter() - began) / batch)
        found.append(min(times))
    encoder.to(before)
    return found[0], found[1]


def _feature_bytes(settings: Mapping[str, Any], policy: GlimpsePolicy, parts: Sequence[Part], counts: _Counts) -> int:
    """Returns what the features of an encoder that is not trained take on disk: each place once, in half precision.

    Glimpses in random views are of one run, but they are kept, too. What exceeds `features_cache.gigabytes` is removed.
    """
    store = settings.get("features_cache")
    trained = any(weight.requires_grad for weight in policy.encoder.parameters())
    if not isinstance(store, Mapping) or trained or not getattr(policy.encoder, "costly", False):
        return 0
    each = _BYTES.get(str(store.get("precision")), 2)
    embed = int(policy.encoder.embed)
    cells = len(policy.cells)
    cases = counts.train + counts.val + counts.test
    glimpses = sum(part.glimpses for part in parts if not part.name.startswith("joint"))
    needed = each * embed * (glimpses * _pooled(policy) + cases * cells)
    return min(needed, int(float(store.get("gigabytes") or 0) * 2**30))


def _pooled(policy: GlimpsePolicy) -> int:
    """Returns how many numbers per feature the pooled map of a glimpse has."""
    space: Any = policy.observation_space
    image = torch.zeros((1, *space["glimpse"].shape), dtype=torch.uint8)
    return max(1, policy.summary_in_chunks(image).shape[-1] // int(policy.encoder.embed))


def _free(folder: Path) -> int:
    """Returns the free bytes of the disk on which a folder lies, or would."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
