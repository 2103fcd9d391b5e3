"""Which parts of a network take over the weights of another one."""

from pathlib import Path

import pytest
import torch

from glimpse.geometry import Extent
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.transfer import take_over
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.initial import take_weights
from glimpse.runs.loading import build_policy, save_policy
from glimpse.settings.composing import composed
from glimpse.spaces import ActionLayout, observation_space
from glimpse.views import Views


def network(levels: int = 1, outputs: int = 2, ndim: int = 2, channels: int = 3, **options: str) -> GlimpsePolicy:
    views = Views((32,) * ndim, (8,) * ndim, tuple(Extent.parse(8 * 2**level) for level in reversed(range(levels))))
    section = composed("env=wsi", "network/encoder=small", *(f"{key}={value}" for key, value in options.items()))
    policy = build_policy(section["network"], observation_space(channels, views), ActionLayout(ndim, outputs, levels))
    with torch.no_grad():
        for part in policy.state_dict().values():  # buffers too, which are alike in new policies
            part.copy_(torch.rand_like(part) + 0.5 if part.is_floating_point() else part)
    return policy


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_policy_with_the_same_fields_of_view_takes_over_all(levels: int) -> None:
    other, own = network(levels), network(levels)
    assert take_over(own, other.state_dict(), levels) == []
    for name, part in own.state_dict().items():
        assert torch.equal(part, other.state_dict()[name]), name


@pytest.mark.parametrize(("there", "here"), [(2, 3), (3, 2), (2, 4), (4, 2)])
def test_fields_of_view_correspond_from_the_finest_one_on(there: int, here: int) -> None:
    other, own = network(there), network(here)
    assert take_over(own, other.state_dict(), there) == []
    seen, place, cells = torch.rand(5, other.pool.shift.shape[-1]), torch.rand(5, 2), torch.rand(5, 7, other.width)
    state = torch.rand(5, other.memory.hidden)
    for back in range(min(there, here)):  # counted from the finest one
        old, new = there - 1 - back, here - 1 - back
        torch.testing.assert_close(
            own.glimpse_token(seen, place, torch.full((5,), new)),
            other.glimpse_token(seen, place, torch.full((5,), old)),
        )
        torch.testing.assert_close(own.zoom_head(state)[:, new], other.zoom_head(state)[:, old])
        for name in ("seen_penalty", "near_penalty", "worth_slope", "worth_offset", "worth_moments"):
            assert torch.equal(getattr(own.locator, name)[new], getattr(other.locator, name)[old])
        if old and new:  # the candidates of this level lie in wide glimpses, in both
            where = torch.zeros_like(cells)
            for one, two in zip(
                own.locator.describe(cells, where, torch.full((5,), new)),
                other.locator.describe(cells, where, torch.full((5,), old)),
                strict=True,
            ):
                torch.testing.assert_close(one, two)
    assert torch.equal(own.scale.weight[0], other.scale.weight[0])
    if here > there:  # the widest begin like the widest there
        assert torch.equal(own.zoom_head.weight[0], other.zoom_head.weight[0])
        assert torch.equal(own.locator.finer[0].key.weight, other.locator.key.weight)


def test_between_one_field_of_view_and_several() -> None:
    flat, deep = network(1), network(2)
    kept = take_over(deep, flat.state_dict(), 1)
    assert kept == ["locator.worth_slope", "locator.worth_offset", "locator.worth_moments"]
    assert torch.equal(deep.pool.shift, flat.pool.shift.expand(3, -1))
    deep, flat = network(2), network(1)
    assert take_over(flat, deep.state_dict(), 2) == []
    assert torch.equal(flat.pool.shift, deep.pool.shift[2])
    assert torch.equal(flat.locator.key.weight, deep.locator.finer[0].key.weight)


SETTINGS = {"network": {"encoder": {}}, "env": {"make": {}}, "progress": False}


def test_other_classes_begin_anew_and_nothing_else(tmp_path: Path) -> None:
    other, own = network(outputs=2), network(outputs=5)
    save_policy(other, tmp_path / "policy.safetensors")
    before = own.answer_head.weight.clone()
    with pytest.warns(UserWarning, match="begin anew: answer_head, glimpse_head "):
        take_weights(own, tmp_path / "policy.safetensors", SETTINGS)
    assert torch.equal(own.answer_head.weight, before)
    assert torch.equal(own.locator.key.weight, other.locator.key.weight)
    own = network(levels=2, outputs=2)
    with pytest.warns(UserWarning, match="begin anew: locator.worth_moments, locator.worth_offset, locator"):
        take_weights(own, tmp_path / "policy.safetensors", SETTINGS)


def test_what_is_seen_by_wider_fields_of_view_is_taken_in_like_overviews() -> None:
    other, own = network(2), network(4)
    take_over(own, other.state_dict(), 2)
    for part in ("pool.shift", "pool.spread", "scale.weight"):
        assert torch.equal(own.state_dict()[part], other.state_dict()[part][[0, 0, 0, 1, 2]])


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    save_policy(network(ndim=2), tmp_path / "policy.safetensors")
    with pytest.raises(CheckpointError, match="its encoder is made otherwise than"):
        take_weights(network(ndim=3), tmp_path / "policy.safetensors", SETTINGS)
    Checkpoint({"a": torch.ones(1)}).save(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="these are no weights of a policy"):
        take_weights(network(), tmp_path / "other.safetensors", SETTINGS)
