"""Thresholds from order statistics, with guarantees for images that are yet to come.

If n scores and a new one are exchangeable, the new one's rank among all n + 1 is uniform: it exceeds the k-th smallest
of the n with probability (n + 1 - k) / (n + 1) at most. This is split conformal prediction (Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World", 2005; Lei et al., "Distribution-Free Predictive Inference for Regression",
JASA 2018). For one given set of n independent scores, the probability that new ones exceed the k-th smallest follows
Beta(n + 1 - k, k), whatever the continuous distribution of the scores (Wilks, "Determination of Sample Sizes for
Setting Tolerance Limits", 1941; Vovk, "Conditional Validity of Inductive Conformal Predictors", 2012), which is what
`confidence` is about.
"""

import math
from fractions import Fraction

import numpy as np
import torch
from scipy import stats
from torch import Tensor

# Exported models differ from the checkpoint by rounding: no threshold is equal to a score, nor far above it.
LARGEST_STEP = 0.01


def samples_needed(rate: float, confidence: float | None = None) -> int:
    """Number of scores from which on a threshold for ``rate`` exists.

    Args:
        rate: Share of new scores that may exceed the threshold, in (0, 1).
        confidence: As for ``rate_threshold``.

    Returns:
        ceil(1 / rate) - 1, or with ``confidence`` the smallest n with 1 - (1 - rate)^n of at least ``confidence``.

    Example:
        >>> samples_needed(0.01), samples_needed(0.05), samples_needed(0.01, confidence=0.95)
        (99, 19, 299)
    """
    if confidence is None:
        return max(1, math.ceil(1 / _exact(rate)) - 1)
    return max(1, math.ceil(math.log1p(-confidence) / math.log1p(-rate)))


def number_beyond(number: int, rate: float, confidence: float | None = None) -> int:
    """One more than the number of the n known scores that may exceed a threshold; 0 if there are too few.

    Args:
        number: How many scores there are, n.
        rate: As for ``rate_threshold``.
        confidence: As for ``rate_threshold``.

    Returns:
        c, so that the threshold is at the (n + 1 - c)-th smallest score, and new scores exceed it with a probability
        that follows Beta(c, n + 1 - c), of mean c / (n + 1).

    Example:
        >>> number_beyond(99, 0.01), number_beyond(98, 0.01), number_beyond(299, 0.01, confidence=0.95)
        (1, 0, 1)
    """
    if confidence is None:
        return math.floor((number + 1) * _exact(rate))
    # P(Beta(c, n + 1 - c) <= rate) = P(Binomial(n, rate) >= c), which falls with c.
    at_least = stats.binom.sf(np.arange(number), number, rate)
    return int((at_least >= confidence).sum())


def rate_bound(number: int, beyond: int, confidence: float = 0.95) -> float:
    """Upper confidence bound of the probability that a new score exceeds the threshold.

    Args:
        number: How many scores the threshold comes from.
        beyond: What ``number_beyond`` gave; at least 1.
        confidence: Of the bound, in (0, 1).

    Returns:
        The quantile of Beta(beyond, number + 1 - beyond), in (0, 1).

    Example:
        >>> round(rate_bound(299, 1), 4), round(rate_bound(99, 1), 4)
        (0.01, 0.0298)
    """
    return float(stats.beta.ppf(confidence, beyond, number + 1 - beyond))


def rate_threshold(
    scores: Tensor, rate: float, *, confidence: float | None = None, others: Tensor | None = None
) -> float:
    """Threshold that new scores exceed with a probability of at most ``rate``.

    It lies above the k-th smallest score with k = ceil((n + 1)(1 - rate)): halfway to the next larger one, but by a
    hundredth of the range of the scores at most. With too few scores it lies above their maximum, without guarantee.

    Args:
        scores: Scores of normal images (n,), finite, at least one, exchangeable with those to come.
        rate: Target false-positive rate in (0, 1).
        confidence: None holds the rate on average over validation sets; a number in (0, 1) holds it for this very
            set with that probability, which needs more scores and gives a higher threshold.
        others: Other scores (m,) that the threshold shall not be equal to either, such as those of anomalies.

    Returns:
        The threshold, a number that float32 holds exactly, different from all scores where float32 allows.

    Example:
        >>> rate_threshold(torch.arange(1.0, 10.0), 0.2)  # eighth smallest of nine
        8.079999923706055
    """
    # (n,) -> (n,) ascending; float64 holds float32 exactly, and the middle of two of them as well
    ordered = scores.double().sort().values
    rank = len(ordered) + 1 - max(1, number_beyond(len(ordered), rate, confidence))
    lower = ordered[rank - 1].item()
    all_scores = ordered if others is None else torch.cat([ordered, others.double()])
    larger = all_scores[all_scores > lower]
    upper = larger.min().item() if len(larger) else math.inf
    scale = (ordered[-1] - ordered[0]).item() or abs(lower) or 1.0
    threshold = float(np.float32(lower + min((upper - lower) / 2, LARGEST_STEP * scale)))
    if threshold > lower:
        return threshold
    # Rounded back onto a score: the next number of float32 is above it, and at most the next score.
    return float(np.nextafter(np.float32(lower), np.float32(math.inf)))


def recall_threshold(
    scores: Tensor, recall: float, *, confidence: float | None = None, others: Tensor | None = None
) -> float:
    """Highest threshold that new anomalies exceed with a probability of at least ``recall``.

    It lies just below the j-th smallest score with j = floor((m + 1)(1 - recall)), as ``rate_threshold`` lies above
    one. With too few scores it lies below their minimum, without guarantee.

    Args:
        scores: Scores of anomalies (m,), finite, at least one, exchangeable with those to come.
        recall: Target recall in (0, 1).
        confidence: As for ``rate_threshold``.
        others: As for ``rate_threshold``, such as the scores of normal images.

    Returns:
        The threshold, a number that float32 holds exactly.

    Example:
        >>> recall_threshold(torch.arange(1.0, 10.0), 0.8)  # second smallest of nine
        1.9199999570846558
    """
    missed = float(1 - _exact(recall))
    return -rate_threshold(-scores, missed, confidence=confidence, others=None if others is None else -others)


def _exact(rate: float) -> Fraction:
    """The decimal number that was written: products with 0.01 shall not fall short of a whole number."""
    return Fraction(str(rate))
