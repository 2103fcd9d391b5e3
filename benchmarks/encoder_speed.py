"""Glimpses per second of the built-in encoders, beside a small one, in float32 and in bfloat16.

python -m benchmarks.encoder_speed

Glimpses have the environment's size and hold noise. Batches are encoded without gradients, in turns, so that what else
the machine does disturbs all encoders alike; the median of the rounds is given. The small encoder is that of
`benchmarks.probe`. EfficientNet-Lite1 and 2 need the extra `encoders`.
"""

import argparse
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.common import Benchmark, Row, figure, parser, table
from benchmarks.probe import SMALL
from glimpse.modalities import find_modality
from glimpse.settings.building import build
from glimpse.settings.composing import composed

NAME = "encoder_speed"
_PLANES = {
    "small": ["network/encoder=small"],
    "efficientnet_lite0, stride 8": ["network/encoder=efficientnet_lite0", "network.encoder.stride=8"],
    "efficientnet_lite0, stride 16": ["network/encoder=efficientnet_lite0", "network.encoder.stride=16"],
    "efficientnet_lite0, stride 32": ["network/encoder=efficientnet_lite0", "network.encoder.stride=32"],
    "efficientnet_lite1, stride 16": ["network/encoder=efficientnet_lite1", "network.encoder.stride=16"],
    "efficientnet_lite2, stride 16": ["network/encoder=efficientnet_lite2", "network.encoder.stride=16"],
}
_VOLUMES = {
    "small": ["network/encoder=small"],
    "planar": ["network/encoder=planar"],
    "axial": ["network/encoder=axial"],
}
ENCODERS = {"wsi": _PLANES, "xray": _PLANES, "photo": _PLANES, "mri": _VOLUMES, "ct": _VOLUMES}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--env", nargs="+", choices=list(ENCODERS), default=["wsi", "mri"], help="default: wsi mri")
    made.add_argument("--batch", type=int, default=64, help="glimpses that are encoded at once (default: 64)")
    made.add_argument("--rounds", type=int, default=5, help="default: 5")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    for env in bench.options.env:
        shared = {"env": env, "batch": bench.options.batch, "rounds": bench.options.rounds}
        if bench.results.find(**shared) is None:
            for row in _measure(bench, env):
                settings = {**shared, "encoder": row.pop("encoder")}
                bench.results.put(settings, **row)
    report(bench)


def _measure(bench: Benchmark, env: str) -> list[Row]:
    given, modality = bench.options, find_modality(env)
    ndim = 3 if ENCODERS[env] is _VOLUMES else 2
    size = [modality.glimpse_size] * ndim if isinstance(modality.glimpse_size, int) else list(modality.glimpse_size)
    channels = 3 if env in ("wsi", "photo") else 1
    batch, rounds = (2, 1) if given.quick else (given.batch, given.rounds)
    images = torch.randint(256, (batch, channels, *size), dtype=torch.uint8, device=given.device)
    encoders = {name: _encoder(env, name, channels, ndim).to(given.device).eval() for name in ENCODERS[env]}
    seconds: dict[tuple[str, str], list[float]] = {(name, kind): [] for name in encoders for kind in TYPES}
    for _ in range(1 + rounds):  # the first one warms up
        for (name, kind), taken in seconds.items():
            taken.append(_seconds(encoders[name], images, TYPES[kind]))
    rates = {key: batch / median(taken[1:]) for key, taken in seconds.items()}
    rows: list[Row] = []
    for name in encoders:
        found = {f"glimpses per second, {kind}": rates[name, kind] for kind in TYPES}
        share = rates[name, "float32"] / rates["small", "float32"]
        rows.append({"encoder": name, **found, "of the small one's": share, "size": "x".join(map(str, size))})
    return rows


def _encoder(env: str, name: str, channels: int, ndim: int) -> nn.Module:
    overrides = [*ENCODERS[env][name]]
    if name == "small":
        overrides += [f"network.encoder.{key}={list(values)}" for key, values in SMALL[env].items()]
    config: Any = composed(f"env={env}", *overrides)
    return build(config.network.encoder)(channels, ndim)


@torch.inference_mode()
def _seconds(encoder: nn.Module, images: torch.Tensor, kind: torch.dtype) -> float:
    began = time.perf_counter()
    with torch.autocast(images.device.type, kind, enabled=kind is not torch.float32):
        encoder(images).float().sum().item()  # waits for a device, too
    return time.perf_counter() - began


def report(bench: Benchmark) -> None:
    """Prints a line per environment and encoder, and draws the rates."""
    rows = bench.results.rows
    names = [*(f"glimpses per second, {kind}" for kind in TYPES), "of the small one's"]
    header = ("env, encoder", "glimpse", *names)
    print(table(header, [[f"{row['env']}, {row['encoder']}", row["size"], *(row[one] for one in names)]
                         for row in rows]))  # fmt: skip
    shown = [f"{row['env']}, {row['encoder']}" for row in rows][::-1]
    made, axes = figure(7.2, 1.2 + 0.3 * len(shown))
    for kind, marker in zip(TYPES, "o|", strict=True):
        axes.plot([row[f"glimpses per second, {kind}"] for row in rows][::-1], range(len(rows)), marker, label=kind)
    axes.set(xscale="log", xlabel="glimpses per second", yticks=range(len(shown)), yticklabels=shown)
    axes.legend()
    bench.picture(made)


if __name__ == "__main__":
    main()
