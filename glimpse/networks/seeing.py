"""How a network sees: the shared encoder, the pool that makes tokens of its maps, and cells of overviews."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from glimpse.errors import SettingsError
from glimpse.geometry import CellGrid
from glimpse.networks.adapters import learns
from glimpse.networks.cells import Cell, ImageCells
from glimpse.networks.encoder import LocationEmbedding, TokenPool, whole_cells
from glimpse.networks.kept import KeptFeatures
from glimpse.networks.pieces import recomputed
from glimpse.networks.places import KnownPlaces
from glimpse.networks.records import OWN_CONDUCT, Conduct
from glimpse.settings.options import at_least

Part = Callable[..., Any]
_FIXED = Conduct(train_encoder=False)
_MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@dataclass(frozen=True)
class Encoding:
    """How images are encoded. All but `view_cell` and `plain` change time and memory, and results by rounding only.

    Attributes:
        view_cell: Side of a cell of wide glimpses in their pixels, one number or one per axis, where there are several
            fields of view and it is to be narrower than the encoder's stride. None means the stride.
        plain: Cells of wide glimpses in which no channel varies by so much, of 255, are no places for finer glimpses.
            0 makes all of them places.
        chunk: How many glimpses are encoded at once in an update, or overviews of as many pixels; 0 encodes all of them
            at once. The chunks are encoded a second time in the backward pass, so that the gradient is exact and only
            one chunk is held in memory.
        autocast: Whether to encode in bfloat16, with `torch.autocast`. Parameters, and everything after the encoder,
            keep their precision.
        compile: Whether to compile the encoder with `torch.compile`. This takes minutes once; on some machines steps
            are faster afterwards.
    """

    view_cell: Cell = None
    plain: int = 8
    chunk: int = 0
    autocast: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        at_least("chunk", self.chunk, 0, whole=True)
        at_least("plain", self.plain, 0)


class SeeingNetwork(BasePolicy):
    """The part of a network that sees. It encodes overviews and glimpses with one encoder.

    Args:
        observation_space, action_space: As of `GlimpseNetwork`.
        encoder: `encoder(channels, ndim)` makes the encoder.
        cell: Side of a cell of overviews in pixels.
        zooms: Number of fields of view.
        width: Width of tokens.
        encoding: How the encoder is run.

    Attributes:
        grid: The cells of overviews.
        view_grid: The cells of wide glimpses.
    """

    cells: Tensor
    view_cells: Tensor

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Box,
        *,
        encoder: Part,
        cell: Cell,
        zooms: int,
        width: int | None,
        encoding: Encoding,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.encoding = encoding
        channels, *size = observation_space["overview"].shape or ()
        self._glimpse_shape = observation_space["glimpse"].shape or ()
        ndim = len(size)
        self.encoder = encoder(channels, ndim)
        if encoding.compile:
            self.encoder.compile(dynamic=True)
        self.kept = KeptFeatures(self.encoder)  # of encoders that are not trained
        if width is not None and width < 1:
            raise SettingsError(f"Expected network.width of at least 1, got {width}. Type network.width=null.")
        self.width = embed = width or self.encoder.embed
        self._overviews = ImageCells(self.encoder, size, cell)
        self._views = ImageCells(self.encoder, self._glimpse_shape[1:], encoding.view_cell, "view_cell")
        self.grid: CellGrid = self._overviews.grid
        self.view_grid: CellGrid = self._views.grid
        levels = 1 if zooms == 1 else 1 + zooms  # with several, overviews and each field of view have their own
        self.pool, self.position = TokenPool(self.encoder.embed, embed, levels), LocationEmbedding(ndim, embed)
        self.narrow = nn.Identity() if embed == self.encoder.embed else nn.Linear(self.encoder.embed, embed)
        for name, grid in (("cells", self.grid), ("view_cells", self.view_grid)):
            self.register_buffer(name, torch.from_numpy(grid.locations()), persistent=False)
        for axis, along in enumerate(self.grid.along_axes()):
            self.register_buffer(f"_axis_{axis}", torch.from_numpy(along).to(self.cells), persistent=False)

    @property
    def axes(self) -> list[Float[Tensor, "_"]]:
        """The coordinates of the overview's cells along each axis."""
        return [getattr(self, f"_axis_{axis}") for axis in range(len(self.grid.cells))]

    # ------------------------------------------------------------------------------------------ encoding
    def trains_encoder(self, conduct: Conduct = OWN_CONDUCT) -> bool:
        """Returns whether the encoder is trained: `conduct` says so, and any of its parameters trains at all."""
        return conduct.train_encoder and learns(self.encoder)

    def embed(self, images: Tensor) -> Float[Tensor, "batch embed"]:
        """Returns tokens of images (batch, channel, *size) that do not contain location and zoom."""
        return self.pool(self.encode(images))

    def encode(self, images: Tensor, conduct: Conduct = OWN_CONDUCT) -> Tensor:
        """Returns the feature map (batch, embed, *cells) of images; without gradient if `conduct` does not train it."""
        grad, low = torch.is_grad_enabled() and self.trains_encoder(conduct), self.encoding.autocast
        with torch.set_grad_enabled(grad), torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            return self.encoder(images).to(self.pool.project.weight.dtype)

    @torch.no_grad()
    def calibrate(self, images: Tensor, chunk: int = 256) -> None:
        """Sets the statistics of the `TokenPool` to those of a sample of glimpses, uint8 (batch, channel, *size)."""
        on_disk = self.kept.shelf(self.encoder, self._kind("pooled"), images.shape[1:]) is not None
        seen = self.look(images, conduct=_FIXED) if on_disk else self.summary_in_chunks(images, chunk)
        self.pool.calibrate(seen.to(self.device))

    def summary_in_chunks(
        self, images: Tensor, chunk: int = 256, conduct: Conduct = OWN_CONDUCT
    ) -> Float[Tensor, "batch pooled"]:
        """Returns the pooled features of images (batch, channel, *size), of which `chunk` are encoded at a time."""
        parts = (part.to(self.device) for part in images.split(chunk))
        return torch.cat([self.pool.summary(self.encode(part, conduct)) for part in parts])

    def look(
        self, glimpses: Tensor, rows: Int[Tensor, "some"] | None = None, conduct: Conduct = OWN_CONDUCT
    ) -> Float[Tensor, "batch pooled"]:
        """Encodes glimpses and pools their features; `glimpse_token` then makes tokens of the result.

        If the encoder is not trained, glimpses that were seen before are not encoded again (see `KeptFeatures`).

        Args:
            glimpses: uint8 (batch, channel, *size).
            rows: Indices of the glimpses to encode; None means all. At most one chunk of glimpses is copied at a time.
            conduct: Says whether the encoder is trained.
        """
        if not self.trains_encoder(conduct):
            chosen = glimpses if rows is None else glimpses[rows]
            return self.kept.of(
                self.encoder,
                chosen,
                self._kind("pooled"),
                lambda images: self.summary_in_chunks(images, conduct=conduct),
            )

        def shown(rows: Tensor) -> Tensor:
            return self.pool.summary(self.encode(glimpses[rows], conduct))

        chunk = self.encoding.chunk
        if not chunk or len(glimpses if rows is None else rows) <= chunk:
            return self.pool.summary(self.encode(glimpses, conduct)) if rows is None else shown(rows)
        parts = (torch.arange(len(glimpses), device=glimpses.device) if rows is None else rows).split(chunk)
        if torch.is_grad_enabled() and self.trains_encoder(conduct):
            return torch.cat([recomputed(lambda rows, _: shown(rows), part, self._trained) for part in parts])
        return torch.cat([shown(part) for part in parts])

    @property
    def _trained(self) -> nn.Parameter:
        """A parameter of the encoder that trains."""
        return next(parameter for parameter in self.encoder.parameters() if parameter.requires_grad)

    def known_places(self) -> KnownPlaces:
        """Returns what finds pooled features of glimpses by their places, as far as they are kept on disk."""
        return KnownPlaces(self.kept.shelf(self.encoder, self._kind("pooled"), self._glimpse_shape))

    def open_cells(self, foreground: Tensor) -> Bool[Tensor, "case cell"]:
        """Returns which cells contain any foreground, uint8 (case, 1, *size); if none does, all cells are open."""
        inside = _any_in_cells(foreground, self.grid)
        return inside | ~inside.any(1, keepdim=True)

    def open_view_cells(
        self, glimpses: Tensor, places: Float[Tensor, "glimpse cell d"]
    ) -> Bool[Tensor, "glimpse cell"]:
        """Returns which cells of wide glimpses may be looked at: those inside the image that are not plain.

        A cell of one pixel is plain where it and its neighbours are.

        Args:
            glimpses: uint8 (glimpse, channel, *size).
            places: The centres of their cells in [-1, 1]^d of the image.
        """
        pool, grid = _MAX_POOL[len(self.view_grid.side)], self.view_grid
        pixels = _edged(glimpses.to(self.device).float(), grid)
        window, padding = (grid.side, 0) if max(grid.side) > 1 else (3, 1)
        highest, lowest = (sign * pool(sign * pixels, window, grid.side, padding) for sign in (1, -1))
        plain = (highest - lowest).amax(1).flatten(1) < self.encoding.plain
        return ~plain & (places.abs() <= 1).all(-1)

    def blank_views(self, count: int) -> Tensor:
        """Returns zeros in place of the feature maps of `count` wide glimpses."""
        return self.pool.project.weight.new_zeros(count, self.encoder.embed, *self.view_grid.cells)

    def blank_features(self, count: int) -> Tensor:
        """Returns zeros in place of the feature maps of `count` overviews."""
        return self.pool.project.weight.new_zeros(count, self.encoder.embed, *self.grid.cells)

    def features(self, overview: Tensor, conduct: Conduct = OWN_CONDUCT) -> Tensor:
        """Returns the feature maps of overviews; if the encoder is not trained, each overview is encoded once."""
        return self._maps(overview, self._overviews, conduct)

    def view_features(self, glimpses: Tensor, conduct: Conduct = OWN_CONDUCT) -> Tensor:
        """Returns the feature maps (glimpse, features, *cells) of wide glimpses, uint8 (glimpse, channel, *size)."""
        return self._maps(glimpses, self._views, conduct)

    def overview_map(self, overview: Tensor) -> Tensor:
        """Returns the feature maps of overviews without looking for them among those that are kept."""
        return self.encode(self._overviews.enlarged(overview))

    def view_map(self, glimpses: Tensor) -> Tensor:
        """Returns the feature maps of wide glimpses without looking for them among those that are kept."""
        return self.encode(self._views.enlarged(glimpses))

    @property
    def glimpse_shape(self) -> tuple[int, ...]:
        """The shape of a glimpse, (channel, *size)."""
        return self._glimpse_shape

    def _maps(self, images: Tensor, cells: ImageCells, conduct: Conduct) -> Tensor:
        def encoded(images: Tensor) -> Tensor:
            return self.encode(cells.enlarged(images.to(self.device)), conduct)

        if not self.trains_encoder(conduct):
            kind = f"map, cells of {cells.grid.side}" if cells.enlarges else "map"
            return self.kept.of(self.encoder, images, self._kind(kind), encoded, cells.pixels)
        parts = images.split(self._at_once(images, cells))
        if len(parts) == 1:
            return encoded(images)
        if torch.is_grad_enabled():
            return torch.cat([recomputed(lambda images, _: encoded(images), part, self._trained) for part in parts])
        return torch.cat([encoded(part) for part in parts])

    def _at_once(self, images: Tensor, cells: ImageCells) -> int:
        """Returns how many images have as many pixels as a chunk of glimpses, one at least; all without chunks.

        Pixels are those that the encoder sees, of images that are enlarged so that cells are narrow.
        """
        pixels = self.encoding.chunk * math.prod(self._glimpse_shape[1:])
        return max(1, pixels // cells.pixels) if self.encoding.chunk else max(1, len(images))

    def _kind(self, name: str) -> str:
        return f"{name}, bfloat16" if self.encoding.autocast else name


def _any_in_cells(mask: Tensor, grid: CellGrid) -> Bool[Tensor, "batch cell"]:
    """Returns which cells have a number above 0 in a mask (batch, 1, *size)."""
    return _MAX_POOL[len(grid.side)](whole_cells(mask.float(), grid), grid.side).flatten(1) > 0


def _edged(image: Tensor, grid: CellGrid) -> Tensor:
    """Pads images to a whole number of cells by repeating their edges, so that padding adds no contrast."""
    return whole_cells(image, grid, mode="replicate")
