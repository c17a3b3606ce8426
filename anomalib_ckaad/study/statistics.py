"""Bootstrap intervals of paired differences, and mean ranks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

Array: TypeAlias = npt.NDArray[np.float64]
REPLICATES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A value with the limits of its confidence interval."""

    value: float
    low: float
    high: float


class Paired(NamedTuple):
    """Scores of two methods for the same test images.

    Attributes:
        first: Scores of the first method (N,).
        second: Scores of the second method (N,).
        labels: Which images are anomalous (N,).
        names: Names of the images (N,).
        groups: Patient or part that each image shows (N,); images of a group are drawn together. None: each image is a
            group.
    """

    first: Array
    second: Array
    labels: npt.NDArray[np.bool_]
    names: npt.NDArray[Any]
    groups: npt.NDArray[Any] | None = None


def weighted_auroc(scores: Array, labels: npt.NDArray[np.bool_], weights: Array) -> Array:
    """AUROC of resampled test sets, in which each image occurs as often as its weight; ties count half.

    torchmetrics has no weights, and scikit-learn's ``roc_auc_score(sample_weight=...)`` takes one test set per call:
    thousands of calls instead of one sum.

    Args:
        scores: Scores of the images (N,).
        labels: Which images are anomalous (N,).
        weights: Weight of each image in each test set (R, N).

    Returns:
        AUROC of each test set (R,).

    Example:
        >>> weighted_auroc(np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, False, True, True]), np.ones((1, 4)))
        array([0.75])
    """
    _, place = np.unique(scores, return_inverse=True)
    order = np.argsort(place, kind="stable")
    begins = np.searchsorted(place[order], np.arange(place.max() + 1))
    # (R, T): weight of either kind at each distinct score
    anomalous, normal = (np.add.reduceat((weights * kind)[:, order], begins, axis=1) for kind in (labels, ~labels))
    below = normal.cumsum(axis=1) - normal
    hits = (anomalous * (below + normal / 2)).sum(axis=1)
    return np.asarray(hits / (anomalous.sum(axis=1) * normal.sum(axis=1)))


def paired_difference(pairs: Sequence[Paired], replicates: int = REPLICATES, seed: int = 0) -> Interval:
    """Mean over seeds of the difference in AUROC of two methods, with a 95 % bootstrap interval.

    Seeds and groups of images are drawn with replacement. Groups with normal, with anomalous and with both kinds of
    images are drawn separately. Both methods and all seeds get the same groups, since a hard image is hard for all of
    them. The interval covers other seeds and other images of the same kind, not other data sets.

    Args:
        pairs: Scores of both methods, one element per seed.
        replicates: Number of resampled studies; with 2000, the limits are exact to a few hundredths of the interval.
        seed: Seed of the resampling.

    Returns:
        First minus second, and the limits of the percentile interval.
    """
    generator = np.random.default_rng(seed)
    values, resampled = [], []
    names, first = np.unique(np.concatenate([pair.names for pair in pairs]), return_index=True)
    labels = np.concatenate([pair.labels for pair in pairs])[first]
    groups = np.concatenate([pair.names if pair.groups is None else pair.groups for pair in pairs])[first]
    drawn = _draw(labels, groups, replicates, generator)
    for pair in pairs:
        weights = np.vstack([np.ones(len(pair.labels)), drawn[:, np.searchsorted(names, pair.names)]])
        difference = weighted_auroc(pair.first, pair.labels, weights) - weighted_auroc(
            pair.second, pair.labels, weights
        )
        values.append(difference[0])
        resampled.append(difference[1:])
    chosen = generator.integers(len(pairs), size=(len(pairs), replicates))
    # With a handful of images, a resampled test set may have one kind only, and no AUROC.
    means = np.nanmean(np.stack(resampled)[chosen, np.arange(replicates)], axis=0)
    low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.mean(values)), float(low), float(high))


def count_parts(pair: Paired) -> tuple[int, int]:
    """How many groups have normal images, and how many anomalous ones."""
    groups = pair.names if pair.groups is None else pair.groups
    return len(np.unique(groups[~pair.labels])), len(np.unique(groups[pair.labels]))


def _draw(
    labels: npt.NDArray[np.bool_], groups: npt.NDArray[Any], replicates: int, generator: np.random.Generator
) -> Array:
    """How often each image occurs in each resampled test set (R, N): as often as its group."""
    found, place = np.unique(groups, return_inverse=True)
    anomalous, normal = (np.bincount(place, weights=kind, minlength=len(found)) > 0 for kind in (labels, ~labels))
    weights = np.zeros((replicates, len(found)))
    for kind in (anomalous & ~normal, normal & ~anomalous, anomalous & normal):
        count = int(kind.sum())
        if count:
            weights[:, kind] = generator.multinomial(count, np.full(count, 1 / count), size=replicates)
    return weights[:, place]


class Ranks(NamedTuple):
    """Mean rank of each method over blocks (1 is the best), and which differences are significant.

    Attributes:
        mean: Mean rank by method, the best first.
        blocks: Number of blocks.
        critical_difference: Nemenyi's critical difference at 5 %; NaN with fewer than two methods or blocks.
        p_value: p-value of Friedman's test that all methods are equal; NaN with fewer than three methods or two blocks.
    """

    mean: Mapping[str, float]
    blocks: int
    critical_difference: float
    p_value: float


def rank_methods(values: Mapping[str, Sequence[float]]) -> Ranks:
    """Rank methods in every block, with mean ranks for ties, and average (Demšar, JMLR 2006).

    Args:
        values: One value per block for each method, the larger the better; the same blocks for all.

    Example:
        >>> rank_methods({"a": [0.9, 0.8, 0.7], "b": [0.5, 0.8, 0.6]}).mean
        {'a': 1.1666666666666667, 'b': 1.8333333333333333}
    """
    names = list(values)
    table = np.array([values[name] for name in names], dtype=float)  # (K, B)
    ranks = stats.rankdata(-table, axis=0).mean(axis=1)
    count, blocks = table.shape
    enough = 2  # blocks, or methods
    critical = p_value = math.nan
    if count >= enough and blocks >= enough:
        quantile = stats.studentized_range.ppf(1 - 0.05, count, np.inf) / math.sqrt(2)
        critical = float(quantile * math.sqrt(count * (count + 1) / (6 * blocks)))
    if count > enough and blocks >= enough and np.ptp(table, axis=0).any():
        p_value = float(stats.friedmanchisquare(*table).pvalue)
    mean = {names[index]: float(ranks[index]) for index in np.argsort(ranks, kind="stable")}
    return Ranks(mean, blocks, critical, p_value)
