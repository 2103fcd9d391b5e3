"""Judges find which few glimpses of a case make its target."""

from typing import Any

import numpy as np
import pytest
import torch

from glimpse.errors import SettingsError
from glimpse.learning import warm_up, zoom_warm_up
from glimpse.learning.judging import Judges, answering_loss, judges_of, minus_worth
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks.top_k import TopKHead, means_of_highest
from glimpse.tasks import Classification, MultiLabel, MultiTask, Regression, Task
from tests.warm_ups import make
from tests.zooming import spotted, warmed

CASES, GLIMPSES, FEATURES, TELLING = 24, 80, 12, 4


def cases(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of glimpses, and targets; the first four glimpses of positive cases lie apart.

    All glimpses of a case have an offset of the case, by which a head could know it by heart.
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(CASES, GLIMPSES, FEATURES, generator=generator)
    features[..., 1:] += torch.randn(CASES, 1, FEATURES - 1, generator=generator)
    targets = torch.arange(CASES) % 2
    features[targets == 1, :TELLING, 0] += 6
    return 3 * features + 100, targets


def judged_losses(
    features: torch.Tensor, targets: torch.Tensor, task: Task, highest: list[int], seed: int
) -> torch.Tensor:
    return minus_worth(judges_of(features, targets, task, highest, seed).answers, targets, task)


def test_telling_glimpses_of_positive_cases_have_the_lowest_losses() -> None:
    features, targets = cases()
    with torch.no_grad():  # as where glimpses are encoded
        losses = judged_losses(features, targets, Classification(2), [4, 8], seed=0)
    assert losses.shape == (CASES, GLIMPSES)
    order = losses[targets == 1].argsort(1)[:, :TELLING]
    assert (order < TELLING).float().mean() > 0.95


def test_telling_glimpses_surprise_and_others_hardly_do() -> None:
    features, targets = cases()
    answers = judges_of(features, targets, Classification(2), [4, 8], seed=0).answers
    worth = -minus_worth(answers, targets, Classification(2), "surprise")
    telling = torch.zeros(CASES, GLIMPSES, dtype=torch.bool)
    telling[targets == 1, :TELLING] = True
    by_loss = -minus_worth(answers, targets, Classification(2))
    by_loss = by_loss - by_loss.mean(1, keepdim=True)

    def stands_out(one: torch.Tensor) -> float:
        return float((one[telling].mean() - one[~telling].mean()) / one[~telling].std())

    assert stands_out(worth) > 1.5 * stands_out(by_loss) > 0
    each, mean = answers.softmax(-1), answers.mean((0, 1)).softmax(-1)
    apart = (each * (each / mean).log()).sum(-1)
    torch.testing.assert_close(worth, 0.03 * apart / apart.mean(), atol=1e-5, rtol=1e-3)
    assert worth.mean().item() == pytest.approx(0.03)
    same = torch.ones(2, 3, 2)
    assert torch.equal(minus_worth(same, targets[:2], Classification(2), "surprise"), torch.zeros(2, 3))


def test_cross_fitted_judges_find_no_benefit_in_what_they_know_by_heart() -> None:
    """Targets are drawn by chance, and cases can be told from each other: there is nothing to find."""
    task, features = Classification(2), cases()[0][..., 1:]  # without what tells
    everything, chance = (torch.arange(CASES), torch.arange(GLIMPSES).expand(CASES, -1)), np.log(2)
    for seed in range(3):
        targets = torch.randint(2, (CASES,), generator=torch.Generator().manual_seed(seed))
        by_heart, fitted = (
            task.loss(judges_of(features, targets, task, [4, 8], seed, crossed).along(*everything)[:, -1], targets)
            for crossed in (False, True)
        )
        assert by_heart.mean() < 0.8 * chance < chance < fitted.mean()


def test_cross_fitted_judges_find_what_tells() -> None:
    parts = [cases(seed) for seed in range(3)]
    features, targets = (torch.cat(one) for one in zip(*parts, strict=True))
    judges = judges_of(features, targets, Classification(2), [4, 8], 0, cross_fitted=True)
    assert len(judges.heads) == len(judges.scores) == 2
    losses = minus_worth(judges.answers, targets, Classification(2))
    order = losses[targets == 1].argsort(1)[:, :TELLING]
    assert (order < TELLING).float().mean() > 0.95
    along = judges.along(torch.tensor([1]), torch.arange(TELLING)[None])
    assert along[0, -1].softmax(-1)[1] > 0.8  # of a positive case, after all glimpses that tell


def test_cross_fitting_needs_judges_and_cases() -> None:
    with pytest.raises(SettingsError, match=r"there are none: set warm_up\.look_judges"):
        TokenWarmUp.parse_options({"cross_fitted": True})
    with pytest.raises(SettingsError, match="two cases or more"):
        judges_of(torch.zeros(1, 2, 3), torch.tensor([1]), Classification(2), [1], 0, cross_fitted=True)


def test_a_warm_up_takes_cross_fitted_judges() -> None:
    _, zoomed = warmed(spotted(), 2, look_judges=[2], answer_judges=[2], cross_fitted=True)
    assert zoomed.judges is not None and len(zoomed.judges.heads) == 1
    level = zoomed.levels[1].features
    fitted = judges_of(level, zoomed.targets, zoomed.task, [2], zoomed.seed, cross_fitted=True)
    torch.testing.assert_close(zoomed.judges.answers, fitted.answers)


def test_the_scores_of_a_case_are_those_of_the_judge_that_did_not_learn_from_it() -> None:
    features, targets = cases()
    halves = torch.randperm(CASES, generator=torch.Generator().manual_seed(0)).tensor_split(2)
    whole = judges_of(features, targets, Classification(2), [4], 0, cross_fitted=True).answers
    other = targets.clone()
    other[halves[0]] = 1 - other[halves[0]]  # what the first half is called, its own scores do not know
    changed = judges_of(features, other, Classification(2), [4], 0, cross_fitted=True).answers
    assert torch.equal(whole[halves[0]], changed[halves[0]])
    assert not torch.equal(whole[halves[1]], changed[halves[1]])


def test_what_judges_say_depends_on_the_seed_alone_and_not_on_the_global_generator() -> None:
    features, targets = cases()
    torch.manual_seed(1)
    first = judged_losses(features, targets, Classification(2), [4], seed=0)
    torch.manual_seed(2)
    assert torch.equal(first, judged_losses(features, targets, Classification(2), [4], seed=0))
    assert not torch.equal(first, judged_losses(features, targets, Classification(2), [4], seed=1))


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        (Classification(3), np.arange(CASES) % 3),
        (MultiLabel(["a", "b"]), np.stack([np.arange(CASES) % 2, np.ones(CASES)], 1)),
        (Regression(mean=0.5, spread=0.5), np.arange(CASES) % 2),
    ],
    ids=["three classes", "labels", "a quantity"],
)
def test_judges_answer_all_kinds_of_tasks(task: object, targets: np.ndarray) -> None:
    stacked = torch.from_numpy(task.stack(list(targets)))
    losses = judged_losses(cases()[0], stacked, task, [4], seed=0)
    assert losses.shape == (CASES, GLIMPSES) and losses.isfinite().all()


