"""Pixel metrics against direct computations, and streaming ones against exact ones within their own bounds."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.metrics import AUPRO
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from anomalib_ckaad import metrics
from anomalib_ckaad.errors import ConfigurationError, MetricError
from anomalib_ckaad.metrics.pixel_counts import region_weights
from anomalib_ckaad.metrics.threshold_range import NAMES, threshold_range_scores


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks of every kind: separable or not, ties, one outlier, constant, no anomalous pixel, negative."""
    generator = np.random.default_rng(seed)
    shape = (int(generator.integers(1, 5)), int(generator.integers(2, 20)), int(generator.integers(2, 20)))
    masks = generator.random(shape) < generator.choice([0.0, 0.02, 0.3, 0.9])
    maps = generator.normal(size=shape) + generator.choice([0, 1, 4]) * masks
    kind = seed % 5
    if kind == 1:
        maps = maps.round(1)
    elif kind == 2:
        maps[0, 0, 0] = 1000
    elif kind == 3:
        maps[:] = generator.choice([-1.0, 0.0, 3.0])
    elif kind == 4:
        maps = generator.integers(0, 11, shape).astype(float)
    return maps, masks


def direct(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    span = maps.max() - maps.min()
    maps = (maps - maps.min()) / span if span else np.zeros_like(maps)

    def at(threshold: float) -> tuple[float, float, float]:
        called = maps > threshold
        hit, wrong, missed = (called & masks).sum(), (called & ~masks).sum(), (~called & masks).sum()
        return 2 * hit / (2 * hit + wrong + missed), hit / (hit + missed), hit / (hit + wrong + missed)

    if not masks.any():
        return dict.fromkeys(NAMES, 0.0)
    means = np.mean([at(threshold / 10) for threshold in range(2, 9)], axis=0)
    return dict(zip(NAMES, [*means, max(at(threshold / 20)[2] for threshold in range(21))], strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_threshold_range_equals_a_direct_computation_on_200_cases(dtype: torch.dtype) -> None:
    for seed in range(200):
        maps, masks = random_case(seed)
        maps = torch.from_numpy(maps).to(dtype)
        found = threshold_range_scores(maps, torch.from_numpy(masks))
        assert found == pytest.approx(direct(maps.double().numpy(), masks), abs=1e-9), seed


def test_masks_of_numbers_and_a_channel_dimension() -> None:
    maps, masks = (torch.from_numpy(one) for one in random_case(10))
    expected = threshold_range_scores(maps, masks)
    assert threshold_range_scores(maps.unsqueeze(1), 255 * masks.byte()) == expected


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 3), r"\(1, 2, 2\), masks \(1, 2, 3\)"),
        (torch.full((1, 2, 2), torch.nan), torch.zeros(1, 2, 2), "^4 pixels .* not finite.* `learning_rate`"),
    ],
)
def test_bad_maps(maps: torch.Tensor, masks: torch.Tensor, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        threshold_range_scores(maps, masks)
    with pytest.raises(MetricError, match=message):
        update(metrics.StreamingAUROC(), maps, masks)


def update(metric: Any, maps: torch.Tensor, masks: torch.Tensor, batch_size: int = 4) -> Any:
    for part in range(0, len(maps), batch_size):
        chosen = slice(part, part + batch_size)
        metric.update(SimpleNamespace(raw_anomaly_map=maps[chosen], gt_mask=masks[chosen]))
    return metric


@pytest.fixture(scope="module")
def many() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth maps as a model gives them, and masks with several regions each."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(12, 64, 64, dtype=torch.bool)
    for index in range(2, 12):
        for _ in range(index % 3 + 1):
            row, column = torch.randint(0, 50, (2,), generator=generator).tolist()
            masks[index, row : row + index, column : column + 8] = True
    noise = torch.rand(12, 64, 64, generator=generator)
    return 0.2 + noise + 0.5 * masks * torch.rand(12, 64, 64, generator=generator), masks


def exact(name: str, maps: torch.Tensor, masks: torch.Tensor) -> float:
    truth, scores = masks.flatten().numpy(), maps.flatten().numpy()
    if name == "StreamingAUROC":
        return float(roc_auc_score(truth, scores))
    if name == "StreamingAP":
        return float(average_precision_score(truth, scores))
    if name == "StreamingAUPRO":
        aupro = AUPRO(fields=["maps", "masks"])
        aupro.update(SimpleNamespace(maps=maps.double(), masks=masks))
        return float(aupro.compute())
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    with np.errstate(invalid="ignore"):
        best = thresholds[np.nanargmax((2 * precision * recall / (precision + recall))[:-1])]
    return float(f1_score(truth, scores >= best))


@pytest.mark.parametrize("name", ["StreamingAUROC", "StreamingAP", "StreamingAUPRO"])
@pytest.mark.parametrize("places", [None, 1])
def test_streaming_is_within_its_bound(name: str, places: int | None, many: tuple[torch.Tensor, torch.Tensor]) -> None:
    maps, masks = many
    maps = maps if places is None else maps.round(decimals=places)
    metric = update(getattr(metrics, name)(), maps, masks)
    # scikit-learn and anomalib resolve ties as bins do, so that with ties alone nothing is lost.
    slack = 1e-6 if name != "StreamingAUPRO" else 1e-4  # anomalib sums in float32
    error = abs(float(metric.compute()) - exact(name, maps, masks))
    assert error <= (metric.error_bound if places is None else 0) + slack
    if places is None:
        assert metric.error_bound < 2e-3


@pytest.mark.parametrize("name", ["StreamingAUROC", "StreamingAP", "StreamingAUPRO", "StreamingF1Max", *NAMES])
def test_bounds_hold_where_scores_are_close_or_few(name: str) -> None:
    for seed in range(60):
        generator = np.random.default_rng(seed)
        maps, masks = (torch.from_numpy(one) for one in random_case(seed))
        if seed % 2:  # within a few bins
            maps = 1 + maps * float(generator.choice([1e-5, 1e-4, 1e-3]))
        maps = maps.float()
        if not masks.any() or masks.all():
            continue
        metric = update(getattr(metrics, name)(), maps, masks)
        truth = threshold_range_scores(maps, masks)[name] if name in NAMES else exact(name, maps, masks)
        assert abs(float(metric.compute()) - truth) <= metric.error_bound + 1e-4, (seed, name)


def test_minus_zero_is_zero() -> None:
    maps = torch.tensor([[[0.0, -0.0, 0.0, -0.0]]])
    assert update(metrics.StreamingAUROC(), maps, torch.tensor([[[1, 0, 1, 0]]])).compute() == 0.5


@pytest.mark.parametrize("name", ["StreamingF1Max", *NAMES])
def test_streaming_thresholds(name: str, many: tuple[torch.Tensor, torch.Tensor]) -> None:
    found = float(update(getattr(metrics, name)(), *many).compute())
    expected = exact(name, *many) if name == "StreamingF1Max" else threshold_range_scores(*many)[name]
    assert found == pytest.approx(expected, abs=1e-3)
    assert 0.05 < found < 1


@pytest.mark.parametrize("name", NAMES)
def test_streaming_thresholds_where_nothing_can_be_found(name: str) -> None:
    ones = torch.ones(1, 4, 4)
    assert update(getattr(metrics, name)(), ones, torch.zeros(1, 4, 4)).compute() == 0
    assert update(getattr(metrics, name)(), ones, ones).compute() == 0  # all equal: nothing exceeds a threshold


def test_memory_does_not_grow_and_reset_forgets(many: tuple[torch.Tensor, torch.Tensor]) -> None:
    metric = metrics.StreamingAUPRO()
    sizes = set()
    for _ in range(3):
        update(metric, *many)
        sizes.add(sum(getattr(metric, name).numel() for name in metric._defaults))
    assert len(sizes) == 1
    metric.reset()
    maps, masks = many
    inverse = update(metric, -maps, masks)
    assert float(inverse.compute()) == pytest.approx(exact("StreamingAUPRO", -maps, masks), abs=1e-3)


@pytest.mark.parametrize("kind", ["normal", "anomalous"])
def test_pixels_of_one_kind(kind: str) -> None:
    masks = torch.zeros(1, 4, 4) if kind == "anomalous" else torch.ones(1, 4, 4)
    for name in ("StreamingAUROC", "StreamingAP", "StreamingAUPRO", "StreamingF1Max"):
        with pytest.raises(MetricError, match=rf"No pixel is {kind}\b.*masks"):
            update(getattr(metrics, name)(), torch.rand(1, 4, 4), masks).compute()


def test_limit_of_aupro() -> None:
    with pytest.raises(ConfigurationError, match=r"`fpr_limit` must be in \(0, 1\], not 0"):
        metrics.StreamingAUPRO(fpr_limit=0)


def test_regions_join_at_corners() -> None:
    masks = torch.tensor([[[1, 0, 0, 1], [0, 1, 0, 1]], [[0, 0, 0, 0], [0, 0, 0, 0]]]).bool()
    weights, regions = region_weights(masks)
    assert regions == 2
    assert weights[0].tolist() == [[0.5, 0, 0, 0.5], [0, 0.5, 0, 0.5]]
    assert weights[1].sum() == 0
