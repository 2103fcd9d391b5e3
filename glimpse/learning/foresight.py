"""Foresight: contrastive pretraining in which the cells of overviews also learn to foresee what glimpses show.

The encoder sees glimpses and overviews at different resolutions. What it learns from glimpses alone helps little to
tell small things in an overview apart, which is what the locator needs in order to choose. No labels are needed to
learn it: of several glimpses, the features of a cell have to tell which one shows this cell.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from glimpse.cohort import Case
from glimpse.learning.augment import Augment
from glimpse.learning.contrastive import ContrastivePretrainer
from glimpse.networks.policy import GlimpsePolicy
from glimpse.ranks.sharing import check_shared, gathered_array, one_of, over_all, share_of
from glimpse.views import Views


@dataclass(frozen=True)
class Foreseen:
    """Overviews of some cases, and glimpses of each at cells of its overview.

    Attributes:
        glimpses: Glimpses with a margin around them.
        cells: The index of the cell in whose middle a glimpse lies.
        zooms: The index of the field of view with which it was read.
        overviews: The overviews.
    """

    glimpses: UInt8[np.ndarray, "glimpse case channel *larger"]
    cells: Int64[np.ndarray, "glimpse case"]
    zooms: Int64[np.ndarray, "glimpse case"]
    overviews: UInt8[np.ndarray, "case channel *size"]


def sample_foreseen(
    policy: GlimpsePolicy,
    cases: Sequence[Case],
    views: Views,
    count: int,
    per_case: int,
    *,
    margin: float = 1.0,
    seed: int = 0,
    threads: int = 2,
    progress: Callable[[int], Any] = lambda count: None,
) -> Foreseen:
    """Reads glimpses at random cells of the foreground of random cases.

    Processes that train together read different cases, and have all of them in the end.

    Args:
        policy: It has the cells.
        cases: The cases to read.
        views: Sizes and fields of view of glimpses.
        count: How many glimpses to read in all, about.
        per_case: How many glimpses to read of a case; if there are too few cases for `count`, more are read.
        margin: Factor by which field of view and size are enlarged, as room for shifts and turns.
        seed: Seed of the choice of cases and cells.
        threads: How many threads read.
        progress: Called for each case with the number of glimpses that are read from it.

    Raises:
        SettingsError: There are fewer cases to read than processes that train together.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(cases))[: max(1, count // per_case)]
    check_shared("The cases of the pretraining with foresight", len(chosen))
    each = max(per_case, count // len(chosen))
    seeds, locations = rng.integers(2**63, size=len(chosen)), policy.cells.cpu().numpy()

    def read(index: int, seed: int) -> tuple[np.ndarray, ...]:
        source, rng = cases[index].source, np.random.default_rng(seed)
        open_cells = policy.open_cells(torch.from_numpy(views.foreground(source).copy())[None].to(policy.device))
        cells = np.flatnonzero(open_cells[0].cpu().numpy())
        cells = rng.choice(cells, each, replace=len(cells) < each)
        zooms = rng.integers(len(views.glimpse_extents), size=each)
        both = zip(locations[cells], zooms.tolist(), strict=True)
        glimpses = np.stack([views.glimpse(source, place, zoom, margin) for place, zoom in both])
        progress(each)
        return glimpses, cells, zooms, views.overview(source)

    own = share_of(len(chosen)).own
    with ThreadPoolExecutor(threads) as pool:
        parts = zip(*pool.map(read, chosen[own].tolist(), seeds[own].tolist()), strict=True)
        glimpses, cells, zooms, overviews = (gathered_array(np.stack(part)) for part in parts)
    glimpses, cells, zooms = (np.ascontiguousarray(part.swapaxes(0, 1)) for part in (glimpses, cells, zooms))
    return Foreseen(glimpses, cells, zooms, overviews)


def foresight_loss(foreseen: Float[Tensor, "pair d"], shown: Float[Tensor, "pair d"], temperature: float) -> Tensor:
    r"""The loss with which CLIP learns pairs (Radford et al. 2021), here of cells and of the glimpses that show them.

    With s_ij = z_i . w_j / \tau, where z are the projections of cells and w those of glimpses, both of length 1, it is
    the mean of -s_ii + log \sum_j exp(s_ij) and -s_ii + log \sum_j exp(s_ji) over the pairs i.
    """
    similarity = F.normalize(foreseen, dim=-1) @ F.normalize(shown, dim=-1).T / temperature
    own = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


class ForesightPretrainer(ContrastivePretrainer):
    """Contrastive pretraining on glimpses of which the overviews are known, with the foresight loss.

    A step takes some cases and some glimpses of each. The glimpses learn from each other as in `ContrastivePretrainer`;
    the foresight loss passes its gradient on to the overviews only.

    Args:
        policy: The policy whose encoder and token pool are trained.
        foreseen: What to learn from; see `sample_foreseen`.
        augment: Makes two random views of each glimpse.
        per_case: How many glimpses of a case a step takes.
        weight: Weight of the foresight loss.
        **options: `batch`, `learning_rate`, `temperature` and `seed`, as of `ContrastivePretrainer`.
    """

    def __init__(
        self,
        policy: GlimpsePolicy,
        foreseen: Foreseen,
        augment: Augment,
        *,
        per_case: int = 20,
        weight: float = 1.0,
        **options: Any,
    ) -> None:
        each, count, *shape = foreseen.glimpses.shape
        # The first glimpses of the pool set the statistics of tokens: they are of all cases.
        super().__init__(policy, foreseen.glimpses.reshape(each * count, *shape), augment, **options)
        self.per_case, self.weight = min(per_case, each), weight
        self.side_by_side = self.per_case
        self.at_once = max(1, min(count, self.batch // self.per_case))
        self.overviews = torch.from_numpy(foreseen.overviews)
        self.cells, self.zooms = (torch.from_numpy(part).flatten() for part in (foreseen.cells, foreseen.zooms))
        embed = policy.encoder.embed
        self.zoom = nn.Embedding(policy.layout.zooms, embed).to(policy.device)
        nn.init.zeros_(self.zoom.weight)
        self.foresee = nn.Sequential(nn.Linear(embed, 128), nn.ReLU(), nn.Linear(128, policy.width)).to(policy.device)
        self.optimizer.add_param_group({"params": [*self.zoom.parameters(), *self.foresee.parameters()]})

    def _draw(self) -> Int64[Tensor, " glimpse"]:
        count = len(self.overviews)
        cases = torch.randperm(count, generator=self.generator)[: self.at_once]
        each = torch.rand(self.at_once, len(self.pool) // count, generator=self.generator).argsort(1)[
            :, : self.per_case
        ]
        return (each * count + cases[:, None]).flatten()

    def _further_loss(self, rows: Int64[Tensor, " glimpse"], shown: Float[Tensor, "glimpse d"]) -> Tensor:
        device, cases = self.policy.device, (rows % len(self.overviews))[:: self.per_case]
        maps = self.policy.features(self.overviews[cases].to(device)).flatten(2).transpose(1, 2)
        cells, zooms = self.cells[rows].view(len(cases), -1).to(device), self.zooms[rows].to(device)
        features = maps.gather(1, cells[..., None].expand(-1, -1, maps.shape[-1])).flatten(0, 1)
        foreseen = self.foresee(features + self.zoom(zooms))
        loss = foresight_loss(over_all(foreseen), over_all(shown.detach()), self.temperature)
        return one_of(self.weight * loss)

    def modules(self) -> dict[str, nn.Module]:
        """The policy, the projection heads and the embedding of zooms."""
        return {**super().modules(), "zoom": self.zoom, "foresee": self.foresee}
