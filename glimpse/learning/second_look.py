"""A second look in the warm-up: answers learn anew from where the locator has learned to look.

Of glimpses at random places few show anything, so a label says little about each of them, and answers have learned many
of the training cases by heart before they know what matters. What they have learned by then is enough for the locator.
Of glimpses where it looks, many show what matters: answers that begin anew learn from them in few steps, and know cases
that they have not seen.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glimpse.cohort import Case
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.learning.zoom_warm_up import Shown, ZoomWarmUp, drawn
from glimpse.networks.policy import GlimpsePolicy, answering_parts
from glimpse.networks.records import Conduct
from glimpse.networks.where import CellDistribution
from glimpse.runs.checkpoints import Checkpoint
from glimpse.tasks import Task
from glimpse.views import Views

_FIXED = Conduct(train_encoder=False)
_CELLS = "second_look"  # the name of the cells in a checkpoint


class _Again(TokenWarmUp):
    """What second looks share: only what answers is trained, the projection of tokens, the aggregator and the heads."""

    teaches_locator = False

    @property
    def steps(self) -> int:
        """How many steps there will be."""
        return self.options.again.second_steps

    def begin(self, unlearned: nn.ModuleDict) -> None:
        """Lets answers begin anew.

        Args:
            unlearned: What answers, as it was before it learned anything: the `unlearned` of the first look.
        """
        answering_parts(self.policy).load_state_dict(unlearned.state_dict())

    @staticmethod
    def holds(checkpoint: Checkpoint) -> bool:
        """Returns whether a checkpoint of the warm-up is of its second look."""
        return _CELLS in checkpoint.tensors

    def _trained(self) -> list[nn.Parameter]:
        return list(answering_parts(self.policy).parameters())


class SecondLook(_Again):
    """Supervised learning on sequences of glimpses, a share of which lie where the locator would look first.

    Args:
        policy: The policy after a `TokenWarmUp`.
        cases, views, task, **given: As for `TokenWarmUp`.

    Attributes:
        chosen: The cells of the glimpses of each case, after `begin` or `restore_state`.
    """

    chosen: Int[Tensor, "case glimpse"]

    def __init__(self, policy: GlimpsePolicy, cases: Sequence[Case], views: Views, task: Task, **given: Any) -> None:
        super().__init__(policy, cases, views, task, **given)
        self.used = self.glimpses_per_case

    def begin(self, unlearned: nn.ModuleDict) -> None:
        """Draws the places of glimpses, and lets answers begin anew (see `_Again`)."""
        self.chosen = torch.from_numpy(np.stack([self._drawn(index) for index in range(len(self.cases))]))
        super().begin(unlearned)

    def save_state(self, checkpoint: Checkpoint) -> None:
        """Adds the state and the places to a checkpoint."""
        super().save_state(checkpoint)
        checkpoint.tensors[_CELLS] = self.chosen.clone()

    def restore_state(self, checkpoint: Checkpoint) -> None:
        """Goes back to where `save_state` was called."""
        super().restore_state(checkpoint)
        self.chosen = checkpoint.tensors[_CELLS]

    def _places(self, index: int, rng: np.random.Generator) -> np.ndarray:
        return self.chosen[index].numpy()

    @torch.no_grad()
    def _drawn(self, index: int) -> np.ndarray:
        """Draws cells of a case, int (glimpse,): from the locator's first choices one after another, then evenly."""
        policy, views, source = self.policy, self.views, self.cases[index].source
        overview, foreground = (
            torch.from_numpy(image.copy())[None].to(policy.device)
            for image in (views.overview(source), views.foreground(source))
        )
        extents = torch.from_numpy(views.relative_extents(source))[None].to(policy.device)
        scene = policy.scene(overview, foreground, extents, conduct=_FIXED)
        state = policy.begin(scene)
        where = policy.where(state.memory[:, None], *policy.choices(scene, state))
        assert isinstance(where, CellDistribution), "only a locator that points at cells is taught"
        inside, log_probs = scene.open[0].cpu().numpy(), np.full(len(policy.cells), -np.inf, np.float32)
        log_probs[slice(None) if where.index is None else where.index[0].cpu().numpy()] = where.log_probs[0, 0].cpu()
        rng, count = np.random.default_rng([1, self.seeds[index]]), self.glimpses_per_case
        return _looked_at(log_probs, inside, self.options.again.second_look, count, rng)


class ZoomSecondLook(_Again, ZoomWarmUp):
    """The same with several fields of view: at every level, a share of the glimpses lie where the locator would look.

    The locator does not learn any more, so the same places are drawn again where the stage was interrupted.

    Args:
        policy: The policy after a `ZoomWarmUp`.
        cases, views, task, **given: As for `TokenWarmUp`.
    """

    def save_state(self, checkpoint: Checkpoint) -> None:
        """Adds the state to a checkpoint."""
        super().save_state(checkpoint)
        checkpoint.tensors[_CELLS] = torch.ones(1)

    def encode(self, progress: Callable[[int], Any] = lambda count: None, at_once: int = 4) -> None:
        """Reads and encodes as the first look does. Wide views are encoded by the threads that read, too."""
        training = self.policy.training
        self.policy.set_training_mode(False)  # a part in training mode would be switched by one thread under another
        try:
            super().encode(progress, at_once)
        finally:
            self.policy.set_training_mode(training)

    def _chosen(self, shown: Shown, count: int, zoom: int, rng: np.random.Generator) -> list[Int[np.ndarray, "some"]]:
        policy, share = self.policy, self.options.again.second_look
        images, where = (torch.from_numpy(part).to(policy.device) for part in (shown.images, np.stack(shown.places)))
        maps = policy.features(images, _FIXED) if zoom == 0 else policy.view_features(images, _FIXED)
        zooms = torch.full((len(images),), zoom, device=policy.device)
        _, scores = policy.describe(maps.flatten(2).transpose(1, 2), where, zooms)
        return [
            _looked_at(score, inside, share, count, rng) if inside.any() else drawn(inside, count, rng)
            for score, inside in zip(scores.cpu().numpy(), shown.opened, strict=True)
        ]


def _looked_at(
    logits: Float[np.ndarray, "cell"],
    inside: Bool[np.ndarray, "cell"],
    share: float,
    count: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "some"]:
    """Draws open cells: a share of them as the locator chooses one after another, then others evenly."""
    cells = np.flatnonzero(inside)
    # The highest of logits with Gumbel noise are draws one after another, without replacement.
    best = cells[np.argsort(-(logits[cells] + rng.gumbel(size=len(cells))))]
    looked = best[: round(share * count)]
    others, left = best[len(looked) :], count - len(looked)
    others = others if len(others) else cells
    return np.concatenate([looked, rng.choice(others, left, replace=len(others) < left)])
