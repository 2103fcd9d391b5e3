"""The policy: adds to its network the pass over whole episodes, and the interface of Stable-Baselines3."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from glimpse.networks.locator import Candidates, Choice, PointerLocator
from glimpse.networks.network import GlimpseNetwork, with_stop
from glimpse.networks.overlap import NEAR, Coverage, overlaps, product, summed
from glimpse.networks.records import OWN_CONDUCT, Conduct, Episodes, Evaluation, Glimpses, Scene, State

_CELLS_AT_ONCE = 1 << 20  # how many numbers (rows x steps x cells) the locator's distributions hold at once


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
        """
        read, (batch, time) = episodes.read, episodes.cell.shape
        trained = self.trains_encoder(conduct)
        kept = episodes.features if not trained or encoder_share < 1 else None
        if kept is not None and trained and overview_share > 0:
            again = torch.randperm(len(kept))[: math.ceil(overview_share * len(kept))].to(self.device)
            kept = kept.index_copy(0, again, self.features(episodes.overview[again], conduct))
        scene = self.scene(episodes.overview, episodes.foreground, episodes.extents, kept, conduct)
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
            first_logits=self._first_logits(states[:: episodes.rollouts, :1], scene.candidates, places),
        )

    def _first_logits(
        self,
        states: Float[Tensor, "case 1 hidden"],
        candidates: Candidates,
        places: Int[Tensor, "case place"] | None,
    ) -> Float[Tensor, "case place"] | None:
        """Returns the logits of cells when nothing was seen yet; no gradient is passed on to the states."""
        if places is None or not isinstance(self.locator, PointerLocator):
            return None
        return self.locator.logits(states.detach(), candidates.keys, candidates.unary)[:, 0].gather(1, places)

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

    def _seen(self, episodes: Episodes, share: float, conduct: Conduct) -> Float[Tensor, "batch time pooled"]:
        """Returns the pooled features of each glimpse; a `share` of each case's rollouts is encoded again."""
        anew = episodes.read
        if not self.trains_encoder(conduct):
            return episodes.seen
        if share < 1:
            order = torch.rand(len(episodes.overview), episodes.rollouts).argsort(1).argsort(1)
            chosen = (order < math.ceil(share * episodes.rollouts)).flatten().to(self.device)
            anew = anew & chosen[:, None]
        rows = anew.flatten().nonzero()[:, 0]
        return episodes.seen.masked_scatter(anew[..., None], self.look(episodes.glimpse.flatten(0, 1), rows, conduct))

    def _log_prob(
        self, episodes: Episodes, states: Tensor, candidates: Candidates, conduct: Conduct
    ) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities of decisions and entropies of where to look, (batch, step); 0 at other steps."""
        read = F.pad(episodes.read, (0, 1))
        # The last step reads no glimpse: its choice is filled with zeros, and its log-probability is masked below.
        choice = Choice(F.pad(episodes.location, (0, 0, 0, 1)), F.pad(episodes.cell, (0, 1)))
        zoom = F.pad(episodes.zoom, (0, 1))
        looked, entropy = self._looked(states, candidates, self._history(episodes), choice, zoom, conduct)
        zoomed = self.zoom_head(states).log_softmax(-1).gather(-1, zoom[..., None])[..., 0]
        stop_logit = self.stop_head(states)[..., 0]
        log_prob = with_stop(~read, stop_logit, looked + zoomed, conduct)
        return log_prob.masked_fill(~episodes.decided, 0.0), entropy.masked_fill(~episodes.decided, 0.0)

    def _looked(
        self,
        states: Tensor,
        candidates: Candidates,
        history: "_History",
        choice: Choice,
        zoom: Int[Tensor, "batch step"],
        conduct: Conduct,
    ) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities of choices, and entropies, (batch, step).

        Distributions over all cells at a thousand steps would need more memory than the encoder. If there are that
        many, a few steps are computed at a time, and computed a second time in the backward pass.
        """
        batch, steps = states.shape[:2]

        def part(states: Tensor, location: Tensor, cell: Tensor, zoom: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            where = self.where(states, candidates, history.before(step, zoom), conduct)
            return where.log_prob(Choice(location, cell)), where.entropy()

        rows = (states, choice.location, choice.cell, zoom)
        step = torch.arange(steps, device=states.device)
        size = max(1, _CELLS_AT_ONCE // max(1, batch * len(self.cells)))
        if not self.encoding.chunk or steps <= size:
            return part(*rows, step)
        pieces = zip(*(tensor.split(size, 1) for tensor in rows), step.split(size), strict=True)
        parts = [checkpoint(part, *piece, use_reentrant=False) for piece in pieces]
        log_probs, entropies = zip(*parts, strict=True)
        return torch.cat(log_probs, 1), torch.cat(entropies, 1)

    def _history(self, episodes: Episodes) -> "_History":
        sides = 2 * episodes.extents.to(self.cells).repeat_interleave(episodes.rollouts, 0)
        return _History(self.axes, episodes, sides, self.minds_near)

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
            scene = self._scene_of(tensors, conduct)
            return scene, self.begin(scene)
        scene, carried = state
        cell = scene.candidates.nearest(tensors["location"])
        carried = self.observe(carried, tensors["glimpse"], tensors["location"], cell, carried.zoom)
        if bool(anew.any()):
            fresh = self._scene_of(tensors, conduct)
            carried, scene = _merge(carried, self.begin(fresh), anew), _merge(scene, fresh, anew)
        return scene, carried

    def _scene_of(self, tensors: dict[str, Tensor], conduct: Conduct) -> Scene:
        return self.scene(tensors["overview"], tensors["foreground"], tensors["extents"], conduct=conduct)


class _History:
    """What had been seen at each step of stored episodes; arrays of steps times cells are made when they are asked for.

    Args:
        axes: The coordinates of the cells along each axis.
        episodes: The episodes.
        sides: The sides of glimpses of each extent (batch, zoom, d), in units of these coordinates.
        minds_near: Whether to say what was near to what was seen; if not, nothing was.
    """

    def __init__(self, axes: list[Tensor], episodes: Episodes, sides: Tensor, minds_near: bool) -> None:
        self.axes, self.sides, self.read, self.cell = axes, sides, episodes.read, episodes.cell
        self.minds_near = minds_near
        self.location = episodes.location.to(sides)
        rows = torch.arange(len(sides), device=sides.device)[:, None]
        self.own = sides[rows, episodes.zoom]
        self.first_read = self._first_read(math.prod(map(len, axes)))

    def _first_read(self, cells: int) -> Int[Tensor, "batch cell"]:
        """Returns the step at which each cell was first looked at; time + 1 where it never was."""
        batch, time = self.cell.shape
        steps = torch.arange(time, device=self.cell.device).expand(batch, time)
        first = torch.full((batch, cells), time + 1, device=self.cell.device)
        return first.scatter_reduce_(1, self.cell, steps.masked_fill(~self.read, time + 1), "amin")

    @torch.no_grad()
    def before(self, step: Int[Tensor, "some"], zoom: Int[Tensor, "batch some"]) -> Coverage:
        """Returns what had been seen before each of some consecutive steps, whose glimpses have the extents `zoom`."""
        share = self._shares(step, zoom, 1.0)
        near = self._shares(step, zoom, NEAR) if self.minds_near else share.new_zeros(()).expand_as(share)
        return Coverage(self.first_read[:, None] < step[:, None], share, near, zoom)

    def _shares(
        self, step: Int[Tensor, "some"], zoom: Int[Tensor, "batch some"], enlarged: float
    ) -> Float[Tensor, "batch some cell"]:
        """Returns the share of each cell's view that the enlarged glimpses before each step cover, at most 1."""
        share = self._covered(step, 0, enlarged)
        for other in range(1, self.sides.shape[1]):
            share = torch.where((zoom == other)[..., None], self._covered(step, other, enlarged), share)
        return share.clamp_max(1)

    def _covered(self, step: Int[Tensor, "some"], zoom: int, enlarged: float) -> Float[Tensor, "batch some cell"]:
        """Returns the sum of the shares of each cell's view, of one extent, that enlarged glimpses cover."""
        first, last = int(step[0]), int(step[-1])
        covered = overlaps(self.axes, self.sides[:, zoom], self.location[:, :last], enlarged * self.own[:, :last])
        covered[0] = covered[0] * self.read[:, :last, None]  # what was never read has shown nothing
        earlier = summed([share[:, :first] for share in covered])[:, None]
        since = product([share[:, first:] for share in covered]).cumsum(1)
        return torch.cat([earlier, earlier + since], 1)


def _merge(old: Any, new: Any, rows: Tensor) -> Any:
    """Returns `old` with the rows where `rows` is True replaced by those of `new`, also in nested records."""
    if isinstance(old, Candidates):
        names = ("keys", "unary", "open", "sides")
        keys, unary, inside, sides = (_merge(getattr(old, name), getattr(new, name), rows) for name in names)
        return Candidates(keys, unary, inside, sides, old.locations, old.grid)
    if isinstance(old, Scene | State):
        return type(old)(*(_merge(a, b, rows) for a, b in zip(vars(old).values(), vars(new).values(), strict=True)))
    if isinstance(old, dict):
        return {name: _merge(value, new[name], rows) for name, value in old.items()}
    if old.ndim > 2 and old.shape[2] != new.shape[2]:  # the old cache has grown
        new = F.pad(new, (0, 0, 0, old.shape[2] - new.shape[2]))
    return torch.where(rows.view(-1, *[1] * (old.ndim - 1)), new, old)
