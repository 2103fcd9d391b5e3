"""The agents, on small images in memory: one update of each, and what they promise."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from torch import Tensor

from glimpse.agents import PPO, Grid, Overview, Random, Reinforce
from glimpse.agents.baselines import train_overview
from glimpse.agents.learner import Loss
from glimpse.agents.ppo import PPOLearner
from glimpse.agents.schedules import Cosine
from glimpse.errors import SettingsError
from glimpse.networks.records import Conduct, Episodes, Evaluation
from glimpse.settings.building import build
from glimpse.settings.composing import composed
from tests.small_images import BASELINE, SMALL, environment, lanes


def parameters(agent: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in agent.policy.named_parameters()}


@pytest.mark.parametrize("agent", [PPO, Reinforce, Random, Grid, Overview])
def test_every_agent_learns_and_predicts(agent: type) -> None:
    options = SMALL if agent in (PPO, Reinforce) else {**BASELINE, "cases_per_rollout": 8}
    model = agent("GlimpsePolicy", lanes(), **options)
    before = parameters(model)
    model.learn(model.steps_per_update)
    assert model.updates == 1
    assert model.num_timesteps == model.steps_per_update
    changed = {name for name, value in parameters(model).items() if not torch.equal(value, before[name])}
    assert "answer_head.weight" in changed
    assert ("locator.query.weight" in changed) == (agent in (PPO, Reinforce))
    expected = 0 if agent is Overview else 3
    assert model.episodes is not None
    assert int(model.episodes.length.max()) == expected


@pytest.mark.parametrize("agent", [PPO, Reinforce, Random, Grid, Overview])
def test_every_agent_learns_without_glimpses(agent: type) -> None:
    options = SMALL if agent in (PPO, Reinforce) else {**BASELINE, "cases_per_rollout": 8}
    model = agent("GlimpsePolicy", lanes(max_glimpses=0), **options)
    model.learn(model.steps_per_update)
    assert model.updates == 1 and model.episodes is not None
    assert not model.episodes.length.any()


def test_ppo_with_one_epoch_and_one_minibatch_is_reinforce() -> None:
    """Both begin with the same parameters and draw the same episodes; nothing has moved that could be clipped."""
    once, learned = {**SMALL, "n_epochs": 1, "minibatches": 1, "seed": 0}, []
    for agent in (PPO, Reinforce):
        model = agent("GlimpsePolicy", lanes(), **once)
        before = parameters(model)
        learned.append(parameters(model.learn(model.steps_per_update)))
    assert not torch.equal(before["locator.query.weight"], learned[0]["locator.query.weight"])
    for name, value in learned[0].items():
        torch.testing.assert_close(value, learned[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_single_environment_and_stable_baselines_own_evaluation() -> None:
    model = PPO("GlimpsePolicy", environment(), **SMALL).learn(2 * 8 * 4)
    assert model.updates == 2
    mean, spread = evaluate_policy(model, environment(), n_eval_episodes=4, warn=False)
    assert np.isfinite([mean, spread]).all()
    assert mean <= 1.0


def test_volumes() -> None:
    model = PPO("GlimpsePolicy", environment(max_glimpses=2, ndim=3), **SMALL).learn(8 * 3)
    assert model.episodes is not None
    assert model.episodes.location.shape[-1] == 3


def test_lanes_that_are_no_multiple_of_the_rollouts_give_the_same_shapes() -> None:
    model = PPO("GlimpsePolicy", lanes(1), **SMALL).learn(8 * 4)
    assert model.episodes is not None
    assert len(model.episodes.overview) == 4
    assert model.episodes.rollouts == 2
    targets = model.episodes.target.view(4, 2)
    assert torch.equal(targets[:, 0], targets[:, 1])


def test_a_number_of_lanes_that_does_not_divide_the_rollout_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide among 3"):
        PPO("GlimpsePolicy", lanes(3), **SMALL)


def test_one_rollout_per_case_needs_a_critic() -> None:
    options = {**SMALL, "rollouts_per_case": 1}
    with pytest.raises(ValueError, match="critic"):
        Reinforce("GlimpsePolicy", lanes(4), **options)
    model = Reinforce("GlimpsePolicy", lanes(4), baseline="critic", **options)
    before = parameters(model)["value_head.weight"]
    model.learn(model.steps_per_update)
    assert not torch.equal(parameters(model)["value_head.weight"], before)


@pytest.mark.parametrize("augment", [None, {"noise": 30.0}])
def test_the_probability_ratio_is_one_at_the_first_minibatch_of_an_update(augment: dict[str, float] | None) -> None:
    ratios: list[Tensor] = []

    class WatchedLearner(PPOLearner):
        def policy_loss(self, episodes: Episodes, evaluation: Evaluation, advantage: Tensor) -> Loss:
            ratios.append((evaluation.log_prob - episodes.log_prob).exp()[episodes.decided].detach())
            return super().policy_loss(episodes, evaluation, advantage)

    class Watched(PPO):
        learner_class = WatchedLearner

    model = Watched("GlimpsePolicy", lanes(), 1e-2, n_epochs=2, augment=augment, **SMALL)
    model.learn(2 * model.steps_per_update)
    first, second, third, fourth = ratios
    for ratio in (first, third):
        assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-5)
    for ratio in (second, fourth):
        assert (ratio - 1).abs().max() > 1e-4


def test_an_encoder_rate_of_zero_leaves_the_encoder_as_it_is() -> None:
    model = PPO("GlimpsePolicy", lanes(), encoder_rate=0.0, **SMALL)
    before = parameters(model)
    model.learn(2 * model.steps_per_update)
    after = parameters(model)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("encoder.")} <= same
    assert "pool.project.weight" not in same


def test_glimpses_are_seen_in_random_views_where_the_encoder_is_trained() -> None:
    still = {"turn": 0.0, "tilt": 0.0, "zoom": 0.0, "flips": False, "strength": 0.0, "noise": 0.0}

    def is_noisy(augment: dict[str, Any] | None) -> bool:
        return augment is not None and augment["noise"] > 0

    def changed(augment: dict[str, Any] | None, encoder_rate: float = 1.0) -> float:
        """How far glimpses in training are from the glimpses that are read at the same places."""
        options = {**SMALL, "augment": augment, "encoder_rate": encoder_rate, "extra_glimpses": 1}
        model = PPO("GlimpsePolicy", lanes(), 0.0, **options)
        model.learn(model.steps_per_update)
        assert model.episodes is not None and model.extra is not None
        read = environment().unwrapped
        cases = [read.cases[case].source for case in model.drawn.repeat_interleave(2).tolist()]
        first = model.episodes.location[:, 0].numpy()
        images = np.stack([read.views.glimpse(*both) for both in zip(cases, first, strict=True)])
        extra = model.extra.location[:, 0].numpy()
        elsewhere = np.stack([read.views.glimpse(*both) for both in zip(cases, extra, strict=True)])
        with torch.no_grad():
            seen = model.policy.look(torch.from_numpy(elsewhere))
        assert torch.allclose(seen, model.extra.seen[:, 0], atol=1e-3) is (encoder_rate == 0 or not is_noisy(augment))
        return float(np.abs(model.episodes.glimpse[:, 0].numpy() - images.astype(float)).mean())

    assert changed(None) == changed(still) == changed(still | {"noise": 9.0}, encoder_rate=0.0) == 0
    assert 5 < changed(still | {"noise": 9.0}) < 8  # a normal deviation of 9 is 7.2 on average


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"noise": -1.0}, r"augment\.noise from 0"),
        ({"noise": math.inf}, r"augment\.noise from 0"),
        ({"nois": 1.0}, "no option 'nois'; did you mean 'noise'"),
        ({"flips": [True, True, True]}, r"augment\.flips for each of 2 axes"),
        ({"stain": 0.2}, "3 channels, these have 1"),
    ],
)
def test_random_views_that_cannot_be_are_refused_before_anything_is_learned(augment: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        PPO("GlimpsePolicy", lanes(), augment=augment, **SMALL)


def test_the_policy_reads_its_whole_budget_until_it_may_stop() -> None:
    eager = {"policy_kwargs": {"stop_bias": 8.0}, **SMALL}
    patient = PPO("GlimpsePolicy", lanes(), stop_from=1.0, **eager)
    patient.learn(patient.steps_per_update)
    hasty = PPO("GlimpsePolicy", lanes(), stop_from=0.0, **eager)
    hasty.learn(hasty.steps_per_update)
    assert patient.episodes is not None and hasty.episodes is not None
    assert patient.episodes.length.tolist() == [3] * 8
    assert hasty.episodes.length.float().mean() < 1


def test_budgets_are_drawn_between_the_least_and_the_most() -> None:
    model = PPO("GlimpsePolicy", lanes(), min_glimpses=1, stop_from=1.0, **SMALL)
    seen = set()
    for _ in range(12):
        model.learn(model.steps_per_update, reset_num_timesteps=False)
        assert model.episodes is not None
        seen |= set(model.episodes.length.tolist())
    assert seen == {1, 2, 3}
    assert model.updates == 12
    with pytest.raises(ValueError, match="min_glimpses from 0 to max_glimpses"):
        PPO("GlimpsePolicy", lanes(), min_glimpses=4, **SMALL)


def test_answers_after_extra_glimpses_are_learned_where_budgets_are_drawn() -> None:
    model = PPO("GlimpsePolicy", lanes(), min_glimpses=1, minibatches=2, **SMALL)
    model.learn(model.steps_per_update, log_interval=2)  # so that the log of the update is not written yet
    assert model.extra is not None and model.extra.zoom.shape == (8, 6)  # three of each of two rollouts
    assert torch.equal(model.extra.location[0::2], model.extra.location[1::2])
    assert "train/supervised_extra" in model.logger.name_to_value
    assert model.num_timesteps == model.steps_per_update  # looking elsewhere counts as no step
    model.learn(model.steps_per_update, reset_num_timesteps=False)
    assert model.extra is None  # the second update does without
    never = PPO("GlimpsePolicy", lanes(), **SMALL)
    never.learn(never.steps_per_update)
    assert never.extra is None
    with pytest.raises(ValueError, match="extra_glimpses of at least 0"):
        PPO("GlimpsePolicy", lanes(), extra_glimpses=-1, **SMALL)


def test_extra_glimpses_follow_where_each_episode_has_ended() -> None:
    model = PPO("GlimpsePolicy", lanes(), policy_kwargs={"stop_bias": 0.0}, stop_from=0.0, extra_glimpses=2, **SMALL)
    model.learn(model.steps_per_update)
    episodes, extra, policy = model.episodes, model.extra, model.policy
    assert episodes is not None and extra is not None
    assert len(set(episodes.length.tolist())) > 1
    policy.set_training_mode(False)
    frozen = Conduct(train_encoder=False)  # glimpses and overviews stand as the rollout encoded them
    with torch.no_grad():
        found = policy.evaluate_episodes(episodes, extra=extra, conduct=frozen)
        without = policy.evaluate_episodes(episodes, conduct=frozen)
        assert found.extra_prediction is not None and without.extra_prediction is None
        scene = policy.scene(episodes.overview, episodes.foreground, episodes.extents, episodes.features)
        first = scene.token.repeat_interleave(2, 0)
        for row, length in enumerate(episodes.length.tolist()):
            tokens = [
                policy.glimpse_token(record.seen[row, :end], record.location[row, :end], record.zoom[row, :end])
                for record, end in ((episodes, length), (extra, 4))
            ]
            sequence = torch.cat([first[row : row + 1], *tokens])
            answers = policy.answer_head(policy.aggregator(sequence[None]))[0]
            torch.testing.assert_close(found.extra_prediction[row], answers[length + 1 :])
            torch.testing.assert_close(found.prediction[row, : length + 1], answers[: length + 1])
            torch.testing.assert_close(without.prediction[row, : length + 1], answers[: length + 1])


def test_credit_for_the_end_only_is_the_same_for_all_decisions() -> None:
    model = PPO("GlimpsePolicy", lanes(), credit="final", stop_from=1.0, **SMALL)
    model.learn(model.steps_per_update)
    assert model.episodes is not None
    credit = model.learner.credit(model.episodes)
    assert credit is not None
    advantage, returns = credit.advantage, credit.returns
    total = model.episodes.reward.sum(1)
    assert torch.allclose(returns[:, :3], total[:, None].expand(-1, 3), atol=1e-6)
    assert torch.allclose(advantage[:, 0], advantage[:, 2])
    with pytest.raises(ValueError, match="credit"):
        PPO("GlimpsePolicy", lanes(), credit="some", **SMALL)


@pytest.mark.parametrize("agent", [PPO, Random])
def test_an_unknown_option_is_refused_by_name(agent: type) -> None:
    with pytest.raises(SettingsError, match=f"{agent.__name__} has no option 'n_epoch'; did you mean 'n_epochs'"):
        agent("GlimpsePolicy", environment(), n_epoch=4)
    with pytest.raises(SettingsError, match=f"{agent.__name__} has no option 'devise'; did you mean 'device'"):
        agent("GlimpsePolicy", environment(), devise="cpu")
    with pytest.raises(SettingsError, match="GlimpsePolicy has no option 'stop_biass'; did you mean 'stop_bias'"):
        agent("GlimpsePolicy", environment(), policy_kwargs={"stop_biass": 1.0})


def test_the_overview_is_no_use_to_a_policy_that_does_not_see_it() -> None:
    policy = PPO("GlimpsePolicy", lanes(), policy_kwargs={"overview_dropout": 1.0}, **SMALL).policy
    with pytest.raises(SettingsError, match=r"expected overview_dropout 0, got 1\.0"):
        train_overview(policy, lanes, lambda policy: 0.0)


def test_a_reports_overview_learns_as_the_agent_does_but_encodes_each_overview_once_an_update() -> None:
    def policy() -> Any:
        return PPO("GlimpsePolicy", lanes(), policy_kwargs={"overview_dropout": 0.0}, **SMALL).policy

    torch.manual_seed(3)
    model = Overview(policy(), lanes(4), 1e-3, **BASELINE).learn(3 * 4)
    torch.manual_seed(3)
    start, encoded, scores = policy(), [], iter(range(9))
    start.encoder.register_forward_hook(lambda module, inputs, output: encoded.append(len(output)))
    trained = train_overview(
        start, lanes, lambda policy: float(next(scores)), updates=3, validate_every=1, cases_per_rollout=4
    )
    assert [count for count in encoded if count] == [4, 4, 4]  # and no glimpses, since there are none
    for name, value in trained.named_parameters():
        torch.testing.assert_close(value, model.policy.get_parameter(name), rtol=0, atol=0)
    assert len(trained.encode(torch.zeros(2, 1, 24, 24))) == 2 and encoded[-1] == 2  # it encodes again


def trained_overview(validate: Any, updates: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    policy = Overview("GlimpsePolicy", lanes(4), policy_kwargs={"overview_dropout": 0.0}, **BASELINE).policy
    policy.optimizer = None  # `train_overview` gets a policy that has just been loaded
    return train_overview(policy, lanes, validate, updates=updates, cases_per_rollout=8).state_dict()


def test_overviews_are_learned_without_validation_cases_and_the_average_is_kept() -> None:
    untrained, trained = trained_overview(lambda policy: 1.0, 1), {}
    scores = iter([0.0, 1.0])
    best = trained_overview(lambda policy: next(scores), 1)  # the state after one update
    for validate in (None, lambda policy: None):  # no validation cases, and such of one class
        trained = trained_overview(validate, 1)
        for name, value in trained.items():
            if value.is_floating_point():
                torch.testing.assert_close(value, 0.1 * untrained[name] + 0.9 * best[name])
        assert not torch.equal(trained["answer_head.weight"], untrained["answer_head.weight"])
    assert not torch.equal(trained_overview(None, 3)["answer_head.weight"], trained["answer_head.weight"])


def test_the_training_on_overviews_ends_when_its_score_no_longer_rises() -> None:
    def validations(scores: list[float | None], **options: int) -> int:
        made = []
        torch.manual_seed(0)
        policy = Overview("GlimpsePolicy", lanes(4), policy_kwargs={"overview_dropout": 0.0}, **BASELINE).policy
        policy.optimizer = None
        given = iter(scores)
        train_overview(
            policy, lanes, lambda policy: made.append(next(given)) or made[-1], validate_every=1, cases_per_rollout=4,
            **options,
        )  # fmt: skip
        return len(made)

    assert validations([1.0] * 9, updates=8, patience=3) == 1 + 3  # the first is of the untrained network
    assert validations([1.0, 0.0, 2.0, *[0.0] * 9], updates=8, patience=3) == 1 + 2 + 3
    assert validations([None] * 9, updates=8, patience=3) == 1 + 8  # without a score, all updates are made


def test_a_second_agent_has_its_own_weight_decay() -> None:
    first = Random("GlimpsePolicy", lanes(4), weight_decay=0.3, **BASELINE).learn(16)
    moments = first.policy.optimizer.state_dict()["state"]
    second = PPO(first.policy, lanes(), weight_decay=0.002, **SMALL)
    groups = second.policy.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.002, 0.002]
    assert moments and second.policy.optimizer.state_dict()["state"].keys() == moments.keys()


def test_logs_of_an_update_stand_at_its_own_step_and_once() -> None:
    class Kept(KVWriter):
        def __init__(self) -> None:
            self.written: list[tuple[int, dict[str, Any]]] = []

        def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
            self.written.append((step, dict(key_values)))

        def close(self) -> None: ...

    kept, losses = Kept(), []

    class WatchedLearner(PPOLearner):
        def update(self, *given: Any) -> dict[str, float]:
            losses.append(super().update(*given))
            return losses[-1]

    class Watched(PPO):
        learner_class = WatchedLearner

    model = Watched("GlimpsePolicy", lanes(), **SMALL)
    model.set_logger(Logger(None, [kept]))
    model.learn(3 * model.steps_per_update)
    assert [step for step, _ in kept.written] == [model.steps_per_update * count for count in (1, 2, 3)]
    for index, (_, written) in enumerate(kept.written):
        assert written["train/loss"] == losses[index]["loss"] and written["train/updates"] == index + 1
        assert {"rollout/return", "rollout/glimpses", "rollout/ep_rew_mean"} <= written.keys()


def test_the_same_seed_gives_the_same_parameters() -> None:
    first, second = (PPO("GlimpsePolicy", lanes(), **SMALL).learn(2 * 32) for _ in range(2))
    for name, value in parameters(first).items():
        assert torch.equal(value, parameters(second)[name]), name


def test_cosine() -> None:
    schedule = Cosine(1.0, floor=0.1)
    assert schedule(1.0) == pytest.approx(1.0)
    assert schedule(0.5) == pytest.approx(0.55)
    assert schedule(0.0) == pytest.approx(0.1)


def test_a_learning_rate_rises_first_where_settings_say_so() -> None:
    given = composed("env=wsi", "joint.learning_rate={rate: 2, rise: 0.2, floor: 0.5}").joint.learning_rate
    schedule = build(given)
    assert [schedule(left) for left in (0.9, 0.8, 0.4, 0.0)] == pytest.approx([1.0, 2.0, 1.5, 1.0], abs=0.01)
    assert schedule(1.0) < 0.02
    for name in ("rise", "floor"):
        with pytest.raises(SettingsError, match=f"{name} of a schedule to be a share, from 0 to 1, got 1.5"):
            Cosine(**{"rate": 1.0, name: 1.5})
