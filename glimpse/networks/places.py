"""Finds features of glimpses by case and place, so that neither pixels are read nor the encoder is run again."""

import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from glimpse.networks.feature_store import Shelf
from glimpse.networks.kept import digest_of, stacked
from glimpse.networks.segments import KEY_BYTES
from glimpse.sources import ImageSource
from glimpse.views import Views

_VERSION = 1  # of what sources show at a place; another number leaves all earlier places aside
_SHELF = "places"


@dataclass(frozen=True, eq=False)
class Glanced:
    """Glimpses of one case, of which only those were read whose features are not known.

    Attributes:
        known: pooled features of each glimpse, or None where it was read.
        images: uint8 (read, channel, *size), those that were read, in order.
        source: the case's image.
        keys: the key of each place; empty if places are not kept.
    """

    known: list[np.ndarray | None]
    images: np.ndarray
    source: ImageSource
    keys: list[bytes]


class KnownPlaces:
    """Looks up the pooled features of glimpses by what is read: the image's file, the place, the extent and the size.

    A place is kept with the digest of the pixels that were read there, and features are kept by that digest. So
    features are there once, whether they were asked for by their place or by their pixels. Places of images without
    files, and of those that cannot be read wholly, are not kept. It is safe from several threads.

    Args:
        features: the shelf of the encoder's pooled features; None keeps nothing, and every place is read.
    """

    def __init__(self, features: Shelf | None) -> None:
        self._features = features
        self._digests = None if features is None else features.store.shelf(_SHELF)

    @property
    def kept(self) -> bool:
        """Returns whether features are kept on disk at all."""
        return self._features is not None

    def glance(
        self,
        source: ImageSource,
        views: Views,
        count: int,
        regions: Callable[[], tuple[np.ndarray, np.ndarray]],
        read: Callable[[list[int]], np.ndarray],
        manner: str = "glimpse",
    ) -> Glanced:
        """Looks up the glimpses at some places of one case, and reads those that are missing.

        Args:
            source: the case's image.
            views: says the size of glimpses.
            count: how many glimpses there are.
            regions: returns their centres and extents in level-0 pixels, float64 (glimpse, d) each.
            read: takes the indices of the missing ones, of which there is at least one, and returns their pixels.
            manner: how `read` reads; places that are read in another manner are not taken for these.
        """
        identity = None if self._features is None else lasting_identity(source)
        found: list[np.ndarray | None] = [None] * count
        keys: list[bytes] = []
        if self._features is not None and self._digests is not None and identity is not None:
            of_all = repr((_VERSION, manner, identity, views.glimpse_size)).encode()
            places = np.concatenate(regions(), 1).astype("<f8")
            keys = [hashlib.blake2b(of_all + row.tobytes(), digest_size=KEY_BYTES).digest() for row in places]
            digests = {row: one.tobytes() for row, one in enumerate(self._digests.find(keys)) if one is not None}
            for row, one in zip(digests, self._features.find(list(digests.values())), strict=True):
                found[row] = one
        missing = [row for row, one in enumerate(found) if one is None]
        images = read(missing) if missing else np.zeros((0, source.channels, *views.glimpse_size), np.uint8)
        return Glanced(found, images, source, keys)

    def features(self, glanced: Sequence[Glanced], look: Callable[[Tensor], Tensor]) -> Float[Tensor, "glimpse pooled"]:
        """Returns the pooled features of all glimpses, in order, and keeps the places of those that were read.

        Args:
            glanced: what `glance` returned, case by case.
            look: takes the images that were read, uint8 (read, channel, *size) in main memory, and returns their pooled
                features; it keeps them by their content (see `KeptFeatures`).
        """
        images = np.concatenate([one.images for one in glanced])
        if not any(row is not None for one in glanced for row in one.known):
            made = look(torch.from_numpy(images))
            self._keep(glanced)
            return made
        new = iter(look(torch.from_numpy(images)).cpu().numpy() if len(images) else ())
        rows = [next(new) if row is None else row for one in glanced for row in one.known]
        self._keep(glanced)
        return stacked(rows)

    def _keep(self, glanced: Sequence[Glanced]) -> None:
        for one in glanced:
            if self._digests is not None and one.keys and lasting_identity(one.source) is not None:
                keys = [key for key, known in zip(one.keys, one.known, strict=True) if known is None]
                self._digests.keep(keys, [np.frombuffer(digest_of(image), np.uint8) for image in one.images])


def lasting_identity(source: ImageSource) -> Hashable | None:
    """Returns the source's `lasting_identity`, with the name of its class; None if there is none that can be written.

    A plain value looks the same in every process when it is written as a text; others may not.
    """
    identity = source.lasting_identity
    return (type(source).__qualname__, identity) if identity is not None and _is_plain(identity) else None


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return all(one.repr and _is_plain(getattr(value, one.name)) for one in fields)
    return value is None or isinstance(value, bool | int | float | str | bytes)
