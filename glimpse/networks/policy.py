"""The policy: what its network does, over whole episodes and in the words of Stable-Baselines3."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from glimpse.networks.locator import Candidates, Choice
from glimpse.networks.network import GlimpseNetwork, with_stop
from glimpse.networks.records import OWN_CONDUCT, Conduct, Episodes, Evaluation, Glimpses, Scene, State

_CELLS_AT_ONCE = 1 << 20  # of the locator's distributions, over rows, steps and cells


class GlimpsePolicy(GlimpseNetwork):
    """A `GlimpseNetwork` that can be trained and used: see there for its parts and the arguments.

    `evaluate_episodes` runs it over complete episodes in one pass, for learning. `predict` is what Stable-Baselines3
    and its users call, one step at a time.
    """

    settings: Mapping[str, Any]  # of the run it was loaded from, if it was

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
            episodes: Of some cases.
            encoder_share: Share of each case's rollouts whose glimpses are encoded again, with a gradient. Below 1, all
                other glimpses and the overviews are taken as they were encoded when the episodes were played.
            extra: More glimpses, which follow the episodes; they are taken as they were encoded. The policy answers
                after each of them, too.
            conduct: That with which the episodes were played.
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
        """Answers after every prefix of an episode, and after each of the extra glimpses that follow it.

        The extra glimpses of a row stand right behind its last glimpse, where its padding would be. Answers are causal,
        so those before are not changed by them.

        Args:
            first: The first tokens (batch, embed), of the overview.
            tokens: Of the glimpses (batch, time, embed), padded.
            length: Glimpses per row (batch,).
            extra: What follows, if anything.

        Returns:
            Answers (batch, step, output), and those after extra glimpses (batch, more, output).
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
        """What each glimpse shows: as it was encoded then, except that a `share` of each case's rollouts is now."""
        anew = episodes.read
        if not conduct.train_encoder:
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
        """Log-probability (batch, step) of what was decided, and the entropy of where to look; zero at other steps."""
        read = F.pad(episodes.read, (0, 1))
        # The last step looks nowhere: any choice stands in for it and is masked.
        choice = Choice(F.pad(episodes.location, (0, 0, 0, 1)), F.pad(episodes.cell, (0, 1)))
        looked, entropy = self._looked(states, candidates, self._first_read(episodes), choice, conduct)
        zoom = self.zoom_head(states).log_softmax(-1).gather(-1, F.pad(episodes.zoom, (0, 1))[..., None])[..., 0]
        stop_logit = self.stop_head(states)[..., 0]
        log_prob = with_stop(~read, stop_logit, looked + zoom, conduct)
        return log_prob.masked_fill(~episodes.decided, 0.0), entropy.masked_fill(~episodes.decided, 0.0)

    def _looked(
        self, states: Tensor, candidates: Candidates, first_read: Tensor, choice: Choice, conduct: Conduct
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of choices, and entropies, (batch, step).

        A distribution over all cells at each of a thousand steps would take more memory than the encoder does, so
        where there are many, a few steps are done at a time, and once more on the way back.
        """
        batch, steps = states.shape[:2]

        def part(states: Tensor, location: Tensor, cell: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            where = self.where(states, candidates, first_read[:, None] < step[:, None], conduct)
            return where.log_prob(Choice(location, cell)), where.entropy()

        rows = (states, choice.location, choice.cell)
        step = torch.arange(steps, device=states.device)
        size = max(1, _CELLS_AT_ONCE // max(1, batch * first_read.shape[1]))
        if not self.encoding.chunk or steps <= size:
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
        """Chooses actions, as Stable-Baselines3's policies do.

        Args:
            observation: A batch of observations, or a single one.
            state: What the call before returned; None at the start.
            episode_start: bool (batch,), where an episode begins. There the policy starts anew from the overview;
                elsewhere it takes in the glimpse that the observation brings.
            deterministic: Whether to take the likeliest choice instead of a random one.
            conduct: How to act, where this is not the policy's own affair.

        Returns:
            Flat actions, and the state to hand to the next call.
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
