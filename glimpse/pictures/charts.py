"""Charts of learning and of answers, as Matplotlib figures; and figures as SVG for pages, light or dark."""

import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from glimpse.pictures.drawing import one_line
from glimpse.pictures.labels import literal, shortened
from glimpse.reading.records import Reading
from glimpse.tasks import Classification

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours that colour-blind readers can tell apart, on light and on dark ground (Okabe and Ito 2008)."""
_LINES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v", "P")
_INK = "#010203"  # stands for the colour of the page's text
_SIZE = (4.4, 3.3)  # inches
_LONGEST = 60  # letters of titles
_LABELLED, _ACROSS = 24, 6  # bars that have room for their numbers, and for numbers written across
_NAMED = 16  # looks that axes name; of more, every second one, or every third


def _figure(xlabel: str, ylabel: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    xlabel, ylabel, title = (literal(shortened(one_line(text), _LONGEST)) for text in (xlabel, ylabel, title))
    axes.set_xlabel(xlabel, color=_INK)
    axes.set_ylabel(ylabel, color=_INK)
    axes.set_title(title, fontsize=11 if len(title) < 45 else 9, color=_INK)
    axes.tick_params(colors=_INK)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_INK)
    return figure, axes


def _legend(figure: Figure) -> None:
    figure.legend(fontsize=8, loc="outside lower center", ncols=3, labelcolor=_INK, frameon=False)


def line_chart(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, title: str
) -> Figure:
    """Plots curves, such as losses over steps.

    Args:
        curves: x and y of each curve, by its name.
        xlabel: title of the horizontal axis, with its unit.
        ylabel: title of the vertical axis, with its unit.
        title: title of the chart.
    """
    figure, axes = _figure(xlabel, ylabel, title)
    for i, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, marker=MARKERS[i % len(MARKERS)] if len(x) <= 30 else "", markersize=4, **line_style(i, name))
    if len(curves) > 1:
        _legend(figure)
    return figure


def confusion_chart(counts: Int[np.ndarray, "target answer"], names: Sequence[str], title: str = "") -> Figure:
    """Draws a confusion matrix: counts, and in colour the share of all cases of a target."""
    figure, axes = _figure("answer", "target", title or "Confusion matrix (number of cases)")
    axes.grid(visible=False)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1, snap=True)
    size = 11 if len(names) < 7 else 8
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.55 else "black"
        axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", color=colour, fontsize=size)
    short = class_labels(names)
    axes.set_xticks(np.arange(len(names)) + 0.5, short, **turned(short))
    axes.set_yticks(np.arange(len(names)) + 0.5, short)
    axes.invert_yaxis()
    return figure


def class_labels(names: Sequence[str]) -> list[str]:
    """Returns names of classes as axes have room for them."""
    return [literal(shortened(one_line(name), 14)) for name in names]


def turned(labels: Sequence[str], room: int = 40) -> dict[str, Any]:
    """Returns how the labels below an axis are turned: those that are too long side by side end at their place.

    Args:
        labels: the labels.
        room: how many letters have room side by side.
    """
    if len(labels) * (max(map(len, labels), default=0) + 1) <= room:
        return {}
    return {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}


def calibration_chart(
    answered: Float[np.ndarray, " group"],
    observed: Float[np.ndarray, "group 3"],
    counts: Int[np.ndarray, " group"],
    title: str,
) -> Figure:
    """Plots the share of cases that have something over the probability that was answered.

    Args:
        answered: the mean probability of each group.
        observed: the share in each group, with its interval (value, low, high).
        counts: the number of cases of each group, which is written beside its point.
        title: title of the chart.
    """
    figure, axes = _figure("mean probability answered", "share of cases that have it", title)
    axes.plot([0, 1], [0, 1], ":", color=_INK, alpha=0.6, label="calibrated")
    value, low, high = observed.T
    error = np.maximum([value - low, high - value], 0)
    axes.errorbar(answered, value, error, fmt="o-", color=COLOURS[0], capsize=3, label="answers (95 %)")
    for x, y, count in zip(answered, value, counts, strict=True):
        left = y < 0.9  # a curve rises from the lower left: there is room on the other side of it
        beside: dict[str, Any] = {"xytext": (-5, 5) if left else (6, -12), "ha": "right" if left else "left"}
        axes.annotate(f"{count}", (x, y), textcoords="offset points", fontsize=8, color=_INK, **beside)
    axes.set(xlim=(-0.03, 1.06), ylim=(-0.04, 1.06))
    _legend(figure)
    return figure


def threshold_chart(
    thresholds: Float[np.ndarray, " threshold"],
    rates: Mapping[str, Float[np.ndarray, "threshold 3"]],
    title: str,
) -> Figure:
    """Plots rates with intervals (value, low, high) over the threshold, such as sensitivity and specificity."""
    figure, axes = _figure("threshold on the probability", "share of cases", title)
    for i, (name, values) in enumerate(rates.items()):
        axes.plot(thresholds, values[:, 0], _LINES[i], color=COLOURS[i], label=literal(f"{name} (95 %)"))
        axes.fill_between(thresholds, values[:, 1], values[:, 2], color=COLOURS[i], alpha=0.18, linewidth=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04))
    _legend(figure)
    return figure


def line_style(number: int, name: str) -> dict[str, Any]:
    """Returns how one of several lines is drawn; colour-blind readers tell them apart by their dashes."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": _LINES[number % len(_LINES)], "label": literal(name)}


