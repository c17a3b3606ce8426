"""Summaries of image and pixel metrics, and any metric by group."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from anomalib_ckaad.errors import MetricError
from anomalib_ckaad.metrics import AccuracyAtF1Max, PerGroup, StreamingAUPRO, auroc, mAD
from anomalib_ckaad.metrics.summary import ranking_scores


@pytest.mark.parametrize("seed", range(20))
def test_ranking_scores_equal_scikit_learns(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(30, generator=generator) < 0.4
    scores = torch.randn(30, generator=generator) + labels
    scores = scores.round(decimals=1) if seed % 2 else scores
    found = ranking_scores(scores, labels)
    assert found["AUROC"] == pytest.approx(roc_auc_score(labels, scores))
    assert auroc(scores, labels) == found["AUROC"]
    assert found["AP"] == pytest.approx(average_precision_score(labels, scores))
    ways = [(f1_score(labels, scores >= t), float(t), accuracy_score(labels, scores >= t)) for t in scores]
    best = max(ways)
    assert found["F1Max"] == pytest.approx(best[0])
    assert found["AccuracyAtF1Max"] == pytest.approx(max(w for w in ways if w[0] >= best[0] - 1e-12)[2])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [0, 0], "^All images are normal"),
        ([0.1, 0.2], [1, 1], "^All images are anomalous"),
        ([0.1, float("nan")], [0, 1], "^1 of 2 image scores .* not finite.* `learning_rate`"),
    ],
)
def test_scores_that_cannot_be_ranked(scores: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(MetricError, match=message):
        ranking_scores(torch.tensor(scores), torch.tensor(labels))


def test_mean_of_seven() -> None:
    maps = torch.zeros(4, 8, 8)
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[2:, 2:5, 2:5] = True
    maps[masks] = 1.0
    batch = {"raw_anomaly_map": maps, "gt_mask": masks, "gt_label": torch.tensor([0, 0, 1, 1])}
    metric = mAD()
    metric.update(SimpleNamespace(raw_pred_score=torch.tensor([0.1, 0.2, 0.3, 0.4]), **batch))
    assert metric.compute() == 1
    metric.reset()
    metric.update(SimpleNamespace(raw_pred_score=torch.tensor([0.1, 0.3, 0.2, 0.4]), **batch))
    found = ranking_scores(torch.tensor([0.1, 0.3, 0.2, 0.4]), batch["gt_label"])
    assert float(metric.compute()) == pytest.approx((4 + found["AUROC"] + found["AP"] + found["F1Max"]) / 7)


def batch_of(rows: list[tuple[str, float, int]], **more: Any) -> ImageBatch:
    paths, scores, labels = (list(column) for column in zip(*rows, strict=True))
    batch = ImageBatch(image=torch.zeros(len(rows), 3, 8, 8), image_path=paths, gt_label=torch.tensor(labels), **more)
    return batch.update(pred_score=torch.tensor(scores))


ROWS = [
    ("t/good/0", 0.2, 0),
    ("t/crack/0", 0.9, 1),
    ("t/good/1", 0.5, 0),
    ("t/hole/0", 0.1, 1),
    ("t/crack/1", 0.3, 1),
    ("t/good/2", 0.0, 0),
]


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_each_type_is_measured_against_all_normal_images(batch_size: int) -> None:
    metric = PerGroup(AUROC(fields=["pred_score", "gt_label"], prefix="image_"))
    for _ in range(2):
        for begin in range(0, len(ROWS), batch_size):
            metric.update(batch_of(ROWS[begin : begin + batch_size]))
        assert metric.compute() == pytest.approx((5 / 6 + 1 / 3) / 2)
        assert metric.values_by_group == pytest.approx({"crack": 5 / 6, "hole": 1 / 3})
        metric.reset()
    assert metric.name == "macro_image_AUROC"


def test_categories_have_normal_images_of_their_own() -> None:
    metric = PerGroup(
        AccuracyAtF1Max(fields=["pred_score", "gt_label"]), lambda path: path.split("/")[0], share_normal=False
    )
    metric.update(batch_of([("a/0", 0.1, 0), ("a/1", 0.2, 1), ("b/0", 0.9, 0), ("b/1", 0.8, 1)]))
    assert metric.compute() == pytest.approx(0.75)
    assert metric.values_by_group == {"a": 1.0, "b": 0.5}


def test_categories_with_images_of_one_kind_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    metric = PerGroup(
        AccuracyAtF1Max(fields=["pred_score", "gt_label"]), lambda path: path.split("/")[0], share_normal=False
    )
    metric.update(batch_of([("a/0", 0.9, 0), ("a/1", 0.8, 1), ("b/0", 0.9, 0), ("c/1", 0.8, 1)]))
    assert metric.compute() == pytest.approx(0.5)
    assert metric.values_by_group == {"a": 0.5}
    assert "macro_AccuracyAtF1Max does not include b, c" in caplog.text
    metric.reset()
    metric.update(batch_of([("b/0", 0.9, 0)]))
    with pytest.raises(MetricError, match="macro_AccuracyAtF1Max needs a group with normal and anomalous images"):
        metric.compute()


def test_pixels_of_anomalous_images_alone_can_be_measured() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, :4] = True
    batch = batch_of([("a/0", 1.0, 1), ("b/0", 1.0, 1)], gt_mask=masks)
    batch.raw_anomaly_map = masks.float()
    metric = PerGroup(StreamingAUPRO(), lambda path: path.split("/")[0], share_normal=False)
    metric.update(batch)
    assert metric.compute() == 1


def test_types_without_any_normal_image() -> None:
    metric = PerGroup(AUROC(fields=["pred_score", "gt_label"]))
    metric.update(batch_of([("crack/0", 1.0, 1), ("hole/0", 1.0, 1)]))
    with pytest.raises(MetricError, match="macro_AUROC needs a group with normal and anomalous images"):
        metric.compute()


def test_pixel_metrics_by_group() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[1, :4], masks[2, 4:] = True, True
    batch = batch_of([("good/0", 0.0, 0), ("top/0", 1.0, 1), ("bottom/0", 1.0, 1)], gt_mask=masks)
    batch.raw_anomaly_map = torch.stack([torch.zeros(8, 8), masks[1].float(), 1 - masks[2].float()])
    metric = PerGroup(StreamingAUPRO())
    metric.update(batch)
    metric.compute()
    assert metric.values_by_group["top"] == 1
    assert metric.values_by_group["bottom"] < 0.2


def test_what_a_group_needs() -> None:
    metric = PerGroup(AccuracyAtF1Max(fields=["pred_score", "gt_label"]))
    with pytest.raises(MetricError, match="macro_AccuracyAtF1Max needs image_path in every batch"):
        metric.update(ImageBatch(image=torch.zeros(1, 3, 8, 8), gt_label=torch.tensor([1]), pred_score=torch.ones(1)))
    with pytest.raises(MetricError, match="macro_AccuracyAtF1Max needs anomalous images"):
        metric.compute()
