"""Pictures of what an agent did: scanpaths, strips of glimpses, heat maps, animations, budget curves, annotations.

    watched = watch(policy, views, case, max_glimpses=12)
    Image.fromarray(scanpath_picture(watched)).save("scanpath.png")

Pictures are uint8 arrays (height, width, 3), in the object's proportions. Volumes are shown in three planes, laid out
as radiologists look at them (see `glimpse.pictures.planes`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from glimpse.cohort import Case
from glimpse.geometry import cell_locations
from glimpse.networks.locator import CellDistribution, Choice, GaussianDistribution
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import OWN_CONDUCT, Conduct, Scene, State
from glimpse.pictures.drawing import (
    DARK,
    WHITE,
    below,
    beside,
    draw_scanpath,
    glimpse_strip,
    heat_map,
    on_canvas,
    write,
)
from glimpse.pictures.planes import Picture
from glimpse.tasks import Classification, Task
from glimpse.views import Views

__all__ = [
    "Watched",
    "common_heat_map",
    "draw_scanpath",
    "glimpse_strip",
    "heat_map",
    "looked_at",
    "scanpath_picture",
    "to_gif",
    "watch",
]


@dataclass(frozen=True, eq=False)
class Watched:
    """One episode, with everything that pictures need.

    Attributes:
        case: what was looked at.
        task: what was asked.
        overview, foreground: what the policy saw first.
        glimpses: uint8 (glimpse, channel, *glimpse_size).
        scanpath: their locations in [-1, 1].
        extents: their fields of view as shares of the image, per axis.
        predictions: the answer after each prefix of glimpses.
        cells: the probability of looking at each cell next, after each prefix; the grid's axes come last.
    """

    case: Case
    task: Task
    overview: UInt8[np.ndarray, "channel *size"]
    foreground: UInt8[np.ndarray, "1 *size"]
    glimpses: np.ndarray
    scanpath: Float[np.ndarray, "glimpse d"]
    extents: Float[np.ndarray, "glimpse d"]
    predictions: Float[np.ndarray, "step output"]
    cells: np.ndarray

    @property
    def probabilities(self) -> Float[np.ndarray, "step output"]:
        """The answers as probabilities, or in the units of the target (see `Task.probabilities`)."""
        return self.task.probabilities(self.predictions)

    @property
    def captions(self) -> list[tuple[str, float]]:
        """What pictures say of each answer: a text and the length of a bar."""
        return [self.task.caption(prediction) for prediction in self.predictions]

    @property
    def sides(self) -> tuple[float, ...]:
        """Lengths of the image's axes, in its unit or in pixels."""
        return self.case.source.frame.sides

    @property
    def glimpse_sides(self) -> tuple[float, ...] | None:
        """Lengths of the first glimpse's axes, likewise; None where there is none."""
        return tuple((self.extents[0] * self.sides).tolist()) if len(self.extents) else None

    @property
    def decisive(self) -> int | None:
        """The glimpse that changed the answer most, from 0 on; None where there is none."""
        changes = np.abs(np.diff(self.predictions, axis=0)).sum(1)
        return int(changes.argmax()) if len(changes) else None


# ---------------------------------------------------------------------------------------------- watching
@torch.no_grad()
def watch(
    policy: GlimpsePolicy,
    views: Views,
    case: Case,
    max_glimpses: int,
    task: Task | None = None,
    conduct: Conduct = OWN_CONDUCT,
) -> Watched:
    """Plays one episode with the policy's most probable choices, and keeps what it saw and thought.

    Args:
        policy: it looks and answers.
        views: sizes of overview and glimpses.
        case: what to look at.
        max_glimpses: budget, any number.
        task: what is asked; a classification when not given.
        conduct: where to look instead of where the policy would.
    """
    source, device = case.source, policy.device
    overview, foreground = views.overview(source), views.foreground(source)
    scene = policy.scene(_batch(overview, device), _batch(foreground * np.uint8(255), device), conduct=conduct)
    state = policy.begin(scene)
    glimpses, locations, zooms, predictions, cells = [], [], [], [], []
    for step in range(max_glimpses + 1):
        exhausted = torch.tensor([step == max_glimpses], device=device)
        decision = policy.decide(scene, state, exhausted, deterministic=True, conduct=conduct)
        predictions.append(decision.prediction[0].float().cpu().numpy())
        cells.append(_cell_probabilities(policy, scene, state, conduct))
        if bool(decision.stop):
            break
        locations.append(decision.location[0].cpu().numpy())
        zooms.append(int(decision.zoom))
        glimpses.append(views.glimpse(source, locations[-1], zooms[-1]))
        state = policy.observe(state, _batch(glimpses[-1], device), decision.location, decision.cell, decision.zoom)
    blank = np.zeros((0, source.channels, *views.glimpse_size), np.uint8)
    return Watched(
        case=case,
        task=task or Classification(policy.layout.outputs),
        overview=overview,
        foreground=foreground,
        glimpses=np.stack(glimpses) if glimpses else blank,
        scanpath=np.array(locations, np.float32).reshape(-1, source.ndim),
        extents=np.array([views.extent(source, z) / source.shape for z in zooms], np.float64).reshape(-1, source.ndim),
        predictions=np.stack(predictions),
        cells=np.stack(cells),
    )


