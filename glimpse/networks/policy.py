"""The policy: one shared encoder, a memory, a locator, an aggregator, and the heads that stop, value and answer."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from omegaconf import DictConfig
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glimpse.geometry import cell_locations
from glimpse.networks.aggregator import CausalTransformer
from glimpse.networks.encoder import ConvEncoder, LocationEmbedding, TokenPool
from glimpse.networks.locator import Candidates, Choice, PointerLocator, Where
from glimpse.networks.memory import GRUMemory
from glimpse.networks.records import OWN_CONDUCT, Conduct, Decision, Episodes, Evaluation, Glimpses, Scene, State
from glimpse.spaces import ActionLayout

Part = Callable[..., Any]
_CELLS_AT_ONCE = 1 << 20  # of the locator's distributions, over rows, steps and cells
_MAX_POOL: dict[int, Callable[..., Any]] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}


class GlimpsePolicy(BasePolicy):
    """Looks at an overview, then at glimpses it chooses, and answers after each.

    The parts are given as factories, so that a config or a caller can swap or re-parametrise each of them.

    Args:
        observation_space: of a glimpse environment.
        action_space: of the flattened environment; `layout` says what its numbers are.
        lr_schedule: unused; Stable-Baselines3 passes it.
        layout: of the actions.
        encoder: `encoder(channels, ndim) -> ConvEncoder` or alike, with `.embed` and `.grid(size)`.
        memory: `memory(embed) -> GRUMemory` or alike.
        locator: `locator(embed, hidden, ndim) -> PointerLocator` or alike.
        aggregator: `aggregator(embed) -> CausalTransformer` or alike.
        chunk: glimpses encoded at once in an update. With more of them, each chunk is encoded again on the way back,
            which leaves the gradient as it is and keeps memory at that of one chunk. 0 encodes all at once.
        stop_bias: first logit of stopping.
        overview_dropout: share of the updates in which answers do without the overview. With few cases an overview is a
            fingerprint: its label is learnt by heart, and no glimpse brings a gain any more. At 1 answers never see it,
            and it only tells where to look.
        autocast: encode in bfloat16 where PyTorch thinks it safe; parameters and everything else stay as they are.
        compile: compile the encoder with `torch.compile`: minutes once, then quicker steps on some machines.
    """

    cells: Tensor
    config: DictConfig  # of the run it was loaded from, if it was

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Box,
        lr_schedule: Any = None,
        *,
        layout: ActionLayout,
        encoder: Part = ConvEncoder,
        memory: Part = GRUMemory,
        locator: Part = PointerLocator,
        aggregator: Part = CausalTransformer,
        chunk: int = 0,
        stop_bias: float = -4.0,
        overview_dropout: float = 0.0,
        autocast: bool = False,
        compile: bool = False,
        **_: Any,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.layout, self.chunk, self.overview_dropout, self.autocast = layout, chunk, overview_dropout, autocast
        channels, *size = observation_space["overview"].shape or ()
        ndim = len(size)
        self.encoder = encoder(channels, ndim)
        if compile:
            self.encoder.compile(dynamic=True)
        embed = self.encoder.embed
        self.grid: tuple[int, ...] = self.encoder.grid(size)
        self.pool, self.position = TokenPool(embed), LocationEmbedding(ndim, embed)
        self.scale = nn.Embedding(1 + layout.zooms, embed)
        self.memory = memory(embed)
        hidden = self.memory.hidden
        self.locator, self.aggregator = locator(embed, hidden, ndim), aggregator(embed)
        self.answer_head = nn.Linear(embed, layout.outputs)
        self.glimpse_head = nn.Linear(embed, layout.outputs)
        self.stop_head, self.value_head = nn.Linear(hidden, 1), nn.Linear(hidden, 1)
        self.zoom_head = nn.Linear(hidden, layout.zooms)
        nn.init.zeros_(self.stop_head.weight)
        nn.init.constant_(self.stop_head.bias, stop_bias)
        self.register_buffer("cells", torch.from_numpy(cell_locations(self.grid)), persistent=False)

    # ------------------------------------------------------------------------------------------ encoding
    def embed(self, images: Tensor) -> Float[Tensor, "batch embed"]:
        """Pooled features of images (batch, channel, *size), without where and at what scale they were read."""
        return self.pool(self.encode(images))

    def encode(self, images: Tensor, conduct: Conduct = OWN_CONDUCT) -> Tensor:
        """Feature map (batch, embed, *cells) of images; without a gradient where the encoder is not trained."""
        grad, low = torch.is_grad_enabled() and conduct.train_encoder, self.autocast
        with torch.set_grad_enabled(grad), torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            return self.encoder(images).to(self.pool.project.weight.dtype)

    @torch.no_grad()
    def calibrate(self, images: Tensor, chunk: int = 256) -> None:
        """Standardises what tokens are made of over a sample of glimpses (batch, channel, *size)."""
        self.pool.calibrate(self.summary_in_chunks(images, chunk))

    def summary_in_chunks(self, images: Tensor, chunk: int = 256) -> Float[Tensor, "batch pooled"]:
        """What tokens are made of, for many images (batch, channel, *size); on the policy's device."""
        return torch.cat([self.pool.summary(self.encode(part.to(self.device))) for part in images.split(chunk)])

    def look(
        self, glimpses: Tensor, rows: Int[Tensor, "some"] | None = None, conduct: Conduct = OWN_CONDUCT
    ) -> Float[Tensor, "batch pooled"]:
        """What glimpses (batch, channel, *size) show, before it is made a token; with the memory of one chunk.

        `rows` picks some of them, without a copy of more than a chunk.
        """

        def shown(rows: Tensor) -> Tensor:
            return self.pool.summary(self.encode(glimpses[rows], conduct))

        if not self.chunk or len(glimpses if rows is None else rows) <= self.chunk:
            return self.pool.summary(self.encode(glimpses, conduct)) if rows is None else shown(rows)
        parts = (torch.arange(len(glimpses), device=glimpses.device) if rows is None else rows).split(self.chunk)
        if torch.is_grad_enabled() and conduct.train_encoder:
            return torch.cat([checkpoint(shown, part, use_reentrant=False) for part in parts])
        return torch.cat([shown(part) for part in parts])

    def glimpse_token(
        self, seen: Float[Tensor, "batch pooled"], location: Float[Tensor, "batch d"], zoom: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch embed"]:
        """Tokens of glimpses: what they show (see `look`), where, and how wide."""
        return self.pool.token(seen) + self.scale(zoom + 1) + self.position(location)

    def open_cells(self, foreground: Tensor) -> Bool[Tensor, "case cell"]:
        """Cells with any foreground (case, 1, *size) in them; all of them where there is none."""
        inside = _MAX_POOL[len(self.grid)](foreground.float(), self.grid).flatten(1) > 0
        return inside | ~inside.any(1, keepdim=True)

    def scene(
        self,
        overview: Tensor,
        foreground: Tensor,
        features: Tensor | None = None,
        conduct: Conduct = OWN_CONDUCT,
    ) -> Scene:
        """Encodes overviews uint8 (case, channel, *size); foreground uint8 (case, 1, *size), zero where not to look.

        `features` (case, embed, *cells) stand in for what the encoder would make of the overviews. Where neither
        answers nor the choice of places depend on it, an overview is not encoded: its features are zeros.
        """
        inside = self.open_cells(foreground)
        if conduct.locator is not None and self.overview_dropout == 1:
            features = self.scale.weight.new_zeros(len(overview), self.encoder.embed, *self.grid)
            token = self.scale.weight[0].expand(len(overview), -1)
        else:
            features = self.encode(overview, conduct) if features is None else features
            token = self.pool(features) + self.scale.weight[0]
        keys, unary = self.locator.describe(features.flatten(2).transpose(1, 2), self.position(self.cells))
        return Scene(token, Candidates(keys, unary, inside, self.cells, self.grid), features)

    # ------------------------------------------------------------------------------------------ step by step
    def begin(self, scene: Scene, rollouts: int = 1) -> State:
        """The state after the overview, for several rollouts of each case."""
        token = scene.token.repeat_interleave(rollouts, 0)
        memory = self.memory.step(token, token.new_zeros(len(token), self.memory.hidden))
        first = self.overview_in_answers(token)
        answer, cache = self.aggregator.step(first, self.aggregator.empty(first))
        visited = torch.zeros(len(token), len(self.cells), dtype=torch.bool, device=token.device)
        zoom = torch.zeros(len(token), dtype=torch.long, device=token.device)
        return State(memory, answer, cache, visited, zoom, self.pool.shift.expand(len(token), -1))

    def decide(
        self,
        scene: Scene,
        state: State,
        exhausted: Tensor,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        conduct: Conduct = OWN_CONDUCT,
    ) -> Decision:
        """Answers from what has been seen and chooses what to do next; `exhausted` (batch,): no glimpse is left."""
        where = self.where(state.memory[:, None], scene.candidates, state.visited[:, None], conduct)
        choice = where.mode() if deterministic else where.sample(generator)
        zoom_log_probs, stop_logit = self.zoom_head(state.memory).log_softmax(-1), self.stop_head(state.memory)[:, 0]
        if deterministic:
            zoom, stop = zoom_log_probs.argmax(-1), stop_logit > 0
        else:
            zoom = torch.multinomial(zoom_log_probs.exp(), 1, generator=generator)[:, 0]
            stop = torch.rand(stop_logit.shape, generator=generator, device=stop_logit.device) < stop_logit.sigmoid()
        stop = (stop & conduct.may_stop & (conduct.locator is None)) | exhausted
        looked = where.log_prob(choice)[:, 0] + zoom_log_probs.gather(1, zoom[:, None])[:, 0]
        log_prob = _with_stop(stop, stop_logit, looked, conduct)
        return Decision(
            choice.location[:, 0],
            choice.cell[:, 0],
            zoom,
            stop,
            self.answer_head(state.answer),
            log_prob.masked_fill(exhausted, 0.0),
            self.value_head(state.memory)[:, 0],
        )

    def where(self, states: Tensor, candidates: Candidates, visited: Tensor, conduct: Conduct = OWN_CONDUCT) -> Where:
        """The distribution over places to look at next: by the policy's locator, or by the one that `conduct` names."""
        return (conduct.locator or self.locator)(states, candidates, visited)

    def observe(self, state: State, glimpse: Tensor, location: Tensor, cell: Tensor, zoom: Tensor) -> State:
        """The state after one more glimpse, uint8 (batch, channel, *size), read at `location` (batch, d)."""
        seen = self.look(glimpse)
        token = self.glimpse_token(seen, location, zoom)
        answer, cache = self.aggregator.step(token, state.cache)
        visited = state.visited.clone()
        visited[torch.arange(len(cell), device=cell.device), cell] = True
        return State(self.memory.step(token, state.memory), answer, cache, visited, zoom, seen)

    # ------------------------------------------------------------------------------------------ whole episodes
    def evaluate_episodes(
        self,
        episodes: Episodes,
        encoder_share: float = 1.0,
        extra: Glimpses | None = None,
        conduct: Conduct = OWN_CONDUCT,
    ) -> Evaluation:
        """Runs the current parameters over stored episodes in one pass, with gradients.

        Args:
            episodes: of some cases.
            encoder_share: of the rollouts of each case, whose glimpses are encoded anew, with a gradient. With less
                than 1 all other glimpses, and the overviews, stand as the rollout encoded them.
            extra: glimpses that follow the episodes, as they were encoded then; answers are given after each of them.
            conduct: as when the episodes were played.
        """
        read, (batch, time) = episodes.read, episodes.cell.shape
        kept = episodes.features if not conduct.train_encoder or encoder_share < 1 else None
        scene = self.scene(episodes.overview, episodes.foreground, kept, conduct)
        tokens = scene.token.new_zeros(batch, time, scene.token.shape[-1])
        seen = self._seen(episodes, encoder_share, conduct)[read]
        made = self.glimpse_token(seen, episodes.location[read], episodes.zoom[read])
        tokens = tokens.masked_scatter(read[..., None], made)
        overview = scene.token.repeat_interleave(episodes.rollouts, 0)
        first, sequence = self.overview_in_answers(overview), torch.cat([overview[:, None], tokens], 1)
        states = self.memory(sequence)
        log_prob, entropy = self._log_prob(episodes, states, scene.candidates, conduct)
        prediction, after_extra = self._answers(first, tokens, episodes.length, extra)
        return Evaluation(
            log_prob=log_prob,
            entropy=entropy,
            value=self.value_head(states)[..., 0],
            prediction=prediction,
            glimpse_prediction=self.glimpse_head(tokens),
            extra_prediction=after_extra,
        )

    def _answers(
        self, first: Tensor, tokens: Tensor, length: Tensor, extra: Glimpses | None
    ) -> tuple[Tensor, Tensor | None]:
        """Answers (batch, step, output) after every prefix of tokens (batch, time, embed), and after each extra one.

        Extra glimpses follow where a row ends, in place of its padding, which no answer before them sees.
        """
        if extra is None:
            return self.answer_head(self.aggregator(torch.cat([first[:, None], tokens], 1))), None
        steps, more = tokens.shape[1] + 1, extra.zoom.shape[1]
        made = self.glimpse_token(extra.seen.flatten(0, 1), extra.location.flatten(0, 1), extra.zoom.flatten())
        after = 1 + length[:, None] + torch.arange(more, device=length.device)  # steps, 0 being the overview
        sequence = F.pad(torch.cat([first[:, None], tokens], 1), (0, 0, 0, more))
        sequence = sequence.scatter(1, after[..., None].expand(-1, -1, first.shape[-1]), made.unflatten(0, after.shape))
        answers = self.answer_head(self.aggregator(sequence))
        return answers[:, :steps], answers.gather(1, after[..., None].expand(-1, -1, answers.shape[-1]))

    def _seen(self, episodes: Episodes, share: float, conduct: Conduct) -> Float[Tensor, "batch time pooled"]:
        """What each glimpse shows. The glimpses of a `share` of each case's rollouts are encoded again."""
        anew = episodes.read
        if not conduct.train_encoder:
            return episodes.seen
        if share < 1:
            order = torch.rand(len(episodes.overview), episodes.rollouts).argsort(1).argsort(1)
            chosen = (order < math.ceil(share * episodes.rollouts)).flatten().to(self.device)
            anew = anew & chosen[:, None]
        rows = anew.flatten().nonzero()[:, 0]
        return episodes.seen.masked_scatter(anew[..., None], self.look(episodes.glimpse.flatten(0, 1), rows, conduct))

    def overview_in_answers(self, token: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
        """The overview's token as the aggregator sees it: with its content, or without (see `overview_dropout`)."""
        if self.overview_dropout == 0 or (not self.training and self.overview_dropout < 1):
            return token
        kept = torch.rand(len(token), 1, device=token.device) >= self.overview_dropout
        return torch.where(kept, token, self.scale.weight[0])

    def _log_prob(
        self, episodes: Episodes, states: Tensor, candidates: Candidates, conduct: Conduct
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of what was done at each step, and the entropy of where to look; zero where nothing was."""
        read = F.pad(episodes.read, (0, 1))
        # The last step looks nowhere: any choice stands in for it and is masked.
        choice = Choice(F.pad(episodes.location, (0, 0, 0, 1)), F.pad(episodes.cell, (0, 1)))
        looked, entropy = self._looked(states, candidates, self._first_read(episodes), choice, conduct)
        zoom = self.zoom_head(states).log_softmax(-1).gather(-1, F.pad(episodes.zoom, (0, 1))[..., None])[..., 0]
        stop_logit = self.stop_head(states)[..., 0]
        log_prob = _with_stop(~read, stop_logit, looked + zoom, conduct)
        return log_prob.masked_fill(~episodes.decided, 0.0), entropy.masked_fill(~episodes.decided, 0.0)

    def _looked(
        self, states: Tensor, candidates: Candidates, first_read: Tensor, choice: Choice, conduct: Conduct
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of choices and entropies, (batch, step); a few steps at a time where there are many.

        A distribution over all cells at each of a thousand steps would take more memory than the encoder does.
        """
        batch, steps = states.shape[:2]

        def part(states: Tensor, location: Tensor, cell: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            where = self.where(states, candidates, first_read[:, None] < step[:, None], conduct)
            return where.log_prob(Choice(location, cell)), where.entropy()

        rows = (states, choice.location, choice.cell)
        step = torch.arange(steps, device=states.device)
        size = max(1, _CELLS_AT_ONCE // max(1, batch * first_read.shape[1]))
        if not self.chunk or steps <= size:
            return part(*rows, step)
        pieces = zip(*(tensor.split(size, 1) for tensor in rows), step.split(size), strict=True)
        parts = [checkpoint(part, *piece, use_reentrant=False) for piece in pieces]
        log_probs, entropies = zip(*parts, strict=True)
        return torch.cat(log_probs, 1), torch.cat(entropies, 1)

    def _first_read(self, episodes: Episodes) -> Tensor:
        """Int (batch, cell): the step at which each cell was read first; beyond the last step where it was not."""
        batch, time = episodes.cell.shape
        steps = torch.arange(time, device=episodes.cell.device).expand(batch, time)
        first = torch.full((batch, len(self.cells)), time + 1, device=episodes.cell.device)
        return first.scatter_reduce_(1, episodes.cell, steps.masked_fill(~episodes.read, time + 1), "amin")

    # ------------------------------------------------------------------------------------------ Stable-Baselines3
    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        raise NotImplementedError("A glimpse policy is recurrent: call predict(observation, state, episode_start).")

    @torch.no_grad()
    def predict(  # type: ignore[override]
        self,
        observation: dict[str, np.ndarray],
        state: tuple[Scene, State] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        conduct: Conduct = OWN_CONDUCT,
    ) -> tuple[np.ndarray, tuple[Scene, State]]:
        """Flat actions for a batch of observations (or a single one), and the state to hand back with the next ones.

        Rows whose `episode_start` is true begin anew from their overview; the others fold in the glimpse given.
        """
        single = observation["remaining"].ndim == 1
        tensors = {k: torch.as_tensor(v[None] if single else v, device=self.device) for k, v in observation.items()}
        batch = len(tensors["remaining"])
        anew = torch.as_tensor(np.broadcast_to(state is None if episode_start is None else episode_start, batch).copy())
        scene, carried = self._carry(tensors, state, anew.to(self.device), conduct)
        decision = self.decide(scene, carried, tensors["remaining"][:, 0] <= 0, deterministic, conduct=conduct)
        carried.zoom = decision.zoom
        parts = (decision.location, decision.stop, decision.prediction, decision.zoom)
        action = self.layout.pack(*(part.cpu().numpy() for part in parts))
        return (action[0] if single else action), (scene, carried)

    def _carry(self, tensors: dict[str, Tensor], state: Any, anew: Tensor, conduct: Conduct) -> tuple[Scene, State]:
        if state is None or bool(anew.all()):
            scene = self.scene(tensors["overview"], tensors["foreground"], conduct=conduct)
            return scene, self.begin(scene)
        scene, carried = state
        cell = scene.candidates.nearest(tensors["location"])
        carried = self.observe(carried, tensors["glimpse"], tensors["location"], cell, carried.zoom)
        if bool(anew.any()):
            fresh = self.scene(tensors["overview"], tensors["foreground"], conduct=conduct)
            carried, scene = _merge(carried, self.begin(fresh), anew), _merge(scene, fresh, anew)
        return scene, carried


def _merge(old: Any, new: Any, rows: Tensor) -> Any:
    """`old` with the given rows taken from `new`, through nested records of batch-first tensors."""
    if isinstance(old, Candidates):
        keys, unary, inside = (_merge(getattr(old, n), getattr(new, n), rows) for n in ("keys", "unary", "open"))
        return Candidates(keys, unary, inside, old.locations, old.grid)
    if isinstance(old, Scene | State):
        return type(old)(*(_merge(a, b, rows) for a, b in zip(vars(old).values(), vars(new).values(), strict=True)))
    if isinstance(old, dict):
        return {name: _merge(value, new[name], rows) for name, value in old.items()}
    if old.ndim > 2 and old.shape[2] != new.shape[2]:  # a cache that has grown
        new = F.pad(new, (0, 0, 0, old.shape[2] - new.shape[2]))
    return torch.where(rows.view(-1, *[1] * (old.ndim - 1)), new, old)


def _with_stop(stop: Tensor, stop_logit: Tensor, looked: Tensor, conduct: Conduct) -> Tensor:
    """Log-probability of stopping, or of going on and looking where one looked."""
    if not conduct.may_stop:
        return looked.masked_fill(stop, 0.0)
    return torch.where(stop, F.logsigmoid(stop_logit), F.logsigmoid(-stop_logit) + looked)
