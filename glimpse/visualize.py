"""Pictures of what an agent did: scanpaths, strips of glimpses, heat maps, animations, budget curves, annotations.

    watched = watch(policy, views, case, max_glimpses=12)
    Image.fromarray(scanpath_picture(watched)).save("scanpath.png")

Pictures are uint8 arrays (height, width, 3). Volumes are shown by their maximum along all axes but the last two.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from glimpse.cohort import Case
from glimpse.drawing import (
    DARK,
    WHITE,
    Picture,
    below,
    beside,
    draw_scanpath,
    glimpse_strip,
    heat_map,
    on_canvas,
    order_colours,
    write,
)
from glimpse.networks.locator import CellDistribution, Choice, GaussianDistribution
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Scene, State
from glimpse.readings import metric_title, write_atomically
from glimpse.tasks import Classification, Task
from glimpse.views import Views

__all__ = [
    "Watched",
    "budget_curve",
    "draw_scanpath",
    "glimpse_strip",
    "heat_map",
    "scanpath_picture",
    "to_geojson",
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


# ---------------------------------------------------------------------------------------------- watching
@torch.no_grad()
def watch(policy: GlimpsePolicy, views: Views, case: Case, max_glimpses: int, task: Task | None = None) -> Watched:
    """Plays one episode with the policy's most probable choices, and keeps what it saw and thought.

    Args:
        policy: it looks and answers.
        views: sizes of overview and glimpses.
        case: what to look at.
        max_glimpses: budget, any number.
        task: what is asked; a classification when not given.
    """
    source, device = case.source, policy.device
    overview, foreground = views.overview(source), views.foreground(source)
    scene = policy.scene(_batch(overview, device), _batch(foreground * np.uint8(255), device))
    state = policy.begin(scene)
    glimpses, locations, zooms, predictions, cells = [], [], [], [], []
    for step in range(max_glimpses + 1):
        exhausted = torch.tensor([step == max_glimpses], device=device)
        decision = policy.decide(scene, state, exhausted, deterministic=True)
        predictions.append(decision.prediction[0].float().cpu().numpy())
        cells.append(_cell_probabilities(policy, scene, state))
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


def _cell_probabilities(policy: GlimpsePolicy, scene: Scene, state: State) -> np.ndarray:
    """The probability of looking at each cell next, (*grid); of a Gaussian, its density at the cells' centres."""
    where = policy.where(state.memory[:, None], scene.candidates, state.visited[:, None])
    if isinstance(where, GaussianDistribution):
        centres = scene.candidates.locations[None]
        logits = where.log_prob(Choice(centres, scene.candidates.nearest(centres)))
    else:
        assert isinstance(where, CellDistribution)
        logits = where.log_probs
    return logits.flatten().softmax(0).view(scene.candidates.grid).float().cpu().numpy()


# ---------------------------------------------------------------------------------------------- pictures
def scanpath_picture(watched: Watched) -> Picture:
    """An episode in one picture: scanpath, where the policy would look first, and the glimpses with the answers."""
    wide = _side_by_side(watched, len(watched.scanpath), 512)
    strip = glimpse_strip(
        watched.glimpses,
        watched.probabilities,
        watched.task.names,
        watched.overview,
        width=wide.width,
        captions=watched.captions,
    )
    return np.array(below([_title(watched), wide, Image.fromarray(strip)]))


def _title(watched: Watched) -> Image.Image:
    task, count = watched.task, len(watched.glimpses)
    text = (
        f"{watched.case.slide_id}: target {task.describe_target(watched.case.target)}, answered "
        f"{task.describe(watched.predictions[-1])} after {count} glimpses"
    )
    title = Image.new("RGB", (round(ImageFont.load_default(size=16).getlength(text)) + 4, 22), WHITE)
    write(ImageDraw.Draw(title), (0, 0), text, DARK, size=16)
    return title


