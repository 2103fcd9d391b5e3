"""The network of a policy: encoder, memory, locator, aggregator and heads, and how it runs one step at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glimpse.errors import SettingsError
from glimpse.geometry import CellGrid
from glimpse.networks.adapters import learns
from glimpse.networks.aggregator import CausalTransformer
from glimpse.networks.cells import Cell, OverviewCells
from glimpse.networks.encoder import ConvEncoder, LocationEmbedding, TokenPool, whole_cells
from glimpse.networks.kept import KeptFeatures
from glimpse.networks.locator import Candidates, PointerLocator, Where
from glimpse.networks.memory import GRUMemory
from glimpse.networks.overlap import NEAR, Coverage, overlaps, product
from glimpse.networks.places import KnownPlaces
from glimpse.networks.records import OWN_CONDUCT, Conduct, Decision, Scene, State
from glimpse.settings.options import option_names, sorted_into
from glimpse.spaces import ActionLayout

Part = Callable[..., Any]
_FIXED = Conduct(train_encoder=False)
_PARTS = ("encoder", "memory", "locator", "aggregator")
_KEYWORDS = ("layout", "cell", "width", *_PARTS, "stop_bias", "overview_dropout")  # of the network
_MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@dataclass(frozen=True)
class Encoding:
    """How the encoder is run. These options change time and memory, but not the results, except for rounding.

    Attributes:
        chunk: How many glimpses are encoded at once in an update; 0 encodes all of them at once. The chunks are encoded
            a second time in the backward pass, so that the gradient is exact and only one chunk is held in memory.
        autocast: Whether to encode in bfloat16, with `torch.autocast`. Parameters, and everything after the encoder,
            keep their precision.
        compile: Whether to compile the encoder with `torch.compile`. This takes minutes once; on some machines steps
            are faster afterwards.
    """

    chunk: int = 0
    autocast: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.chunk < 0:
            raise SettingsError(f"Expected chunk of at least 0, got {self.chunk}.")


class GlimpseNetwork(BasePolicy):
    """Looks at an overview, then at glimpses that it chooses, and gives a prediction before and after each of them.

    To play an episode, call `scene` (once per case), then `begin`, and then `decide` and `observe` in turn. What has
    been seen so far is in the `State` that `begin` and `observe` return, not in the network.

    The parts are given as functions that make them, so that each of them can be exchanged or configured.

    Args:
        observation_space: The observations of a glimpse environment (see `glimpse.spaces`).
        action_space: The flat actions of the environment; `layout` says what their numbers mean.
        lr_schedule: Not used; Stable-Baselines3 passes it to every policy.
        layout: The layout of the actions.
        encoder: `encoder(channels, ndim)` returns a `ConvEncoder`, or a module with the same `embed` and `grid`.
        cell: Side of a cell in overview pixels, one number or one per axis, where it is to be narrower than the
            encoder's stride; the overview is then enlarged before it is encoded. None means the stride.
        width: Width of tokens, and of everything that is computed from them, where the encoder has more features than
            the other parts need: features are projected to it, those of glimpses as those of cells. None means as many
            as the encoder has. Below, `embed` is this width.
        memory: `memory(embed)` returns a `GRUMemory`, or a module with the same interface.
        locator: `locator(embed, hidden, ndim, zooms)` returns a `PointerLocator`, or a module with the same interface.
        aggregator: `aggregator(embed)` returns an `Aggregator`, such as a `CausalTransformer`.
        stop_bias: Initial logit of stopping: with -4 an untrained policy stops at about one decision in fifty.
        overview_dropout: Probability, in training, that answers are computed without the overview. With few cases, the
            labels of the overviews would be learned by heart, and no glimpse could improve the answer. With 1, answers
            never use the overview, not even after training; it is then used only to choose where to look.
        **encoding: The fields of `Encoding`: `chunk`, `autocast` and `compile`.

    Raises:
        SettingsError: A keyword does not exist or has an impossible value.
    """

    cells: Tensor

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Returns the names of the options that `**encoding` takes."""
        return option_names(Encoding)

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Box,
        lr_schedule: Any = None,
        *,
        layout: ActionLayout,
        encoder: Part = ConvEncoder,
        cell: Cell = None,
        width: int | None = None,
        memory: Part = GRUMemory,
        locator: Part = PointerLocator,
        aggregator: Part = CausalTransformer,
        stop_bias: float = -4.0,
        overview_dropout: float = 0.0,
        **encoding: Any,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.layout, self.overview_dropout = layout, overview_dropout
        self.encoding = sorted_into(Encoding, encoding, type(self).__name__, besides=_KEYWORDS)
        channels, *size = observation_space["overview"].shape or ()
        self._glimpse_shape = observation_space["glimpse"].shape or ()
        ndim = len(size)
        self.encoder = encoder(channels, ndim)
        if self.encoding.compile:
            self.encoder.compile(dynamic=True)
        self.kept = KeptFeatures(self.encoder)  # of encoders that are not trained
        if width is not None and width < 1:
            raise SettingsError(f"Expected network.width of at least 1, got {width}. Type network.width=null.")
        self.width = embed = width or self.encoder.embed
        self._overviews = OverviewCells(self.encoder, size, cell)
        self.grid: CellGrid = self._overviews.grid
        self.pool, self.position = TokenPool(self.encoder.embed, embed), LocationEmbedding(ndim, embed)
        self.narrow = nn.Identity() if embed == self.encoder.embed else nn.Linear(self.encoder.embed, embed)
        self.scale = nn.Embedding(1 + layout.zooms, embed)
        self.memory = memory(embed)
        hidden = self.memory.hidden
        self.locator, self.aggregator = locator(embed, hidden, ndim, layout.zooms), aggregator(embed)
        self.answer_head, self.glimpse_head = nn.Linear(embed, layout.outputs), nn.Linear(embed, layout.outputs)
        self.stop_head, self.value_head = nn.Linear(hidden, 1), nn.Linear(hidden, 1)
        self.zoom_head = nn.Linear(hidden, layout.zooms)
        nn.init.zeros_(self.stop_head.weight)
        nn.init.constant_(self.stop_head.bias, stop_bias)
        self.register_buffer("cells", torch.from_numpy(self.grid.locations()), persistent=False)
        for axis, along in enumerate(self.grid.along_axes()):
            self.register_buffer(f"_axis_{axis}", torch.from_numpy(along).to(self.cells), persistent=False)

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
            return torch.cat([checkpoint(shown, part, use_reentrant=False) for part in parts])
        return torch.cat([shown(part) for part in parts])

    def known_places(self) -> KnownPlaces:
        """Returns what finds pooled features of glimpses by their places, as far as they are kept on disk."""
        return KnownPlaces(self.kept.shelf(self.encoder, self._kind("pooled"), self._glimpse_shape))

    def glimpse_token(
        self, seen: Float[Tensor, "batch pooled"], location: Float[Tensor, "batch d"], zoom: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch embed"]:
        """Returns tokens of glimpses, made of their pooled features (see `look`), their locations and their zooms."""
        return self.pool.token(seen) + self.scale(zoom + 1) + self.position(location)

    def overview_in_answers(self, token: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
        """Returns the overview's token as answers use it: with its content, or without (see `overview_dropout`)."""
        if self.overview_dropout == 0 or (not self.training and self.overview_dropout < 1):
            return token
        kept = torch.rand(len(token), 1, device=token.device) >= self.overview_dropout
        return torch.where(kept, token, self.scale.weight[0])

    def open_cells(self, foreground: Tensor) -> Bool[Tensor, "case cell"]:
        """Returns which cells contain any foreground, uint8 (case, 1, *size); if none does, all cells are open."""
        pool = _MAX_POOL[len(self.grid.side)]
        inside = pool(whole_cells(foreground.float(), self.grid), self.grid.side).flatten(1) > 0
        return inside | ~inside.any(1, keepdim=True)

    def scene(
        self,
        overview: Tensor,
        foreground: Tensor,
        extents: Tensor,
        features: Tensor | None = None,
        conduct: Conduct = OWN_CONDUCT,
    ) -> Scene:
        """Encodes the overviews of some cases.

        If nothing depends on the overviews, they are not encoded and their features are zeros. This is so if `conduct`
        has a locator, `overview_dropout` is 1, and there is only one extent to choose.

        Args:
            overview: uint8 (case, channel, *size).
            foreground: uint8 (case, 1, *size), 0 outside the foreground.
            extents: float (case, zoom, d) or (case, zoom * d), sides of glimpses as shares of the image's sides.
            features: Features (case, embed, *cells) that were computed before; the overviews are not encoded then.
            conduct: Says which locator is used, and whether the encoder is trained.
        """
        inside = self.open_cells(foreground)
        if conduct.locator is not None and self.overview_dropout == 1 and self.layout.zooms == 1:
            features = self.blank_features(len(overview))
            token = self.scale.weight[0].expand(len(overview), -1)
        else:
            features = self.features(overview, conduct) if features is None else features
            token = self.pool(features) + self.scale.weight[0]
        keys, unary = self.describe(features.flatten(2).transpose(1, 2), self.cells)
        sides = 2 * extents.to(self.cells).reshape(len(extents), self.layout.zooms, -1)
        return Scene(token, Candidates(keys, unary, inside, sides, self.cells, self.grid), features)

    def describe(
        self, features: Float[Tensor, "case cell features"], locations: Float[Tensor, "*case cell d"]
    ) -> tuple[Tensor, Tensor]:
        """Returns what the locator says of cells, from their features and locations (see `PointerLocator.describe`)."""
        return self.locator.describe(self.narrow(features), self.position(locations))

    def blank_features(self, count: int) -> Tensor:
        """Returns zeros in place of the feature maps of `count` overviews."""
        return self.scale.weight.new_zeros(count, self.encoder.embed, *self.grid.cells)

    def features(self, overview: Tensor, conduct: Conduct = OWN_CONDUCT) -> Tensor:
        """Returns the feature maps of overviews; if the encoder is not trained, each overview is encoded once."""

        def encoded(images: Tensor) -> Tensor:
            return self.encode(self._overviews.enlarged(images), conduct)

        if self.trains_encoder(conduct):
            return encoded(overview)
        kind = f"map, cells of {self.grid.side}" if self._overviews.enlarges else "map"
        return self.kept.of(self.encoder, overview, self._kind(kind), encoded)

    def _kind(self, name: str) -> str:
        return f"{name}, bfloat16" if self.encoding.autocast else name

    # ------------------------------------------------------------------------------------------ step by step
    def begin(self, scene: Scene, rollouts: int = 1) -> State:
        """Returns the state after the overview, with `rollouts` rows for each case."""
        token = scene.token.repeat_interleave(rollouts, 0)
        memory = self.memory.step(token, token.new_zeros(len(token), self.memory.hidden))
        first = self.overview_in_answers(token)
        answer, cache = self.aggregator.step(first, self.aggregator.empty(first))
        visited = torch.zeros(len(token), len(self.cells), dtype=torch.bool, device=token.device)
        sides = scene.candidates.sides.repeat_interleave(rollouts, 0)
        covered = sides.new_zeros(*sides.shape[:2], len(self.cells))
        zoom = torch.zeros(len(token), dtype=torch.long, device=token.device)
        shown = self.pool.shift.expand(len(token), -1)
        return State(memory, answer, cache, visited, sides, covered, covered, zoom, shown)

    def decide(
        self,
        scene: Scene,
        state: State,
        exhausted: Tensor,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        conduct: Conduct = OWN_CONDUCT,
    ) -> Decision:
        """Gives a prediction from what has been seen so far, and chooses what to do next.

        Args:
            scene: The encoded overviews of the cases.
            state: The states of their episodes.
            exhausted: bool (batch,), True where the budget is spent; these episodes stop.
            deterministic: Whether to take the most probable choice instead of a random one.
            generator: Random generator; PyTorch's global one by default.
            conduct: Says which locator is used, and whether the policy may stop.
        """
        zoom_log_probs, stop_logit = self.zoom_head(state.memory).log_softmax(-1), self.stop_head(state.memory)[:, 0]
        if deterministic:
            zoom, stop = zoom_log_probs.argmax(-1), stop_logit > 0
        else:
            zoom = torch.multinomial(zoom_log_probs.exp(), 1, generator=generator)[:, 0]
            stop = torch.rand(stop_logit.shape, generator=generator, device=stop_logit.device) < stop_logit.sigmoid()
        where = self.where(state.memory[:, None], scene.candidates, state.coverage(zoom), conduct)
        choice = where.mode() if deterministic else where.sample(generator)
        stop = (stop & conduct.may_stop & (conduct.locator is None)) | exhausted
        looked = where.log_prob(choice)[:, 0] + zoom_log_probs.gather(1, zoom[:, None])[:, 0]
        log_prob = with_stop(stop, stop_logit, looked, conduct)
        return Decision(
            choice.location[:, 0],
            choice.cell[:, 0],
            zoom,
            stop,
            self.answer_head(state.answer),
            log_prob.masked_fill(exhausted, 0.0),
            self.value_head(state.memory)[:, 0],
        )

    def where(self, states: Tensor, candidates: Candidates, seen: Coverage, conduct: Conduct = OWN_CONDUCT) -> Where:
        """Returns the distribution over where to look next, from the policy's locator or from the one in `conduct`."""
        return (conduct.locator or self.locator)(states, candidates, seen)

    def observe(
        self,
        state: State,
        glimpse: Tensor,
        location: Tensor,
        cell: Tensor,
        zoom: Tensor,
        conduct: Conduct = OWN_CONDUCT,
    ) -> State:
        """Returns the state after one more glimpse, uint8 (batch, channel, *size), read at `location` (batch, d)."""
        seen = self.look(glimpse, conduct=conduct)
        token = self.glimpse_token(seen, location, zoom)
        answer, cache = self.aggregator.step(token, state.cache)
        visited = state.visited.clone()
        rows = torch.arange(len(cell), device=cell.device)
        visited[rows, cell] = True
        own, memory = state.sides[rows, zoom], self.memory.step(token, state.memory)
        covered = state.covered + self.coverage(state.sides, location, own)
        near = state.near + self.coverage(state.sides, location, NEAR * own) if self.minds_near else state.near
        return State(memory, answer, cache, visited, state.sides, covered, near, zoom, seen)

    @property
    def minds_near(self) -> bool:
        """Whether the locator takes account of what is near to what was seen; otherwise it is not computed."""
        return bool(getattr(self.locator, "minds_near", False))

    @property
    def axes(self) -> list[Float[Tensor, "_"]]:
        """The coordinates of the cells along each axis."""
        return [getattr(self, f"_axis_{axis}") for axis in range(len(self.grid.cells))]

    def coverage(
        self, sides: Float[Tensor, "batch zoom d"], location: Float[Tensor, "batch d"], own: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "batch zoom cell"]:
        """Returns which share of the view at each cell, for each extent, a glimpse of the sides `own` shows."""
        place, size = location[:, None].to(own), own[:, None]
        return torch.cat(
            [product(overlaps(self.axes, sides[:, zoom], place, size)) for zoom in range(sides.shape[1])], 1
        )


def with_stop(stop: Tensor, stop_logit: Tensor, looked: Tensor, conduct: Conduct) -> Tensor:
    """Returns the log-probability of each decision: of stopping, or of going on and looking at the chosen place.

    Args:
        stop: bool, True where an episode stopped.
        stop_logit: The logit of stopping.
        looked: Log-probability of the chosen place, given that the episode went on.
        conduct: Says whether the policy was allowed to stop at all.
    """
    if not conduct.may_stop:
        return looked.masked_fill(stop, 0.0)
    return torch.where(stop, F.logsigmoid(stop_logit), F.logsigmoid(-stop_logit) + looked)
