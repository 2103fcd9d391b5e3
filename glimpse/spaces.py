"""The Gymnasium spaces of observations and actions, which environments and policies share.

There are two forms of an action. The environment's own form is a dictionary, which is easy to read. Stable-Baselines3
does not accept dictionaries as actions, so there is also a flat form, one vector with every number in [-1, 1]:

    [location (d) | stop (1) | zoom (n, only with several fields of view) | prediction (output)]

Predictions are raw scores (logits) and have no bounds, but spaces need bounds. In both forms predictions are therefore
divided by `ActionLayout.limit` and clipped to [-1, 1]. `pack`, `unpack` and `from_dict` convert them, so that other
code sees raw scores only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from glimpse.errors import DivergedError

if TYPE_CHECKING:
    from glimpse.views import Views

OBSERVATION_KEYS = ("overview", "foreground", "glimpse", "location", "remaining", "extents")


class Action(NamedTuple):
    """One action, or a batch of actions, with raw scores as predictions.

    Attributes:
        location: Centre of the next glimpse in [-1, 1], array axis order: float32 `(*batch, d)`.
        stop: True ends the episode without another glimpse: bool `(*batch,)`.
        zoom: Index of the field of view: int64 `(*batch,)`; 0 where there is only one.
        prediction: The prediction from what has been seen so far, as raw scores: float32 `(*batch, output)`.
    """

    location: NDArray[np.float32]
    stop: NDArray[np.bool_]
    zoom: NDArray[np.int64]
    prediction: NDArray[np.float32]


@dataclass(frozen=True)
class ActionLayout:
    """Where the parts of an action are in the flat form, and the conversion between both forms.

    Attributes:
        ndim: Number of axes of the image, d.
        outputs: Length of a prediction.
        zooms: Number of fields of view to choose from; with one, actions have no zoom.
        limit: Raw scores are clipped to [-limit, limit]. (With two logits that differ by 20, the larger probability is
            1 - 2e-9.)
    """

    ndim: int
    outputs: int
    zooms: int = 1
    limit: float = 20.0

    def __post_init__(self) -> None:
        for name in ("ndim", "outputs", "zooms", "limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected {name} of an action to be above 0, got {getattr(self, name)}.")

    @property
    def size(self) -> int:
        """Length of the flat action."""
        return self._prediction.stop

    @property
    def _zoom(self) -> slice:
        return slice(self.ndim + 1, self.ndim + 1 + (self.zooms if self.zooms > 1 else 0))

    @property
    def _prediction(self) -> slice:
        return slice(self._zoom.stop, self._zoom.stop + self.outputs)

    def dict_space(self) -> spaces.Dict:
        """Returns `Dict(location Box(-1, 1, (d,)), stop Discrete(2), prediction Box(-1, 1, (output,)))`.

        With several fields of view it has `zoom Discrete(n)` too. The prediction is in units of `limit`: 0.1 is a raw
        score of 2 when the limit is 20.
        """
        parts: dict[str, spaces.Space[Any]] = {
            "location": spaces.Box(-1.0, 1.0, (self.ndim,), np.float32),
            "stop": spaces.Discrete(2),
            "prediction": spaces.Box(-1.0, 1.0, (self.outputs,), np.float32),
        }
        if self.zooms > 1:
            parts["zoom"] = spaces.Discrete(self.zooms)
        return spaces.Dict(parts)

    def box_space(self) -> spaces.Box:
        """Returns the space of flat actions, `Box(-1, 1, (size,))`."""
        return spaces.Box(-1.0, 1.0, (self.size,), np.float32)

    @classmethod
    def from_space(cls, space: spaces.Dict, limit: float = 20.0) -> ActionLayout:
        """Returns the layout of a space that `dict_space` returned; the space does not contain the limit."""
        missing = {"location", "stop", "prediction"} - set(space.spaces)
        if missing:
            raise ValueError(f"Expected an action space with location, stop and prediction; {sorted(missing)} missing.")
        zoom = space.spaces.get("zoom")
        zooms = int(zoom.n) if isinstance(zoom, spaces.Discrete) else 1
        location, prediction = space["location"].shape, space["prediction"].shape
        if location is None or prediction is None:
            raise ValueError("Expected location and prediction to be boxes with a shape.")
        return cls(location[0], prediction[0], zooms, limit)

    def pack(
        self, location: ArrayLike, stop: ArrayLike, prediction: ArrayLike, zoom: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Writes actions as flat vectors.

        Args:
            location: `(*batch, d)`; clipped to [-1, 1].
            stop: `(*batch,)`; booleans, or 0 and 1.
            prediction: `(*batch, output)` raw scores; clipped to [-limit, limit].
            zoom: `(*batch,)` indices of fields of view; None means the first one.

        Returns:
            float32 `(*batch, size)` in [-1, 1].
        """
        location = np.asarray(location, np.float32)
        flat = np.empty((*location.shape[:-1], self.size), np.float32)
        flat[..., : self.ndim] = np.clip(location, -1.0, 1.0)
        flat[..., self.ndim] = np.where(np.asarray(stop, bool), 1.0, -1.0)
        if self.zooms > 1:
            _check_numbers("zoom", 0 if zoom is None else zoom, whole=True)
            chosen = np.asarray(0 if zoom is None else zoom, np.int64)
            flat[..., self._zoom] = np.where(np.arange(self.zooms) == chosen[..., None], 1.0, -1.0)
        flat[..., self._prediction] = np.clip(np.asarray(prediction, np.float32) / self.limit, -1.0, 1.0)
        return flat

    def unpack(self, flat: ArrayLike) -> Action:
        """Reads flat vectors `(*batch, size)`: a number above 0 means `stop`, the largest of its block is `zoom`."""
        _check_numbers("a flat action", flat)
        flat = np.asarray(flat, np.float32)
        if flat.shape[-1:] != (self.size,):
            raise ValueError(f"Expected flat actions of shape (*batch, {self.size}) for {self}, got {flat.shape}.")
        zoom = flat[..., self._zoom]
        return Action(
            location=np.clip(flat[..., : self.ndim], -1.0, 1.0),
            stop=flat[..., self.ndim] > 0,
            zoom=zoom.argmax(-1) if self.zooms > 1 else np.zeros(flat.shape[:-1], np.int64),
            prediction=np.clip(flat[..., self._prediction], -1.0, 1.0) * np.float32(self.limit),
        )

    def to_dict(self, flat: ArrayLike) -> dict[str, Any]:
        """Turns one flat action `(size,)` into an element of `dict_space`."""
        action = self.unpack(flat)
        parts: dict[str, Any] = {
            "location": action.location,
            "stop": np.int64(action.stop),
            "prediction": np.clip(np.asarray(flat, np.float32)[self._prediction], -1.0, 1.0),
        }
        return parts | ({"zoom": np.int64(action.zoom)} if self.zooms > 1 else {})

    def from_dict(self, action: Mapping[str, Any]) -> Action:
        """Reads one element of `dict_space`; errors name missing keys and wrong shapes."""
        expected = {"location": (self.ndim,), "stop": (), "prediction": (self.outputs,)}
        expected |= {"zoom": ()} if self.zooms > 1 or "zoom" in action else {}
        for key, shape in expected.items():
            if key not in action:
                raise ValueError(f"Expected an action with the keys {', '.join(expected)}; {key!r} is missing.")
            if np.shape(action[key]) != shape:
                raise ValueError(f"Expected action[{key!r}] of shape {shape}, got {np.shape(action[key])}.")
            _check_numbers(f"action[{key!r}]", action[key], whole=key in ("stop", "zoom"))
        zoom = int(action.get("zoom", 0))
        if not 0 <= zoom < self.zooms:
            raise ValueError(f"Expected action['zoom'] from 0 to {self.zooms - 1}, got {zoom}.")
        return Action(
            location=np.clip(np.asarray(action["location"], np.float32), -1.0, 1.0),
            stop=np.asarray(action["stop"], bool),
            zoom=np.asarray(zoom, np.int64),
            prediction=np.clip(np.asarray(action["prediction"], np.float32), -1.0, 1.0) * np.float32(self.limit),
        )


