"""Plots of a study: mean ranks with their critical difference, score histograms, ROC and PRO curves."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from torchmetrics.functional.classification import binary_roc

from anomalib_ckaad.metrics.per_type import ALL_TYPES
from anomalib_ckaad.study.results import Results
from anomalib_ckaad.study.statistics import Ranks

GRID = np.linspace(0, 1, 201)
LIMIT = 0.3
"""False-positive rate up to which PRO curves are drawn, the limit of AUPRO."""


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that needs no display; width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def critical_comparison(ranks: Ranks) -> Figure:
    """Draw a critical difference diagram: a bar joins methods without a significant difference (Demšar, JMLR 2006)."""
    names = list(ranks.mean)
    groups = _groups([ranks.mean[name] for name in names], ranks.critical_difference)
    height = 1.1 + 0.28 * len(names) + 0.12 * len(groups)
    figure = new_figure(8, height)
    axes = figure.add_subplot()
    margin = 0.45 * len(names)  # for the labels
    axes.set_xlim(1 - margin, len(names) + margin)
    top = 0.6 + 0.3 * len(groups)
    axes.set_ylim(-len(names) - 0.5, top + 0.8)
    axes.axhline(0, color="black", linewidth=1)
    for level, (first, last) in enumerate(groups):
        ends = [ranks.mean[names[first]] - 0.04, ranks.mean[names[last]] + 0.04]
        axes.plot(ends, [0.5 + 0.3 * level] * 2, color="tab:red", linewidth=4, solid_capstyle="butt")
    if not np.isnan(ranks.critical_difference):
        begin = 1.0
        axes.plot([begin, begin + ranks.critical_difference], [top + 0.3] * 2, color="gray", linewidth=2)
        axes.text(begin + ranks.critical_difference + 0.1, top + 0.3, "critical difference", va="center", color="gray")
    middle = (len(names) + 1) / 2
    for index, name in enumerate(names):
        rank, y = ranks.mean[name], -index - 1.0
        at_left = rank <= middle
        side = 1 - margin if at_left else len(names) + margin
        axes.plot([rank, rank, side], [0, y, y], color="tab:blue", linewidth=1)
        text = f"{name}  {rank:.2f}"
        axes.text(side, y + 0.12, text, ha="left" if at_left else "right", va="bottom", fontsize=9)
    axes.set_xticks(range(1, len(names) + 1))
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("mean rank, 1 is the best")
    axes.set_yticks([])
    for side_name in ("left", "right", "bottom", "top"):
        axes.spines[side_name].set_visible(False)
    return figure


def _groups(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last index of the largest groups of methods whose ranks differ by less than ``critical``.

    >>> _groups([1.0, 1.5, 2.4, 4.0], 1.0)
    [(0, 1), (1, 2)]
    """
    found: list[tuple[int, int]] = []
    for first, low in enumerate(ranks):
        last = max(index for index, rank in enumerate(ranks) if rank - low < critical or index == first)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def histograms(results: Results, data: str) -> Figure | None:
    """Histograms of scores of normal and anomalous test images with the first seed, with the threshold."""
    shown = [(method, scores) for method in results.methods if (scores := _first(results, data, method))]
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = new_figure(3.4 * columns, 2.3 * lines)
    for index, (method, found) in enumerate(shown):
        axes = figure.add_subplot(lines, columns, index + 1)
        scores, labels = found["scores"], found["labels"].astype(bool)
        # A single outlier must not force all others into one bar.
        low, high = np.quantile(scores, [0.0, 0.99])
        high = max(high, float(np.median(scores[labels])), low + 1e-12)
        threshold = float(found["threshold"])
        if high < threshold < high + (high - low) / 2:  # near enough to be shown in its place
            high = threshold + (high - low) / 20
        edges = np.linspace(low, high, 31)
        for kind, color, name in ((~labels, "tab:green", "normal"), (labels, "tab:red", "anomalous")):
            axes.hist(scores[kind].clip(low, high), edges.tolist(), color=color, alpha=0.55, label=name)
        if threshold <= high:
            axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold")
        elif threshold > high:
            axes.set_title(f"threshold {threshold:.3g} →", loc="right", fontsize=7)
        axes.set_title(method, fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        if index == 0:
            axes.legend(fontsize=7)
    figure.supxlabel("image score", fontsize=9)
    figure.supylabel("test images", fontsize=9)
    return figure


def _first(results: Results, data: str, method: str) -> Mapping[str, Any]:
    rows = results.rows(data, method)
    return results.scores(rows[0]) if rows else {}


def roc_curves(results: Results, data: str) -> Figure | None:
    """ROC curve of images of each method, mean over seeds."""

    def curve(scores: Mapping[str, Any]) -> tuple[Any, Any]:
        # torchmetrics takes scores outside [0, 1] for logits; ranks lie in it, and have the same curve.
        ranks = stats.rankdata(scores["scores"]) / len(scores["scores"])
        labels = torch.from_numpy(scores["labels"].astype(int))
        rate, found, _ = binary_roc(torch.from_numpy(ranks), labels)
        return rate.numpy(), found.numpy()

    return _curves(results, data, curve, "false-positive rate of images", "true-positive rate of images")


def pro_curves(results: Results, data: str) -> Figure | None:
    """PRO curve of each method up to a false-positive rate of 0.3, mean over seeds; None without masks."""

    def curve(scores: Mapping[str, Any]) -> tuple[Any, Any] | None:
        if f"pro_rate/{ALL_TYPES}" not in scores:
            return None
        return scores[f"pro_rate/{ALL_TYPES}"], scores[f"pro_overlap/{ALL_TYPES}"]

    return _curves(results, data, curve, "false-positive rate of pixels", "mean overlap with regions", LIMIT)


def _curves(
    results: Results,
    data: str,
    curve: Callable[[Mapping[str, Any]], tuple[Any, Any] | None],
    x_label: str,
    y_label: str,
    limit: float = 1.0,
) -> Figure | None:
    figure = new_figure(5, 4)
    axes: Axes = figure.add_subplot()
    for number, method in enumerate(results.methods):
        found = [
            pair
            for row in results.rows(data, method)
            if (scores := results.scores(row)) and (pair := curve(scores)) is not None
        ]
        if found:
            grid = GRID * limit
            mean = np.mean([np.interp(grid, rate, value) for rate, value in found], axis=0)
            axes.plot(grid, mean, label=method, color=f"C{number % 10}", linestyle=("-", "--", ":")[number // 10 % 3])
    if not axes.lines:
        return None
    axes.set_xlim(0, limit)
    axes.set_ylim(0, 1)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right" if limit == 1 else "best")
    return figure


def all_plots(results: Results, ranks: Ranks | None) -> list[tuple[str, Figure]]:
    """Draw the plots of a report; returns them with their captions."""
    found: list[tuple[str, Figure | None]] = []
    if ranks is not None and any(one != other for one, other in pairwise(ranks.mean.values())):
        found.append(
            ("Mean ranks. A red bar joins methods without a significant difference.", critical_comparison(ranks))
        )
    for data in results.data_sets:
        found += [
            (
                f"{data}: scores of test images, first seed. The last bar has all higher scores.",
                histograms(results, data),
            ),
            (f"{data}: ROC curves of images, mean over seeds.", roc_curves(results, data)),
            (f"{data}: PRO curves of pixels, mean over seeds.", pro_curves(results, data)),
        ]
    return [(caption, figure) for caption, figure in found if figure is not None]
