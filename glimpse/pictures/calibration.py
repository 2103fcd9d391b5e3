"""Pictures of how sure answers are, and of which classes are mistaken for which: one panel for each reader."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glimpse.atomic import replacing
from glimpse.pictures.charts import class_labels, turned
from glimpse.pictures.drawing import one_line
from glimpse.pictures.labels import literal, shortened

_ACROSS = 3  # panels side by side
_WRITTEN = 12  # up to so many classes, numbers and names are written


def calibration_picture(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    before: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws calibration curves: how often an event happened, over its probability; on the diagonal they agree.

    The area of a point says how many cases it stands for.

    Args:
        curves: the bins of each reader, as `glimpse.tasks.measures.calibration_curve` returns them.
        before: the same without calibration, drawn in grey.
        path: where to save the figure, in the format of its suffix (PNG without one); None does not save it.
    """
    figure, panels = _panels(list(curves))
    labels: dict[str, Artist] = {}
    for name, axes in panels.items():
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        for bins, colour, label in (
            ((before or {}).get(name, ()), "0.6", "not calibrated"),
            (curves[name], "C0", "calibrated" if (before or {}).get(name) else None),
        ):
            if not bins:
                continue
            points = np.array([[one["probability"], one["share"], one["cases"]] for one in bins])
            (line,) = axes.plot(points[:, 0], points[:, 1], color=colour, linewidth=1, label=label)
            labels |= {label: line} if label else {}
            axes.scatter(points[:, 0], points[:, 1], s=6 + 120 * points[:, 2] / points[:, 2].sum(), color=colour)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="probability", ylabel="share in which it happened")
    if labels:  # one for all panels, beside them: inside there is no place that is always free
        figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return _saved(figure, path)


def confusion_picture(matrices: Mapping[str, Mapping[str, Any]], path: str | os.PathLike[str] | None = None) -> Figure:
    """Draws confusion matrices, with one row for each class of targets; colours are shares of the row.

    Args:
        matrices: of each reader the names of the `classes` and the `matrix` of counts.
        path: where to save the figure, in the format of its suffix (PNG without one); None does not save it.
    """
    figure, panels = _panels(list(matrices))
    for name, axes in panels.items():
        counts, names = np.array(matrices[name]["matrix"]), matrices[name]["classes"]
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="answer", ylabel="target")
        if len(names) > _WRITTEN:
            continue
        labels = class_labels(names)
        axes.set_xticks(range(len(names)), labels, fontsize=7, **turned(labels, 30))
        axes.set_yticks(range(len(names)), labels, fontsize=7)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    return _saved(figure, path)


def _panels(names: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    across = min(len(names), _ACROSS) or 1
    down = math.ceil(len(names) / across) or 1
    figure = Figure(figsize=(3.0 * across, 3.0 * down), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = {name: figure.add_subplot(down, across, place) for place, name in enumerate(names, 1)}
    for name, axes in panels.items():
        axes.set_title(literal(shortened(one_line(name), 40)), fontsize=9)
    return figure, panels


def _saved(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    if path is not None:
        with replacing(path) as unfinished:
            figure.savefig(unfinished, format=Path(path).suffix[1:] or "png")
    return figure
