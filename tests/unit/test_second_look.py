"""The second look of the warm-up: where it looks, what begins anew, and that it goes on where it was interrupted."""

from typing import Any

import numpy as np
import pytest
import torch

from glimpse.errors import SettingsError
from glimpse.learning.second_look import SecondLook, ZoomSecondLook
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks.policy import GlimpsePolicy, answering_parts
from glimpse.runs.checkpoints import Checkpoint
from tests.warm_ups import CASES, make
from tests.zooming import spotted, warmed


def second(policy: GlimpsePolicy, first: TokenWarmUp, **options: Any) -> SecondLook:
    given: dict[str, Any] = {"glimpses_per_case": 6, "max_sequence": 4, "batch": 4, "threads": 1, **options}
    return SecondLook(policy, first.cases, first.views, first.task, **given)


def test_answers_begin_anew_from_where_the_locator_looks() -> None:
    policy, first = make(second_look=0.5, steps=30)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    first.encode()
    for _ in range(30):
        first.step()
    learned = {name: value.clone() for name, value in policy.state_dict().items()}
    trainer = second(policy, first, second_look=0.5, second_steps=20)
    trainer.begin(first.unlearned)
    answering = ("aggregator.", "answer_head.", "glimpse_head.", "pool.project.")
    for name, value in policy.state_dict().items():
        assert torch.equal(value, (before if name.startswith(answering) else learned)[name]), name
    trainer.encode()
    assert trainer.steps == 20 and torch.equal(trainer.kept["cells"], trainer.chosen)
    losses = [trainer.step() for _ in range(20)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    changed = {name for name, value in policy.named_parameters() if not torch.equal(value, learned[name])}
    assert changed and all(name.startswith(answering) for name in changed)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_so_many_glimpses_lie_where_the_locator_looks(share: float) -> None:
    """The locator is made to prefer some cells by far: these are drawn first, each once, and the others evenly."""
    policy, first = make(second_look=share)
    liked = torch.tensor([0, 1, 2, 3, 4, 5])  # of 9 cells

    def logits(states: torch.Tensor, keys: torch.Tensor, unary: torch.Tensor) -> torch.Tensor:
        preferred = torch.zeros_like(unary).index_fill(1, liked, 30.0)
        return preferred[:, None]

    policy.locator.logits = logits
    trainer = second(policy, first, second_look=share)
    trainer.begin(first.unlearned)
    assert len(policy.cells) == 9 and trainer.chosen.shape == (CASES, 6)
    count = round(6 * share)
    for cells in trainer.chosen.tolist():
        assert len(set(cells)) == 6 and set(cells[:count]) <= set(liked.tolist())
    assert len({tuple(cells) for cells in trainer.chosen.tolist()}) > 1  # drawn, not taken in order


def test_a_second_look_goes_on_where_it_was_interrupted() -> None:
    def half_way() -> tuple[GlimpsePolicy, SecondLook]:
        policy, first = make(second_look=0.5, steps=10)
        first.encode()
        for _ in range(10):
            first.step()
        trainer = second(policy, first, second_look=0.5, second_steps=10)
        trainer.begin(first.unlearned)
        trainer.encode()
        return policy, trainer

    policy, trainer = half_way()
    for _ in range(5):
        trainer.step()
    checkpoint = Checkpoint(meta={})
    trainer.save_state(checkpoint)
    assert SecondLook.holds(checkpoint)
    expected = [trainer.step().item() for _ in range(5)]
    other, first = make(second_look=0.5)  # with other weights, whose locator would look elsewhere
    resumed = second(other, first, second_look=0.5, second_steps=10)
    resumed.restore_state(checkpoint)
    resumed.encode()
    assert [resumed.step().item() for _ in range(5)] == pytest.approx(expected)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "words"), [({"second_look": 1.5}, "from 0 to 1"), ({"second_steps": 0}, "second_steps of the warm-up")]
)
def test_impossible_second_looks_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        TokenWarmUp.parse_options(options)


@pytest.mark.parametrize("options", [{"look_coef": 0.0}, {"steps": 0}])
def test_a_locator_that_was_not_taught_is_not_followed(options: dict[str, Any]) -> None:
    _, first = make(second_look=0.5, **options)
    assert not first.looks_again and first.unlearned is None


def test_with_zoom_a_second_look_lies_at_every_level_where_the_locator_looks() -> None:
    env = spotted()
    policy, first = warmed(env, 100, second_look=0.5)
    for _ in range(100):
        first.step()
    assert first.looks_again and first.unlearned is not None
    inner: Any = env.unwrapped
    given = {"branches": [6, 5], "batch": 8, "max_sequence": 10, "threads": 1, "second_look": 0.5, "second_steps": 6}

    def again(policy: GlimpsePolicy) -> ZoomSecondLook:
        return ZoomSecondLook(policy, inner.cases, inner.views, inner.task, **given)

    trainer, before = again(policy), [p.clone() for p in policy.locator.parameters()]
    trainer.begin(first.unlearned)
    learned = first.unlearned.state_dict()
    assert all(torch.equal(a, learned[name]) for name, a in answering_parts(policy).state_dict().items())
    trainer.encode()
    everyone = torch.arange(24)
    for zoom, count, looked in ((0, 6, 3), (1, 5, 2)):  # of each view, the locator's choices come first
        level = trainer.levels[zoom]
        scores = trainer._logits(zoom, everyone).masked_fill(~level.open, torch.nan).unflatten(1, (-1, count))
        best, random = scores[..., :looked].nanmean(), scores[..., looked:].nanmean()
        assert best > random + 0.5 * scores[~scores.isnan()].std()
        assert level.features.shape == first.levels[zoom].features.shape
    for _ in range(3):
        trainer.step()
    checkpoint = Checkpoint(meta={})
    trainer.save_state(checkpoint)
    assert ZoomSecondLook.holds(checkpoint)
    expected = [trainer.step().item() for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(before, policy.locator.parameters(), strict=True))
    other, _ = warmed(env, 1)
    resumed = again(other)
    resumed.restore_state(checkpoint)
    resumed.encode()
    assert [resumed.step().item() for _ in range(3)] == pytest.approx(expected)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), other.parameters(), strict=True))
