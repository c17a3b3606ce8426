"""Intervals, ranks and what counts as a mistake, against closed forms and other implementations."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomalib_ckaad.study.gallery import badness_of
from anomalib_ckaad.study.plots import critical_comparison
from anomalib_ckaad.study.statistics import Paired, paired_difference, rank_methods, weighted_auroc


def make_pair(shift: float, seed: int, count: int = 60, images: int | None = None) -> Paired:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3 == 0
    # How hard an image is belongs to the image, which all seeds share.
    common = np.random.default_rng([1, seed if images is None else images]).normal(size=count)
    second = common + 1.0 * labels + 0.3 * generator.normal(size=count)
    first = common + (1.0 + shift) * labels + 0.3 * generator.normal(size=count)
    return Paired(first, second, labels, 1000 * (seed if images is None else images) + np.arange(count))


@pytest.mark.parametrize("decimals", [None, 0])
def test_weights_are_repeated_images(decimals: int | None) -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(size=25)
    scores = scores if decimals is None else scores.round(decimals)
    labels = np.arange(25) % 2 == 0
    weights = generator.integers(0, 4, size=(7, 25)).astype(float)
    found = weighted_auroc(scores, labels, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        assert value == pytest.approx(roc_auc_score(labels.repeat(row), scores.repeat(row)))


def test_the_difference_is_the_mean_over_seeds() -> None:
    pairs = [make_pair(0.5, seed) for seed in range(3)]
    expected = np.mean([roc_auc_score(p.labels, p.first) - roc_auc_score(p.labels, p.second) for p in pairs])
    found = paired_difference(pairs)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert found == paired_difference(pairs)  # reproducible
    opposite = paired_difference([Paired(p.second, p.first, p.labels, p.names) for p in pairs])
    assert opposite.value == pytest.approx(-found.value)


def test_a_method_does_not_differ_from_itself() -> None:
    pair = make_pair(0.0, 0)
    assert paired_difference([Paired(pair.first, pair.first, pair.labels, pair.names)]) == (0, 0, 0)


def test_images_of_one_part_are_drawn_together() -> None:
    """Ten copies of each image say no more than one, and widen nothing either."""
    pair = make_pair(0.4, 0)
    copies = Paired(*(np.tile(one, 10) for one in (pair.first, pair.second, pair.labels)), np.arange(600))
    parts = np.tile(pair.names, 10)
    alone, together = paired_difference([pair]), paired_difference([copies._replace(groups=parts)])
    assert together == pytest.approx(alone)
    independent = paired_difference([copies])
    assert independent.high - independent.low < 0.5 * (together.high - together.low)


def test_parts_with_both_kinds_of_images() -> None:
    pair = make_pair(0.4, 0)
    found = paired_difference([pair._replace(groups=np.arange(60) // 3)])  # one anomalous image each
    assert found.value == pytest.approx(paired_difference([pair]).value)
    assert found.low < found.value < found.high


@pytest.mark.parametrize(("shift", "differs"), [(2.0, True), (0.0, False)])
def test_intervals_tell_large_differences_from_none(shift: float, *, differs: bool) -> None:
    found = paired_difference([make_pair(shift, seed, count=150) for seed in range(3)])
    assert (found.low > 0) is differs


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = 0
    for study in range(100):
        generator = np.random.default_rng(study)
        # Each method finds some images hard, in every seed.
        hard, labels = generator.normal(size=(2, 60)), np.arange(60) % 3 == 0
        pairs = []
        for _ in range(3):
            first, second = hard + labels + 0.2 * generator.normal(size=(2, 60))
            pairs.append(Paired(first, second, labels, np.arange(60)))
        found = paired_difference(pairs, replicates=300)
        covered += found.low <= 0 <= found.high
    assert covered >= 91


def test_ranks_by_hand() -> None:
    found = rank_methods({"a": [0.9, 0.8, 0.7, 0.9], "b": [0.5, 0.8, 0.6, 0.5], "c": [0.1, 0.2, 0.3, 0.6]})
    assert found.mean == {"a": 1.125, "b": 2.125, "c": 2.75}
    assert found.blocks == 4
    # Demšar's table: q_0.05 of three methods is 2.343.
    assert found.critical_difference == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 4)), rel=1e-3)
    assert 0 < found.p_value < 0.2
    axes = critical_comparison(found).axes[0]
    assert any("critical difference" in text.get_text() for text in axes.texts)


def test_ranks_of_two_methods_in_one_block() -> None:
    found = rank_methods({"a": [0.5], "b": [0.9]})
    assert list(found.mean) == ["b", "a"]
    assert math.isnan(found.critical_difference)
    assert math.isnan(found.p_value)


def test_ties_are_shared() -> None:
    assert rank_methods({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}).mean == {"a": 2, "b": 2, "c": 2}


def test_badness_counts_wrongly_ranked_images() -> None:
    scores, labels = [0.9, 0.1, 0.5, 0.5, 1.0], [False, False, True, False, True]
    # 0.9 normal: above one of two anomalies; 0.5 anomalous: below 0.9 and no higher than 0.5.
    assert badness_of(scores, labels).tolist() == pytest.approx([0.5, 0, 2 / 3, 0.5, 0])