def _check_numbers(name: str, values: ArrayLike, whole: bool = False) -> None:
    """Refuses what is no finite number, or no whole one.

    Raises:
        DivergedError: A number is not finite.
        ValueError: It is no number, or no whole one.
    """
    given = np.asarray(values)
    if given.dtype.kind not in "biuf":
        raise ValueError(f"Expected numbers in {name}, got {values!r}.")
    wrong = given[~np.isfinite(given)]
    if wrong.size:
        raise DivergedError(
            f"Expected finite numbers in {name}, got {wrong[0]}. If a policy made it, that has diverged."
        )
    if whole and (given != np.floor(given)).any():
        raise ValueError(f"Expected {name} to be a whole number, got {values!r}.")


def axes_and_channels(axes: int, channels: int) -> str:
    """Says of which kind an image is, for messages."""
    return f"{axes} axes and {channels} channel{'' if channels == 1 else 's'}"


def observation_space(channels: int, views: Views) -> spaces.Dict:
    """Returns the space of observations of images with d axes.

    - overview: uint8 `(channel, *overview_size)`, the whole image;
    - foreground: uint8 `(1, *overview_size)`, 255 where looking can make sense and 0 elsewhere (not 1, because
      Stable-Baselines3 takes this box for an image and divides it by 255);
    - glimpse: uint8 `(channel, *glimpse_size)`, the last glimpse, zeros before the first;
    - location: float32 `(d,)` in [-1, 1], centre of that glimpse, zeros before the first;
    - remaining: float32 `(1,)` in [0, 1], the share of the budget of glimpses that is left;
    - extents: float32 `(zoom * d,)` in [0, 1], the sides of glimpses as shares of the image's sides: all axes of the
      first field of view, then all of the next.
    """
    return spaces.Dict(
        {
            "overview": spaces.Box(0, 255, (channels, *views.overview_size), np.uint8),
            "foreground": spaces.Box(0, 255, (1, *views.overview_size), np.uint8),
            "glimpse": spaces.Box(0, 255, (channels, *views.glimpse_size), np.uint8),
            "location": spaces.Box(-1.0, 1.0, (len(views.glimpse_size),), np.float32),
            "remaining": spaces.Box(0.0, 1.0, (1,), np.float32),
            "extents": spaces.Box(0.0, 1.0, (len(views.glimpse_extents) * len(views.glimpse_size),), np.float32),
        }
    )
