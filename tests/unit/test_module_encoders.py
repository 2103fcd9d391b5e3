"""Networks of others as encoders: maps, tokens and vectors become cells; local weights only; clear errors."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.errors import MissingExtraError, SettingsError
from glimpse.networks import HuggingFaceEncoder, ModuleEncoder, TimmEncoder, foreign
from glimpse.networks.adapters import LowRank
from glimpse.networks.modules import EncoderError
from glimpse.runs.checkpoints import CheckpointError
from glimpse.runs.loading import build_policy, load, save_policy
from glimpse.settings.building import build
from glimpse.settings.checking import checked
from glimpse.settings.composing import composed
from glimpse.spaces import ActionLayout, observation_space
from glimpse.views import Views

VIEWS = Views((32, 32), (16, 16), (32,))


class Means(nn.Module):
    """Returns the means of patches and two further features, as a map, as tokens after two others, or as a vector."""

    def __init__(self, kind: str = "map", stride: int = 8, only: int | None = None) -> None:
        super().__init__()
        self.kind, self.stride, self.only = kind, stride, only
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.patch_embed = SimpleNamespace(patch_size=(stride, stride))
        self.pretrained_cfg = {"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 0.125)}

    def forward(self, image: Tensor) -> Tensor:
        assert self.only is None or image.shape[2:] == (self.only, self.only)
        if self.kind == "vector":
            return image.mean((2, 3)) * self.gain
        made = F.avg_pool2d(image, self.stride) * self.gain
        if self.kind == "map":
            return made
        tokens = made.flatten(2).transpose(1, 2)
        return torch.cat([torch.full_like(tokens[:, :2], 99.0), tokens], 1)

    forward_features = forward


def random_image(*size: int, channels: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, channels, *size), np.uint8))


@pytest.mark.parametrize("kind", ["map", "tokens", "vector"])
@pytest.mark.parametrize("size", [(32, 48), (37, 41)])
def test_whatever_a_network_returns_its_cells_are_those_of_the_image(kind: str, size: tuple[int, int]) -> None:
    mean, std = (0.2, 0.4, 0.6), (0.1, 0.2, 0.5)
    encoder = ModuleEncoder(3, module=Means(kind), stride=8, mean=mean, std=std)
    image = random_image(*size)
    grid = encoder.grid(size)
    features = encoder(image)
    assert encoder.embed == 3 and features.shape == (2, 3, *grid.cells)
    (top, _), (left, _) = grid.margins
    for row, column in ((1, 1), (2, 3)):
        y, x = 8 * row - top, 8 * column - left
        block = image[:, :, y : y + 8, x : x + 8].double() / 255
        expected = (block.mean((2, 3)) - torch.tensor(mean)) / torch.tensor(std)
        assert torch.allclose(features[:, :, row, column].double(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["map", "tokens"])
def test_a_network_of_one_input_size_sees_larger_images_in_squares_and_smaller_ones_enlarged(kind: str) -> None:
    free = ModuleEncoder(3, module=Means(kind), stride=8)
    fixed = ModuleEncoder(3, module=Means(kind, only=32), stride=8, input_size=32)
    large = random_image(64, 72)
    assert torch.allclose(fixed(large), free(large), atol=1e-5)  # means of patches do not look beyond them
    small = random_image(16, 24)
    enlarged = F.interpolate(small.float(), size=(32, 32), mode="bilinear")
    assert torch.allclose(fixed(small), F.adaptive_avg_pool2d(free(enlarged), (2, 3)), atol=1e-5)
    vectors = ModuleEncoder(3, module=Means("vector", only=32), stride=8, input_size=32)
    assert torch.allclose(vectors(large), free(large), atol=0.2) and vectors(large).shape == (2, 3, 8, 9)


def test_a_single_channel_is_given_to_all_of_the_networks() -> None:
    encoder = ModuleEncoder(1, module=Means(), stride=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    features = encoder(random_image(16, 16, channels=1))
    assert features.shape == (2, 3, 2, 2) and torch.equal(features[:, 0], features[:, 2])


@pytest.mark.parametrize("kind", ["safetensors", "pt", "wrapped"])
def test_weights_come_from_a_local_file(kind: str, tmp_path: Path) -> None:
    weights, path = {"gain": torch.tensor(3.0)}, tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights} if kind == "wrapped" else weights, path)
    encoder = ModuleEncoder(3, module=Means(), stride=8, checkpoint=str(path))
    assert encoder.module.gain.item() == 3 and not encoder.module.gain.requires_grad


def test_weights_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    broken, other, pickled = (tmp_path / name for name in ("broken.pt", "other.safetensors", "pickled.pt"))
    broken.write_bytes(b"not weights")
    save_file({"gain": torch.zeros(3), "bias": torch.zeros(1)}, other)
    torch.save({"gain": Path("code")}, pickled)  # an object, not a tensor
    for path, words in (
        (tmp_path / "none.pt", "no such file"),
        (broken, "cannot be read"),
        (other, "2 tensors .* gain, bias"),
        (pickled, "cannot be read"),
    ):
        with pytest.raises(EncoderError, match=f"{path}: .*{words}"):
            ModuleEncoder(3, module=Means(), stride=8, checkpoint=str(path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"module": None}, "_target_"),
        ({"stride": None}, "network.encoder.stride=16"),
        ({"stride": 16}, r"stride of 16 has 4 x 4 cells"),
        ({"stride": 16, "module": Means("tokens")}, r"stride of 16 has 4 x 4 cells"),
        ({"embed": 7}, "embed of 3"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "one mean and one std"),
        ({"channels": 2}, "1 or 3 channels"),
        ({"ndim": 3}, "network/encoder=planar"),
        ({"input_size": 36}, "multiple of the stride 8"),
        ({"trainable": 3}, "0 to 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    given = {"channels": 3, "ndim": 2, "module": Means(), "stride": 8, **options}
    with pytest.raises((SettingsError, EncoderError), match=words):
        ModuleEncoder(**given)


def test_a_network_that_does_not_train_has_no_dropout() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 8, 1))
    frozen = ModuleEncoder(3, module=net, stride=8)
    assert torch.equal(frozen(random_image(32, 32)), frozen(random_image(32, 32)))
    adapted = ModuleEncoder(3, module=net, stride=8, lora_rank=2)
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert names == ["module.3.down.weight", "module.3.up.weight"] and isinstance(net[3], LowRank)
    assert net[2].training and not net[1].training


def test_a_policy_is_built_of_it_on_the_command_line(tiny_slides: Path) -> None:
    given = (
        "network/encoder=module",
        "network.encoder.module={_target_: tests.unit.test_module_encoders.Means, kind: tokens, stride: 14}",
        "network.encoder.stride=14",
        "network.cell=8",
        "network.aggregator.heads=1",
        f"env.cohort.path={tiny_slides}",
    )
    config = composed(*given)
    from omegaconf import OmegaConf

    checked(OmegaConf.to_container(config, resolve=True), given)
    env = build(config.env.make, cohort=build(config.env.cohort), split="train").unwrapped
    policy = build_policy(config.network, env.observation_space, env.layout)
    overview = torch.from_numpy(env.reset(seed=0)[0]["overview"])[None]
    assert policy.features(overview).shape == (1, 3, *policy.grid.cells) and policy.grid.side == (8, 8)


# ---------------------------------------------------------------------------------------------- Hugging Face
def written(kind: str, folder: Path) -> tuple[Any, Path]:
    """A small model with random weights, and the folder to which it was saved."""
    library = pytest.importorskip("transformers", reason="the extra `huggingface` is not installed")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "vit":
        model = library.ViTModel(library.ViTConfig(**small, image_size=64, patch_size=16))
    elif kind == "dinov2":
        del small["intermediate_size"]
        model = library.Dinov2Model(library.Dinov2Config(**small, image_size=56, patch_size=14))
    elif kind == "registers":
        del small["intermediate_size"]
        config = library.Dinov2WithRegistersConfig(**small, image_size=56, patch_size=14, num_register_tokens=4)
        model = library.Dinov2WithRegistersModel(config)
    elif kind == "convnext":
        model = library.ConvNextModel(library.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]))
    else:
        model = library.ResNetModel(
            library.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic")
        )
    model.save_pretrained(folder)
    return model.eval(), folder


@pytest.mark.parametrize(
    ("kind", "stride"), [("vit", 16), ("dinov2", 14), ("registers", 14), ("convnext", 32), ("resnet", 32)]
)
def test_models_of_hugging_face_have_a_feature_for_each_patch(kind: str, stride: int, tmp_path: Path) -> None:
    model, folder = written(kind, tmp_path / kind)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.7, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]})
    )
    encoder = HuggingFaceEncoder(3, name=str(folder))
    image = random_image(4 * stride, 6 * stride)
    assert encoder.grid((100, 65)).side == (stride, stride)
    pixels = (image.float() / 255 - torch.tensor([0.7, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(
        3, 1, 1
    )
    with torch.no_grad():
        options = {"interpolate_pos_encoding": True} if kind == "vit" else {}
        hidden = model(pixel_values=pixels, **options).last_hidden_state
    first = {"vit": 1, "dinov2": 1, "registers": 5}.get(kind)  # class token, registers
    expected = hidden if first is None else hidden[:, first:].transpose(1, 2).unflatten(2, (4, 6))
    assert torch.allclose(encoder(image), expected, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    odd = random_image(50, 70)
    assert encoder(odd).shape == (2, encoder.embed, *encoder.grid((50, 70)).cells)


def test_blocks_and_adapters_of_a_transformer_train(tmp_path: Path) -> None:
    _, folder = written("vit", tmp_path)
    last = HuggingFaceEncoder(3, name=str(folder), trainable=1)
    names = {name for name, parameter in last.named_parameters() if parameter.requires_grad}
    assert names and all(".1." in name for name in names)
    adapted = HuggingFaceEncoder(3, name=str(folder), lora_rank=2)
    assert torch.allclose(adapted(random_image(64, 64)), last.eval()(random_image(64, 64)), atol=1e-5)
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(names) >= 2 * 6 * 2 and all(name.endswith((".up.weight", ".down.weight")) for name in names)


def test_models_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="the extra `huggingface` is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EncoderError, match="no such model on this machine"):
        HuggingFaceEncoder(3, name=str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"network\.encoder\.name=<folder>"):
        HuggingFaceEncoder(3)


@pytest.mark.parametrize(("encoder", "extra"), [(HuggingFaceEncoder, "huggingface"), (TimmEncoder, "timm")])
def test_without_the_extra_the_message_names_it(encoder: Any, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(foreign, "import_module", absent)
    for call in (encoder.check_installed, lambda: encoder(3, name="x")):
        with pytest.raises(MissingExtraError, match=rf"glimpse-rl\[{extra}\]"):
            call()


# ---------------------------------------------------------------------------------------------- timm
def test_models_of_timm_are_made_as_their_cards_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a module that stands for timm."""
    made: list[tuple[str, dict[str, Any]]] = []
    weights = tmp_path / "uni.bin"
    weights.write_bytes(b"")

    def create_model(name: str, **options: Any) -> nn.Module:
        made.append((name, options))
        if name == "resnet50" and "dynamic_img_size" in options:
            raise TypeError("unexpected keyword argument 'dynamic_img_size'")
        if name == "unknown":
            raise RuntimeError("Unknown model (unknown)")
        return Means("tokens", stride=14)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    encoder = TimmEncoder(3, name="vit_large_patch14", checkpoint=str(weights), options={"init_values": 1e-5})
    assert made == [
        (
            "vit_large_patch14",
            {
                "pretrained": False,
                "checkpoint_path": str(weights),
                "num_classes": 0,
                "dynamic_img_size": True,
                "init_values": 1e-5,
            },
        )
    ]
    image = random_image(28, 42)
    features = encoder(image)
    block = image[:, :, 14:28, 28:42].float().mean((2, 3)) / 255
    expected = (block - torch.tensor([0.5, 0.25, 0.0])) / torch.tensor([0.5, 0.25, 0.125])
    assert features.shape == (2, 3, 2, 3) and torch.allclose(features[:, :, 1, 2], expected, atol=1e-4)
    TimmEncoder(3, name="resnet50")
    assert "dynamic_img_size" not in made[-1][1]
    with pytest.raises(EncoderError, match="timm cannot make unknown"):
        TimmEncoder(3, name="unknown")
    with pytest.raises(EncoderError, match="no such file"):
        TimmEncoder(3, name="resnet50", checkpoint=str(tmp_path / "none.bin"))


