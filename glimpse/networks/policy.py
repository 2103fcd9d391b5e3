"""The policy: adds to its network the pass over whole episodes, and the interface of Stable-Baselines3."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glimpse.errors import SettingsError
from glimpse.networks.devices import indices, to_device
from glimpse.networks.frontier import Described, Frontier, joined
from glimpse.networks.history import History, WideCells
from glimpse.networks.locator import PointerLocator
from glimpse.networks.network import GlimpseNetwork, with_stop
from glimpse.networks.overlap import of_rows
from glimpse.networks.pieces import along_time
from glimpse.networks.records import (
    OWN_CONDUCT,
    Conduct,
    Episodes,
    Evaluation,
    Glimpses,
    Scene,
    State,
    WideGlimpses,
)
from glimpse.networks.where import Candidates, Choice, at_level
from glimpse.ranks.sharing import own_rows, own_some

_MANY_CELLS = 1 << 20  # of so many numbers (rows x steps x cells) the locator's distributions are computed in pieces
_CELLS_AT_ONCE = 1 << 17  # how many numbers a piece has
_STEPS_AT_ONCE = 8  # or more, up to so many steps: each piece adds to the gradient of the keys of all cells


class GlimpsePolicy(GlimpseNetwork):
    """A `GlimpseNetwork` that can be trained and used; its parts and arguments are described there.

    Learning algorithms call `evaluate_episodes`, which runs the network over complete episodes in one pass.
    Stable-Baselines3 and its users call `predict`, once per step.
    """

    settings: Mapping[str, Any]  # of the run that it was loaded from; only `load` sets them

    # ------------------------------------------------------------------------------------------ whole episodes
    def evaluate_episodes(
        self,
        episodes: Episodes,
        encoder_share: float = 1.0,
        extra: Glimpses | None = None,
        conduct: Conduct = OWN_CONDUCT,
        places: Int[Tensor, "case place"] | None = None,
        overview_share: float = 0.0,
        on_host: Episodes | None = None,
    ) -> Evaluation:
        """Runs the current parameters over stored episodes in one pass, with gradients.

        Args:
            episodes: Complete episodes of some cases.
            encoder_share: Share of each case's rollouts whose glimpses are encoded again, with a gradient. Below 1, the
                other glimpses and the overviews keep the features that were computed when the episodes were played.
            extra: More glimpses, which follow the episodes; their features are not computed again. The policy answers
                after each of them, too.
            conduct: The conduct with which the episodes were played.
            places: Cells of which the logits as the first choice are asked for, if the locator gives logits to cells.
            overview_share: Share of the cases whose overviews are encoded again, with a gradient, if `encoder_share` is
                below 1.
            on_host: The same episodes on the host. Without them, the device is waited for where glimpses are counted.
        """
        on_host = episodes if on_host is None else on_host
        trained = self.trains_encoder(conduct)
        kept = episodes.features if not trained or encoder_share < 1 else None
        if kept is not None and trained and overview_share > 0:
            again = to_device(own_some(len(kept), overview_share), self.device)
            if len(again):
                kept = kept.index_copy(0, again, self.features(episodes.overview[again], conduct))
        scene = self.scene(episodes.overview, episodes.foreground, episodes.extents, kept, conduct)
        seen, maps = self._seen(episodes, on_host, encoder_share, conduct)
        tokens = along_time(self.tokens, seen, episodes.location, episodes.zoom, on_host.read)
        overview = scene.token.repeat_interleave(episodes.rollouts, 0)
        first, sequence = self.overview_in_answers(overview), torch.cat([overview[:, None], tokens], 1)
        states = self.memory(sequence)
        mindful = self.mindful(states, episodes.left)
        candidates, history = self._places(episodes, on_host, scene.candidates, maps, conduct)
        log_prob, entropy = self._log_prob(episodes, (states, mindful), candidates, history, conduct)
        prediction, after_extra = self._answers(first, tokens, episodes.length, extra)
        return Evaluation(
            log_prob=log_prob,
            entropy=entropy,
            value=self.value_head(mindful)[..., 0],
            prediction=prediction,
            glimpse_prediction=self.glimpse_head(tokens),
            extra_prediction=after_extra,
            first_logits=self._first_logits(states[:: episodes.rollouts, :1], scene, places),
            view_scores=None if history.wide is None else self._scores_of_views(candidates, maps.shape[1]),
        )

    def tokens(self, seen: Tensor, location: Tensor, zoom: Tensor, read: Tensor) -> Float[Tensor, "batch time embed"]:
        """Returns the tokens of glimpses from their pooled features; zeros where none was read.

        `read` may be on the host; then nobody waits for a device.
        """
        rows = indices(read, seen.device)
        made = self.glimpse_token(*(part.flatten(0, 1).index_select(0, rows) for part in (seen, location, zoom)))
        return made.new_zeros(read.numel(), made.shape[-1]).index_copy(0, rows, made).unflatten(0, read.shape)

    def _scores_of_views(self, candidates: Candidates, views: int) -> Float[Tensor, "batch view cell"]:
        cells = len(self.view_cells)
        return candidates.unary[:, candidates.unary.shape[1] - views * cells :].unflatten(1, (views, cells))

    def _first_logits(
        self,
        states: Float[Tensor, "case 1 hidden"],
        scene: Scene,
        places: Int[Tensor, "case place"] | None,
    ) -> Float[Tensor, "case place"] | None:
        """Returns the logits of cells when nothing was seen yet; no gradient is passed on to the states."""
        if places is None or not isinstance(self.locator, PointerLocator):
            return None
        maps = scene.features.flatten(2).transpose(1, 2)  # these places need not be open
        keys, unary = self.locator.describe(
            self.narrow(maps.gather(1, places[..., None].expand(-1, -1, maps.shape[-1]))),
            self.position(self.cells)[places],
        )
        return self.locator.logits(states.detach(), keys, unary)[:, 0]

    def _answers(
        self, first: Tensor, tokens: Tensor, length: Tensor, extra: Glimpses | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the answers after every prefix of an episode, and after each of the extra glimpses that follow it.

        The extra glimpses of a row are placed right after its last glimpse, where its padding would be. Each answer
        depends only on earlier tokens, so the extra glimpses do not change the answers before them.

        Args:
            first: The tokens of the overviews (batch, embed).
            tokens: The tokens of the glimpses (batch, time, embed), padded.
            length: The number of glimpses in each row (batch,).
            extra: The extra glimpses; None if there are none.

        Returns:
            Answers (batch, step, output), and those after extra glimpses (batch, more, output) or None.
        """
        if extra is None:
            return self.answer_head(self.aggregator(torch.cat([first[:, None], tokens], 1))), None
        steps, more = tokens.shape[1] + 1, extra.zoom.shape[1]
        made = self.glimpse_token(extra.seen.flatten(0, 1), extra.location.flatten(0, 1), extra.zoom.flatten())
        after = 1 + length[:, None] + torch.arange(more, device=length.device)  # positions; 0 is the overview
        sequence = F.pad(torch.cat([first[:, None], tokens], 1), (0, 0, 0, more))
        sequence = sequence.scatter(1, after[..., None].expand(-1, -1, first.shape[-1]), made.unflatten(0, after.shape))
        answers = self.answer_head(self.aggregator(sequence))
        return answers[:, :steps], answers.gather(1, after[..., None].expand(-1, -1, answers.shape[-1]))

    def _seen(
        self, episodes: Episodes, on_host: Episodes, share: float, conduct: Conduct
    ) -> tuple[Float[Tensor, "batch time pooled"], Float[Tensor, "batch view features *cells"]]:
        """Returns the pooled features of each glimpse, and the feature maps of wide ones.

        A `share` of each case's rollouts is encoded again; `on_host`, the same episodes, says which glimpses there are.
        """
        anew, seen, maps = on_host.read, episodes.seen, episodes.maps
        if not self.trains_encoder(conduct):
            return seen, maps
        if share < 1:
            order = own_rows(torch.rand, len(episodes.overview), episodes.rollouts).argsort(1).argsort(1)
            chosen = (order < math.ceil(share * episodes.rollouts)).flatten().to(anew.device)
            anew = anew & chosen[:, None]
        if maps.shape[1]:
            which = (anew.any(1)[:, None] & on_host.is_view).nonzero(as_tuple=True)
            read = on_host.view_step[which]
            anew = anew.index_put((which[0], read), torch.zeros_like(read, dtype=torch.bool))
            row, view, step = (to_device(one, self.device) for one in (*which, read))
            made = self.view_features(episodes.glimpse[row, step], conduct)
            maps = maps.index_put((row, view), made)
            seen = seen.index_put((row, step), self.pool.summary(made))
        rows = indices(anew, self.device)
        looked = self.look(episodes.glimpse.flatten(0, 1), rows, conduct)
        if len(rows) == anew.numel():  # nothing is kept, so nothing is copied
            return looked.unflatten(0, anew.shape), maps
        return seen.flatten(0, 1).index_copy(0, rows, looked).unflatten(0, anew.shape), maps

    def _places(
        self, episodes: Episodes, on_host: Episodes, candidates: Candidates, maps: Tensor, conduct: Conduct
    ) -> tuple[Candidates, History]:
        """Returns all places at which glimpses of the episodes could lie, and what had been seen of them.

        `on_host` are the same episodes, on the host where the caller has them there.
        """
        sides = 2 * episodes.extents.to(self.cells).repeat_interleave(episodes.rollouts, 0)
        index = None if candidates.index is None else of_rows(candidates.index, len(sides))
        if self.layout.zooms == 1 or self.roams(conduct):
            return candidates, History(self.axes, episodes, sides, self.minds_near, index=index)
        batch, views = maps.shape[:2]
        rows = torch.arange(batch, device=self.device).repeat_interleave(views)
        step = episodes.view_step.flatten()
        at = step.clamp_max(max(0, episodes.cell.shape[1] - 1))  # padding lies anywhere, and is closed
        location, zoom = episodes.location[rows, at], episodes.zoom[rows, at].clamp_max(self.layout.zooms - 2)
        opened = episodes.opened.flatten(0, 1) & episodes.is_view.flatten()[:, None]
        read = on_host.view_step.clamp_max(max(0, on_host.cell.shape[1] - 1))
        levels = on_host.zoom.gather(1, read).flatten().clamp_max(self.layout.zooms - 2)
        new = self.cells_of_views(maps.flatten(0, 1), location, zoom, sides[rows], opened, levels)
        places, level, since = (one.unflatten(0, (batch, views)) for one in (new.location, zoom + 1, step + 1))
        wide = WideCells(places, level, since, self.view_grid.cells)
        by_row = (one.unflatten(0, (batch, views)).flatten(1, 2) for one in vars(new).values())
        history = History(self.axes, episodes, sides, self.minds_near, wide, index)
        return joined(candidates, Described(*by_row), level.repeat_interleave(new.unary.shape[1], 1)), history

    def _log_prob(
        self,
        episodes: Episodes,
        states: tuple[Tensor, Tensor],
        candidates: Candidates,
        history: History,
        conduct: Conduct,
    ) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities of decisions and entropies of where to look, (batch, step); 0 at other steps.

        `states` are those of the memory, from which places are chosen, and mindful ones, for all else.

        Of several fields of view, an entropy is that of the place with the one chosen. That of the field of view is
        left out: what the best places are worth decides it, and a bonus would push these scores towards each other.
        """
        read = F.pad(episodes.read, (0, 1))
        # The last step reads no glimpse: its choice is filled with zeros, and its log-probability is masked below.
        choice = Choice(F.pad(episodes.location, (0, 0, 0, 1)), F.pad(episodes.cell, (0, 1)))
        zoom = F.pad(episodes.zoom, (0, 1))
        looked, entropy = self._looked(states, candidates, history, choice, zoom, conduct)
        stop_logit = self.stop_head(states[1])[..., 0]
        log_prob = with_stop(~read, stop_logit, looked, conduct)
        return log_prob.masked_fill(~episodes.decided, 0.0), entropy.masked_fill(~episodes.decided, 0.0)

    def _looked(
        self,
        states: tuple[Tensor, Tensor],
        candidates: Candidates,
        history: History,
        choice: Choice,
        zoom: Int[Tensor, "batch step"],
        conduct: Conduct,
    ) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities of choices of a field of view and a place, and entropies, (batch, step).

        Distributions over all cells at a thousand steps would need more memory than the encoder. If there are that
        many, a few steps are computed at a time, and computed a second time in the backward pass.
        """
        batch, steps = zoom.shape

        def part(
            states: Tensor, mindful: Tensor, location: Tensor, cell: Tensor, zoom: Tensor, steps: range
        ) -> tuple[Tensor, Tensor]:
            where = self.where(states, candidates, history.before(steps, zoom), conduct)
            levels = self.levels(mindful, where, conduct).log_softmax(-1)
            where = at_level(where, zoom)
            zoomed = levels.gather(-1, zoom[..., None])[..., 0]
            return where.log_prob(Choice(location, cell)) + zoomed, where.entropy()

        rows = (*states, choice.location, choice.cell, zoom)
        each = max(1, batch * candidates.unary.shape[1])
        if not self.encoding.chunk or steps * each <= _MANY_CELLS:
            return part(*rows, range(steps))
        size = max(_STEPS_AT_ONCE, _CELLS_AT_ONCE // each)
        ranges = [range(first, min(first + size, steps)) for first in range(0, steps, size)]
        pieces = zip(*(tensor.split(size, 1) for tensor in rows), ranges, strict=True)
        parts = [checkpoint(part, *piece, use_reentrant=False) for piece in pieces]
        log_probs, entropies = zip(*parts, strict=True)
        return torch.cat(log_probs, 1), torch.cat(entropies, 1)

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
        """Chooses actions; this is the method `predict` of Stable-Baselines3's policies.

        Where the memory minds how many glimpses are left, `remaining` is taken to be a share of the number that it
        knows, with which it was trained.

        Args:
            observation: A batch of observations, or a single one.
            state: The state that the previous call returned; None at the start.
            episode_start: bool (batch,), True where an episode begins. There the policy starts again from the overview;
                elsewhere it takes in the glimpse of the observation. If None, all episodes begin when `state` is None.
            deterministic: Whether to take the most probable choice instead of a random one.
            conduct: How the policy acts, such as with another locator.

        Returns:
            Flat actions, and the state to pass to the next call.
        """
        single = observation["remaining"].ndim == 1
        self._check_sizes(observation)
        tensors = {k: torch.as_tensor(v[None] if single else v, device=self.device) for k, v in observation.items()}
        batch = len(tensors["remaining"])
        anew = torch.as_tensor(np.broadcast_to(state is None if episode_start is None else episode_start, batch).copy())
        scene, carried = self._carry(tensors, state, anew.to(self.device), conduct)
        if (known := getattr(self.memory, "looks_left", None)) is not None:
            carried.left = (tensors["remaining"][:, 0] * known.most).round().long()
        decision = self.decide(scene, carried, tensors["remaining"][:, 0] <= 0, deterministic, conduct=conduct)
        carried.zoom, carried.cell = decision.zoom, decision.cell
        parts = (decision.location, decision.stop, decision.prediction, decision.zoom)
        action = self.layout.pack(*(part.cpu().numpy() for part in parts))
        return (action[0] if single else action), (scene, carried)

    def check_budget(self, budget: int) -> None:
        """Refuses a memory that counts other numbers of glimpses than environments that say `remaining` of `budget`.

        Raises:
            SettingsError: `looks_left` is not the budget.
        """
        known = getattr(self.memory, "looks_left", None)
        if known is not None and known.most != budget:
            raise SettingsError(
                f"network.memory.looks_left={known.most} counts other glimpses than max_glimpses={budget}. "
                "Give both the same number."
            )

    def _check_sizes(self, observation: dict[str, np.ndarray]) -> None:
        """Refuses observations of other sizes than those that the policy was made for."""
        for name in ("overview", "glimpse"):
            shape = self.observation_space[name].shape or ()  # type: ignore[index]
            if observation[name].shape[-len(shape) :] != shape:
                raise ValueError(
                    f"This policy was made for {name}s of shape {shape}, but the environment shows "
                    f"{observation[name].shape[-len(shape) :]}. Make it with the {name}_size of the policy's run."
                )

    def _carry(self, tensors: dict[str, Tensor], state: Any, anew: Tensor, conduct: Conduct) -> tuple[Scene, State]:
        if state is None or bool(anew.all()):
            scene = self._scene_of(tensors, conduct)
            return scene, self.begin(scene)
        scene, carried = state
        cell = self._chosen(scene, carried, tensors["location"])
        carried = self.observe(carried, tensors["glimpse"], tensors["location"], cell, carried.zoom)
        if bool(anew.any()):
            fresh = self._scene_of(tensors, conduct)
            carried, scene = _merge(carried, self.begin(fresh), anew), self._merged(scene, fresh, anew, conduct)
        return scene, carried

    def _chosen(self, scene: Scene, carried: State, location: Tensor) -> Int[Tensor, "batch"]:
        """Returns the candidates at which glimpses lie: those that were chosen, or the cells in which they lie."""
        cell = scene.candidates.nearest(location)
        if carried.frontier is None or not carried.frontier.keys.shape[1]:
            return cell
        inner = (carried.cell - len(self.cells)).clamp_min(0)
        rows = torch.arange(len(cell), device=cell.device)
        chosen = carried.frontier.location[rows, inner.clamp_max(carried.frontier.location.shape[1] - 1)]
        there = (carried.cell >= len(self.cells)) & ((chosen - location).abs() < 1e-4).all(1)
        return torch.where(there, carried.cell, cell)

    def _scene_of(self, tensors: dict[str, Tensor], conduct: Conduct) -> Scene:
        return self.scene(tensors["overview"], tensors["foreground"], tensors["extents"], conduct=conduct)

    def _merged(self, old: Scene, new: Scene, rows: Tensor, conduct: Conduct) -> Scene:
        token, features, inside = (
            _merge(getattr(old, n), getattr(new, n), rows) for n in ("token", "features", "open")
        )
        sides = _merge(old.candidates.sides, new.candidates.sides, rows)
        return Scene(token, self.candidates(features, inside, sides, conduct), features, inside)


def _merge(old: Any, new: Any, rows: Tensor) -> Any:
    """Returns `old` with the rows where `rows` is True replaced by those of `new`, also in nested records."""
    if isinstance(old, Frontier):
        return old.merged(new, rows)
    if isinstance(old, WideGlimpses) or old is None:  # of the last glimpses only
        return None
    if isinstance(old, State):
        return type(old)(*(_merge(a, b, rows) for a, b in zip(vars(old).values(), vars(new).values(), strict=True)))
    if isinstance(old, dict):
        made = {name: _merge(value, new[name], rows) for name, value in old.items()}
        return made | ({"steps": int(made["length"].max())} if "steps" in made else {})
    if isinstance(old, int):
        return old
    if old.ndim > 2 and old.shape[2] != new.shape[2]:  # the old cache has grown
        new = F.pad(new, (0, 0, 0, old.shape[2] - new.shape[2]))
    return torch.where(rows.view(-1, *[1] * (old.ndim - 1)), new, old)


def answering_parts(policy: GlimpsePolicy) -> nn.ModuleDict:
    """Returns what makes answers of the pooled features of glimpses, but for the embeddings of places and extents."""
    names = ("aggregator", "answer_head", "glimpse_head")
    return nn.ModuleDict({"project": policy.pool.project} | {name: getattr(policy, name) for name in names})
