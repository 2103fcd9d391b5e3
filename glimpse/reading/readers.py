"""Readers: everything that reads cases and gives predictions (the agent, the baselines), behind one interface.

    access = Access(env.views, env.task)
    reader = reader_named("policy", policy, access, max_glimpses=12)
    (reading,) = reader.read([case], trace=True)

Readers that use a policy are listed in `MANNERS`; they differ only in what chooses the locations. The full scan of
`glimpse.agents.full_scan` is a reader of another kind: it has no policy and reads every patch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from tqdm import tqdm

from glimpse.cohort import Case
from glimpse.errors import EvaluationError
from glimpse.networks.blind import GridLocator, ShuffledLocator, WideFirstLocator
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Conduct
from glimpse.ranks.group import everyones
from glimpse.ranks.sharing import share_of
from glimpse.reading.costs import PolicyCosts
from glimpse.reading.lanes import Access
from glimpse.reading.playing import evaluating, play
from glimpse.reading.records import Reading
from glimpse.settings.nearest import suggestion
from glimpse.settings.progress import silent

FULL_SCAN = "full_scan"  # the name, in reports, of the reader that embeds every patch


@runtime_checkable
class Reader(Protocol):
    """The interface of readers. Reading the same cases twice gives the same predictions."""

    @property
    def name(self) -> str:
        """What tables and files call it."""
        ...

    def read(self, cases: Sequence[Case], *, trace: bool = False, progress: bool = False) -> list[Reading]:
        """Reads every case once.

        Args:
            cases: What to read.
            trace: Whether readings keep what was seen on the way, for pictures. It takes the memory of all glimpses.
            progress: Whether to show a bar, on a terminal.

        Returns:
            One reading per case, in the order of the cases.
        """
        ...


# ---------------------------------------------------------------------------------------------- by a policy
Places = Callable[[int, int, Sequence[int]], nn.Module]
"""Makes a locator from a seed, a budget, and the positions of the cases in the list that is read."""


@dataclass(frozen=True)
class Manner:
    """How a reader chooses its locations.

    Attributes:
        places: Makes the locator that is used in place of the policy's own. None leaves the choice to the policy, which
            may then also stop before the budget is spent.
        looks: Whether it reads glimpses at all.
    """

    places: Places | None = None
    looks: bool = True


MANNERS = {
    "policy": Manner(),
    "random": Manner(lambda seed, budget, cases: ShuffledLocator(seed, cases)),
    "grid": Manner(lambda seed, budget, cases: GridLocator(budget)),
    "overview": Manner(looks=False),
    "wide_first": Manner(lambda seed, budget, cases: WideFirstLocator(seed, cases, budget)),
}
MOST_GLIMPSES = 100_000
"""The largest budget of a reading: what is kept of each glimpse takes some kilobytes."""

READERS = tuple(MANNERS)
DEFAULT_READERS = ("policy", "random", "grid", "overview")
"""Those that make sense for every run; "wide_first" differs from "random" with several fields of view only."""


@dataclass(frozen=True, eq=False)
class PolicyReader:
    """A reader whose predictions come from a policy; the locations are the policy's own, or are chosen for it.

    Attributes:
        name: What tables and files call it.
        policy: The policy that gives the predictions.
        access: How it reaches the pixels of cases.
        max_glimpses: The budget of each case; it may differ from the budget of training.
        manner: How locations are chosen.
        seed: Seed of random locations. They depend on the seed and on the case's position in the list that is read, not
            on how many cases are read at once.
        drawn: Whether the policy's choices are drawn, with this seed, instead of the most probable ones. Then they do
            depend on how many cases are read at once.
    """

    name: str
    policy: GlimpsePolicy
    access: Access
    max_glimpses: int
    manner: Manner = MANNERS["policy"]
    seed: int = 0
    drawn: bool = False

    def __post_init__(self) -> None:
        if self.max_glimpses < 0:
            raise EvaluationError(f"Expected max_glimpses of at least 0, got {self.max_glimpses}.")

    def read(self, cases: Sequence[Case], *, trace: bool = False, progress: bool = False) -> list[Reading]:
        """Reads every case once, as `Reader.read` describes.

        Processes that train together all call it, with the same cases. Each reads its share, and all have all readings.
        """
        share = share_of(len(cases))
        part = range(share.start, share.stop)
        return everyones(list(self.each(cases, trace=trace, progress=progress, part=part)))

    def each(
        self, cases: Sequence[Case], *, trace: bool = False, progress: bool = False, part: range | None = None
    ) -> Iterator[Reading]:
        """Yields the readings that `read` returns, as they are made: not all traces need to be kept at a time.

        `part` are the indices of the cases that are read; None reads all.
        """
        part = range(len(cases)) if part is None else part
        if not len(part):
            return
        generator = torch.Generator(self.policy.device).manual_seed(self.seed) if self.drawn else None
        bar = tqdm(total=len(part), desc=f"reading ({self.name})", unit="case", disable=silent(progress))
        with self.access.opened(len(part)) as lanes, evaluating(self.policy), bar:
            for start in range(part.start, part.stop, lanes.width):
                chosen = range(start, min(start + lanes.width, part.stop))
                positions = [chosen[min(lane, len(chosen) - 1)] for lane in range(lanes.width)]
                some = [cases[position] for position in chosen]
                conduct = self._conduct(positions)
                yield from play(self.policy, self.access, lanes, some, self._budget, conduct, trace, generator)
                bar.update(len(chosen))

    def counted(self, readings: Sequence[Reading]) -> list[Reading]:
        """Returns readings that this reader has made with their multiply-adds."""
        costs = PolicyCosts(self.policy, lambda: self._conduct([0]))
        with evaluating(self.policy):
            return [replace(reading, multiply_adds=costs.of(reading.zooms.tolist())) for reading in readings]

    @property
    def _budget(self) -> int:
        return self.max_glimpses if self.manner.looks else 0

    def _conduct(self, positions: Sequence[int]) -> Conduct:
        places = self.manner.places
        return Conduct(places and places(self.seed, self._budget, positions), train_encoder=False)


# ---------------------------------------------------------------------------------------------- by name
def check_readers(names: Iterable[str], known: Sequence[str] = READERS) -> None:
    """Raises an error for names that no reader has. It needs no policy, so it can be called before training begins.

    Raises:
        EvaluationError: A name is not known (the message suggests the nearest known one), or `names` is empty.
    """
    names = list(names)
    if not names:
        raise EvaluationError(f"Expected at least one reader of {', '.join(known)}, got none.")
    for name in names:
        if name not in known:
            meant = suggestion(str(name), known)
            raise EvaluationError(f"Expected readers of {', '.join(known)}, got {name!r}{meant}.")


def manner_of(agent: str) -> str:
    """Returns the manner in which an agent reads: its own name if that is a manner ("random"), else "policy"."""
    return agent if agent in MANNERS else "policy"


def reader_named(
    name: str,
    policy: GlimpsePolicy,
    access: Access,
    max_glimpses: int,
    *,
    seed: int = 0,
    called: str | None = None,
) -> PolicyReader:
    """Makes the reader that has a given name.

    Args:
        name: One of `READERS`. "policy" leaves locations and stopping to the policy, "random" looks at random places in
            the foreground, "grid" at a regular grid over the foreground, and "overview" reads no glimpse. "wide_first"
            looks at random places, too, but spends the first part of its budget on wide glimpses.
        policy: The policy that gives the predictions.
        access: How the reader reaches the pixels of cases.
        max_glimpses: The budget of each case; it may differ from the budget of training.
        seed: Seed of random places.
        called: What tables and files call the reader; `name` when not given.

    Raises:
        EvaluationError: No reader has this name, or the budget is negative.
    """
    check_readers([name])
    return PolicyReader(called or name, policy, access, int(max_glimpses), MANNERS[name], seed)
