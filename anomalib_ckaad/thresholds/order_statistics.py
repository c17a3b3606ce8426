"""Thresholds from order statistics, with guarantees for new images.

If n scores and a new one are exchangeable, the new one's rank among all n + 1 is uniform: it exceeds the k-th smallest
of the n with probability (n + 1 - k) / (n + 1) at most. This is split conformal prediction (Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World", 2005; Lei et al., "Distribution-Free Predictive Inference for Regression",
JASA 2018). For one given set of n independent scores, the probability that new ones exceed the k-th smallest follows
Beta(n + 1 - k, k), for any continuous distribution of the scores (Wilks, "Determination of Sample Sizes for Setting
Tolerance Limits", 1941; Vovk, "Conditional Validity of Inductive Conformal Predictors", 2012). `confidence` uses this.
"""

import math
from fractions import Fraction

import numpy as np
import torch
from scipy import stats
from torch import Tensor

LARGEST_STEP = 0.01
"""Largest distance of a threshold to the score below it, as a share of the range of the scores.

A threshold is not equal to a score, as scores of exported models differ by rounding, and not much larger either.
"""


def samples_needed(rate: float, confidence: float | None = None) -> int:
    """Smallest number of scores for which a threshold with this rate exists.

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
    """Number of the given scores that may exceed a threshold, plus 1; 0 if there are too few scores.

    Args:
        number: Number of scores, n.
        rate: As for ``rate_threshold``.
        confidence: As for ``rate_threshold``.

    Returns:
        c: the threshold is at the (n + 1 - c)-th smallest score. The probability that a new score exceeds it follows
        Beta(c, n + 1 - c), whose mean is c / (n + 1).

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
        number: Number of scores that the threshold comes from.
        beyond: Result of ``number_beyond``; at least 1.
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

    It is above the k-th smallest score with k = ceil((n + 1)(1 - rate)): halfway to the next larger score, but at most
    1 % of the range of the scores. With too few scores it is above their maximum, without a guarantee.

    Args:
        scores: Scores of normal images (n,), finite, at least one, exchangeable with those of new images.
        rate: Target false-positive rate in (0, 1).
        confidence: With None the rate holds on average over validation sets. With a number in (0, 1) it holds for this
            validation set with that probability, which needs more scores and gives a higher threshold.
        others: Other scores (m,) that the threshold must not be equal to either, such as those of anomalies.

    Returns:
        The threshold, exact in float32, different from all scores if float32 allows it.

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
    # Rounding gave the lower score again. The next float32 is above it, and not above the next score.
    return float(np.nextafter(np.float32(lower), np.float32(math.inf)))


def recall_threshold(
    scores: Tensor, recall: float, *, confidence: float | None = None, others: Tensor | None = None
) -> float:
    """Highest threshold that new anomalies exceed with a probability of at least ``recall``.

    It is just below the j-th smallest score with j = floor((m + 1)(1 - recall)), in the way that ``rate_threshold`` is
    just above one. With too few scores it is below their minimum, without a guarantee.

    Args:
        scores: Scores of anomalies (m,), finite, at least one, exchangeable with those of new anomalies.
        recall: Target recall in (0, 1).
        confidence: As for ``rate_threshold``.
        others: As for ``rate_threshold``, such as the scores of normal images.

    Returns:
        The threshold, exact in float32.

    Example:
        >>> recall_threshold(torch.arange(1.0, 10.0), 0.8)  # second smallest of nine
        1.9199999570846558
    """
    missed = float(1 - _exact(recall))
    return -rate_threshold(-scores, missed, confidence=confidence, others=None if others is None else -others)


def _exact(rate: float) -> Fraction:
    """The decimal number that was written: 100 * 0.29 must be 29, and is 28.999999999999996 in floats."""
    return Fraction(str(rate))
