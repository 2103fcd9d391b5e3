"""A small convolutional network on whole images, reduced to a fixed size: what benchmarks compare the agent with."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glimpse.cohort import Case

_CHANNELS = (16, 32, 64, 64, 128)  # of blocks, each of which halves the image
_BATCH, _RATE, _DECAY = 16, 1e-3, 1e-4
_LAYOUT = torch.channels_last  # takes six tenths of the time
_WARM = 0.05  # share of the steps in which the learning rate rises


class SmallNetwork(nn.Sequential):
    """Blocks of a convolution of stride 2, batch normalisation and ReLU; the maximum over the image; a linear layer.

    The maximum rather than the mean: it does not thin out what is small.

    Args:
        channels: of the images.
        classes: number of outputs.
    """

    def __init__(self, channels: int, classes: int) -> None:
        layers: list[nn.Module] = []
        for width in _CHANNELS:
            layers += [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        super().__init__(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def accuracy_of_whole_images(
    train: Sequence[Case],
    test: Sequence[Case],
    classes: int,
    *,
    side: int,
    passes: float,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, float]:
    """Trains the network on all images of a split, for so many passes through them, and tests it.

    The learning rate rises, and then falls to 0 along half a cosine; at least two steps are made.

    Args:
        train: images to learn from, with classes as targets.
        test: images to test on.
        classes: their number.
        side: pixels per side to which images are reduced.
        passes: through the training images; 0.5 sees half of them once.
        seed: of weights and order.
        device: where it computes.
        threads: that read images ahead.

    Returns:
        "accuracy" on the test images, "accuracy_train" on the last 512 images of training, each as it was learned from,
        "passes" as they were made, and "seconds" of training, reading included.
    """
    torch.manual_seed(seed)
    network = SmallNetwork(train[0].source.channels, classes).to(device, memory_format=_LAYOUT)
    optimizer = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
    batch, started, right = min(_BATCH, len(train)), time.perf_counter(), list[bool]()
    steps = max(round(passes * len(train) / batch), 2)
    order = itertools.islice(_endless(len(train), seed), steps)
    with ThreadPoolExecutor(threads) as pool:
        for step, (images, targets) in enumerate(_batches(train, side, order, pool)):
            passed = step / steps
            for group in optimizer.param_groups:
                group["lr"] = _RATE * min((step + 1) / steps / _WARM, 1) * (1 + math.cos(math.pi * passed)) / 2
            outputs = network(_input(images, device))
            optimizer.zero_grad()
            F.cross_entropy(outputs, targets.to(device)).backward()
            optimizer.step()
            right += (outputs.argmax(1).cpu() == targets).tolist()
        spent = time.perf_counter() - started
        found = _tested(network, test, side, device, pool)
    return {
        "accuracy": found,
        "accuracy_train": float(np.mean(right[-512:])),
        "passes": steps * batch / len(train),
        "seconds": spent,
    }


@torch.no_grad()
def _tested(network: nn.Module, cases: Sequence[Case], side: int, device: str, pool: ThreadPoolExecutor) -> float:
    network.eval()
    order = (range(start, min(start + _BATCH, len(cases))) for start in range(0, len(cases), _BATCH))
    right = [
        network(_input(images, device)).argmax(1).cpu() == targets
        for images, targets in _batches(cases, side, order, pool)
    ]
    return float(torch.cat(right).float().mean())


def _input(images: Tensor, device: str) -> Tensor:
    return images.to(device, torch.float32, memory_format=_LAYOUT) / 255


def _endless(count: int, seed: int) -> Iterator[Sequence[int]]:
    """Batches of indices in a random order, over and over; the last ones of a pass that fill no batch are left out."""
    rng, batch = np.random.default_rng(seed), min(_BATCH, count)
    while True:
        order = rng.permutation(count).tolist()
        yield from (order[start : start + batch] for start in range(0, count - batch + 1, batch))


def _batches(
    cases: Sequence[Case], side: int, order: Iterator[Sequence[int]], pool: ThreadPoolExecutor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images, uint8 (batch, channel, side, side), and targets (batch,); the next batch is read while one is used."""

    def read(index: int) -> np.ndarray:
        return cases[index].source.overview((side, side))

    def begun(indices: Sequence[int]) -> tuple[list, Tensor]:
        return [pool.submit(read, index) for index in indices], torch.tensor([cases[index].target for index in indices])

    ahead = begun(next(order))
    for indices in order:
        (reads, targets), ahead = ahead, begun(indices)
        yield torch.from_numpy(np.stack([one.result() for one in reads])), targets
    reads, targets = ahead
    yield torch.from_numpy(np.stack([one.result() for one in reads])), targets