def distribution_chart(values: Mapping[str, Sequence[float]], xlabel: str, title: str) -> Figure:
    """Draws histograms of probabilities, one step line for each name."""
    figure, axes = _figure(xlabel, "number of cases", title)
    for i, (name, numbers) in enumerate(values.items()):
        axes.hist(numbers, bins=20, range=(0, 1), histtype="step", linewidth=1.8, **line_style(i, name))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(values) > 1:
        _legend(figure)
    return figure


def contribution_chart(reading: Reading) -> Figure:
    """Plots what each look has added to the last answer, as bars (see `Reading.contributions`).

    Bars are of the second of two classes, or of the one that the last answer names; for other tasks (a
    `MultiTask` among them), of that column of `probabilities` which looks have changed most (see `Task.pictured`).

    Args:
        reading: a reading with a trace, by a policy.

    Raises:
        ValueError: the reading has no trace, or one of an earlier version.
    """
    given, task = reading.contributions, reading.traced.task
    if given is None:
        raise ValueError(f"{reading.id}: what each look has added is not known of this reading. Read the case again.")
    pictured = list(task.pictured)
    if isinstance(task, Classification):
        output = 1 if task.outputs == 2 else int(reading.probabilities[-1].argmax())
    else:
        sizes = np.nan_to_num(np.abs(given[:, pictured])).sum(0)
        output = pictured[int(np.flatnonzero(sizes >= 0.999 * sizes.max())[-1])]  # of two that differ alike, the second
    column, orders = task.columns[output], np.arange(1, len(given) + 1)
    figure, axes = _figure("look", f"added to {column}", f"What each look added: {one_line(reading.id)}")
    values = given[:, output]
    axes.bar(orders, values, color=[COLOURS[0] if value >= 0 else COLOURS[1] for value in values])
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    narrow = len(given) > _ACROSS
    for order, value in zip(orders if len(given) <= _LABELLED else (), values, strict=False):
        style: dict[str, Any] = {"ha": "center", "va": "bottom" if value >= 0 else "top", "fontsize": 8, "color": _INK}
        style |= {"xytext": (0, 3 if value >= 0 else -3), "textcoords": "offset points", "rotation": 90 * narrow}
        axes.annotate(f"{value:+.2g}".replace("-", "−"), (order, value), **style)
    axes.margins(y=0.25 if narrow else 0.15)
    return figure


