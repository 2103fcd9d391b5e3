"""Self-distillation: an encoder learns from one view what its own running average sees in another."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from glimpse.learning.augment import Augment
from glimpse.learning.pretrainer import CALIBRATION, Pretrainer, middles
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.sharing import of_all, over_all


def distillation_loss(
    student: Float[Tensor, "batch k"],
    teacher: Float[Tensor, "batch k"],
    centre: Float[Tensor, " k"],
    temperatures: tuple[float, float],
) -> Tensor:
    r"""The loss of DINO (Caron et al. 2021) for two views.

    With P = softmax(s / \tau_s) of the student's outputs s and Q = softmax((t - c) / \tau_t) of the teacher's t, it is
    the mean over glimpses i of -\sum_k Q_jk log P_ik, where j is the other view of i. No gradient reaches the teacher.

    Args:
        student: Outputs of all first views, then of all second views.
        teacher: Outputs for the same views.
        centre: The running mean c of the teacher's outputs. Without it, one output would be the largest for all.
        temperatures: \tau_s and \tau_t. A low \tau_t sharpens; without it, all outputs would be alike.
    """
    first, second = ((teacher.detach() - centre) / temperatures[1]).softmax(-1).chunk(2)
    return F.cross_entropy(student / temperatures[0], torch.cat([second, first]))


class Prototypes(nn.Module):
    """A perceptron and the cosines of its output with learned prototypes."""

    def __init__(self, embed: int, count: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(embed, 128), nn.GELU(), nn.Linear(128, width))
        self.prototypes = nn.Parameter(torch.randn(count, width))

    def forward(self, tokens: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch k"]:
        return F.normalize(self.layers(tokens), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Teacher(nn.Module):
    r"""Copies of modules that follow them, without gradient.

    After each step, a parameter \theta' of a copy becomes d \theta' + (1 - d) \theta, where d is the decay. Buffers are
    copied. A teacher that follows quickly, also at first, teaches the student its own mistakes.

    Args:
        followed: The modules, in the order in which they are applied.
        decay: At least 0 and below 1.
        outputs: How many outputs the last module has.
    """

    centre: Tensor

    def __init__(self, followed: Sequence[nn.Module], decay: float, outputs: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(copy.deepcopy(part) for part in followed).requires_grad_(False)
        self.decay = decay
        self.register_buffer("centre", torch.zeros(outputs))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        for part in self.parts:
            images = part(images)
        return images

    @torch.no_grad()
    def follow(self, followed: Sequence[nn.Module]) -> None:
        """Goes a little way from its own parameters to those of the modules."""
        for own, part in zip(self.parts, followed, strict=True):
            for mine, other in zip(own.parameters(), part.parameters(), strict=True):
                mine.lerp_(other, 1 - self.decay)
            self._copy_buffers(own, part)

    @torch.no_grad()
    def copy_buffers(self, followed: Sequence[nn.Module]) -> None:
        """Takes over the modules' buffers, such as statistics that were set anew."""
        for own, part in zip(self.parts, followed, strict=True):
            self._copy_buffers(own, part)

    @staticmethod
    def _copy_buffers(own: nn.Module, part: nn.Module) -> None:
        for mine, other in zip(own.buffers(), part.buffers(), strict=True):
            mine.copy_(other)


class DistillationPretrainer(Pretrainer):
    """DINO (Caron et al. 2021) on a pool of glimpses, with two views of each.

    Args:
        policy: The policy whose encoder and token pool are trained.
        pool: uint8 (count, channel, *size * margin), as `sample_glimpses` reads them.
        augment: Makes two random views of each glimpse.
        prototypes: How many outputs the networks have.
        student_temperature: See `distillation_loss`.
        teacher_temperature: See `distillation_loss`.
        decay: How slowly the teacher follows; see `Teacher`.
        centre_decay: How slowly the centre follows the mean of the teacher's outputs over a step.
        **options: `batch`, `learning_rate` and `seed`, as of `Pretrainer`.
    """

    def __init__(
        self,
        policy: GlimpsePolicy,
        pool: np.ndarray,
        augment: Augment,
        *,
        prototypes: int = 256,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        decay: float = 0.996,
        centre_decay: float = 0.9,
        **options: Any,
    ) -> None:
        self.head = Prototypes(policy.width, prototypes)
        super().__init__(policy, pool, augment, {"head": self.head}, **options)
        self.temperatures, self.centre_decay = (student_temperature, teacher_temperature), centre_decay
        self.teacher = Teacher(self._followed(), decay, prototypes).to(policy.device)

    def calibrate(self, count: int = CALIBRATION) -> None:
        super().calibrate(count)
        self.teacher.copy_buffers(self._followed())
        if not self.done:  # from 0, the centre would at first be followed more than the views
            images = middles(self.pool.numpy(), self.augment.size)[: self.batch].to(self.policy.device)
            self.teacher.centre.copy_(self._taught(images).mean(0))

    def loss(self, rows: Int64[Tensor, " glimpse"], images: Tensor) -> Tensor:
        views = self._two_views(images)
        taught = self._taught(views)
        loss = distillation_loss(self.head(self.policy.embed(views)), taught, self.teacher.centre, self.temperatures)
        first, second = (over_all(views) for views in taught.chunk(2))
        self.teacher.centre.lerp_(torch.cat([first, second]).mean(0), 1 - self.centre_decay)
        return of_all(loss)

    def _taught(self, images: Tensor) -> Tensor:
        """Returns the teacher's outputs."""
        with torch.autocast(self.policy.device.type, torch.bfloat16, enabled=self.policy.encoding.autocast):
            return self.teacher(images).float()

    def _stepped(self) -> None:
        self.teacher.follow(self._followed())

    def _followed(self) -> list[nn.Module]:
        return [self.policy.encoder, self.policy.pool, self.head]

    def modules(self) -> dict[str, nn.Module]:
        """The policy, the head and the teacher."""
        return {**super().modules(), "teacher": self.teacher}
