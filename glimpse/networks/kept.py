"""Keeps the features of images that an encoder has seen before, for encoders that are not trained."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glimpse.sources.caches import features

_BYTES = 16  # of a digest
_PIXELS = 1 << 15  # are encoded at once; larger batches are not quicker
_PLAIN = (bool, int, float, str, tuple)  # attributes of a module that may change what it computes


class KeptFeatures:
    """Looks up the features of images in the process's cache of features, and computes only those that are missing.

    The cache is keyed by the content of images and by the encoder's parameters and options, so that it stays right if
    these change. Images are encoded in batches of one size, filled up with copies, because rounding depends on the size
    of a batch: so the features of an image do not depend on what else is missing. Only images in main memory are looked
    up: on a GPU, encoding takes less time than copying.
    """

    def __init__(self) -> None:
        self._versions: Any = None
        self._digest = b""

    def of(self, encoder: nn.Module, images: Tensor, kind: str, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns the features of images.

        Args:
            encoder: The encoder.
            images: uint8 (batch, channel, *size).
            kind: What is computed; features of different kinds are kept apart.
            compute: Takes some of the images and returns their features (some, ...), one row for each.
        """
        low = any(tensor.dtype == torch.bfloat16 for tensor in encoder.parameters())  # numpy has no such numbers
        if images.device.type != "cpu" or not len(images) or low:
            return compute(images)
        prefix = (kind, self._fingerprint(encoder), images.shape[1:])
        keys = [(*prefix, _digest_of(image)) for image in images.numpy()]
        found = [features.find(key) for key in keys]
        missing = {key: row for row, (key, one) in enumerate(zip(keys, found, strict=True)) if one is None}
        if missing:
            at_once = max(1, _PIXELS // images[0, 0].numel())
            rows = torch.tensor(list(missing.values())).split(at_once)
            filled = (torch.cat([part, part[-1:].expand(at_once - len(part))]) for part in rows)
            made = [one for part in filled for one in compute(images[part]).cpu().numpy()]
            new = {key: np.array(one) for key, one in zip(missing, made, strict=False)}
            for key, one in new.items():
                features.keep(key, one)
            found = [new[key] if one is None else one for key, one in zip(keys, found, strict=True)]
        return torch.from_numpy(np.stack(found))  # type: ignore[arg-type]

    def _fingerprint(self, encoder: nn.Module) -> bytes:
        """Returns a digest of the encoder's parameters and options; it is computed anew only if one of them changed.

        PyTorch does not count writes to a parameter's `data`, nor those of fused optimizers, so sums tell, too.
        """
        tensors = [*encoder.parameters(), *encoder.buffers()]
        plain = [{k: v for k, v in vars(part).items() if isinstance(v, _PLAIN)} for part in encoder.modules()]
        versions = [(tensor.data_ptr(), _version(tensor), _sum(tensor)) for tensor in tensors], plain
        if versions != self._versions:
            digest = hashlib.blake2b(f"{encoder} {plain}".encode(), digest_size=_BYTES)
            for tensor in tensors:
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            self._versions, self._digest = versions, digest.digest()
        return self._digest


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version  # made in `torch.inference_mode`: it is not counted


def _sum(tensor: Tensor) -> float:
    return tensor.detach().sum(dtype=torch.float64).item()


def _digest_of(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=_BYTES).digest()
