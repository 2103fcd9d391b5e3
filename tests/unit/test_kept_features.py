"""Features of an encoder that is not trained are computed once, and never those of another encoder or image."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from glimpse.networks import ConvEncoder
from glimpse.networks import kept as kept_module
from glimpse.networks.kept import KeptFeatures
from glimpse.networks.records import Conduct
from glimpse.sources import caches
from tests.numerics.test_networks import make_policy

FIXED = Conduct(train_encoder=False)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[caches.ByteCache]:
    cache = caches.ByteCache(1 << 20)
    monkeypatch.setitem(kept_module._PIXELS, "cpu", 1)  # one image at once
    monkeypatch.setattr("glimpse.networks.kept.features", cache)
    yield cache


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 2, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Counting:
    """Computes features and counts for how many images."""

    def __init__(self, encoder: ConvEncoder) -> None:
        self.encoder, self.images = encoder, 0

    @torch.no_grad()
    def __call__(self, shown: torch.Tensor) -> torch.Tensor:
        self.images += len(shown)
        return self.encoder(shown).flatten(2).mean(-1)


def test_each_image_is_encoded_once_also_within_a_batch() -> None:
    encoder, kept, some = ConvEncoder(2), KeptFeatures(), images(5)
    compute = Counting(encoder)
    first = kept.of(encoder, some, "mean", compute)
    again = kept.of(encoder, torch.cat([some[3:], images(2, seed=1), some[:1]]), "mean", compute)
    assert compute.images == 7
    assert torch.equal(again[:2], first[3:]) and torch.equal(again[-1:], first[:1])
    assert torch.allclose(again[2:4], compute(images(2, seed=1)), atol=1e-5)
    repeated = kept.of(encoder, images(1, seed=2).repeat(4, 1, 1, 1), "mean", compute)
    assert compute.images == 10 and torch.equal(repeated[0], repeated[3])


def test_another_kind_size_or_encoder_shares_nothing() -> None:
    encoder, kept, some = ConvEncoder(2), KeptFeatures(), images(2)
    compute = Counting(encoder)
    kept.of(encoder, some, "mean", compute)
    kept.of(encoder, some, "other", compute)
    kept.of(encoder, some.view(2, 2, 6, 24), "mean", compute)
    assert compute.images == 6
    other = ConvEncoder(2)
    counted = Counting(other)
    KeptFeatures().of(other, some, "mean", counted)
    assert counted.images == 2


def test_an_encoder_that_is_said_not_to_change_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, kept, looked = ConvEncoder(2), KeptFeatures(), []
    sums = kept_module._sum
    monkeypatch.setattr(kept_module, "_sum", lambda tensor: looked.append(1) or sums(tensor))
    compute, tensors = Counting(encoder), len([*encoder.parameters(), *encoder.buffers()])
    with kept.unchanged():
        first = kept.of(encoder, images(2), "mean", compute)
        kept.of(encoder, images(2, seed=1), "mean", compute)
    assert len(looked) == tensors and compute.images == 4
    with torch.no_grad():
        next(encoder.parameters()).mul_(2)
    after = kept.of(encoder, images(2), "mean", compute)  # looked at again
    assert len(looked) == 2 * tensors and not torch.equal(first, after)
    with torch.no_grad():
        next(encoder.parameters()).mul_(0.5)
    with kept.unchanged():  # nothing is left of what was held before
        assert torch.equal(kept.of(encoder, images(2), "mean", compute), first)


@pytest.mark.parametrize("how", ["in place", "loaded", "optimizer", "fused optimizer", "data"])
def test_features_are_computed_anew_when_a_parameter_has_changed(how: str) -> None:
    encoder, kept, some = ConvEncoder(2), KeptFeatures(), images(2)
    compute = Counting(encoder)
    before = kept.of(encoder, some, "mean", compute)
    if how == "in place":
        with torch.no_grad():
            next(encoder.parameters()).add_(0.1)
    elif how == "loaded":
        encoder.load_state_dict(ConvEncoder(2).state_dict())
    elif how == "data":
        next(encoder.parameters()).data.mul_(2)
    else:
        optimizer = torch.optim.SGD(encoder.parameters(), 0.1, fused=how.startswith("fused"))
        encoder(some).square().mean().backward()
        optimizer.step()
    after = kept.of(encoder, some, "mean", compute)
    assert compute.images == 4 and not torch.allclose(before, after)


def test_the_same_parameters_again_find_what_was_kept() -> None:
    encoder, kept, some = ConvEncoder(2), KeptFeatures(), images(2)
    compute = Counting(encoder)
    kept.of(encoder, some, "mean", compute)
    encoder.load_state_dict({name: value.clone() for name, value in encoder.state_dict().items()})
    kept.of(encoder, some, "mean", compute)
    assert compute.images == 2


def test_a_full_cache_forgets_and_stays_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glimpse.networks.kept.features", caches.ByteCache(300))  # one row has 256 bytes
    encoder, kept, some = ConvEncoder(2), KeptFeatures(), images(4)
    compute = Counting(encoder)
    first = kept.of(encoder, some, "mean", compute)
    assert torch.allclose(kept.of(encoder, some, "mean", compute), first, atol=1e-6)
    assert 4 < compute.images <= 8


def test_a_policy_looks_alike_with_and_without_what_was_kept() -> None:
    policy = make_policy()
    shown, overviews = images(3), torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 2, 24, 24), np.uint8))
    for _ in range(2):
        assert torch.allclose(policy.look(shown, conduct=FIXED), policy.look(shown), atol=1e-5)
        assert torch.allclose(policy.features(overviews, FIXED), policy.encode(overviews), atol=1e-5)
    assert not policy.look(shown, conduct=FIXED).requires_grad
    assert policy.look(shown).requires_grad


def test_policies_made_for_inference_and_in_low_precision_look() -> None:
    with torch.inference_mode():
        policy = make_policy()
        first = policy.look(images(3), conduct=FIXED)
        assert torch.equal(policy.look(images(3), conduct=FIXED), first)
        policy.encoder.layers[0].weight.mul_(2)
        assert torch.allclose(policy.look(images(3), conduct=FIXED), policy.look(images(3)), atol=1e-5)
    low = make_policy().to(torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(low.look(images(3), conduct=FIXED), low.look(images(3)))


@pytest.mark.parametrize("missing", [1, 3, 8, 11])
def test_features_do_not_depend_on_what_else_is_missing(
    missing: int, own_cache: caches.ByteCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed has kept nothing, and must compute the same numbers."""
    monkeypatch.setitem(kept_module._PIXELS, "cpu", 8 * 12 * 12)
    encoder, some = ConvEncoder(2), images(11)
    compute = Counting(encoder)
    whole = KeptFeatures().of(encoder, some, "mean", compute)
    for key in list(own_cache._arrays)[:missing]:
        own_cache._arrays.pop(key)
    before = compute.images
    assert torch.equal(KeptFeatures().of(encoder, some, "mean", compute), whole)
    assert compute.images - before == 8 * -(-missing // 8)
