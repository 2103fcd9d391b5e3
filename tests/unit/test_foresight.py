"""Foresight: what is read for it, its loss, and what it teaches the cells of overviews."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glimpse.envs import FlattenAction, make_array
from glimpse.errors import SettingsError
from glimpse.learning import foresight
from glimpse.learning.augment import Augment
from glimpse.learning.foresight import Foreseen, ForesightPretrainer, foresight_loss, sample_foreseen
from glimpse.networks import GlimpsePolicy
from glimpse.networks.records import Conduct
from glimpse.ranks.group import Group
from glimpse.runs.checkpoints import Checkpoint
from glimpse.train import _check_overviews

SIDE, CASES = 96, 12


def squares() -> list[np.ndarray]:
    """Dark images with twelve squares of coarse random patterns, which the overview shows, too."""
    rng, images = np.random.default_rng(0), []
    for _ in range(CASES):
        image = np.zeros((1, SIDE, SIDE), np.uint8)
        for place in rng.permutation(36)[:12]:
            y, x = place // 6 * 16, place % 6 * 16
            image[:, y + 2 : y + 14, x + 2 : x + 14] = np.kron(rng.integers(0, 2, (2, 2)) * 190 + 60, np.ones((6, 6)))
        images.append(image)
    return images


def make(extents: Any = (16,)) -> tuple[GlimpsePolicy, Any]:
    torch.manual_seed(0)
    made = make_array((squares(), [0, 1] * (CASES // 2)), overview_size=48, glimpse_size=16, glimpse_extents=extents)
    env: Any = FlattenAction(made)
    return GlimpsePolicy(env.observation_space, env.action_space, layout=env.layout), env.unwrapped


def trainer_of(policy: GlimpsePolicy, foreseen: Foreseen, **options: Any) -> ForesightPretrainer:
    return ForesightPretrainer(policy, foreseen, Augment((16, 16), 0.0), **{"batch": 32, "per_case": 8, **options})


def test_glimpses_lie_in_the_middle_of_their_cells() -> None:
    policy, env = make(extents=(16, 32))
    foreseen = sample_foreseen(policy, env.cases, env.views, 30, 5, margin=1.25, seed=1, threads=1)
    assert foreseen.glimpses.shape == (5, 6, 1, 20, 20)
    assert set(foreseen.zooms.flatten().tolist()) == {0, 1}
    overviews = [env.views.overview(case.source) for case in env.cases]
    for column, overview in enumerate(foreseen.overviews):
        (source,) = (c.source for c, o in zip(env.cases, overviews, strict=True) if np.array_equal(o, overview))
        is_open = policy.open_cells(torch.from_numpy(env.views.foreground(source).copy())[None])[0]
        of_case = (part[:, column] for part in (foreseen.glimpses, foreseen.cells, foreseen.zooms))
        for shown, cell, zoom in zip(*of_case, strict=True):
            assert is_open[cell]
            assert np.array_equal(shown, env.views.glimpse(source, policy.cells[cell].numpy(), int(zoom), 1.25))


def test_with_few_cases_more_glimpses_of_each_are_read() -> None:
    policy, env = make()
    read: list[int] = []
    foreseen = sample_foreseen(policy, env.cases[:3], env.views, 60, 5, seed=1, threads=1, progress=read.append)
    assert foreseen.glimpses.shape[:2] == (20, 3)
    assert read == [20] * 3


def test_two_processes_read_different_cases_and_have_what_one_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, env = make(extents=(16, 32))
    whole = sample_foreseen(policy, env.cases, env.views, 35, 5, seed=1, threads=1)
    parts: list[list[np.ndarray]] = []
    monkeypatch.setattr(foresight, "gathered_array", lambda rows: parts[-1].append(rows) or rows)
    for rank, count in ((0, 4), (1, 3)):
        monkeypatch.setattr("glimpse.ranks.sharing.ranks", lambda rank=rank: Group(rank=rank, size=2))
        parts.append([])
        read: list[int] = []
        sample_foreseen(policy, env.cases, env.views, 35, 5, seed=1, threads=1, progress=read.append)
        assert read == [5] * count
    glimpses, cells, zooms, overviews = (np.concatenate(both) for both in zip(*parts, strict=True))
    assert np.array_equal(glimpses.swapaxes(0, 1), whole.glimpses) and np.array_equal(overviews, whole.overviews)
    assert np.array_equal(cells.T, whole.cells) and np.array_equal(zooms.T, whole.zooms)


def test_a_step_has_as_many_overviews_whatever_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, env = make()
    foreseen = sample_foreseen(policy, env.cases, env.views, 120, 10, seed=1, threads=1)
    monkeypatch.setattr("glimpse.ranks.sharing.ranks", lambda: Group(rank=0, size=5))
    trainer = trainer_of(policy, foreseen)
    assert trainer.at_once == 4 and len(trainer._draw()) == 4 * 8
    with pytest.raises(SettingsError, match="4 cannot be shared by 5 processes"):
        trainer.step()


@pytest.mark.parametrize("given", [{"batch": 128, "pool": 100}, {"batch": 75, "pool": 4000}])
def test_too_few_overviews_for_the_processes_are_refused_by_the_settings(
    given: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"foresight": 1.0, "steps": 10, "glimpses_per_overview": 20, **given}
    monkeypatch.setattr("glimpse.ranks.sharing.ranks", lambda: Group(size=3))
    _check_overviews(settings)
    monkeypatch.setattr("glimpse.ranks.sharing.ranks", lambda: Group(size=6))
    (few,) = (name for name, count in given.items() if count <= 100)
    found = (
        rf"pretrain.{few} / pretrain.glimpses_per_overview = {given[few]} / 20: [35] cannot .* larger pretrain.{few}"
    )
    with pytest.raises(SettingsError, match=found):
        _check_overviews(settings)
    _check_overviews({**settings, "foresight": 0.0})


def test_the_loss_is_that_of_pairs_in_both_directions() -> None:
    foreseen, shown = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [5.0, 0.0]])
    # Similarities, at temperature 0.5: cell 0 has 2 to both glimpses, cell 1 has 0 to both.
    rows = np.log(2)
    columns = np.mean([-2 + np.log(np.exp(2) + 1), np.log(np.exp(2) + 1)])
    assert float(foresight_loss(foreseen, shown, 0.5)) == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_each_glimpse_is_paired_with_the_features_of_its_own_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, env = make()
    trainer = trainer_of(policy, sample_foreseen(policy, env.cases, env.views, 120, 10, seed=1, threads=1))
    rows = trainer._draw()
    assert len(set(rows.tolist())) == len(rows) == 4 * 8
    cases = (rows % CASES).view(4, 8)
    assert len(set(cases[:, 0].tolist())) == 4 and (cases == cases[:, :1]).all()
    count = len(policy.cells)
    numbers = torch.arange(4.0)[:, None] * count + torch.arange(float(count))  # of every cell of every overview

    def encoded(overviews: torch.Tensor, conduct: Conduct) -> torch.Tensor:
        assert torch.equal(overviews, trainer.overviews[cases[:, 0]])
        return numbers.view(4, 1, *policy.grid.cells).expand(-1, policy.encoder.embed, -1, -1)

    seen: list[torch.Tensor] = []
    monkeypatch.setattr(policy, "encode", encoded)
    monkeypatch.setattr(trainer.foresee, "forward", lambda features: seen.append(features[:, 0]) or features)
    trainer._further_loss(rows, torch.randn(32, policy.encoder.embed))
    expected = torch.arange(4).repeat_interleave(8) * count + trainer.cells[rows]
    assert seen[0].tolist() == expected.tolist()


def test_cells_learn_to_foresee_and_glimpses_are_left_to_their_own_loss() -> None:
    policy, env = make()
    foreseen = sample_foreseen(policy, env.cases, env.views, 240, 20, seed=1, threads=1)
    trainer = trainer_of(policy, foreseen, learning_rate=3e-4)  # at 2e-3 a quarter of the seeds begin late or never
    trainer.calibrate()
    rows = trainer._draw()
    shown = torch.randn(32, policy.encoder.embed, requires_grad=True)
    first = trainer._further_loss(rows, shown)
    first.backward()
    assert shown.grad is None and policy.encoder.layers[0].weight.grad.abs().sum() > 0
    for _ in range(300):
        trainer.step()
    shown = trainer.head(policy.embed(trainer.pool[rows]))
    assert float(trainer._further_loss(rows, shown)) < np.log(32) - 0.8  # log(32) is a blind guess


def test_an_interrupted_training_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    losses = []
    for interrupted in (False, True):
        policy, env = make()
        foreseen = sample_foreseen(policy, env.cases, env.views, 120, 10, seed=1, threads=1)
        trainer = trainer_of(policy, foreseen, seed=3)
        for _ in range(3):
            trainer.step()
        if interrupted:
            checkpoint = Checkpoint()
            trainer.save_state(checkpoint)
            checkpoint.save(tmp_path / "state.safetensors")
            torch.manual_seed(99)
            policy, _ = make()
            trainer = trainer_of(policy, foreseen, seed=4)
            trainer.restore_state(Checkpoint.load(tmp_path / "state.safetensors"))
        losses.append([trainer.step() for _ in range(3)])
    assert losses[0] == losses[1]
