"""What an encoder sees: a linear probe tells the two kinds of spots of an embedded cohort apart by its features.

python -m benchmarks.probe --env mri

Each spot of `regions.csv` is read as a glimpse of the environment, with the spot in its middle. Features are pooled
over cells (mean and maximum), standardised, and a logistic regression learns from spots of training cases; its AUC on
those of test cases is printed. Where filters with random weights, or mere statistics, tell the kinds apart, a cohort
proves little about encoders; where training with labels of spots does not, it asks for what cannot be seen.
"""

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.common import Benchmark, figure, parser, table
from glimpse.errors import UserError
from glimpse.geometry import Extent
from glimpse.modalities import Modality, find_modality
from glimpse.networks import ConvEncoder, EfficientNetLite0
from glimpse.sources import open_source

NAME = "probe"
SIZES = {"xray": 512, "photo": 768, "mri": 96, "ct": 120, "wsi": 1024}  # of images, with --quick
KINDS = {
    "xray": ("nodule", "lookalike"),
    "mri": ("lesion", "lookalike"),
    "ct": ("lesion", "lookalike"),
    "photo": ("microaneurysm", "lookalike"),
    "wsi": ("tumour focus", "look-alike"),
}
WIDE: dict[str, Any] = {"widths": (16, 32, 64, 128), "strides": (1, 2, 2, 2)}
SHALLOW: dict[str, Any] = {"widths": (16, 128), "kernels": (3, 4), "strides": (1, 2)}
_FINE: dict[str, Any] = {"strides": (1, 2, 2, 2)}
SMALL: dict[str, dict[str, Any]] = {"xray": _FINE, "photo": _FINE, "mri": SHALLOW, "ct": SHALLOW, "wsi": {}}
_PLANE = 96  # pixels that a plane of a volume is enlarged to
_BATCH = 32
_STEPS = 400


@dataclass(frozen=True)
class Spots:
    """Glimpses of spots: uint8 (spot, channel, *size), whether each is of the first kind, and its split."""

    glimpses: np.ndarray
    first: np.ndarray
    splits: np.ndarray

    def of(self, split: str) -> "Spots":
        """Those of one split."""
        chosen = self.splits == split
        return Spots(self.glimpses[chosen], self.first[chosen], self.splits[chosen])

    @property
    def ndim(self) -> int:
        """2 for planes, 3 for volumes."""
        return self.glimpses.ndim - 2


Features = Callable[[np.ndarray], np.ndarray]
"""Features (spot, feature) of glimpses (spot, channel, *size)."""


# ---------------------------------------------------------------------------------------------- reading
def read_spots(manifest: Path, modality: Modality, kinds: Sequence[str], options: Mapping[str, Any]) -> Spots:
    """Reads a glimpse around every spot of two kinds, in the cases of training and testing.

    Args:
        manifest: `cohort.csv`, beside which lies `regions.csv` (slide_id, kind, [z,] y, x, radius).
        modality: whose glimpses are read.
        kinds: the kind that is sought, and the other one; spots of further kinds are left out.
        options: of the source, beside those that the modality has.

    Raises:
        UserError: the cohort has no `regions.csv`, or no spots of a kind in one of the two splits.
    """
    regions = manifest.parent / "regions.csv"
    if not regions.exists():
        raise UserError(f"{regions} is missing: a probe needs it. Give --cohort the CSV of a cohort that has one.")
    cases = {row["slide_id"]: row for row in _rows(manifest) if row["split"] in ("train", "test")}
    assert modality.source is not None, "drawn images have no spots"
    given = {name: value for name, value in {**modality.options, **options}.items() if value is not None}
    extents = modality.glimpse_extents
    extent = Extent.parse(extents[0] if isinstance(extents, Sequence) and not isinstance(extents, str) else extents)
    found: list[tuple[np.ndarray, bool, str]] = []
    source, opened = None, ""
    for row in _rows(regions):
        case = cases.get(row["slide_id"])
        if case is None or row["kind"] not in kinds:
            continue
        if source is None or case["path"] != opened:
            source = open_source(manifest.parent / case["path"], reader=modality.reader or modality.name, **given)
            opened = case["path"]
        center = [float(row[axis]) for axis in ("z", "y", "x") if axis in row]
        side = modality.glimpse_size
        size = (side,) * source.ndim if isinstance(side, int) else tuple(side)
        glimpse = source.read(center, extent.to_pixels(source.frame), size)
        found.append((glimpse, row["kind"] == kinds[0], case["split"]))
    for split in ("train", "test"):
        if {first for _, first, of in found if of == split} != {True, False}:
            named = " and ".join(kinds)
            raise UserError(f"{regions}: no spots of both {named} in cases of {split}. Name others by --kinds.")
    glimpses, first, splits = zip(*found, strict=True)
    return Spots(np.stack(glimpses), np.array(first), np.array(splits))


