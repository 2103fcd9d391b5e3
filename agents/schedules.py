"""Learning-rate schedules: functions of the share of training that remains (1 at the start, 0 at the end)."""

import math
from dataclasses import dataclass

from glimpse.errors import SettingsError


@dataclass(frozen=True)
class Cosine:
    """Falls from `rate` to `rate * floor` along half a cosine, after a linear rise over the first share `rise`.

    Args:
        rate: The highest learning rate.
        floor: The lowest one at the end, as a share of the highest, from 0 to 1.
        rise: The share of training in which it rises from 0, from 0 to 1.

    Raises:
        SettingsError: A number is out of range.
    """

    rate: float
    floor: float = 0.0
    rise: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise SettingsError(f"Expected {name} of a schedule to be a number from 0 on, got {value!r}.")
            if name != "rate" and value > 1:
                raise SettingsError(f"Expected {name} of a schedule to be a share, from 0 to 1, got {value!r}.")

    def __call__(self, progress_remaining: float) -> float:
        done = 1.0 - progress_remaining
        if done < self.rise:
            return self.rate * (done + 1e-3) / (self.rise + 1e-3)
        along = (done - self.rise) / max(1e-9, 1.0 - self.rise)
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, along))))