@pytest.mark.parametrize("given", [[], [0], "4", 4, [2.5]])
@pytest.mark.parametrize("name", ["look_judges", "answer_judges"])
def test_impossible_numbers_are_refused(name: str, given: object) -> None:
    with pytest.raises(SettingsError, match=name):
        TokenWarmUp.parse_options({name: given})


def test_where_most_glimpses_of_positive_cases_tell_the_others_surprise_less() -> None:
    """A slide of which nine tenths are tumour: it is not the normal rest that is worth a look."""
    task, targets = Classification(2), torch.tensor([0, 1])
    answers = torch.tensor([[[1.5, -1.5]] * 10, [[-1.5, 1.5]] * 9 + [[1.5, -1.5]]])
    worth = -minus_worth(answers, targets, task, "surprise")
    assert worth[1, 0] > 1.2 * worth[1, 9] > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"look_worth": "gain", "look_judges": [2]}, "'loss' or 'surprise'"),
        ({}, "look_judges="),
        ({"look_judges": [2], "look_inside": False}, "look_worth=loss"),
    ],
)
def test_surprise_is_an_option_of_judges(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        TokenWarmUp.parse_options({"look_worth": "surprise"} | given)


def test_the_locator_learns_what_surprises() -> None:
    _, zoomed = warmed(spotted(), 2, look_judges=[2, 3], look_worth="surprise")
    answers = judges_of(zoomed.levels[1].features, zoomed.targets, zoomed.task, [2, 3], zoomed.seed).answers
    (fine,) = zoomed.judged
    assert torch.equal(fine, minus_worth(answers, zoomed.targets, zoomed.task, "surprise"))
    assert torch.isfinite(zoomed.step())
    gain = fine.mean(1, keepdim=True) - fine
    torch.testing.assert_close(zoomed.worth().inner[0].losses, -gain.unflatten(1, (6, 5)))


def test_the_locator_learns_from_judges_instead_of_single_answers() -> None:
    """With one field of view and with two; without something that expects losses, they are what glimpses are worth."""
    _, trainer = make(look_judges=[2], look_among=3)
    trainer.encode()
    (losses,) = trainer.judged
    trainer.step()
    assert torch.equal(trainer.worth().losses, losses)
    _, zoomed = warmed(spotted(), 2, look_judges=[2, 3])
    (fine,) = zoomed.judged  # of the finest only
    zoomed.step()
    gain = (fine.mean(1, keepdim=True) - fine).unflatten(1, (6, 5))
    torch.testing.assert_close(zoomed.worth().inner[0].losses, -gain)
    _, control = warmed(spotted(), 2, look_judges=[2], look_inside=False)
    assert len(control.judged) == 2
    _, blind = make(look_judges=[2], look_coef=0.0)
    blind.encode()
    assert not blind.judged and blind.step() > 0


def along(task: Task, scores: list[list[float]], k: int, order: list[int]) -> list[list[float]]:
    """What one judge says along a sequence of glimpses of the second of two cases."""
    head = TopKHead(1, task, k)
    given = torch.tensor([[[9.0] * len(scores[0])] * len(scores), scores])
    judges = Judges([head], [given], head.answers_of(given[1:]).expand(2, -1, -1))
    return judges.along(torch.tensor([1]), torch.tensor([order]))[0].tolist()


def test_along_a_sequence_judges_answer_from_the_highest_scores_so_far() -> None:
    scores, order = [[2.0], [10.0], [6.0], [-2.0]], [-1, 0, 3, -1, 1, 2]  # -1: a glimpse that they do not know
    second = [answer for _, answer in along(Classification(2), scores, 2, order)]
    mean = (1 + 5 + 3 - 1) / 4
    assert second == [mean, mean, 1, 0, 0, (1 + 5) / 2, (3 + 5) / 2]
    assert along(Classification(2), scores, 2, order)[5] == [-3, 3]
    quantity = [answer for (answer,) in along(Regression(mean=0, spread=1), scores, 2, order)]
    assert quantity == [4, 4, 2, 0, 0, pytest.approx(10 / 3), 4]
    labels = along(MultiLabel(["a", "b"]), [[1.0, 4.0], [3.0, 0.0]], 1, [1, 0])
    assert labels == [[2, 2], [3, 0], [3, 4]]


def test_along_a_sequence_judges_answer_as_their_heads_answer_its_beginnings() -> None:
    task = MultiTask({"two": Classification(2), "three": Classification(3), "age": Regression(50, 10)})
    torch.manual_seed(0)
    heads = [TopKHead(5, task, k) for k in (1, 2, 4)]
    features = torch.randn(3, 6, 5)
    with torch.no_grad():
        judges = Judges(heads, [head.score(features) for head in heads], torch.zeros(3, 6, 6))
        told = judges.along(torch.tensor([2, 0]), torch.tensor([[5, 1, 3, 0], [0, 1, 2, 3]]))
        for row, (case, order) in enumerate([(2, [5, 1, 3, 0]), (0, [0, 1, 2, 3])]):
            for end in range(1, 5):
                seen = features[case, order[:end]]
                expected = torch.stack([head(seen, [end])[0] for head in heads]).mean(0)
                torch.testing.assert_close(told[row, end], expected)


def test_judges_of_a_single_glimpse_in_all_answer_with_numbers() -> None:
    judges = judges_of(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([1]), Classification(2), [1, 4], 0)
    assert judges.answers.shape == (1, 1, 2) and torch.isfinite(judges.answers).all()
    assert torch.isfinite(minus_worth(judges.answers, torch.tensor([1]), Classification(2), "surprise")).all()
    told = judges.along(torch.tensor([0]), torch.tensor([[0, -1]]))
    torch.testing.assert_close(told, judges.answers.expand(1, 3, 2))


def test_means_of_the_highest_pass_over_nothing_but_what_is_not_there() -> None:
    scores = torch.tensor([[[1.0], [-torch.inf], [5.0], [3.0]]], requires_grad=True)
    means = means_of_highest(scores, 2)
    assert means[0, :, 0].tolist() == [1, 1, 3, 4]
    (gradient,) = torch.autograd.grad(means[0, -1, 0], scores)
    assert gradient[0, :, 0].tolist() == [0, 0, 0.5, 0.5]
    both = means_of_highest(torch.tensor([[[1.0, 1.0], [3.0, 3.0], [5.0, 5.0]]]), [1, 3])
    assert both[0].tolist() == [[1, 1], [3, 2], [5, 3]]
    assert means_of_highest(torch.tensor([[[1.0], [torch.nan]]]), 2)[0, 1].isnan()  # a training that diverges is seen


def stepped(zooms: int, **options: Any) -> TokenWarmUp:
    """A warm-up whose answers learn from judges, with all glimpses encoded."""
    given: dict[str, Any] = {"answer_judges": [2], "look_coef": 0.0} | options
    if zooms == 2:
        return warmed(spotted(), 60, **given)[1]
    _, trainer = make(**given)
    trainer.encode()
    return trainer


@pytest.mark.parametrize("zooms", [1, 2])
def test_answers_along_sequences_come_to_equal_those_of_judges(zooms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is compared with what judges say of the very glimpses that it was given."""
    trainer, apart, sequences = stepped(zooms), [], []
    policy: Any = trainer.policy
    policy.aggregator.register_forward_pre_hook(lambda _, given: sequences.append(given[0].detach()))

    def noted(answers: Any, every: Any, coef: float, judges: Any, cases: torch.Tensor, order: torch.Tensor) -> Any:
        known, shown = order >= 0, sequences[-1][:, 1:]
        if zooms == 2:
            tokens = trainer._tokens_of(1, cases).detach()  # type: ignore[attr-defined]
            tokens = tokens[torch.arange(len(cases))[:, None], order.clamp_min(0)]
            assert 0 < known.sum() < known.numel()
        else:
            tokens, _ = trainer._tokens((cases[:, None], order))
            assert known.all()
        assert torch.equal(shown[known], tokens.detach()[known])
        loss = answering_loss(answers, every, coef, judges, cases, order)
        apart.append(loss.item())
        return loss

    for module in (warm_up, zoom_warm_up):
        monkeypatch.setattr(module, "answering_loss", noted)
    for _ in range(60):
        trainer.step()
    assert np.mean(apart[-5:]) < 0.5 * np.mean(apart[:3])


@pytest.mark.parametrize("zooms", [1, 2])
def test_labels_reach_answers_by_way_of_judges_only(zooms: int) -> None:
    trainers = [stepped(zooms, glimpse_coef=0.0) for _ in range(2)]
    trainers[1].targets = 1 - trainers[1].targets
    for trainer in trainers:
        for _ in range(3):
            trainer.step()
    one, other = (trainer.policy.state_dict() for trainer in trainers)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_answers_of_judges_do_not_go_with_contexts() -> None:
    with pytest.raises(SettingsError, match=r"look_contexts=0, or warm_up\.answer_judges=null"):
        TokenWarmUp.parse_options({"look_contexts": 1, "answer_judges": [2]})


@pytest.mark.parametrize("zooms", [1, 2])
def test_answers_from_single_glimpses_come_to_equal_those_of_judges(zooms: int) -> None:
    given: dict[str, Any] = {"answer_judges": [2], "look_coef": 0.0}
    policy, trainer = make(**given) if zooms == 1 else warmed(spotted(), 2, **given)
    if zooms == 1:
        trainer.encode()
    asked = None if trainer.judges is None else trainer.judges.answers
    assert asked is not None and not trainer.judged
    everyone = torch.arange(len(trainer.cases))
    glimpses = torch.arange(asked.shape[1]).expand(len(everyone), -1)

    def apart() -> float:
        with torch.no_grad():
            tokens = (
                trainer._tokens((everyone[:, None], glimpses))[0] if zooms == 1 else trainer._tokens_of(1, everyone)
            )
            own = policy.answer_head(policy.aggregator(tokens.flatten(0, 1)[:, None]))[:, 0]
        return float((own.view(asked.shape) - asked).abs().mean())

    before = apart()
    for _ in range(60):
        trainer.step()
    assert apart() < 0.5 * before
