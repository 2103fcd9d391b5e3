"""Locators that learn where to look next: among cells (`PointerLocator`), or anywhere (`GaussianLocator`)."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glimpse.errors import SettingsError
from glimpse.networks.devices import indices
from glimpse.networks.overlap import Coverage
from glimpse.networks.where import (
    Candidates,
    CellDistribution,
    GaussianDistribution,
    available,
    masked,
    over_cells,
)
from glimpse.settings.options import above_zero, at_least

_BOUND = 50.0  # lower logits are those of places that are closed, or as good as closed
_UNIT = 0.05  # of the loss: where levels differ by so much in worth, one is e times as probable as the other
_NEWEST = 0.05  # share of the newest scores in running means of what scores are worth
_LEAST_SPREAD = 0.1  # of the median of channels: the least that the features of cells are divided by
SEEN_PENALTY = 10.0
"""Taken off the logit of a cell whose view was seen completely; for learned locators, the weight before training."""


class PointerLocator(nn.Module):
    """Chooses a cell; its logit is a learned unary score plus query(state) . key(cell) / sqrt(embed).

    This is a pointer network (Vinyals, Fortunato, Jaitly 2015) that points at cells of the overview or, where there are
    several fields of view, of a wide glimpse. From the logit of a cell whose view was seen already, in part or
    completely, a penalty is taken: its weight, which is learned for each extent, times the share that was seen.

    The channels of a pretrained encoder differ a hundredfold in size, and its features have a large common part.
    `calibrate` makes them alike: mean 0 and standard deviation 1 over a sample of cells, or less where a channel hardly
    varies. Before it is called, features are taken as they are.

    Args:
        embed: Width of the features of cells.
        hidden: Width of the memory's state.
        ndim: Number of axes of the images; not used.
        zooms: Number of extents of glimpses.
        seen_penalty: The weight of the penalty before training. With several fields of view the warm-up raises it where
            the scores of the best places exceed the mean by more, also if it is not trained.
        learn_seen_penalty: Whether the weights are trained.
        near_penalty: The weight, before training, of another penalty: times the share of a view that lies within an
            earlier glimpse of twice its sides. Where things are wider than a glimpse, it leads on to the next one.
            With 0, there is none.
        discount_seen: With several fields of view: whether what a place is worth, by which levels are chosen, is the
            less, the more of its view was seen. If not, the best place of each level is worth what its logit, less the
            penalty, says.
        wide_worth: With `discount_seen`: a factor, for each level above the finest, on how much more a place is worth
            than a poor one of the finest level. With 0.5 and two levels it is what a wide glimpse brings per look, if
            it takes another look to see what is inside; it is more where a wide glimpse leads to several fine ones.
        unary_layers: Layers of the unary score. Features of a pretrained encoder need no more than 1, and with few
            cases a second layer learns what is chance.
    """

    shift: Tensor
    spread: Tensor
    near_penalty: Tensor
    worth_moments: Tensor
    unary_gain = 3.0  # early in training, the look of a cell says more about its worth than the state does
    level_gain = 0.1  # what the state says of levels is learned from rewards alone, which are mostly chance

    def __init__(
        self,
        embed: int,
        hidden: int,
        ndim: int = 2,
        zooms: int = 1,
        seen_penalty: float = SEEN_PENALTY,
        learn_seen_penalty: bool = True,
        near_penalty: float = 0.0,
        unary_layers: int = 2,
        discount_seen: bool = False,
        wide_worth: float = 1.0,
    ) -> None:
        super().__init__()
        above_zero("wide_worth", wide_worth)
        if wide_worth != 1 and not discount_seen:
            raise SettingsError(
                f"wide_worth={wide_worth} is of network.locator.discount_seen=true: set both, or neither."
            )
        self.discount_seen, self.wide_worth = discount_seen, float(wide_worth)
        for name, weight in (("seen_penalty", seen_penalty), ("near_penalty", near_penalty)):
            at_least(name, weight, 0)
        at_least("unary_layers", unary_layers, 1, whole=True)
        self.seen_penalty = nn.Parameter(torch.full((zooms,), float(seen_penalty)), requires_grad=learn_seen_penalty)
        near, self.minds_near = torch.full((zooms,), float(near_penalty)), near_penalty > 0
        if learn_seen_penalty and self.minds_near:
            self.near_penalty = nn.Parameter(near)
        else:  # not among the parameters, so that runs from before there was one can be continued
            self.register_buffer("near_penalty", near)
        self.key, self.query = nn.Linear(embed, embed), nn.Linear(hidden, embed)
        self.unary = _unary(embed, unary_layers)
        self.register_buffer("shift", torch.zeros(embed))
        self.register_buffer("spread", torch.ones(embed))
        self.finer = nn.ModuleList(_Reader(embed, unary_layers) for _ in range(zooms - 1))
        if zooms > 1:  # what the best place of each level is worth, by its logit
            self.worth_slope, self.worth_offset = nn.Parameter(torch.zeros(zooms)), nn.Parameter(torch.zeros(zooms))
            self.register_buffer("worth_moments", torch.zeros(zooms, 4))  # zeros where nothing is known

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in ("shift", "spread"):  # policies that were saved before there were any have none
            state.setdefault(prefix + name, getattr(self, name))
        state.setdefault(prefix + "near_penalty", torch.zeros_like(self.near_penalty))
        if hasattr(self, "worth_moments"):
            state.setdefault(prefix + "worth_moments", self.worth_moments)
        super()._load_from_state_dict(state, prefix, *rest)

    def describe(
        self,
        features: Float[Tensor, "case cell embed"],
        where: Float[Tensor, "*case cell embed"],
        level: Int[Tensor, "case"] | None = None,
    ) -> tuple[Float[Tensor, "case cell embed"], Float[Tensor, "case cell"]]:
        """Returns keys and unary scores of cells, from their features and the embeddings of their locations.

        `level` is the index of the extent with which a glimpse at these cells would be read; None means the first. The
        cells of overviews and those of wide glimpses look different, so each level has scores of its own. If it is on
        the host, nobody waits for a device.
        """
        if level is None:
            return self._described(self, features, where)
        keys, unary = torch.zeros_like(features), torch.zeros_like(features[..., 0])
        for index in level.unique().tolist():
            rows = indices(level == index, features.device)
            part: Any = self if index == 0 else self.finer[index - 1]
            key, score = self._described(part, features[rows], where[rows])
            keys, unary = keys.index_copy(0, rows, key), unary.index_copy(0, rows, score)
        return keys, unary

    def _described(self, part: Any, features: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        features = (features - part.shift) / part.spread
        return part.key(features) + where, part.unary(features)[..., 0] * self.unary_gain

    def calibrate(self, features: Float[Tensor, "*batch embed"], level: int = 0) -> None:
        """Takes the statistics of features of a sample of cells of a level; they are not trained.

        A channel that hardly varies over cells is divided by a tenth of the median of all channels' standard
        deviations. Divided by its own, it would drown all others as soon as the encoder learns to use it.
        """
        part: Any = self if level == 0 else self.finer[level - 1]
        flat = features.flatten(0, -2)
        part.shift.copy_(flat.mean(0))
        spread = flat.std(0) if len(flat) > 1 else torch.zeros_like(flat[0])
        part.spread.copy_(spread.clamp_min(_LEAST_SPREAD * spread.median()) + 1e-3)

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        seen: Coverage,
    ) -> CellDistribution:
        """Returns a distribution over the cells that are open and not visited.

        The rows of a batch are ordered by case: all rollouts of the first case come first.
        """
        keys = candidates.keys
        by_case = states.reshape(keys.shape[0], -1, states.shape[-1])
        logits = self.logits(by_case, keys, candidates.unary).view(seen.visited.shape)
        level = candidates.level
        zoom = seen.zoom[..., None] if level is None else level.repeat_interleave(len(states) // len(level), 0)[:, None]
        left = logits - self.penalty(seen.share, seen.near, zoom)
        if level is None or not self.discount_seen:
            return over_cells(left, candidates, seen)
        worth = self.worth(logits - self.near_penalty[zoom] * seen.near, seen, zoom)
        return over_cells(left, candidates, seen, worth)

    def worth(
        self, logits: Float[Tensor, "batch time cell"], seen: Coverage, zoom: Int[Tensor, "batch 1 cell"]
    ) -> Float[Tensor, "batch time cell"]:
        r"""Returns what looking at each cell is worth, n + (1 - s) w^l (v - n) where v > n, else v.

        v is the worth by the line through the logits of its level (see `value_levels`), s the share of its view that
        was seen, and n the worth of a poor place of the finest level, one standard deviation below the mean. So what is
        worth more than nothing is worth the less, the more of it was seen. The penalty on the logits does not say that:
        it orders the places of one level, and where all of these are worth much the same, the line is flat. w is
        `wide_worth`, and l says how many levels above the finest the cell's is.

        Args:
            logits: The logits, without the penalty on what was seen.
            seen: What was seen.
            zoom: The levels of the cells.
        """
        value = self.worth_slope[zoom] * logits.clamp_min(-_BOUND) + self.worth_offset[zoom]
        mean, square = self.worth_moments[-1, 0], self.worth_moments[-1, 2]
        poor = mean - (square - mean * mean).clamp_min(0).sqrt()
        nothing = self.worth_slope[-1] * poor + self.worth_offset[-1]
        left = (1 - seen.share) * self.wide_worth ** (len(self.worth_slope) - 1 - zoom)
        return torch.where(value > nothing, nothing + left * (value - nothing), value)

    def level_logits(
        self, logits: Float[Tensor, "batch time zoom"], best: Float[Tensor, "batch time zoom"]
    ) -> Float[Tensor, "batch time zoom"]:
        """Returns the logits of levels: those of the state, and what the best place of each level is worth.

        A fine glimpse is worth what it shows, and a wide one what the choice inside it will bring. So it looks more
        closely where something promising was seen from afar, and elsewhere when nothing is left there.

        Args:
            logits: Those of the state.
            best: What the best place of each level is worth with `discount_seen`, else its logit.
        """
        worth = best if self.discount_seen else self.worth_slope * best.clamp_min(-_BOUND) + self.worth_offset
        return masked(self.level_gain * logits + worth, available(best))

    @torch.no_grad()
    def value_levels(self, moments: Float[Tensor, "zoom 4"], lead: Float[Tensor, " zoom"]) -> None:
        """Sets what the best place of each level is worth, in units of the loss: the line that fits its logits best.

        Args:
            moments: Of the logits of places and what they are worth, for each level, as `moments_of` returns them.
            lead: By how much the logits of the best places exceed the mean: so much at least is taken off where all was
                seen. Otherwise the agent would look at the first good place from all sides before it looks for another.
        """
        self.worth_moments.copy_(moments.nan_to_num())
        self._fit_levels()
        self.seen_penalty.copy_(torch.maximum(self.seen_penalty, lead.to(self.seen_penalty)))

    @torch.no_grad()
    def follow_levels(self, moments: Float[Tensor, "zoom 4"]) -> None:
        """Keeps what `value_levels` has set true while the scores change: `moments` are those of some more places.

        What a choice learns does not depend on a number that is added to all of its scores, so they drift.
        """
        known, found = (one.any(1, keepdim=True) for one in (self.worth_moments, moments.nan_to_num()))
        newest = torch.where(known, self.worth_moments.lerp(moments, _NEWEST), moments)
        self.worth_moments.copy_(torch.where(found, newest, self.worth_moments))
        self._fit_levels()

    def _fit_levels(self) -> None:
        logit, worth, square, product = self.worth_moments.unbind(1)
        slope = ((product - logit * worth) / (square - logit * logit).clamp_min(1e-6)).clamp_min(0)
        known = self.worth_moments.any(1)  # a policy that was saved without moments keeps the lines that it has
        # They are parameters: decisions teach them where no step ends with this, without a warm-up or with look_coef=0.
        lines = ((self.worth_slope, slope), (self.worth_offset, worth - slope * logit))
        for held, fitted in lines:
            held.copy_(torch.where(known, fitted / _UNIT, held))

    def penalty(
        self,
        share: Float[Tensor, "batch time cell"],
        near: Float[Tensor, "batch time cell"],
        zoom: Int[Tensor, "batch #time #cell"],
    ) -> Float[Tensor, "batch time cell"]:
        """Returns what is taken off the logits of cells of whose view a share was seen, or is near to what was seen.

        `zoom` is the index of the extent of the view, of all cells (batch, time, 1) or of each.
        """
        return self.seen_penalty[zoom] * share + self.near_penalty[zoom] * near

    def logits(
        self,
        states: Float[Tensor, "case time hidden"],
        keys: Float[Tensor, "case cell embed"],
        unary: Float[Tensor, "case cell"],
    ) -> Float[Tensor, "case time cell"]:
        """Returns the logits of all cells, open or not, from the keys and unary scores that `describe` returned."""
        return self.query(states) @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1]) + unary[:, None]


def moments_of(logits: Float[Tensor, " place"], worth: Float[Tensor, " place"]) -> Float[Tensor, "4"]:
    """Returns the means of logits, of what they are worth, of squared logits and of products; NaN without places."""
    return torch.stack([logits, worth, logits * logits, logits * worth]).mean(1)


class _Reader(nn.Module):
    """What `PointerLocator` says of the cells of wide glimpses of one field of view."""

    shift: Tensor
    spread: Tensor

    def __init__(self, embed: int, unary_layers: int) -> None:
        super().__init__()
        self.key, self.unary = nn.Linear(embed, embed), _unary(embed, unary_layers)
        self.register_buffer("shift", torch.zeros(embed))
        self.register_buffer("spread", torch.ones(embed))


def _unary(embed: int, layers: int) -> nn.Sequential:
    hidden = [layer for _ in range(layers - 1) for layer in (nn.Linear(embed, embed), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(embed, 1))


class GaussianLocator(nn.Module):
    """A normal distribution around tanh(W state), as in the recurrent attention model (Mnih et al. 2014).

    The standard deviation is learned, too, unless `learn_std` is False. It takes no account of what was seen already,
    and with several fields of view it looks anywhere with any of them.
    """

    roams = True

    def __init__(
        self, embed: int, hidden: int, ndim: int = 2, zooms: int = 1, std: float = 0.2, learn_std: bool = True
    ) -> None:
        super().__init__()
        self.mean = nn.Linear(hidden, ndim)
        self.log_std = nn.Parameter(torch.tensor(math.log(std)), requires_grad=learn_std)

    def level_logits(self, logits: Tensor, best: Tensor) -> Tensor:
        """Returns the logits as they are."""
        return logits

    def describe(
        self,
        features: Float[Tensor, "case cell embed"],
        where: Float[Tensor, "*case cell embed"],
        level: Int[Tensor, "case"] | None = None,
    ) -> tuple[Float[Tensor, "case cell embed"], Float[Tensor, "case cell"]]:
        """Returns zeros, because this locator does not use cells."""
        return torch.zeros_like(features), torch.zeros_like(features[..., 0])

    def forward(
        self,
        states: Float[Tensor, "batch time hidden"],
        candidates: Candidates,
        seen: Coverage,
    ) -> GaussianDistribution:
        return GaussianDistribution(self.mean(states).tanh(), self.log_std.exp(), candidates)
