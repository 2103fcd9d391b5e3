"""Keeps the features of images that an encoder has seen before, for encoders that are not trained."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glimpse.networks.feature_store import FeatureStore, Shelf, store_in_use
from glimpse.networks.segments import KEY_BYTES
from glimpse.sources.caches import features

_VERSION = 2  # of what features on disk are; another number leaves all earlier ones aside
_PIXELS = {"cpu": 1 << 15}  # are encoded at once; larger batches are not quicker
_MANY_PIXELS = 1 << 22  # on other devices
_PLAIN = (bool, int, float, str, tuple)  # attributes of a module that may change what it computes


class KeptFeatures:
    """Looks up the features of images in the process's cache of features, and computes only those that are missing.

    The cache is keyed by the content of images and by the encoder's parameters and options, so that it stays right if
    these change. Images are encoded in batches of one size, filled up with copies, because rounding depends on the size
    of a batch: so the features of an image do not depend on what else is missing. The encoder computes as in
    evaluation. Only images in main memory are looked up: on a GPU, encoding takes less time than copying.

    Features are also kept on disk, if a store is in use (see `glimpse.networks.feature_store`), the encoder has a true
    attribute `costly`, and its parameters are those that it was made with. They are rounded to the store's precision
    also when they are computed, so that they are the same numbers when they are read.

    Args:
        encoder: The encoder as it was made, before anything has trained it.
    """

    def __init__(self, encoder: nn.Module | None = None) -> None:
        self._known: tuple[Any, bytes, bytes] = (None, b"", b"")  # versions of the parameters, and two digests
        self._unchanged, self._held = False, (b"", b"")  # the digests, while the encoder is said not to change
        costly = encoder is not None and getattr(encoder, "costly", False)
        self._untrained = _digest_of_tensors(_tensors(encoder)) if costly and encoder is not None else None

    def of(
        self,
        encoder: nn.Module,
        images: Tensor,
        kind: str,
        compute: Callable[[Tensor], Tensor],
        pixels: int | None = None,
    ) -> Tensor:
        """Returns the features of images.

        Args:
            encoder: The encoder.
            images: uint8 (batch, channel, *size).
            kind: What is computed; features of different kinds are kept apart.
            compute: Takes some of the images and returns their features (some, ...), one row for each.
            pixels: How many pixels of an image the encoder sees; by default those that it has.
        """
        low = any(tensor.dtype == torch.bfloat16 for tensor in encoder.parameters())  # numpy has no such numbers
        if images.device.type != "cpu" or not len(images) or low:
            with _evaluating(encoder):
                return compute(images)
        weights, whole = self._digests(encoder)
        shelf = self._shelf(encoder, kind, images.shape[1:], weights, whole)
        prefix = (kind, whole, images.shape[1:], None if shelf is None else shelf.store.precision)
        digests = [digest_of(image) for image in images.numpy()]
        keys = [(*prefix, digest) for digest in digests]
        found = [features.find(key) for key in keys]
        if shelf is not None:
            rows = [row for row, one in enumerate(found) if one is None]
            for row, one in zip(rows, shelf.find([digests[row] for row in rows]), strict=True):
                if one is not None:
                    found[row] = one
                    features.keep(keys[row], one)
        missing = {key: row for row, (key, one) in enumerate(zip(keys, found, strict=True)) if one is None}
        if missing:
            each = pixels or images[0, 0].numel()
            made = self._computed(encoder, images[list(missing.values())], compute, each)
            if shelf is not None:
                # In the order of axes in which it is read again: sums of another order are rounded differently.
                made = [np.ascontiguousarray(shelf.store.rounded(one)) for one in made]
                shelf.keep([key[-1] for key in missing], made)
            new = dict(zip(missing, made, strict=True))
            for key, one in new.items():
                features.keep(key, one)
            found = [new[key] if one is None else one for key, one in zip(keys, found, strict=True)]
        return stacked(found)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Inside, the encoder is taken not to change: whether it has is looked up once, and not with each image."""
        before = self._unchanged, self._held
        self._unchanged, self._held = True, (b"", b"")
        try:
            yield
        finally:
            self._unchanged, self._held = before

    @staticmethod
    def _computed(
        encoder: nn.Module, images: Tensor, compute: Callable[[Tensor], Tensor], pixels: int
    ) -> list[np.ndarray]:
        """Computes the features of images in batches of one size; the encoder sees so many pixels of each image."""
        device = next((tensor.device.type for tensor in _tensors(encoder)), "cpu")
        at_once, made = max(1, _PIXELS.get(device, _MANY_PIXELS) // pixels), []
        with _evaluating(encoder):
            for part in images.split(at_once):
                filled = torch.cat([part, part[-1:].expand(at_once - len(part), *part.shape[1:])])
                made += list(compute(filled).cpu().numpy()[: len(part)])
        return [np.array(one) for one in made]  # each of them alone, not a view of the batch

    def shelf(self, encoder: nn.Module, kind: str, shape: tuple[int, ...]) -> Shelf | None:
        """Returns where features of images of a shape (channel, *size) are kept on disk; None if they are not."""
        return None if self._store(encoder) is None else self._shelf(encoder, kind, shape, *self._digests(encoder))

    def _shelf(
        self, encoder: nn.Module, kind: str, shape: tuple[int, ...], weights: bytes, whole: bytes
    ) -> Shelf | None:
        store = self._store(encoder)
        if store is None or weights != self._untrained:
            return None
        device = next((tensor.device.type for tensor in _tensors(encoder)), "cpu")
        what = (_VERSION, kind, whole, tuple(shape), device, store.precision)
        return store.shelf(hashlib.blake2b(repr(what).encode(), digest_size=KEY_BYTES).hexdigest())

    def _store(self, encoder: nn.Module) -> FeatureStore | None:
        """Returns the store in use, if the encoder is costly and computes in the precision that is kept."""
        store = store_in_use()
        if store is None or self._untrained is None or any(t.dtype != torch.float32 for t in encoder.parameters()):
            return None
        return store

    def _digests(self, encoder: nn.Module) -> tuple[bytes, bytes]:
        """Returns a digest of the parameters, and one of parameters and options.

        They are computed anew only if something changed. PyTorch does not count writes to a parameter's `data`, nor
        those of fused optimizers, so sums tell, too.
        """
        if self._unchanged and self._held[0]:
            return self._held
        tensors = _tensors(encoder)
        plain = [_plain(part) for part in encoder.modules()]
        versions = [(tensor.data_ptr(), _version(tensor), _sum(tensor)) for tensor in tensors], plain
        known, weights, whole = self._known  # one attribute: another thread never sees a half of it
        if versions != known:
            weights = _digest_of_tensors(tensors)
            text = f"{encoder} {plain}".encode()
            whole = hashlib.blake2b(text + weights, digest_size=KEY_BYTES).digest()
            self._known = versions, weights, whole
        self._held = held = weights, whole
        return held


def digest_of(image: np.ndarray) -> bytes:
    """Returns a digest of an image's pixels."""
    return hashlib.blake2b(image.tobytes(), digest_size=KEY_BYTES).digest()


def stacked(rows: list[Any]) -> Tensor:
    """Stacks features in the precision in which they are computed, although they may be kept in a lower one."""
    whole = np.stack(rows)
    return torch.from_numpy(whole.astype(np.float32) if whole.dtype == np.float16 else whole)


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    """Inside, all parts of an encoder are in evaluation mode."""
    training = [part for part in encoder.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _plain(part: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if isinstance(value, _PLAIN) and name != "training"}


def _tensors(encoder: nn.Module) -> list[Tensor]:
    return [*encoder.parameters(), *encoder.buffers()]


def _digest_of_tensors(tensors: list[Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version  # made in `torch.inference_mode`: it is not counted


def _sum(tensor: Tensor) -> float:
    return tensor.detach().sum(dtype=torch.float64).item()
