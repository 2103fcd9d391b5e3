"""Updates a policy from the episodes of a rollout: computes advantages and losses, and steps the optimizer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glimpse.agents.options import Options
from glimpse.agents.replay import Replay, answers_from
from glimpse.agents.returns import (
    all_at_the_end,
    consequences,
    gains,
    generalised_advantage,
    leave_one_out,
    masked_mean,
    returns_to_go,
    standardised,
)
from glimpse.errors import DivergedError
from glimpse.learning.looking import WideLooks, Worth
from glimpse.networks.devices import to_device
from glimpse.networks.policy import GlimpsePolicy, answering_parts
from glimpse.networks.records import OWN_CONDUCT, Conduct, Episodes, Evaluation, Glimpses
from glimpse.ranks.group import ranks
from glimpse.ranks.sharing import add_gradients, declared, of_all, own_order, share_of_part, sharing, totals
from glimpse.runs.checkpoints import Checkpoint
from glimpse.tasks import Task

_MOST_SKIPPED = 10  # steps one after the other whose gradients are not finite; the parameters will not recover

Record = TypeVar("Record", Episodes, Glimpses, Glimpses | None)


@dataclass(frozen=True)
class Loss:
    """A loss, and the numbers to log about it; losses can be added.

    The numbers stay on the device: nobody waits for them before the end of an update.
    """

    value: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(self.value + other.value, {**self.logs, **other.logs})


@dataclass(frozen=True)
class Credit:
    """How much the decisions of some episodes were worth.

    Attributes:
        advantage: How much better the return of a decision was than its baseline, standardised over all decisions.
        returns: The returns, which the value head should predict.
    """

    advantage: Float[Tensor, "batch step"]
    returns: Float[Tensor, "batch step"]

    def of_rows(self, rows: Int[Tensor, "some"]) -> "Credit":
        """Returns the credit of the rows with these indices."""
        rows = to_device(rows, self.returns.device)
        return Credit(self.advantage[rows], self.returns[rows])


class Minibatch(NamedTuple):
    """Whole episodes of some cases, with their extra glimpses, credit, and the worth of random glimpses.

    `on_host` are the same episodes on the host.
    """

    episodes: Episodes
    extra: Glimpses | None
    credit: Credit | None
    worth: Worth | None
    on_host: Episodes


def give_optimizer(policy: GlimpsePolicy, learning_rate: float) -> None:
    """Makes the optimizer of a policy that has none yet; `Learner` says what its groups are."""
    if getattr(policy, "optimizer", None) is None:
        encoder = list(policy.encoder.parameters())
        others = [p for name, p in policy.named_parameters() if not name.startswith("encoder.")]
        policy.optimizer = torch.optim.AdamW([{"params": others}, {"params": encoder}], learning_rate)


class Learner:
    """Learns to predict, with the supervised loss of all answers of an episode; the optimizer is AdamW.

    The optimizer has two groups of parameters: the shared encoder is the second, and all other parameters are the
    first. Each group has its own learning rate, and its gradient is clipped separately. The optimizer is stored as
    `policy.optimizer`, where Stable-Baselines3 expects it; if the policy has one already, from an earlier stage, that
    one is used, with the weight decay of these options.

    Args:
        policy: The policy to train.
        task: The task, which gives the loss.
        options: The options of the agent.
        learning_rate: Initial learning rate, if the optimizer is made here.
    """

    def __init__(self, policy: GlimpsePolicy, task: Task, options: Options, learning_rate: float) -> None:
        self.policy, self.task = policy, task
        self.rollouts, self.losses, self.updates = options.rollouts, options.losses, options.updates
        options.check_replay(policy.overview_dropout)
        self.replay = Replay(options.updates.replay_rollouts)
        self.untrained = [] if self.updates.train_answers else _what_answers(policy)
        give_optimizer(policy, learning_rate)
        self.skipped = 0  # steps one after the other whose gradients were not finite
        for group in policy.optimizer.param_groups:
            group["weight_decay"] = self.updates.weight_decay

    # ------------------------------------------------------------------------------------------ the update
    def update(
        self,
        episodes: Episodes,
        extra: Glimpses | None,
        learning_rate: float,
        conduct: Conduct = OWN_CONDUCT,
        worth: Worth | None = None,
    ) -> dict[str, float]:
        """Learns from one rollout in `n_epochs` passes; returns the numbers to log about the last step.

        Args:
            episodes: The episodes of the rollout.
            extra: Extra glimpses of each row of the episodes, or None.
            learning_rate: The learning rate of this update.
            conduct: How the policy acted when the episodes were played.
            worth: What random glimpses of these cases are worth, if the locator is to learn from them.
        """
        self.policy.set_training_mode(True)
        self._apply_rate(learning_rate)
        credit, logs = self.credit(episodes), dict[str, Tensor]()
        for _ in range(self.updates.n_epochs):
            for minibatch in self._minibatches(episodes, extra, credit, worth):
                logs = self._step(minibatch, conduct)
        if self.updates.replay_steps:
            logs |= self._learn_again(episodes)
        return {name: float(value) for name, value in logs.items()}

    def _learn_again(self, episodes: Episodes) -> dict[str, Tensor]:
        """Lets answers learn from the kept features of the last rollouts; returns the losses of the last step."""
        self.replay.add(episodes)
        logs: dict[str, Tensor] = {}
        wanted = self.updates.replay_steps * len(self.replay.kept)  # few rollouts would be learned by heart
        for _ in range(math.ceil(wanted / self.updates.replay_rollouts)):
            drawn = self.replay.draw()
            with sharing(len(drawn.read)) as own:
                on_host = drawn.each(lambda part: part[own]).shuffled()
                seen = on_host.each(lambda part: to_device(part, self.policy.device))
                every, single = answers_from(self.policy, seen, on_host.read)
                answered = torch.cat([torch.ones_like(seen.read[:, :1]), seen.read], 1)
                loss = self._losses_of(every, single, seen.target, seen.read.sum(1), answered, seen.read)
                self._descend(loss.value)
                logs = totals({f"{name}_again": value for name, value in loss.logs.items()})
        return logs

    def restore_replay(self, checkpoint: Checkpoint) -> None:
        """Takes the rollouts that a checkpoint has kept, if answers are to learn from them."""
        if self.updates.replay_steps:
            self.replay.restore(checkpoint)

    def _apply_rate(self, learning_rate: float) -> None:
        others, encoder = self.policy.optimizer.param_groups
        others["lr"] = learning_rate
        encoder["lr"] = learning_rate * self.updates.encoder_rate

    def _minibatches(
        self, episodes: Episodes, extra: Glimpses | None, credit: Credit | None, worth: Worth | None
    ) -> Iterator[Minibatch]:
        """Yields the rollout in parts of whole cases, in a random order."""
        device = self.policy.device
        order, count = own_order(len(episodes.overview)), self.updates.minibatches
        if count == 1:  # avoids copying all glimpses
            yield Minibatch(_to(episodes, device), _to(extra, device), credit, worth, episodes)
            return
        alone = ranks().size == 1
        for number, cases in enumerate(order.chunk(count) if alone else order.tensor_split(count)):
            rows = (cases[:, None] * episodes.rollouts + torch.arange(episodes.rollouts)).flatten()
            more = None if extra is None else extra.of_rows(rows)
            part = None if credit is None else credit.of_rows(rows)
            looks = None if worth is None else worth.of_cases(cases)
            chosen = episodes.of_cases(cases)
            with declared(share_of_part(self.rollouts.cases_per_rollout, count, number)):
                yield Minibatch(_to(chosen, device), _to(more, device), part, looks, chosen)

    def _step(self, minibatch: Minibatch, conduct: Conduct) -> dict[str, Tensor]:
        episodes, extra, credit, worth, on_host = minibatch
        worth = None if worth is None else worth.shuffled().to(self.policy.device)
        evaluation = self.policy.evaluate_episodes(
            episodes,
            extra=extra,
            conduct=conduct,
            places=None if worth is None else worth.cells,
            encoder_share=self.updates.encoder_share,
            overview_share=self.updates.overview_share,
            on_host=on_host,
        )
        loss = self.loss(episodes, evaluation, credit)
        first, wide = evaluation.first_logits, _wide_looks(episodes, evaluation)
        if worth is not None and first is not None:
            look = of_all(worth.loss(first, wide))
            loss = loss + Loss(self.losses.look_coef * look, {"look": look.detach()})
        stepped, norm = self._descend(loss.value)
        if stepped and worth is not None and first is not None and worth.inner:
            locator: Any = self.policy.locator
            locator.follow_levels(worth.moments(first, wide))
        return {**totals({**loss.logs, "loss": loss.value.detach()}), "gradient_norm": norm.detach()}

    def _descend(self, loss: Tensor) -> tuple[bool, Tensor]:
        """Makes a step of the optimizer; returns whether it did, and the norm of the gradient."""
        optimizer = self.policy.optimizer
        optimizer.zero_grad()
        loss.backward()
        add_gradients(optimizer)
        for parameter in self.untrained:  # the optimizer passes over it then
            parameter.grad = None
        # The encoder's gradient can be a hundred times larger than the rest, so both are clipped separately.
        groups = [group["params"] for group in optimizer.param_groups]
        norms = (nn.utils.clip_grad_norm_(group, self.updates.max_grad_norm) for group in groups)
        norm = torch.stack([one.to(loss.device) for one in norms]).norm()  # a group without gradients says 0 on the CPU
        finite = bool(torch.isfinite(norm))
        if finite:  # a single bad batch must not make the parameters NaN
            optimizer.step()
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped == _MOST_SKIPPED:
            raise DivergedError(
                f"The gradients of {self.skipped} steps one after the other were not finite, so nothing is learned."
            )
        return finite, norm

    # ------------------------------------------------------------------------------------------ the losses
    def credit(self, episodes: Episodes) -> Credit | None:
        """Returns how much the decisions were worth, or None if the agent does not learn from decisions."""
        return None

    def loss(self, episodes: Episodes, evaluation: Evaluation, credit: Credit | None) -> Loss:
        """Returns the loss of one step; `credit` is what the method `credit` returned for these episodes."""
        return self.answer_loss(episodes, evaluation)

    def answer_loss(self, episodes: Episodes, evaluation: Evaluation) -> Loss:
        """Returns the task's loss of last answers, plus weighted losses of all answers and of single glimpses.

        It has no gradient where answers are not trained.
        """
        answers = evaluation.prediction, evaluation.glimpse_prediction
        loss = self._losses_of(*answers, episodes.target, episodes.length, episodes.answered, episodes.read)
        if not self.updates.train_answers:
            return Loss(loss.value.detach(), loss.logs)
        if evaluation.extra_prediction is None:
            return loss
        extra = evaluation.extra_prediction
        more = of_all(self.task.loss(extra, _along(episodes.target, extra[..., 0])).mean())
        return loss + Loss(more, {"supervised_extra": more.detach()})

    def _losses_of(
        self, prediction: Tensor, alone: Tensor, target: Tensor, length: Tensor, answered: Tensor, read: Tensor
    ) -> Loss:
        """Returns the weighted losses of the last answer, of all answers, and of those from single glimpses."""
        every = self.task.loss(prediction, _along(target, answered))
        last = of_all(every.gather(1, length[:, None])[:, 0].mean())
        prefixes, glimpse = masked_mean(every, answered), masked_mean(self.task.loss(alone, _along(target, read)), read)
        value = last + self.losses.prefix_coef * prefixes + self.losses.glimpse_coef * glimpse
        logs = {"supervised_last": last.detach(), "supervised_all": prefixes.detach(), "glimpse": glimpse.detach()}
        return Loss(value, logs)


class PolicyLearner(Learner):
    """Learns to predict, and also where to look, with the policy gradient that a subclass defines.

    The options `Losses.credit` and `Losses.baseline` say which rewards a decision is credited with, and with what they
    are compared.
    """

    def credit(self, episodes: Episodes) -> Credit:
        if self.losses.credit == "final":
            caused = all_at_the_end(episodes.reward, episodes.decided)
        else:
            caused = self._consequences(episodes)
        returns = returns_to_go(caused)
        if self.losses.baseline == "leave_one_out":
            advantage = leave_one_out(returns, self.rollouts.rollouts_per_case)
        else:
            advantage = generalised_advantage(caused, episodes.value, episodes.decided, self.losses.gae_lambda)
            returns = (advantage + episodes.value).masked_fill(~episodes.decided, 0.0)
        device = self.policy.device
        return Credit(standardised(advantage, episodes.decided).to(device), returns.to(device))

    def _consequences(self, episodes: Episodes) -> Tensor:
        """Returns rewards (batch, step), each at the decision that caused it (see `returns.consequences`)."""
        target = _along(episodes.target, episodes.answered)
        score = torch.from_numpy(self.task.score(episodes.prediction.numpy(), target.numpy())).float()
        return consequences(episodes.reward, gains(score, episodes.answered))

    def loss(self, episodes: Episodes, evaluation: Evaluation, credit: Credit | None) -> Loss:
        assert credit is not None  # the method `credit` above returns one
        policy = self.policy_loss(episodes, evaluation, credit.advantage)
        return self.answer_loss(episodes, evaluation) + (policy + self._other_losses(episodes, evaluation, credit))

    def policy_loss(self, episodes: Episodes, evaluation: Evaluation, advantage: Float[Tensor, "batch step"]) -> Loss:
        """Returns the loss whose gradient makes good decisions more probable."""
        raise NotImplementedError

    def _other_losses(self, episodes: Episodes, evaluation: Evaluation, credit: Credit) -> Loss:
        """Returns the entropy bonus and, with a critic, the loss of the value head."""
        entropy = masked_mean(evaluation.entropy, episodes.decided)
        loss = Loss(-self.losses.ent_coef * entropy, {"entropy": entropy.detach()})
        if self.losses.baseline != "critic":
            return loss
        value = masked_mean((evaluation.value - credit.returns) ** 2, episodes.decided)
        return loss + Loss(self.losses.vf_coef * value, {"value_loss": value.detach()})


def _what_answers(policy: GlimpsePolicy) -> list[nn.Parameter]:
    """Returns the parameters of which answers are made, but for the encoder, which the search shares."""
    parts = nn.ModuleList([answering_parts(policy), policy.scale, policy.position])
    return list(parts.parameters())


def _wide_looks(episodes: Episodes, evaluation: Evaluation) -> WideLooks | None:
    """Returns the wide glimpses of episodes with the locator's scores of their cells, where there are such."""
    if evaluation.view_scores is None or not evaluation.view_scores.shape[1]:
        return None
    row = torch.arange(len(episodes.length), device=episodes.length.device)[:, None]
    step = episodes.view_step.clamp_max(episodes.cell.shape[1] - 1)
    zoom = episodes.zoom[row, step].masked_fill(~episodes.is_view, -1)
    return WideLooks(episodes.location[row, step], zoom, evaluation.view_scores)


def _to(record: Record, device: torch.device) -> Record:
    if record is None or device.type == "cpu":
        return record
    return type(record)(**{name: to_device(tensor, device) for name, tensor in vars(record).items()})


def _along(target: Tensor, mask: Tensor) -> Tensor:
    """Returns targets (batch, ...) repeated along the steps of `mask` (batch, step)."""
    return target[:, None].expand(-1, mask.shape[1], *target.shape[1:])
