"""The heads of a full scan: held against plain implementations, and what they learn from few cases."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glimpse.agents.heads import AttentionHead, Ensemble, Examples, HeadTrainer, HeadTraining, TopKHead
from glimpse.cohort.splits import folds
from glimpse.tasks import Classification, MultiLabel, MultiTask, Regression, Task

Bags = tuple[list[Tensor], Tensor]


def drawn(count: int, rng: np.random.Generator, positive: float = 0.5, shift: float = 2.5) -> Bags:
    """Bags of 20 to 80 instances in 40 dimensions; in positive ones 1 to 3 instances are shifted in 3 dimensions."""
    bags, targets = [], (np.arange(count) < positive * count).astype(int)
    rng.shuffle(targets)
    for target in targets:
        bag = rng.normal(size=(rng.integers(20, 81), 40))
        bag[: rng.integers(1, 4) if target else 0, :3] += shift
        bags.append(torch.from_numpy(bag).float())
    return bags, torch.from_numpy(targets)


def examples(bags: Bags, task: Task) -> Examples:
    targets = list(bags[1].numpy())
    return Examples(bags[0], bags[1], [f"patient-{i}" for i in range(len(targets))], task.strata(targets))


def auc(scores: Tensor, targets: Tensor) -> float:
    """The share of pairs of a positive and a negative case that are in the right order."""
    more = scores[targets == 1][:, None] - scores[targets == 0]
    return float(((more > 0).float() + (more == 0).float() / 2).mean())


# ---------------------------------------------------------------------------------------------- plain implementations
class Gated(nn.Module):
    def __init__(self, embed: int = 40, hidden: int = 64) -> None:
        super().__init__()
        self.token = nn.Sequential(nn.Linear(embed, hidden), nn.ReLU(), nn.Dropout(0.25))
        self.v, self.u, self.w = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 1)
        self.answer = nn.Linear(hidden, 1)

    def forward(self, instances: Tensor, lengths: list[int]) -> Tensor:
        token = self.token(instances)
        weight = self.w(torch.tanh(self.v(token)) * torch.sigmoid(self.u(token)))
        bags = zip(weight.split(lengths), token.split(lengths), strict=True)
        return self.answer(torch.stack([(w.softmax(0) * t).sum(0) for w, t in bags]))[:, 0]


class Top(nn.Module):
    def __init__(self, embed: int = 40) -> None:
        super().__init__()
        self.score = nn.Linear(embed, 1)

    def forward(self, instances: Tensor, lengths: list[int]) -> Tensor:
        bags = self.score(instances)[:, 0].split(lengths)
        return torch.stack([bag.topk(min(4, len(bag))).values.mean() for bag in bags])


def plain(net: nn.Module, train: Bags, val: Bags, rate: float) -> Callable[[Sequence[Tensor]], Tensor]:
    """Learns with early stopping; returns what gives the logit of each bag."""
    mean, std = torch.cat(train[0]).mean(0), torch.cat(train[0]).std(0)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=1e-2)
    best, lowest, waited = copy.deepcopy(net.state_dict()), math.inf, 0

    def logits(bags: Sequence[Tensor]) -> Tensor:
        return net((torch.cat(list(bags)) - mean) / std, [len(bag) for bag in bags])

    while waited < 15:
        net.train()
        for rows in torch.randperm(len(train[0])).split(16):
            loss = F.binary_cross_entropy_with_logits(logits([train[0][i] for i in rows]), train[1][rows].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            reached = float(F.binary_cross_entropy_with_logits(logits(val[0]), val[1].float()))
        waited += 1
        if reached < lowest:
            best, lowest, waited = copy.deepcopy(net.state_dict()), reached, 0
    net.load_state_dict(best)
    return logits


@pytest.mark.slow
def test_it_is_as_good_as_plain_implementations_of_both_heads() -> None:
    task = Classification(2)
    found: dict[str, list[float]] = {"gated": [], "top": [], "own": [], "folds": []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        train, val, test = (drawn(count, rng) for count in (60, 20, 200))
        torch.manual_seed(seed)
        for name, net in (("gated", Gated()), ("top", Top())):
            logits = plain(net, train, val, 5e-3)
            with torch.no_grad():
                found[name].append(auc(logits(test[0]), test[1]))
        checks = {"own": examples(val, task), "folds": None} if seed == 0 else {"own": examples(val, task)}
        for name, checked in checks.items():
            head = HeadTrainer(task, HeadTraining(), seed).fit(examples(train, task), checked)
            with torch.no_grad():
                outputs = head(test[0])
            found[name].append(auc(outputs[:, 1] - outputs[:, 0], test[1]))
    better = max(np.mean(found["gated"]), np.mean(found["top"]))
    assert better > 0.85, found
    assert np.mean(found["own"]) >= better - 0.01, found
    assert found["folds"][0] >= max(found["gated"][0], found["top"][0]) - 0.01, found


# ---------------------------------------------------------------------------------------------- answers by hand
def test_attention_is_that_of_the_paper_for_bags_of_any_length() -> None:
    torch.manual_seed(0)
    head, own = AttentionHead(40, Classification(2), 0.0).eval(), Gated().eval()
    own.token[0], own.v, own.u, own.w = head.project[0], head.pool.tanh, head.pool.gate, head.pool.weight
    bags = [torch.randn(length, 40) for length in (5, 1, 9)]
    own.answer = head.answer
    token = [own.token(bag) for bag in bags]
    weight = [own.w(torch.tanh(own.v(one)) * torch.sigmoid(own.u(one))).softmax(0) for one in token]
    expected = torch.stack([head.answer((w * t).sum(0)) for w, t in zip(weight, token, strict=True)])
    torch.testing.assert_close(head(torch.cat(bags), [5, 1, 9]), expected)


def test_top_k_by_hand() -> None:
    tasks: dict[str, Task] = {"two": Classification(2), "three": Classification(3), "labels": MultiLabel(2)}
    tasks["age"] = Regression(50, 10)
    task = MultiTask(tasks)
    head = TopKHead(7, task, 2)
    assert head.score.out_features == 1 + 3 + 2 + 1
    with torch.no_grad():
        head.score.weight.copy_(torch.eye(7))
        head.score.bias.zero_()
    first = torch.tensor([[1.0, 0, 5, 0, 1, 0, 3], [3, 0, 1, 0, 2, -1, 6], [2, 0, 3, 9, 0, -2, 0]])
    second = torch.tensor([[4.0, 1, 1, 1, 1, 1, 1]])  # fewer than k
    expected = [[-1.25, 1.25, 0, 4, 4.5, 1.5, -0.5, 3], [-2, 2, 1, 1, 1, 1, 1, 1]]
    torch.testing.assert_close(head(torch.cat([first, second]), [3, 1]), torch.tensor(expected))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_top_k_of_what_is_no_finite_number_is_none(wrong: float) -> None:
    """A training that diverges has to be seen; what only fills up a batch is passed over all the same."""
    head = TopKHead(1, Classification(2), 2)
    nn.init.constant_(head.score.weight, -1)  # makes a score of -inf of inf, as filling is
    answers = head(torch.tensor([[1.0], [wrong], [2.0]]), [2, 1])
    assert not answers[0].isfinite().any() and answers[1].isfinite().all()


def test_an_ensemble_is_the_mean_of_its_members_on_standardised_patches() -> None:
    task = Classification(2)
    heads, mean, std = [TopKHead(3, task, 1) for _ in "ab"], torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 1, 1])
    bag = torch.randn(6, 3)
    parts = [head((bag - mean) / std, [6])[0] for head in heads]
    offset = torch.tensor([0.5, -0.5])
    torch.testing.assert_close(Ensemble(mean, std, heads, offset)([bag])[0], (parts[0] + parts[1]) / 2 + offset)


# ---------------------------------------------------------------------------------------------- learning
@pytest.mark.parametrize("how", [{}, {"head": "attention"}, {"head": "top_k"}])
def test_the_choice_says_what_was_taken(how: Any) -> None:
    rng, task = np.random.default_rng(5), Classification(2)
    train, val = (examples(drawn(20, rng, shift=4), task) for _ in "ab")
    trainer = HeadTrainer(task, HeadTraining(**how, epochs=4, ensemble=2, folds=3))
    with_val = trainer.fit(train, val)
    taken = "attention" if isinstance(with_val.heads[0], AttentionHead) else "top_k"
    assert len(with_val.heads) == 2 and f"the head is '{taken}'" in trainer.choice
    assert how.get("head", taken) == taken and ("validation: AUC" in trainer.choice) == (not how)
    without = trainer.fit(train)
    assert len(without.heads) == 3 and ("3-fold cross-validation: AUC" in trainer.choice) == (not how)


def test_the_better_kind_is_taken_by_auc_and_then_by_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, task = np.random.default_rng(5), Classification(2)
    train, val = (examples(drawn(16, rng), task) for _ in "ab")
    sign = torch.tensor([-1.0, 1.0]) * (2 * val.targets[:, None] - 1)
    wrong = sign.clone()
    wrong[0] *= -1
    for attention, top_k, better in (
        (sign, wrong, "attention"),
        (wrong * 9, sign / 9, "top_k"),  # a better AUC, although the loss is higher
        (sign, sign * 2, "top_k"),  # equal AUC, lower loss
    ):
        trainer = HeadTrainer(task, HeadTraining(epochs=1))
        trained = {AttentionHead: attention, TopKHead: top_k}
        fixed = trainer._outputs

        def outputs(one: Ensemble, cases: Examples, by: Any = trained, honest: Any = fixed) -> Tensor:
            return by[type(one.heads[0])] if cases is val and not one.training else honest(one, cases)

        monkeypatch.setattr(trainer, "_outputs", outputs)
        trainer.fit(train, val)
        assert f"the head is '{better}'" in trainer.choice


def test_rare_classes_count_as_much_and_answers_have_their_frequencies() -> None:
    rng, task = np.random.default_rng(1), Classification(2)
    train, val = (examples(drawn(100, rng, 0.1, shift=0), task) for _ in "ab")  # nothing to be learned
    trainer = HeadTrainer(task, HeadTraining(head="top_k", epochs=5))
    head = trainer.fit(train, val)
    torch.testing.assert_close(trainer._weights, torch.tensor([100 / 180, 100 / 20]))
    torch.testing.assert_close(head.offset.softmax(0), torch.tensor([0.9, 0.1]))


def test_quantities_and_several_tasks_are_learned() -> None:
    rng = np.random.default_rng(2)
    bags = [torch.from_numpy(rng.normal(size=(8, 5)) + rng.normal()).float() for _ in range(80)]
    values = torch.stack([bag[:, 0].mean() for bag in bags])
    task = Regression(0, 1)
    names = [str(i) for i in range(80)]
    parts = [Examples(bags[part], values[part], names[part], names[part]) for part in (slice(50), slice(50, 80))]
    head = HeadTrainer(task, HeadTraining(learning_rate=2e-2, epochs=30, ensemble=1)).fit(*parts)
    error = (head(parts[1].bags)[:, 0] - parts[1].targets).abs().mean()
    assert error < 0.25 * values.std()
    assert HeadTrainer(task, HeadTraining(epochs=1)).fit(parts[0])(parts[1].bags).shape == (30, 1)


def test_validation_cases_of_one_class_say_nothing() -> None:
    rng, task = np.random.default_rng(4), Classification(2)
    train, val = examples(drawn(20, rng), task), examples(drawn(6, rng, 1.0), task)
    trainer = HeadTrainer(task, HeadTraining(epochs=2, folds=3))
    assert len(trainer.fit(train, val).heads) == 3 and "3-fold cross-validation" in trainer.choice


def test_one_patient_is_no_reason_to_fail() -> None:
    task, rng = Classification(2), np.random.default_rng(3)
    bags = drawn(4, rng)
    trainer = HeadTrainer(task, HeadTraining(epochs=2))
    head = trainer.fit(Examples(bags[0], bags[1], ["one"] * 4, task.strata(list(bags[1].numpy()))))
    assert "both are averaged" in trainer.choice and len(head.heads) == 6


def test_folds_keep_patients_together_and_strata_balanced() -> None:
    patients = [f"p{i // 2}" for i in range(40)]
    strata = ["a" if i < 30 else "b" for i in range(40)]
    parts = folds(patients, strata, 5, seed=0)
    assert sorted(i for part in parts for i in part) == list(range(40))
    assert [len(part) for part in parts] == [8] * 5
    assert [sum(strata[i] == "b" for i in part) for part in parts] == [2] * 5
    assert all(len({n for n, part in enumerate(parts) if {i, i + 1} & {*part}}) == 1 for i in range(0, 40, 2))
    assert folds(patients, strata, 5, seed=0) == parts != folds(patients, strata, 5, seed=1)
    assert folds(["x", "x", "y"], ["a", "a", "b"], 5, seed=0) in ([[0, 1], [2]], [[2], [0, 1]])