def test_a_run_needs_its_file_of_weights_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights are the run's own, so it can be loaded in another folder, and when the file is gone."""
    monkeypatch.chdir(tmp_path)
    torch.save(Means().state_dict() | {"gain": torch.tensor(3.0)}, "net.pt")
    module = f"network.encoder.module={{_target_: {__name__}.Means}}"
    given = [
        "network/encoder=module",
        module,
        "network.encoder.stride=8",
        "network.encoder.checkpoint=net.pt",
        "network.width=8",
    ]
    config = composed("env=wsi", "experiment=smoke", *given, f"run={tmp_path / 'run'}", "progress=false")
    settings: Any = OmegaConf.to_container(config, resolve=True)
    policy = build_policy(settings["network"], observation_space(3, VIEWS), ActionLayout(2, 2, 1))
    (tmp_path / "run").mkdir()
    OmegaConf.save(OmegaConf.create(settings), tmp_path / "run" / "config.yaml")
    save_policy(policy, tmp_path / "run" / "policy.safetensors")
    (tmp_path / "net.pt").unlink()
    gain = dict(load(tmp_path / "run").encoder.named_parameters())["module.gain"]
    assert gain.item() == 3.0
    monkeypatch.delattr(sys.modules[__name__], "Means")
    with pytest.raises(CheckpointError, match="its network cannot be built"):
        load(tmp_path / "run")
