"""An environment written from scratch, which knows nothing of `GlimpseEnv`, for tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from omegaconf import OmegaConf

from glimpse.cohort import Cohort
from glimpse.settings.composing import composed
from glimpse.spaces import ActionLayout, observation_space
from glimpse.tasks import Classification
from glimpse.views import Views

SIDE, PATCH = 64, 16
HERE = __name__


@dataclass(frozen=True)
class Picture:
    """A bright square somewhere on noise, or a dark one."""

    id: str
    patient: str
    bright: bool
    target: int
    split: str

    def pixels(self) -> np.ndarray:
        rng = np.random.default_rng(int(self.patient))
        image = rng.integers(90, 110, (SIDE, SIDE), dtype=np.uint8)
        y, x = rng.integers(0, SIDE - 8, 2)
        image[y : y + 8, x : x + 8] = 240 if self.bright else 10
        return image


def load_pictures(n: int = 16) -> Cohort:
    splits = ("train", "train", "val", "test")
    kinds = [i // 4 % 2 for i in range(n)]
    return Cohort(Picture(f"picture-{i}", str(i), kinds[i] == 1, kinds[i], splits[i % 4]) for i in range(n))  # type: ignore[misc]


class OwnEnv(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """All of an environment in one class, of nothing but Gymnasium."""

    def __init__(self, cohort: Any, split: str | None = "train", max_glimpses: int = 3, zooms: int = 1) -> None:
        self.cases = [case for case in cohort if split is None or case.split == split]
        self.task, self.max_glimpses, self.glimpse_cost = Classification(2), max_glimpses, 0.1
        self.layout, self.spans = ActionLayout(2, 2, zooms), self.spans_of(zooms)
        self.observation_space = observation_space(1, Views((32, 32), (PATCH, PATCH), self.spans))  # type: ignore[assignment,arg-type]
        self.action_space = self.layout.dict_space()  # type: ignore[assignment]

    def spans_of(self, zooms: int) -> list[int]:
        """The sides of glimpses in pixels of the picture; each is twice the next."""
        return [PATCH << (zooms - 1 - zoom) for zoom in range(zooms)]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        options = options or {}
        index = options["case"] if "case" in options else int(self.np_random.integers(len(self.cases)))
        self.case, self.budget = self.cases[index], options.get("max_glimpses", self.max_glimpses)
        self.image, self.score = self.case.pixels(), 0.0
        self.path: list[np.ndarray] = []
        self.zooms: list[int] = []
        self.patch = np.zeros((1, PATCH, PATCH), np.uint8)
        return self.observe(), {"case": self.case.id, "target": self.case.target}

    def step(self, action: Any) -> Any:
        parts = self.layout.from_dict(action)
        score = float(self.task.score(parts.prediction[None], np.array([self.case.target]))[0])
        reward, self.score = score - self.score, score
        ended = bool(parts.stop) or len(self.path) >= self.budget
        if not ended:
            reward -= self.glimpse_cost
            self.path.append(parts.location)
            self.zooms.append(int(parts.zoom))
            span = self.spans[int(parts.zoom)]
            y, x = np.floor((parts.location + 1) / 2 * SIDE + 0.5).astype(int) + SIDE - span // 2
            shown = np.pad(self.image, SIDE)[y : y + span, x : x + span]
            step = max(1, span // PATCH)
            whole = np.kron(shown, np.ones((step * PATCH // span,) * 2, np.uint8))
            self.patch = whole.reshape(1, PATCH, step, PATCH, step).mean((2, 4)).astype(np.uint8)
        info: dict[str, Any] = {"case": self.case.id, "target": self.case.target}
        if ended:
            pixels = len(self.path) * PATCH**2
            info |= {"scanpath": np.array(self.path, np.float32).reshape(-1, 2), "score": score}
            info |= {"zooms": np.array(self.zooms, np.int64), "pixels_read": pixels, "share_read": pixels / SIDE**2}
        return self.observe(), reward, ended, False, info

    def observe(self) -> dict[str, Any]:
        left = min(1.0, (self.budget - len(self.path)) / max(1, self.max_glimpses))
        return {
            "overview": self.image.reshape(1, 32, 2, 32, 2).mean((2, 4)).astype(np.uint8),
            "foreground": np.full((1, 32, 32), 255, np.uint8),
            "glimpse": self.patch,
            "location": self.path[-1] if self.path else np.zeros(2, np.float32),
            "remaining": np.array([left], np.float32),
            "extents": np.repeat(self.spans, 2).astype(np.float32) / SIDE,
        }


def configuration(folder: Path, **make: Any) -> Any:
    """The configuration of a run of all stages at its smallest, with an environment of one's own."""
    quick = (
        "pretrain=contrastive pretrain.steps=2 pretrain.batch=8 pretrain.pool=16 warm_up.glimpses_per_case=4 "
        "warm_up.batch=4 warm_up.steps=2 joint.updates=3 joint.validate_every=1 max_glimpses=3 "
        "agent.algorithm.cases_per_rollout=2 agent.algorithm.rollouts_per_case=2 progress=false "
        "report.lanes=3 report.pictures=1 report.overview.updates=1 report.overview.cases_per_rollout=4"
    )
    encoder = (
        "network/encoder=small",
        "network.cell=null",
        "network.encoder.background=100",
        "network.encoder.strides=[2,2,1,1]",
        "pretrain.augment={stain: 0, stain_shift: 0}",
    )
    config = composed(*quick.split(), *encoder, f"run={folder / 'run'}")
    env = {
        "name": "own",
        "background": 100,
        "cohort": {"_target_": f"{HERE}.load_pictures"},
        "make": {"_target_": f"{HERE}.OwnEnv", "max_glimpses": 3, **make},
    }
    OmegaConf.set_struct(config, False)
    config.env = env
    return config
