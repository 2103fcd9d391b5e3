"""Rewards are gains: they telescope to the final score less the cost of looking. Worked by hand."""

import numpy as np
import pytest

from glimpse.cohort import Case
from glimpse.envs import Episode, FlattenAction, GlimpseVecEnv, array_cases, check, make_array
from glimpse.tasks import Classification

# Raw scores for two classes whose probability of class 1 is 1/2, 1/4, sqrt(1/2) and 0.8; with class 1 as the target
# score = 1 + log2(p), that is 0, -1, 1/2 and 1 + log2(0.8).
HALF = [0.0, 0.0]
QUARTER = [np.log(3.0), 0.0]
ROOT = [0.0, np.log(1 / (np.sqrt(2.0) - 1.0))]
FOUR_FIFTHS = [0.0, np.log(4.0)]
WRONG = [np.log(1e6), 0.0]  # a score of 1 - log2(1e6) = -18.9, but no less than -1


def case(target: int = 1) -> Case:
    return array_cases([np.zeros((1, 40, 40), np.uint8)], [target])[0]


def test_episode_rewards_are_gains_less_the_cost_of_what_is_read() -> None:
    episode = Episode(case(), budget=2, glimpse_cost=0.1)
    rewards = [episode.act(score, np.zeros(2, np.float32), stop=False) for score in (0.0, -1.0, 0.5)]
    np.testing.assert_allclose(rewards, [-0.1, -1.1, 1.5])  # the last one reads nothing: the budget is spent
    assert episode.ended and episode.glimpses == 2
    np.testing.assert_allclose(episode.total, 0.5 - 2 * 0.1)


def test_a_glimpse_costs_what_its_field_of_view_does() -> None:
    episode = Episode(case(), budget=5, glimpse_cost=(0.3, 0.1))
    rewards = [episode.act(0.0, np.zeros(2, np.float32), stop=False, zoom=zoom) for zoom in (0, 1, 1)]
    np.testing.assert_allclose([*rewards, episode.total], [-0.3, -0.1, -0.1, -0.5])
    options = {"overview_size": 8, "glimpse_size": 8, "glimpse_extents": [20, 8], "max_glimpses": 2}
    images = [np.random.default_rng(0).integers(0, 256, (1, 40, 40), np.uint8)]
    env = make_array((images, [1]), glimpse_cost=[0.3, 0.1], **options)
    assert env.unwrapped.glimpse_cost == (0.3, 0.1)
    env.reset(seed=0)
    action = {**env.action_space.sample(), "prediction": np.zeros(2, np.float32), "stop": 0}  # a blind guess scores 0
    paid = [env.step({**action, "zoom": zoom})[1] for zoom in (1, 0)]
    np.testing.assert_allclose(paid, [-0.1, -0.3], atol=1e-6)
    assert check(env) == ()
    with pytest.raises(ValueError, match=r"one for each of the 2 fields of view, got \[0\.1\]"):
        make_array([case()], glimpse_cost=[0.1], **options)
    with pytest.raises(ValueError, match="at least 0"):
        make_array([case()], glimpse_cost=[0.1, -0.1], **options)


def test_stopping_at_once_costs_nothing() -> None:
    episode = Episode(case(), budget=5, glimpse_cost=0.1)
    assert episode.act(0.3, np.zeros(2, np.float32), stop=True) == pytest.approx(0.3)
    assert episode.ended and episode.glimpses == 0


def test_a_budget_of_nothing_ends_with_the_first_answer() -> None:
    episode = Episode(case(), budget=0, glimpse_cost=0.1)
    assert episode.act(0.3, np.zeros(2, np.float32), stop=False) == pytest.approx(0.3)
    assert episode.ended


@pytest.mark.parametrize(
    ("predictions", "stop_at", "expected"),
    [
        ([HALF, QUARTER, ROOT], None, [-0.1, -1.1, 1.5]),
        ([ROOT, ROOT, ROOT], None, [0.4, -0.1, 0.0]),  # an answer that stays gains nothing, and looking costs
        ([FOUR_FIFTHS, QUARTER], 1, [0.9 + np.log2(0.8), -2.0 - np.log2(0.8)]),
        ([WRONG], 0, [-1.0]),  # bounded below
    ],
)
def test_environment_by_hand(predictions: list, stop_at: int | None, expected: list[float]) -> None:
    env = FlattenAction(make_array([case()], max_glimpses=2, glimpse_cost=0.1))
    env.reset(seed=0)
    rewards = []
    for step, prediction in enumerate(predictions):
        action = env.layout.pack([0.0, 0.0], step == stop_at, prediction)
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
    assert terminated and not truncated
    np.testing.assert_allclose(rewards, expected, atol=1e-5)
    reads = len(predictions) - 1
    assert len(info["scanpath"]) == reads
    np.testing.assert_allclose(sum(rewards), info["score"] - 0.1 * reads, atol=1e-6)


def test_returns_telescope_in_a_vector_of_random_episodes() -> None:
    rng = np.random.default_rng(0)
    arrays = [np.zeros((1, 40, 40), np.uint8)] * 3
    task = Classification(3)
    lanes = [make_array((arrays, [0, 1, 2]), task=task, max_glimpses=4, glimpse_cost=0.05) for _ in range(6)]
    env = GlimpseVecEnv(lanes, park=True)
    env.seed(0)
    env.reset()
    totals, ends = np.zeros(6), {}
    while env.active.any():
        actions = env.layout.pack(rng.uniform(-1, 1, (6, 2)), rng.random(6) < 0.2, rng.normal(0, 3, (6, 3)))
        _, rewards, dones, infos = env.step(actions)
        totals += rewards
        ends |= {lane: infos[lane] for lane in np.flatnonzero(dones)}
    expected = [ends[lane]["score"] - 0.05 * len(ends[lane]["scanpath"]) for lane in range(6)]
    np.testing.assert_allclose(totals, expected, atol=1e-5)
    np.testing.assert_allclose([ends[lane]["episode"]["r"] for lane in range(6)], expected, atol=1e-5)
