"""How many glimpses of each field of view the warm-up can read of a case, where settings ask for more."""

import math
from collections.abc import Sequence

from glimpse.networks.policy import GlimpsePolicy


def glimpses_of(branches: Sequence[int]) -> int:
    """Returns how many glimpses are read of a case."""
    return sum(math.prod(branches[:level]) for level in range(1, len(branches) + 1))


def places_of(policy: GlimpsePolicy, levels: int) -> tuple[int, ...]:
    """Returns in how many cells glimpses of each level can lie: of the overview, then of one wide glimpse."""
    return (len(policy.cells), *[len(policy.view_cells)] * (levels - 1))


def at_different_places(branches: Sequence[int], policy: GlimpsePolicy) -> tuple[int, ...]:
    """Reads at most as many glimpses as there are cells, since more would show the same places again."""
    places = places_of(policy, len(branches))
    return tuple(min(count, most) for count, most in zip(branches, places, strict=True))


def affordable(branches: Sequence[int], most: int) -> tuple[int, ...]:
    """Reads less of each case where there are so many cases that the largest number of glimpses would be passed.

    There are fewer wide glimpses at first, but two at least; then fewer in each of them, from fine to wide.

    Args:
        branches: How many glimpses of each level are asked for.
        most: How many may be read of a case in all.
    """
    made = list(branches)
    for level in (0, *reversed(range(1, len(made)))):
        least = min(2 if level == 0 else 1, made[level])
        while made[level] > least and glimpses_of(made) > most:
            made[level] -= 1
    return tuple(made)