def _side_by_side(watched: Watched, glimpses: int, height: int) -> Image.Image:
    """The scanpath's first glimpses, and where the policy wanted to look (before the first, or next)."""
    drawn = draw_scanpath(watched.overview, watched.scanpath[:glimpses], watched.extents[:glimpses], height)
    step = 0 if glimpses == len(watched.scanpath) else glimpses
    return beside([Image.fromarray(drawn), Image.fromarray(heat_map(watched.overview, watched.cells[step], height))])


def to_gif(watched: Watched, path: str | os.PathLike[str], seconds: float = 0.8, height: int = 360) -> None:
    """Writes an animation, one frame per prefix: the scanpath so far, where it wants to look next, and the answer."""
    names, captions = watched.task.names, watched.captions
    frames = []
    for step, answer in enumerate(watched.probabilities):
        wide = _side_by_side(watched, step, height)
        strip = glimpse_strip(
            watched.glimpses[:step][-1:],
            answer[None],
            names,
            watched.overview if step == 0 else None,
            width=wide.width,
            captions=captions[step : step + 1],
        )
        frames.append(below([wide, Image.fromarray(strip)]))
    size = (max(frame.width for frame in frames), max(frame.height for frame in frames))
    padded = [on_canvas(frame, size).quantize(128, Image.Quantize.FASTOCTREE) for frame in frames]
    durations = [round(1000 * seconds)] * (len(padded) - 1) + [round(3000 * seconds)]
    padded[0].save(path, "GIF", save_all=True, append_images=padded[1:], duration=durations, loop=0)


# ---------------------------------------------------------------------------------------------- curves, annotations
def budget_curve(
    curves: Mapping[str, Mapping[int, Mapping[str, Any]]],
    metric: str = "auc",
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """A metric over the number of glimpses, with its interval, one curve per reader.

    Args:
        curves: `{reader: {budget: row}}`, rows as `glimpse.readings.summarise` makes them. A reader with a single
            budget is drawn as a horizontal line.
        metric: of the task ("auc", "accuracy", "score"), or "hit_rate".
        path: where to save it, too.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (reader, rows) in enumerate(curves.items()):
        points = [(budget, rows[budget][metric]) for budget in sorted(rows)]
        points = [(budget, entry) for budget, entry in points if entry["value"] is not None]
        values = [[entry[name] for _, entry in points] for name in ("value", "low", "high")]
        if len(points) == 1:
            axes.axhline(values[0][0], color=f"C{i}", linestyle="--", label=reader)
        elif points:
            budgets = [budget for budget, _ in points]
            axes.plot(budgets, values[0], color=f"C{i}", marker="o", label=reader)
            axes.fill_between(budgets, values[1], values[2], color=f"C{i}", alpha=0.15, linewidth=0)
    axes.set(xlabel="glimpses at most", ylabel=metric_title(metric))
    axes.grid(alpha=0.3)
    axes.legend()
    if path is not None:
        figure.savefig(path)
    return figure


def to_geojson(watched: Watched, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The glimpses as GeoJSON polygons in level-0 pixels (x, y), which QuPath imports as annotations.

    Raises:
        ValueError: the image is not two-dimensional.
    """
    shape = np.array(watched.case.source.shape)
    if len(shape) != 2:
        raise ValueError(
            f"{watched.case.slide_id}: GeoJSON is for two-dimensional images, this one has {len(shape)} axes."
        )
    centres = watched.case.source.frame.to_pixels(watched.scanpath)
    features = []
    for i, (centre, half) in enumerate(zip(centres, watched.extents * shape / 2, strict=True)):
        (top, left), (bottom, right) = (centre - half).tolist(), (centre + half).tolist()
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        answer = dict(zip(watched.task.columns, watched.probabilities[i + 1].tolist(), strict=True))
        properties = {
            "objectType": "annotation",
            "name": f"glimpse {i + 1}",
            "color": list(order_colours(len(centres))[i]),
            "measurements": {"order": i + 1, **answer},
        }
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    collection = {"type": "FeatureCollection", "features": features}
    if path is not None:
        write_atomically(Path(path), json.dumps(collection, indent=1) + "\n")
    return collection