def _batch(image: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(image)[None]).to(device)


def _cell_probabilities(policy: GlimpsePolicy, scene: Scene, state: State, conduct: Conduct) -> np.ndarray:
    """The probability of looking at each cell next, (*grid); of a Gaussian, its density at the cells' centres."""
    where = policy.where(state.memory[:, None], scene.candidates, state.visited[:, None], conduct)
    if isinstance(where, GaussianDistribution):
        centres = scene.candidates.locations[None]
        logits = where.log_prob(Choice(centres, scene.candidates.nearest(centres)))
    else:
        assert isinstance(where, CellDistribution)
        logits = where.log_probs
    return logits.flatten().softmax(0).view(scene.candidates.grid).float().cpu().numpy()


# ---------------------------------------------------------------------------------------------- pictures
def scanpath_picture(watched: Watched) -> Picture:
    """An episode in one picture: scanpath, where the policy would look first, and the glimpses with the answers.

    A volume is cut through the glimpse that changed the answer most.
    """
    at = None if watched.decisive is None else watched.scanpath[watched.decisive]
    both = _scanpath_and_heat(watched, len(watched.scanpath), 512, at)
    strip = glimpse_strip(
        watched.glimpses,
        watched.probabilities,
        watched.task.names,
        watched.overview,
        width=both.width,
        captions=watched.captions,
        sides=watched.sides,
        glimpse_sides=watched.glimpse_sides,
    )
    return np.array(below([_title(watched), both, Image.fromarray(strip)]))


def _title(watched: Watched) -> Image.Image:
    task, count = watched.task, len(watched.glimpses)
    text = (
        f"{watched.case.id}: target {task.describe_target(watched.case.target)}, answered "
        f"{task.describe(watched.predictions[-1])} after {count} glimpses"
    )
    if len(watched.sides) == 3 and watched.decisive is not None:
        text += f"; cut through glimpse {watched.decisive + 1}"
    title = Image.new("RGB", (round(ImageFont.load_default(size=16).getlength(text)) + 4, 22), WHITE)
    write(ImageDraw.Draw(title), (0, 0), text, DARK, size=16)
    return title


def _scanpath_and_heat(watched: Watched, glimpses: int, height: int, at: np.ndarray | None = None) -> Image.Image:
    """The scanpath's first glimpses, and where the policy wanted to look (before the first, or next)."""
    volume, sides = len(watched.sides) == 3, watched.sides
    height = round(0.65 * height) if volume else height  # three planes beside each other, and three more below
    path, extents = watched.scanpath[:glimpses], watched.extents[:glimpses]
    step = 0 if glimpses == len(watched.scanpath) else glimpses
    drawn = draw_scanpath(watched.overview, path, extents, height, sides, at)
    pair = [Image.fromarray(drawn), Image.fromarray(heat_map(watched.overview, watched.cells[step], height, sides))]
    return below(pair) if volume else beside(pair)


def looked_at(episodes: Sequence[Watched]) -> Float[np.ndarray, "*grid"]:
    """The share of episodes in which each cell was looked at.

    A glimpse and a cell meet where one of them holds the centre of the other.
    """
    grid = episodes[0].cells.shape[1:]
    centres = cell_locations(grid)[:, None].astype(np.float64)
    seen = np.zeros(len(centres))
    for episode in episodes:
        reach = np.maximum(episode.extents, 1 / np.array(grid)) + 1e-6
        seen += (np.abs(centres - episode.scanpath) <= reach).all(2).any(1)
    return (seen / len(episodes)).reshape(grid)


def common_heat_map(episodes: Sequence[Watched], height: int = 512) -> Picture:
    """Where many episodes looked, over the mean of their overviews; proportions are those of the first image.

    Raises:
        ValueError: there are no episodes, or their overviews have different sizes.
    """
    sizes = {episode.overview.shape for episode in episodes}
    if len(sizes) != 1:
        raise ValueError(f"Expected episodes with overviews of one size, got {len(sizes)} sizes; watch one policy.")
    mean = np.mean([episode.overview for episode in episodes], axis=0)
    return heat_map(np.rint(mean).astype(np.uint8), looked_at(episodes), height, episodes[0].sides)


def to_gif(watched: Watched, path: str | os.PathLike[str], seconds: float = 0.8, height: int = 360) -> None:
    """Writes an animation, one frame per prefix: the scanpath so far, where it wants to look next, and the answer."""
    names, captions = watched.task.names, watched.captions
    frames = []
    for step, answer in enumerate(watched.probabilities):
        both = _scanpath_and_heat(watched, step, height)
        strip = glimpse_strip(
            watched.glimpses[:step][-1:],
            answer[None],
            names,
            watched.overview if step == 0 else None,
            width=both.width,
            captions=captions[step : step + 1],
            sides=watched.sides,
            glimpse_sides=watched.glimpse_sides,
        )
        frames.append(below([both, Image.fromarray(strip)]))
    size = (max(frame.width for frame in frames), max(frame.height for frame in frames))
    padded = [on_canvas(frame, size).quantize(128, Image.Quantize.FASTOCTREE) for frame in frames]
    durations = [round(1000 * seconds)] * (len(padded) - 1) + [round(3000 * seconds)]
    padded[0].save(path, "GIF", save_all=True, append_images=padded[1:], duration=durations, loop=0)