def embedded_spots(
    environment: str, quick: bool, kinds: Sequence[str] | None = None, **making: Any
) -> tuple[Path, Spots]:
    """Returns the CSV of an environment's embedded cohort, which is made if need be, and its spots.

    Args:
        environment: such as "wsi".
        quick: whether to take a small cohort of small images.
        kinds: of the spots; None for those of the cohort.
        **making: how the cohort is made, beside that.
    """
    modality = find_modality(environment)
    maker = modality.maker()
    assert maker is not None, "medical environments have embedded cohorts"
    small = {"n": 12, "size": SIZES[environment]} if quick else {}
    manifest = Path(maker(progress=True, **small, **making))
    return manifest, read_spots(manifest, modality, kinds or KINDS[environment], modality.synthetic_options)


def _rows(path: Path) -> Iterable[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


# ---------------------------------------------------------------------------------------------- features
def pooled(encoder: nn.Module, glimpses: np.ndarray) -> np.ndarray:
    """Mean and maximum of an encoder's feature maps over their cells, (spot, 2 embed)."""
    rows = []
    with torch.inference_mode():
        for start in range(0, len(glimpses), _BATCH):
            features = encoder(torch.from_numpy(glimpses[start : start + _BATCH])).flatten(2)
            rows.append(torch.cat([features.mean(-1), features.amax(-1)], 1).numpy())
    return np.concatenate(rows)


def random_features(channels: int, ndim: int, seed: int, **settings: Any) -> Features:
    """Those of a network that has learned nothing."""
    torch.manual_seed(seed)
    encoder = ConvEncoder(channels, ndim, channels_last=False, **settings).eval()
    return lambda glimpses: pooled(encoder, glimpses)


def pretrained_features(ndim: int, stride: int) -> Features:
    """Those of EfficientNet-Lite0, of every channel where there are not three; of volumes, in their middle planes."""
    encoders = {channels: EfficientNetLite0(channels, stride=stride).eval() for channels in (1, 3)}

    def features(glimpses: np.ndarray) -> np.ndarray:
        images = planes(glimpses) if ndim == 3 else [glimpses]
        channels = images[0].shape[1]
        parts = [images] if channels in (1, 3) else [[one[:, [c]] for one in images] for c in range(channels)]
        return np.concatenate([pooled(encoders[one.shape[1]], one) for part in parts for one in part], 1)

    return features


def planes(glimpses: np.ndarray) -> list[np.ndarray]:
    """The three orthogonal planes through the middle of volumes, each enlarged to a square, uint8."""
    made = []
    for axis in range(3):
        middle = glimpses.shape[2 + axis] // 2
        plane = torch.from_numpy(np.ascontiguousarray(glimpses.take(middle, 2 + axis))).float()
        larger = nn.functional.interpolate(plane, size=(_PLANE, _PLANE), mode="bilinear", align_corners=False)
        made.append(larger.round().to(torch.uint8).numpy())
    return made


def statistics(glimpses: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, quantiles and logarithms of the power spectrum in rings, of every channel."""
    values = glimpses.astype(np.float32)
    axes = tuple(range(2, values.ndim))
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in values.shape[2:]), indexing="ij")
    ring = np.minimum((np.sqrt(sum(f**2 for f in frequencies)) * 32).astype(int), 16).ravel()
    power = np.abs(np.fft.fftn(values - values.mean(axes, keepdims=True), axes=axes)) ** 2
    power = power.reshape(*values.shape[:2], -1)
    rings = [np.log(power[..., ring == number].mean(-1) + 1e-3) for number in np.unique(ring)]
    quantiles = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95), axes)
    return np.concatenate([values.mean(axes), values.std(axes), *rings, *quantiles], 1)


# ---------------------------------------------------------------------------------------------- scores
def linear_probe(train: Spots, test: Spots, features: Features) -> np.ndarray:
    """Scores of test spots by a logistic regression on standardised features of training spots."""
    learned = features(train.glimpses)
    shift, spread = learned.mean(0), learned.std(0) + 1e-6
    regression = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
    regression.fit((learned - shift) / spread, train.first)
    return regression.decision_function((features(test.glimpses) - shift) / spread)


def supervised(train: Spots, test: Spots, steps: int = _STEPS, seed: int = 0) -> np.ndarray:
    """Scores of test spots by a small network that learns from the kinds of training spots, turned over at random."""
    torch.manual_seed(seed)
    channels, ndim = train.glimpses.shape[1], train.ndim
    network = nn.Sequential(
        ConvEncoder(channels, ndim, widths=(16, 32, 64, 64), strides=(1 if ndim == 3 else 2, 2, 2, 1)),
        nn.Flatten(2),
        _MeanAndMaximum(),
        nn.Linear(128, 1),
    )
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(train.first), np.flatnonzero(~train.first)]
    target = torch.cat([torch.ones(_BATCH // 2), torch.zeros(_BATCH // 2)])
    for _ in range(steps):
        batch = torch.from_numpy(train.glimpses[np.concatenate([rng.choice(group, _BATCH // 2) for group in groups])])
        batch = batch.flip([2 + axis for axis in range(ndim) if rng.random() < 0.5])
        loss = nn.functional.binary_cross_entropy_with_logits(network(batch)[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(part)) for part in np.array_split(test.glimpses, -(-len(test.first) // _BATCH))
        ]
    return torch.cat(parts)[:, 0].numpy()


class _MeanAndMaximum(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([features.mean(-1), features.amax(-1)], 1)


def scores_of(
    encoder: str, environment: str, train: Spots, test: Spots, seed: int = 0, steps: int = _STEPS
) -> np.ndarray:
    """Scores of test spots by one of `ENCODERS`."""
    channels, ndim = train.glimpses.shape[1], train.ndim
    if encoder == "supervised":
        return supervised(train, test, steps, seed)
    if encoder == "statistics":
        return linear_probe(train, test, statistics)
    if encoder.startswith("efficientnet"):
        stride = int(encoder.removeprefix("efficientnet_lite0_"))
        return linear_probe(train, test, pretrained_features(ndim, stride))
    settings = WIDE if encoder == "random_wide" else SMALL[environment]
    return linear_probe(train, test, random_features(channels, ndim, seed, **settings))


ENCODERS = ("statistics", "random", "random_wide", "efficientnet_lite0_8", "efficientnet_lite0_16", "supervised")
_SEEDED = ("random", "random_wide", "supervised")


# ---------------------------------------------------------------------------------------------- the command
def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--env", nargs="+", choices=sorted(KINDS), default=sorted(KINDS), help="default: all of them")
    made.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), help="default: all of them")
    made.add_argument("--cohort", type=Path, help="CSV of a cohort with regions.csv (default: the embedded one)")
    made.add_argument(
        "--kinds", nargs=2, help="the kind that is sought, and the other (default: the embedded cohort's)"
    )
    made.add_argument("--windows", type=float, nargs=2, help="black and white of volumes in --cohort, such as 0 160")
    made.add_argument("--cases", type=int, help="of the embedded cohort (default: as many as the environment has)")
    made.add_argument("--seeds", type=int, default=3, help="of networks with random weights (default: 3)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    given = bench.options
    if given.cohort and len(given.env) > 1:
        bench.error("--cohort is of one environment: give --env, too")
    if given.windows and (not given.cohort or given.env[0] not in ("mri", "ct")):
        bench.error("--windows is of a cohort of volumes: give --cohort and --env mri or ct, too")
    for environment in given.env:
        _probe(bench, environment)
    report(bench)


def _probe(bench: Benchmark, environment: str) -> None:
    given = bench.options
    missing = [one for one in given.encoders if given.quick or not bench.results.find(env=environment, encoder=one)]
    if not missing:
        return
    if given.cohort:
        kinds = given.kinds or KINDS[environment]
        spots = read_spots(given.cohort, find_modality(environment), kinds, {"windows": given.windows})
    else:
        making = {} if given.quick or not given.cases else {"n": given.cases}
        _, spots = embedded_spots(environment, given.quick, given.kinds, **making)
    train, test = spots.of("train"), spots.of("test")
    for encoder in missing:
        seeds = range(given.seeds if encoder in _SEEDED and not given.quick else 1)
        steps = 2 if given.quick else _STEPS
        scores = [scores_of(encoder, environment, train, test, seed, steps) for seed in seeds]
        found = [float(roc_auc_score(test.first, one)) for one in scores]
        bench.results.put(
            {"env": environment, "encoder": encoder},
            auc=float(np.mean(found)),
            low=min(found),
            high=max(found),
            train=len(train.first),
            test=len(test.first),
        )
        print(f"{environment}, {encoder}: {np.mean(found):.3f}", flush=True)


def report(bench: Benchmark) -> None:
    rows = bench.results.rows
    environments = list(dict.fromkeys(row["env"] for row in rows))
    auc = {(row["encoder"], row["env"]): row["auc"] for row in rows}
    lines = [[one, *(auc.get((one, env)) for env in environments)] for one in ENCODERS]
    print(table(["AUC of spots", *environments], lines))
    made, axes = figure()
    for env in environments:
        places = [(auc[one, env], i) for i, one in enumerate(ENCODERS) if (one, env) in auc]
        axes.plot(*zip(*places, strict=True), "o", label=env)
    axes.set_yticks(range(len(ENCODERS)), ENCODERS)
    axes.axvline(0.5, color="0.5", linewidth=1)
    axes.set_xlabel("AUC of spots in test cases")
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