def attention_chart(
    weights: Float[np.ndarray, "layer token token"], looks: Sequence[str] | None = None, title: str = ""
) -> Figure:
    """Draws how much each look attends to itself and to what was seen before, with one panel for each layer.

    Args:
        weights: as `glimpse.reading.attention.attention_between` returns them; the first token is called "start".
        looks: what the looks are called; by default their numbers, from 1 on.
        title: title of the picture; by default what it shows.

    Raises:
        ValueError: there is not one name for each look.
    """
    layers, count = len(weights), weights.shape[-1]
    names = ["start", *(map(str, range(1, count)) if looks is None else looks)]
    if len(names) != count:
        raise ValueError(f"Expected {count - 1} names of looks, got {len(names) - 1}.")
    labels, every = class_labels(names), math.ceil(count / _NAMED)
    figure = Figure(figsize=(3.3 * layers + 0.6, 3.5), dpi=120, layout="compressed")
    FigureCanvasAgg(figure)
    figure.suptitle(literal(shortened(one_line(title or "How much each look attends to others"), _LONGEST)), color=_INK)
    for layer, values in enumerate(weights, start=1):
        axes = figure.add_subplot(1, layers, layer)
        shown = axes.imshow(values, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"layer {layer}", fontsize=9, color=_INK)
        axes.set_xlabel("attends to", color=_INK)
        axes.set_ylabel("look", color=_INK)
        axes.set_xticks(range(0, count, every), labels[::every], **turned(labels[::every], 30))
        axes.set_yticks(range(0, count, every), labels[::every])
        axes.tick_params(colors=_INK, labelsize=8)
    bar = figure.colorbar(shown, ax=figure.axes, shrink=0.8)
    bar.ax.tick_params(colors=_INK, labelsize=8)
    return figure


def agreement_chart(
    targets: Float[np.ndarray, " case"], answers: Float[np.ndarray, " case"], name: str, title: str
) -> Figure:
    """Plots answered over true quantities."""
    figure, axes = _figure(f"target: {name}", f"answer: {name}", title)
    ends = [min(targets.min(), answers.min()), max(targets.max(), answers.max())]
    axes.plot(ends, ends, ":", color=_INK, alpha=0.6, label="equal")
    axes.plot(targets, answers, "o", color=COLOURS[0], alpha=0.7, markersize=4, label="cases")
    _legend(figure)
    return figure


def svg_of(figure: Figure, description: str) -> str:
    """Returns a figure as SVG to be put into a page: letters are text, and ink has the colour of the page's text.

    Args:
        figure: a figure of this module.
        description: what it shows, for those who do not see it.
    """
    text = io.StringIO()
    options = {"svg.fonttype": "none", "svg.hashsalt": "glimpse", "font.family": "sans-serif"}
    with rc_context(options):  # type: ignore[arg-type]
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'\sxmlns:xlink="[^"]*"|\sxmlns="[^"]*"', "", body).replace("xlink:href", "href")
    body = re.sub(r"font: ([\d.]+)px [^;\"]*|font-family: [^;]*; ", _plain_font, body).replace(_INK, "currentColor")
    label = escape(description, quote=True)
    (box,) = re.findall(r'<svg[^>]*?viewBox="([^"]*)"', body)
    return _own_ids(f'<svg viewBox="{box}" role="img" aria-label="{label}">{body.partition(">")[2]}')


def _plain_font(found: re.Match[str]) -> str:
    return f"font-size: {found[1]}px" if found[1] else ""


def _own_ids(svg: str) -> str:
    """Keeps ids that are referred to only, and makes them the picture's own: a page has several pictures."""
    used = set(re.findall(r'(?:href="|url\()#(\w+)', svg))
    key = hashlib.sha256(svg.encode()).hexdigest()[:6]
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{key}{found[1]}"' if found[1] in used else "", svg)
    return re.sub(r'(href="|url\()#(\w+)', rf"\g<1>#{key}\2", svg)
