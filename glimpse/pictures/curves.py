"""Curves of metrics over the number of glimpses."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glimpse.atomic import replacing
from glimpse.pictures.charts import MARKERS, line_style
from glimpse.tasks import metric_title


def budget_curve(
    curves: Mapping[str, Mapping[int, Mapping[str, Any]]],
    metric: str = "auc",
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Plots a metric over the number of glimpses, with its interval, as one curve per reader.

    Args:
        curves: `{reader: {budget: row}}`, with rows from `glimpse.report.tables.summarise`. A reader with a single
            budget is drawn as a horizontal line.
        metric: a metric of the task ("auc", "accuracy", "score"), or "hit_rate".
        path: where to save the figure, in the format of its suffix (PNG without one); None does not save it.

    Raises:
        WriteError: the file cannot be written.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (reader, rows) in enumerate(curves.items()):
        points = [(budget, rows[budget][metric]) for budget in sorted(rows)]
        points = [(budget, entry) for budget, entry in points if entry["value"] is not None]
        values = [[entry[name] for _, entry in points] for name in ("value", "low", "high")]
        if len(points) == 1:
            axes.axhline(values[0][0], **line_style(i, reader))
        elif points:
            budgets = [budget for budget, _ in points]
            style = line_style(i, reader)
            axes.plot(budgets, values[0], marker=MARKERS[i % len(MARKERS)], **style)
            axes.fill_between(budgets, values[1], values[2], color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="glimpses at most", ylabel=f"{metric_title(metric)} (bands: 95 % intervals)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)  # inside, there is no place that is always free
    if path is not None:
        with replacing(path) as unfinished:
            figure.savefig(unfinished, format=Path(path).suffix[1:] or "png")
    return figure
