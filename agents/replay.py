"""Replay: answers learn again from the glimpses of earlier episodes, whose features are kept.

Playing an episode and encoding its glimpses takes a hundred times as long as answering from their features, and a
target that many glimpses make together is learned slowly: from a few episodes per update, answers stay far behind what
the encoder sees. So the features of the last rollouts are kept, and answers learn from them, too. They are as old as
their rollout, and the encoder has moved on since; hence only some are kept. Decisions are never learned from them.
"""

from collections import deque
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Episodes
from glimpse.ranks.sharing import gathered, own_rows
from glimpse.runs.checkpoints import Checkpoint

_NAME = "replay"  # begins the names of tensors in a checkpoint


@dataclass(frozen=True)
class Seen:
    """What the glimpses of some episodes have shown, and what was to be answered.

    Attributes:
        seen: Pooled features of the glimpses, as encoded in the rollout.
        location: Their centres in [-1, 1]^d.
        zoom: Their fields of view.
        read: False for padding.
        target: The targets of the episodes.
    """

    seen: Float[Tensor, "batch time pooled"]
    location: Float[Tensor, "batch time d"]
    zoom: Int[Tensor, "batch time"]
    read: Bool[Tensor, "batch time"]
    target: Tensor

    @classmethod
    def of(cls, episodes: Episodes) -> "Seen":
        """Returns what the glimpses of episodes have shown, in the order of time."""
        return cls(episodes.seen, episodes.location, episodes.zoom, episodes.read, episodes.target)

    def each(self, change: Any) -> "Seen":
        """Returns the same with every tensor changed."""
        return Seen(**{one.name: change(getattr(self, one.name)) for one in fields(self)})

    def shuffled(self) -> "Seen":
        """Returns the same with the glimpses of each episode in a random order, its padding last."""
        order = own_rows(torch.rand, *self.read.shape).to(self.read.device).masked_fill(~self.read, 2.0).argsort(1)
        row = torch.arange(len(order), device=order.device)[:, None]
        parts = (getattr(self, one.name) for one in fields(self))
        return Seen(*(part if part is self.target else part[row, order] for part in parts))


class Replay:
    """The last rollouts.

    Args:
        rollouts: How many are kept.

    Attributes:
        kept: What they have shown, of all ranks, on the CPU; the newest comes last.
    """

    def __init__(self, rollouts: int) -> None:
        self.kept: deque[Seen] = deque(maxlen=rollouts)

    def add(self, episodes: Episodes) -> None:
        """Keeps a rollout; the oldest one is forgotten."""
        self.kept.append(Seen.of(episodes).each(lambda part: gathered(part).detach().cpu().clone()))

    def draw(self) -> Seen:
        """Returns a random one of the rollouts, the same on all ranks."""
        return self.kept[int(torch.randint(len(self.kept), ()))]

    def save(self, checkpoint: Checkpoint) -> None:
        """Adds all rollouts to a checkpoint."""
        for index, rollout in enumerate(self.kept):
            checkpoint.tensors |= {f"{_NAME}.{index:04d}.{name}": part for name, part in vars(rollout).items()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes the rollouts that `save` has added."""
        self.kept.clear()
        names = sorted({name.rpartition(".")[0] for name in checkpoint.tensors if name.startswith(f"{_NAME}.")})
        for name in names:
            self.kept.append(Seen(**{one.name: checkpoint.tensors[f"{name}.{one.name}"] for one in fields(Seen)}))


def answers_from(
    policy: GlimpsePolicy, seen: Seen, read: Bool[Tensor, "batch time"] | None = None
) -> tuple[Tensor, Tensor]:
    """Returns answers after each glimpse (batch, time + 1, output), and those from each alone (batch, time, output).

    The overview's token is that of a policy whose answers do not see overviews (`overview_dropout` of 1). `read` is
    that of `seen` on the host; without it, a device is waited for.
    """
    tokens = policy.tokens(seen.seen, seen.location, seen.zoom, seen.read if read is None else read)
    first = policy.scale.weight[0].expand(len(tokens), 1, -1)
    return policy.answer_head(policy.aggregator(torch.cat([first, tokens], 1))), policy.glimpse_head(tokens)
