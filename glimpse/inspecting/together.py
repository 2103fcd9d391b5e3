"""What is wrong with cases together: copies, the same image in two splits, and pixel sizes of another order."""

import filecmp
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from statistics import median

from glimpse.cohort.fingerprints import fingerprint, grouped
from glimpse.inspecting.findings import COPY, LEAK, SPACING, Finding
from glimpse.inspecting.inputs import Candidate
from glimpse.inspecting.looking import Seen

_OF_SCALE = ("mpp", "spacing")  # options of a source that do not say which image of a file is meant
_OTHER_UNIT = 10.0  # a pixel so many times larger or smaller than usual is probably stated in another unit
_FEW = 5  # with fewer cases nothing is usual
_NAMED = 3

Case = tuple[Candidate, Seen]


def check_together(cases: Sequence[Case]) -> list[tuple[int, Finding]]:
    """Returns findings that only show when cases are compared, each with the position of its case."""
    return [*_repeated(cases), *_of_another_order(cases)]


# ---------------------------------------------------------------------------------------------- copies
def _repeated(cases: Sequence[Case]) -> Iterable[tuple[int, Finding]]:
    told: set[frozenset[int]] = set()
    for group in _copies(cases):
        told.add(frozenset(group))
        yield from _of_group(cases, group, "the same file as")
    for group in grouped(seen.pixels or None for _, seen in cases):
        if not any(set(group) <= known for known in told):
            yield from _of_group(cases, group, "it shows the same pixels as")


def _copies(cases: Sequence[Case]) -> list[list[int]]:
    """Returns the positions of cases with the same file, or copies of it, and the same part of it."""
    return grouped((_key(*case) for case in cases), lambda one, other: _equal(cases[one], cases[other]))


def _key(candidate: Candidate, seen: Seen) -> Hashable:
    if not seen.opened or candidate.path is None:
        return None
    part = tuple(sorted((name, str(value)) for name, value in candidate.options.items() if name not in _OF_SCALE))
    try:
        return fingerprint(candidate.path), part
    except OSError:
        return None


def _equal(one: Case, other: Case) -> bool:
    """Tells whether two files with the same fingerprint are equal; of MRXS, whose pixels lie beside it, these, too."""
    first, second = one[0].path, other[0].path
    if first is None or second is None or one[1].pixels != other[1].pixels:
        return False
    try:
        return first == second or not first.is_file() or filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


def _of_group(cases: Sequence[Case], group: Sequence[int], what: str) -> Iterable[tuple[int, Finding]]:
    candidates = [cases[position][0] for position in group]
    splits = {one.split for one in candidates if one.split}
    targets = {one.target for one in candidates if one.target}
    for position in group:
        others = [_named(cases[other][0], with_split=len(splits) > 1) for other in group if other != position]
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        text = f"{what} {', '.join(others[:_NAMED])}{more}"
        text += f"; their targets differ: {', '.join(sorted(targets))}" if len(targets) > 1 else ""
        yield position, Finding(LEAK if len(splits) > 1 else COPY, text)


def _named(candidate: Candidate, with_split: bool) -> str:
    facts = [f"line {candidate.line}"] if candidate.line else []
    facts += [candidate.split] if with_split and candidate.split else []
    if not facts and isinstance(candidate.path, Path):
        facts = [candidate.path.name]
    return f"{candidate.id!r} ({', '.join(facts)})"


# ---------------------------------------------------------------------------------------------- spacings
def _of_another_order(cases: Sequence[Case]) -> Iterable[tuple[int, Finding]]:
    sizes: dict[tuple[str, str | None], list[tuple[int, float]]] = defaultdict(list)
    for position, (candidate, seen) in enumerate(cases):
        if seen.spacing:
            sizes[candidate.env, seen.unit].append((position, min(seen.spacing)))
    for (_, unit), found in sizes.items():
        usual = median(size for _, size in found)
        for position, size in found if len(found) >= _FEW else ():
            if not 1 / _OTHER_UNIT < size / usual < _OTHER_UNIT:
                text = f"a pixel is {size:g} {unit} wide, but {usual:g} {unit} in most of these images"
                yield (
                    position,
                    Finding(SPACING, text, "Look whether the file means another unit; a column mpp says so."),
                )
