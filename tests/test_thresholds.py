"""Thresholds for rates: the order statistics and the histogram, against closed forms and simulated draws."""

import math

import pytest
import torch
from scipy import stats

from anomalib_ckaad.thresholds import rate_bound, rate_threshold, recall_threshold, samples_needed
from anomalib_ckaad.thresholds.order_statistics import number_beyond
from anomalib_ckaad.thresholds.score_histogram import BINS, RELATIVE_ERROR, histogram, threshold_of


@pytest.mark.parametrize(("number", "rate"), [(9, 0.1), (99, 0.01), (100, 0.07), (300, 0.01), (57, 0.3)])
def test_the_threshold_is_just_above_the_order_statistic(number: int, rate: float) -> None:
    rank = number + 1 - math.floor((number + 1) * rate + 1e-9)
    scores = torch.arange(1.0, number + 1)[torch.randperm(number, generator=torch.Generator().manual_seed(0))]
    threshold = rate_threshold(scores, rate)
    assert rank < threshold < rank + 1
    assert threshold - rank <= 0.01 * (number - 1) + 1e-5
    assert threshold == torch.tensor(threshold, dtype=torch.float32).item()


def test_products_that_floats_round_down() -> None:
    assert number_beyond(99, 0.29) == 29  # 100 * 0.29 is 28.999999999999996
    assert math.floor(100 * 0.29) == 28


def test_how_many_samples_a_rate_needs() -> None:
    for rate in (0.5, 0.3, 0.1, 0.05, 0.01, 0.001):
        needed = samples_needed(rate)
        assert (number_beyond(needed, rate), number_beyond(needed - 1, rate)) == (1, 0)
        sure = samples_needed(rate, confidence=0.95)
        assert (number_beyond(sure, rate, 0.95), number_beyond(sure - 1, rate, 0.95)) == (1, 0)
        assert 1 - (1 - rate) ** sure >= 0.95 > 1 - (1 - rate) ** (sure - 1)


def test_the_bound_is_exact() -> None:
    """P(at most `beyond - 1` of n exceed the threshold at that rate) is what the confidence leaves."""
    for number, beyond in ((99, 1), (500, 5), (30, 3)):
        bound = rate_bound(number, beyond)
        assert stats.binom.cdf(beyond - 1, number, bound) == pytest.approx(0.05)
    assert rate_bound(50, 1) == pytest.approx(1 - 0.05 ** (1 / 50))


@pytest.mark.parametrize(("number", "rate"), [(99, 0.01), (60, 0.05), (25, 0.1)])
def test_the_realized_rate_is_at_most_the_target_on_average(number: int, rate: float) -> None:
    """Of uniform scores the true rate is 1 - threshold; its mean is c / (n + 1), less the step above the score."""
    generator = torch.Generator().manual_seed(1)
    draws = 2000
    realized = torch.tensor(
        [1 - rate_threshold(torch.rand(number, generator=generator), rate) for _ in range(draws)], dtype=torch.float64
    ).clamp(0, 1)
    error = 4 * realized.std().item() / math.sqrt(draws)
    beyond = number_beyond(number, rate)
    assert realized.mean().item() <= rate + error
    assert beyond / (number + 1) - 0.01 - error <= realized.mean().item() <= beyond / (number + 1) + error


def test_the_realized_rate_holds_with_the_asked_for_confidence() -> None:
    generator = torch.Generator().manual_seed(2)
    number, rate, draws = 150, 0.05, 2000
    kept = [1 - rate_threshold(torch.rand(number, generator=generator), rate, confidence=0.9) for _ in range(draws)]
    share = sum(value <= rate for value in kept) / draws
    assert share >= 0.9 - 4 * math.sqrt(0.09 / draws)
    loose = [1 - rate_threshold(torch.rand(number, generator=generator), rate) for _ in range(draws)]
    assert sum(value <= rate for value in loose) / draws < 0.85  # without it, on average only


def test_the_realized_recall_is_at_least_the_target_on_average() -> None:
    generator = torch.Generator().manual_seed(3)
    number, recall, draws = 30, 0.9, 2000
    realized = torch.tensor(
        [1 - recall_threshold(torch.rand(number, generator=generator), recall) for _ in range(draws)]
    )
    error = 4 * realized.std().item() / math.sqrt(draws)
    assert recall - error <= realized.mean().item() <= recall + 0.04


def test_recall_counts_the_anomalies_that_may_be_missed() -> None:
    scores = torch.arange(1.0, 20.0)  # 19: one of them may be missed at 0.9, as 20 * 0.1 is 2
    threshold = recall_threshold(scores, 0.9)
    assert 1 < threshold < 2
    assert (scores > threshold).float().mean() >= 0.9
    assert 0 < recall_threshold(scores, 0.99) < 1  # too few: below them all


def test_too_few_scores_give_their_maximum_and_a_step() -> None:
    scores = torch.tensor([1.0, 3.0, 2.0])
    assert rate_threshold(scores, 0.01) == pytest.approx(3.02)
    assert rate_threshold(torch.tensor([5.0]), 0.01) == pytest.approx(5.05)
    assert rate_threshold(torch.zeros(3), 0.01) > 0


@pytest.mark.parametrize("others", [None, torch.tensor([2.5, 3.0, 3.0000002, 4.0])])
def test_thresholds_lie_strictly_between_scores(others: torch.Tensor | None) -> None:
    scores = torch.tensor([1.0, 2.0, 3.0, 3.0, 3.0, 7.0])
    threshold = rate_threshold(scores, 0.3, others=others)
    assert threshold > 3
    assert not (scores == threshold).any()
    assert (scores > threshold).sum() == 1


def test_ties_and_neighboring_floats() -> None:
    low = torch.tensor(0.3)
    high = torch.nextafter(low, torch.tensor(1.0))
    scores = torch.stack([low, high, low, low])
    assert rate_threshold(scores, 0.4) == high.item()  # nothing lies between: labels the upper one normal, and is safe
    assert rate_threshold(torch.full((50,), 0.3), 0.1) > 0.3


@pytest.mark.parametrize("rate", [0.5, 0.05, 0.001, 0.0001])
def test_quantiles_of_the_histogram(rate: float) -> None:
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(200_000, generator=generator) * torch.logspace(-3, 2, 200_000)
    counts = sum(histogram(part) for part in values.reshape(8, 5, 5000))
    threshold = threshold_of(counts, rate)
    exact = values.sort().values[-int(rate * len(values)) - 1].item()
    assert (values > threshold).float().mean() <= rate
    assert exact <= threshold <= exact + RELATIVE_ERROR * abs(exact)
    assert counts.shape == (BINS,)


def test_a_histogram_of_signs_and_zeros() -> None:
    values = torch.tensor([-3.0, -1.0, 0.0, 1e-30, 2.0])
    counts = histogram(values)
    for rate, expected in ((0.9, -3.0), (0.7, -1.0), (0.5, 0.0), (0.3, 1e-30), (0.1, 2.0)):
        assert threshold_of(counts, rate) == pytest.approx(expected, rel=RELATIVE_ERROR, abs=1e-40)
        assert (values > threshold_of(counts, rate)).sum() <= int(rate * 5)
