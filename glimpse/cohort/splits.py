"""Makes splits in which each patient is in one split only and the targets are balanced."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

SPLITS = ("train", "val", "test")


class TooFewPatientsError(ValueError):
    """There are fewer patients than splits to fill."""


def joined(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Returns for each patient in one of the groups a name that all who belong together share.

    Patients belong together if they are in one group, or if others link them.
    """
    name: dict[str, str] = {}
    for group in groups:
        linked = {name.get(patient, patient) for patient in group}
        name |= {patient: min(linked) for patient in [*name, *group] if name.get(patient, patient) in linked}
    return name


def stratified_splits(
    patients: Sequence[str], strata: Sequence[Hashable], fractions: Sequence[float], seed: int
) -> list[str]:
    """Assigns "train", "val" or "test" to each case; all cases of a patient get the same.

    A patient belongs to the stratum of most of their cases. The patients of each stratum are shuffled and assigned one
    by one, each to the split that is furthest below its share of that stratum; if two are equal, the one that is
    further below its share of all patients. If a stratum has at least as many patients as there are splits, every split
    gets one of them first. No split with a share above 0 stays empty.

    Args:
        patients: the patient of each case.
        strata: the stratum of each case, for example its class (see `Task.strata`).
        fractions: shares of train, val and test, which add up to 1.
        seed: seed of the shuffling. The order of the cases makes no difference.

    Raises:
        ValueError: the fractions are wrong.
        TooFewPatientsError: there are fewer patients than splits to fill.
    """
    shares = np.asarray(fractions, np.float64)
    if shares.shape != (3,) or (shares < 0).any() or not math.isclose(float(shares.sum()), 1.0, abs_tol=1e-6):
        raise ValueError(f"fractions must be three shares of train, val and test that add up to 1, got {fractions}.")
    groups = _by_stratum(patients, strata)
    wanted = int((shares > 0).sum())
    if len(set(patients)) < wanted:
        raise TooFewPatientsError(
            f"cannot split {len(set(patients))} patient(s) into {wanted} splits without leaving one empty. Add cases, "
            "or state the splits in a column 'split'."
        )
    chosen = _deal(groups, shares, np.random.default_rng(seed))
    _fill_empty(chosen, shares)
    return [SPLITS[chosen[patient]] for patient in patients]


def folds(patients: Sequence[str], strata: Sequence[Hashable], count: int, seed: int) -> list[list[int]]:
    """Divides cases into parts of about equally many patients, with every stratum in about equal shares.

    All cases of a patient are in one part. With fewer patients than parts, each patient is a part.

    Args:
        patients: the patient of each case.
        strata: the stratum of each case.
        count: number of parts.
        seed: seed of the shuffling.

    Returns:
        The indices of the cases of each part, in ascending order.
    """
    generator, dealt = np.random.default_rng(seed), []
    for group in _by_stratum(patients, strata).values():
        dealt += [group[index] for index in generator.permutation(len(group))]
    part_of = {patient: place % count for place, patient in enumerate(dealt)}
    parts = [[i for i, patient in enumerate(patients) if part_of[patient] == part] for part in range(count)]
    return [part for part in parts if part]


def _by_stratum(patients: Sequence[str], strata: Sequence[Hashable]) -> dict[str, list[str]]:
    """Groups patients by the most frequent stratum among their cases."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for patient, label in zip(patients, map(str, strata), strict=True):
        votes[patient][label] += 1
    groups = defaultdict(list)
    for patient in sorted(votes):
        groups[min(votes[patient], key=lambda label: (-votes[patient][label], label))].append(patient)
    return dict(groups)


def _deal(strata: dict[str, list[str]], shares: np.ndarray, generator: np.random.Generator) -> dict[str, int]:
    """Assigns each patient to the split that is furthest below its share; returns indices into `SPLITS`."""
    chosen: dict[str, int] = {}
    total = np.zeros(3)
    open_splits = [int(split) for split in np.flatnonzero(shares > 0)]
    for label in sorted(strata):
        here = np.zeros(3)
        every = len(strata[label]) >= len(open_splits)
        for index in generator.permutation(len(strata[label])):
            lack = (shares * (here.sum() + 1) - here).tolist()
            overall = (shares * (total.sum() + 1) - total).tolist()
            empty = [split for split in open_splits if every and here[split] == 0]
            split = max(empty or open_splits, key=lambda k: (round(lack[k], 9), overall[k]))
            chosen[strata[label][index]] = split
            here[split] += 1
            total[split] += 1
    return chosen


def _fill_empty(chosen: dict[str, int], shares: np.ndarray) -> None:
    """Moves a patient from the largest split into each split that has a share but no patient."""
    for split in np.flatnonzero(shares > 0):
        counts = Counter(chosen.values())
        if counts[int(split)] == 0:
            fullest = counts.most_common(1)[0][0]
            moved = max(patient for patient, where in chosen.items() if where == fullest)
            chosen[moved] = int(split)
