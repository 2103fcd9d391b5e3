"""Returns and advantages, against values worked by hand."""

import pytest
import torch

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

# Two rollouts of one case, three answers each; the second stopped after its second answer. A glimpse costs 0.1.
SCORE = torch.tensor([[0.2, 0.1, 0.9], [0.2, 0.6, 0.0]])
ANSWERED = torch.tensor([[True, True, True], [True, True, False]])
REWARD = torch.tensor([[0.2 - 0.1, -0.1 - 0.1, 0.8], [0.2 - 0.1, 0.4, 0.0]])


def test_rewards_telescope_to_the_final_score_less_the_cost_of_looking() -> None:
    assert torch.allclose(REWARD.sum(1), torch.tensor([0.9 - 2 * 0.1, 0.6 - 0.1]))


def test_gains_are_differences_of_scores_and_zero_past_the_end() -> None:
    assert torch.allclose(gains(SCORE, ANSWERED), torch.tensor([[0.2, -0.1, 0.8], [0.2, 0.4, 0.0]]))


def test_a_gain_is_credited_to_the_glimpse_that_brought_it() -> None:
    caused = consequences(REWARD, gains(SCORE, ANSWERED))
    # first episode: glimpse 0 costs 0.1 and brings -0.1; glimpse 1 costs 0.1 and brings 0.8; stopping brings nothing
    assert torch.allclose(caused, torch.tensor([[-0.2, 0.7, 0.0], [0.3, 0.0, 0.0]]), atol=1e-7)
    # what is left out is the answer that was given before anything was looked at
    assert torch.allclose(caused.sum(1), REWARD.sum(1) - SCORE[:, 0])


def test_returns_to_go() -> None:
    returns = returns_to_go(torch.tensor([[1.0, 2.0, 4.0]]))
    assert returns.tolist() == [[7.0, 6.0, 4.0]]


def test_leave_one_out_subtracts_the_mean_of_the_other_rollouts_of_the_same_case() -> None:
    returns = torch.tensor([[6.0, 1.0], [3.0, 2.0], [0.0, 6.0], [1.0, 0.0], [1.0, 0.0], [4.0, 0.0]])
    expected = torch.tensor([[6 - 1.5, 1 - 4.0], [3 - 3.0, 2 - 3.5], [0 - 4.5, 6 - 1.5],
                             [1 - 2.5, 0.0], [1 - 2.5, 0.0], [4 - 1.0, 0.0]])  # fmt: skip
    assert torch.allclose(leave_one_out(returns, 3), expected)


def test_leave_one_out_needs_another_rollout() -> None:
    with pytest.raises(ValueError, match="at least two rollouts"):
        leave_one_out(torch.zeros(3, 2), 1)


def test_generalised_advantage_with_discount_one() -> None:
    reward, value = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.0, 4.0]])
    decided = torch.ones(1, 3, dtype=torch.bool)
    # deltas: 1 + 1 - 0.5 = 1.5; 2 + 4 - 1 = 5; 3 + 0 - 4 = -1; lambda 0.5
    expected = torch.tensor([[1.5 + 0.5 * (5 - 0.5), 5 - 0.5, -1.0]])
    assert torch.allclose(generalised_advantage(reward, value, decided, 0.5), expected)


def test_generalised_advantage_with_lambda_one_is_return_minus_value() -> None:
    reward, value = torch.randn(4, 6), torch.randn(4, 6)
    decided = torch.ones(4, 6, dtype=torch.bool)
    assert torch.allclose(generalised_advantage(reward, value, decided, 1.0), returns_to_go(reward) - value, atol=1e-5)


def test_value_is_zero_where_nothing_is_left_to_decide() -> None:
    decided = torch.tensor([[True, True, False]])
    advantage = generalised_advantage(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[2.0, 3.0, 99.0]]), decided, 1.0)
    assert torch.allclose(advantage, torch.tensor([[1.0 - 2.0, 1.0 - 3.0, 0.0]]))


def test_standardised_advantages_have_unit_spread_over_the_decided_steps() -> None:
    decided = torch.tensor([[True, True, False], [True, True, True]])
    scaled = standardised(torch.tensor([[10.0, -20.0, 999.0], [5.0, 0.0, 40.0]]), decided)
    assert scaled[0, 2] == 0
    assert scaled[decided].std() == pytest.approx(1.0, abs=1e-5)


def test_masked_mean() -> None:
    values, mask = torch.tensor([[1.0, 5.0]]), torch.tensor([[True, False]])
    assert masked_mean(values, mask) == 1.0
    assert masked_mean(values, torch.zeros_like(mask)) == 0.0


def test_the_whole_return_at_the_last_decision() -> None:
    reward = torch.tensor([[0.2, -0.1, 0.5], [0.1, 0.3, 0.0]])
    decided = torch.tensor([[True, True, True], [True, False, False]])
    assert torch.allclose(all_at_the_end(reward, decided), torch.tensor([[0.0, 0.0, 0.6], [0.4, 0.0, 0.0]]))
