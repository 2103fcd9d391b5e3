"""The algorithms that Stable-Baselines3 brings itself learn on every registered environment, with our features."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import preprocess_obs

import glimpse  # noqa: F401 - registers the environments
from glimpse.agents import GlimpseFeatures
from glimpse.envs import FlattenAction, make_array
from glimpse.errors import SettingsError
from glimpse.networks import ConvEncoder

IDS = sorted(env_id for env_id in gymnasium.registry if env_id.startswith("glimpse/"))
STEPS = 64
SMALL: dict[str, Any] = {
    "features_extractor_class": GlimpseFeatures,
    "features_extractor_kwargs": {
        "features_dim": 16,
        "encoder": partial(ConvEncoder, widths=(4, 8), strides=(2, 2)),
    },
    "net_arch": [16],
}
STOCK: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "PPO": (PPO, {"n_steps": 32, "batch_size": 16, "n_epochs": 1}),
    "A2C": (A2C, {"n_steps": 16}),
    "SAC": (SAC, {"buffer_size": STEPS, "learning_starts": 48, "batch_size": 8}),
}


def arrays(shape: tuple[int, ...], channels: int = 3) -> tuple[list[np.ndarray], list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (channels, *shape), dtype=np.uint8) for _ in range(4)], [0, 1, 0, 1]


@pytest.fixture(scope="module", params=IDS)
def env(
    request: pytest.FixtureRequest,
    tiny_slides: Path,
    tiny_radiographs: Path,
    tiny_photos: Path,
    tiny_mri: Path,
    tiny_ct: Path,
    tiny_mnist: Path,
) -> Iterator[gymnasium.Env]:
    few = {"train": 6, "val": 2, "test": 2}
    options: dict[str, dict[str, Any]] = {
        "glimpse/WSI-v0": {"cohort": tiny_slides, "overview_size": 64, "glimpse_size": 32},
        "glimpse/XRay-v0": {"cohort": tiny_radiographs, "overview_size": 64, "glimpse_size": 32},
        "glimpse/Photo-v0": {"cohort": tiny_photos, "overview_size": 64, "glimpse_size": 32},
        "glimpse/MRI-v0": {"cohort": tiny_mri, "overview_size": 24, "glimpse_size": 12},
        "glimpse/CT-v0": {"cohort": tiny_ct, "overview_size": (12, 24, 24), "glimpse_size": (6, 12, 12)},
        "glimpse/Array-v0": {"cohort": arrays((90, 120)), "glimpse_size": 8, "glimpse_extents": [32, 8]},
        "glimpse/MegapixelMNIST-v0": {"root": tiny_mnist, "n": few, "size": 600, "glimpse_size": 32},
        "glimpse/GigapixelMNIST-v0": {
            "root": tiny_mnist,
            "n": few,
            "size": 2000,
            "island_size": 300,
            "islands": 4,
            "strokes": 4,
        },
        "glimpse/NeedleMNIST-v0": {"root": tiny_mnist, "n": few, "size": 300, "clutter": 5, "glimpse_size": 32},
        "glimpse/ClutteredMNIST-v0": {"root": tiny_mnist, "n": few, "glimpse_size": 12, "glimpse_extents": [12]},
        "glimpse/Relations-v0": {"n": few, "glimpse_size": 32, "strokes": 60},
    }
    if request.param not in options:
        pytest.fail(f"{request.param} is registered, but this test does not know how to make it small: add it.")
    made = FlattenAction(gymnasium.make(request.param, max_glimpses=4, **options[request.param]))
    yield made
    made.close()


def parameters(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.policy.named_parameters()}


@pytest.mark.parametrize("name", STOCK)
def test_stock_algorithms_learn(env: gymnasium.Env, name: str) -> None:
    algorithm, options = STOCK[name]
    # A copy of the settings, because Stable-Baselines3 writes into what it is given.
    model = algorithm("MultiInputPolicy", env, policy_kwargs=dict(SMALL), seed=0, device="cpu", **options)
    before = parameters(model)
    model.learn(STEPS)
    assert model.num_timesteps == STEPS
    after = parameters(model)
    assert all(torch.isfinite(value).all() for value in after.values())
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert any("encoder" in key for key in changed)
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(action)


def seen_by_encoder(shape: tuple[int, ...], channels: int, normalize_images: bool) -> tuple[Any, Any]:
    """An observation of an environment, and what its overview is when it arrives at the encoder."""
    env = make_array(arrays(shape, channels), overview_size=12, glimpse_size=6, glimpse_extents=[6], max_glimpses=2)
    features = GlimpseFeatures(env.observation_space, normalize_images=normalize_images)
    arrived: list[torch.Tensor] = []
    features.encoder.register_forward_pre_hook(lambda module, images: arrived.append(images[0]))
    observation, _ = env.reset(seed=0)
    tensors = {name: torch.as_tensor(value)[None] for name, value in observation.items()}
    processed: Any = preprocess_obs(tensors, env.observation_space, normalize_images=normalize_images)  # type: ignore[arg-type]
    assert features(processed).shape == (1, 128)
    return observation["overview"], arrived[0][0].numpy()


@pytest.mark.parametrize("normalize_images", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("shape", [(60,), (40, 60), (16, 20, 24)], ids=["signal", "image", "volume"])
def test_the_encoder_sees_the_same_pixels_in_every_dimension(
    shape: tuple[int, ...], channels: int, normalize_images: bool
) -> None:
    shown, arrived = seen_by_encoder(shape, channels, normalize_images)
    np.testing.assert_allclose(arrived, shown, atol=1e-3)


def test_other_observations_are_refused_by_name() -> None:
    space = spaces.Dict({"overview": spaces.Box(0, 255, (1, 8, 8), np.uint8)})
    with pytest.raises(SettingsError, match="foreground, glimpse, location, remaining, extents missing"):
        GlimpseFeatures(space)
