"""The network of a policy: encoder, memory, locator, aggregator and heads, and how it runs one step at a time."""

import functools
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glimpse.networks.aggregator import CausalTransformer
from glimpse.networks.cells import Cell
from glimpse.networks.devices import to_device
from glimpse.networks.encoder import ConvEncoder
from glimpse.networks.frontier import Described, Frontier, with_frontier
from glimpse.networks.locator import PointerLocator
from glimpse.networks.memory import GRUMemory
from glimpse.networks.overlap import NEAR, Coverage, overlaps, product
from glimpse.networks.records import ENDLESS, OWN_CONDUCT, Conduct, Decision, Scene, State, WideGlimpses
from glimpse.networks.seeing import Encoding, Part, SeeingNetwork
from glimpse.networks.where import Candidates, Where, at_level, levels_of, open_ones
from glimpse.ranks.sharing import own_choices, own_rows
from glimpse.settings.options import option_names, sorted_into
from glimpse.spaces import ActionLayout

_PARTS = ("encoder", "memory", "locator", "aggregator")
_KEYWORDS = ("layout", "cell", "width", *_PARTS, "stop_bias", "overview_dropout")  # of the network


class GlimpseNetwork(SeeingNetwork):
    """Looks at an overview, then at glimpses that it chooses, and gives a prediction before and after each of them.

    To play an episode, call `scene` (once per case), then `begin`, and then `decide` and `observe` in turn. What has
    been seen so far is in the `State` that `begin` and `observe` return, not in the network.

    Where there are several fields of view, from wide to fine, it zooms: cells of the overview are places for glimpses
    of the first one, and cells of these for glimpses of the next (see `glimpse.networks.frontier`). It first chooses
    the level, among those that have places left, and then the place.

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
        **encoding: The fields of `Encoding`: `view_cell`, `plain`, `chunk`, `autocast` and `compile`.

    Raises:
        SettingsError: A keyword does not exist or has an impossible value.
    """

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
        super().__init__(
            observation_space,
            action_space,
            encoder=encoder,
            cell=cell,
            zooms=layout.zooms,
            width=width,
            encoding=sorted_into(Encoding, encoding, type(self).__name__, besides=_KEYWORDS),
        )
        self.layout, self.overview_dropout = layout, overview_dropout
        embed, ndim = self.width, layout.ndim
        self.scale = nn.Embedding(1 + layout.zooms, embed)
        self.memory = memory(embed)
        hidden = self.memory.hidden
        self.locator, self.aggregator = locator(embed, hidden, ndim, layout.zooms), aggregator(embed)
        self._takes_room = len(inspect.signature(self.aggregator.empty).parameters) > 1
        self.answer_head, self.glimpse_head = (nn.Linear(embed, layout.outputs) for _ in range(2))
        self.stop_head, self.value_head = nn.Linear(hidden, 1), nn.Linear(hidden, 1)
        self.zoom_head = nn.Linear(hidden, layout.zooms)
        nn.init.zeros_(self.stop_head.weight)
        nn.init.constant_(self.stop_head.bias, stop_bias)

    # ------------------------------------------------------------------------------------------ tokens
    def glimpse_token(
        self, seen: Float[Tensor, "*batch pooled"], location: Float[Tensor, "*batch d"], zoom: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch embed"]:
        """Returns tokens of glimpses, made of their pooled features (see `look`), their locations and their zooms."""
        return self.pool.token(seen, zoom + 1) + self.scale(zoom + 1) + self.position(location)

    def overview_in_answers(self, token: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
        """Returns the overview's token as answers use it: with its content, or without (see `overview_dropout`)."""
        if self.overview_dropout == 0 or (not self.training and self.overview_dropout < 1):
            return token
        drawn = own_rows(functools.partial(torch.rand, device=token.device), len(token), 1)
        kept = drawn >= self.overview_dropout
        return torch.where(kept, token, self.scale.weight[0])

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
        sides = 2 * extents.to(self.cells).reshape(len(extents), self.layout.zooms, -1)
        return Scene(token, self.candidates(features, inside, sides, conduct), features, inside)

    def candidates(
        self,
        features: Float[Tensor, "case features *cells"],
        inside: Bool[Tensor, "case cell"],
        sides: Float[Tensor, "case zoom d"],
        conduct: Conduct = OWN_CONDUCT,
    ) -> Candidates:
        """Returns the cells of overviews at which one may look: those that are open, or all for locators that roam.

        Of a large image most cells may be background, and describing them would take longer than encoding.
        """
        index, maps = None if self.roams(conduct) else open_ones(inside), features.flatten(2).transpose(1, 2)
        if index is None or index.shape[1] == len(self.cells):
            keys, unary = self.describe(maps, self.cells)
            return Candidates(keys, unary, inside, sides, self.cells, self.grid)
        some = maps.gather(1, index[..., None].expand(-1, -1, maps.shape[-1]))
        keys, unary = self.locator.describe(self.narrow(some), self.position(self.cells)[index])
        return Candidates(keys, unary, inside.gather(1, index), sides, self.cells[index], self.grid, index=index)

    def roams(self, conduct: Conduct = OWN_CONDUCT) -> bool:
        """Returns whether the locator in use may look anywhere, and not at cells that are open only."""
        return bool(getattr(conduct.locator or self.locator, "roams", False))

    def describe(
        self,
        features: Float[Tensor, "case cell features"],
        locations: Float[Tensor, "*case cell d"],
        level: Int[Tensor, "case"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns what the locator says of cells, from their features and locations (see `PointerLocator.describe`).

        `level` is the field of view with which a cell would be read; None means the first.
        """
        given = (self.narrow(features), self.position(locations))
        return self.locator.describe(*given) if level is None else self.locator.describe(*given, level)

    def cells_of_views(
        self,
        features: Float[Tensor, "view features *cells"],
        location: Float[Tensor, "view d"],
        zoom: Int[Tensor, "view"],
        sides: Float[Tensor, "view zoom d"],
        opened: Bool[Tensor, "view cell"],
        on_host: Int[Tensor, "view"] | None = None,
    ) -> Described:
        """Returns the cells of wide glimpses as candidates for the next field of view.

        Args:
            features: Their feature maps.
            location: Their centres.
            zoom: Their fields of view.
            sides: The sides of all fields of view, in units of [-1, 1].
            opened: Which cells may be chosen (see `open_view_cells`).
            on_host: Their fields of view on the host; with them, a `PointerLocator` waits for no device.
        """
        places = self.view_places(location, zoom, sides)
        level = on_host if on_host is not None and isinstance(self.locator, PointerLocator) else zoom
        keys, unary = self.describe(features.flatten(2).transpose(1, 2), places, level + 1)
        return Described(keys, unary, opened, places)

    def view_places(
        self, location: Float[Tensor, "view d"], zoom: Int[Tensor, "view"], sides: Float[Tensor, "view zoom d"]
    ) -> Float[Tensor, "view cell d"]:
        """Returns the centres of the cells of wide glimpses in [-1, 1]^d of the image."""
        own = sides[torch.arange(len(zoom), device=zoom.device), zoom]
        return (location[:, None] + self.view_cells * own[:, None] / 2).to(self.cells)

    # ------------------------------------------------------------------------------------------ step by step
    def begin(self, scene: Scene, rollouts: int = 1, budget: int | None = None) -> State:
        """Returns the state after the overview, with `rollouts` rows for each case.

        If at most `budget` glimpses will follow, memory is made once for all of them, and each state may be passed to
        `observe` once only. With None, memory grows, and states stay as they are.
        """
        token = scene.token.repeat_interleave(rollouts, 0)
        memory = self.memory.step(token, token.new_zeros(len(token), self.memory.hidden))
        first, room = self.overview_in_answers(token), (1 + budget,) if self._takes_room and budget is not None else ()
        answer, cache = self.aggregator.step(first, self.aggregator.empty(first, *room))
        visited = torch.zeros(len(token), len(self.cells), dtype=torch.bool, device=token.device)
        sides = scene.candidates.sides.repeat_interleave(rollouts, 0)
        covered = sides.new_zeros(len(token), len(self.cells))
        none = torch.zeros(len(token), dtype=torch.long, device=token.device)
        shown = self.pool.shift.reshape(-1, self.pool.shift.shape[-1])[0].expand(len(token), -1)
        cells, several = len(self.view_cells), self.layout.zooms > 1
        frontier = Frontier.empty(token, self.layout.ndim, cells, self.minds_near) if several else None
        parts = (none, none, shown, none, torch.full_like(none, ENDLESS if budget is None else budget), frontier)
        return State(memory, answer, cache, visited, sides, covered, covered, *parts)

    def mindful(self, states: Float[Tensor, "*batch hidden"], left: Int[Tensor, "*batch"]) -> Tensor:
        """Returns what fields of view, stopping and values depend on: states, and how many glimpses are left."""
        looks_left = getattr(self.memory, "looks_left", None)
        return states if looks_left is None else looks_left(states, left)

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
        mindful = self.mindful(state.memory, state.left)
        stop_logit = self.stop_head(mindful)[:, 0]
        where = self.where(state.memory[:, None], *self.choices(scene, state, conduct), conduct)
        zoom_log_probs = self.levels(mindful[:, None], where, conduct)[:, 0].log_softmax(-1)
        if deterministic:
            zoom, stop = zoom_log_probs.argmax(-1), stop_logit > 0
        else:
            zoom = own_choices(zoom_log_probs.exp(), generator)
            draw = functools.partial(torch.rand, generator=generator, device=stop_logit.device)
            stop = own_rows(draw, len(stop_logit)) < stop_logit.sigmoid()
        where = at_level(where, zoom[:, None])
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
            self.value_head(mindful)[:, 0],
            zoom_log_probs,
        )

    def where(self, states: Tensor, candidates: Candidates, seen: Coverage, conduct: Conduct = OWN_CONDUCT) -> Where:
        """Returns the distribution over where to look next, from the policy's locator or from the one in `conduct`."""
        return (conduct.locator or self.locator)(states, candidates, seen)

    def choices(self, scene: Scene, state: State, conduct: Conduct = OWN_CONDUCT) -> tuple[Candidates, Coverage]:
        """Returns where the next glimpse may lie, at all levels, and what was seen."""
        seen = state.coverage()
        if state.frontier is None or self.roams(conduct):
            return scene.candidates, seen.at(scene.candidates.index)
        candidates = with_frontier(scene.candidates, state.frontier)
        return candidates, state.frontier.coverage(seen).at(candidates.index)

    def levels(
        self, states: Float[Tensor, "batch time hidden"], where: Where, conduct: Conduct = OWN_CONDUCT
    ) -> Float[Tensor, "batch time zoom"]:
        """Returns the logits of fields of view; those for which there is no place are very low."""
        logits = self.zoom_head(states)
        return logits if self.layout.zooms == 1 else levels_of(conduct.locator or self.locator, logits, where)

    def observe(
        self,
        state: State,
        glimpse: Tensor,
        location: Tensor,
        cell: Tensor,
        zoom: Tensor,
        conduct: Conduct = OWN_CONDUCT,
        unchanged: Tensor | None = None,
        on_host: Int[Tensor, "batch"] | None = None,
    ) -> State:
        """Returns the state after one more glimpse, uint8 (batch, channel, *size), read at `location` (batch, d).

        `cell` is the index of the candidate that was chosen: of a cell of the overview, or behind these, of a cell of a
        wide glimpse. `unchanged` are the glimpses as they were read, where `glimpse` are random views of them; they say
        which cells are plain. `on_host` is `zoom` on the host; without it, a network that zooms waits for the device.
        """
        levels = zoom.cpu() if state.frontier is not None and on_host is None else on_host
        seen, wide = self._looked_at(state, glimpse, location, levels, conduct, unchanged)
        token = self.glimpse_token(seen, location, zoom)
        answer, cache = self.aggregator.step(token, state.cache)
        rows, at = torch.arange(len(cell), device=cell.device), cell.clamp_max(len(self.cells) - 1)[:, None]
        visited = state.visited.scatter(1, at, state.visited.gather(1, at) | (cell < len(self.cells))[:, None])
        own, memory = state.sides[rows, zoom], self.memory.step(token, state.memory)
        covered = state.covered + self.coverage(state.sides, location, own)
        near = state.near + self.coverage(state.sides, location, NEAR * own) if self.minds_near else state.near
        frontier = state.frontier
        if frontier is not None and wide is not None:
            frontier = frontier.seen(location.to(self.cells), zoom, state.sides, cell - len(self.cells))
            place, level, sides = (one[wide.rows] for one in (location, zoom, state.sides))
            new = self.cells_of_views(wide.features, place, level, sides, wide.opened, wide.zoom)
            frontier = frontier.grown(wide.rows, level, state.sides, new, wide.on_host)
        parts = (state.sides, covered, near, zoom, cell, seen, state.step + 1, state.left - 1, frontier, wide)
        return State(memory, answer, cache, visited, *parts)

    def _looked_at(
        self,
        state: State,
        glimpse: Tensor,
        location: Tensor,
        zoom: Tensor | None,
        conduct: Conduct,
        unchanged: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch pooled"], WideGlimpses | None]:
        """Returns the pooled features of glimpses, and the feature maps of those that are wide; `zoom` is on the host.

        Without a frontier `zoom` is not needed.
        """
        if state.frontier is None or zoom is None:
            return self.look(glimpse, conduct=conduct), None
        is_wide = zoom < self.layout.zooms - 1
        wide, others = is_wide.nonzero()[:, 0], (~is_wide).nonzero()[:, 0]
        parts = (wide, others, torch.cat([wide, others]).argsort(), zoom[wide])
        rows, fine, order, level = (to_device(part, location.device) for part in parts)
        features = self.view_features(glimpse[rows], conduct) if len(rows) else self.blank_views(0)
        seen = torch.cat([self.pool.summary(features), self.look(glimpse, fine, conduct)])
        places = self.view_places(location[rows], level, state.sides[rows])
        opened = self.open_view_cells((glimpse if unchanged is None else unchanged)[rows], places)
        return seen[order], WideGlimpses(rows, features, opened, wide, zoom[wide])

    @property
    def minds_near(self) -> bool:
        """Whether the locator takes account of what is near to what was seen; otherwise it is not computed."""
        return bool(getattr(self.locator, "minds_near", False))

    def coverage(
        self, sides: Float[Tensor, "batch zoom d"], location: Float[Tensor, "batch d"], own: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "batch cell"]:
        """Returns which share of the view at each cell of the overview a glimpse of the sides `own` shows."""
        return product(overlaps(self.axes, sides[:, 0], location[:, None].to(own), own[:, None]))[:, 0]


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
