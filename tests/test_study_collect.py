"""What is collected from a test: metrics of each type against all normal images, and pixels where there are masks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from anomalib_ckaad.metrics.per_type import ALL_TYPES
from anomalib_ckaad.study.collect import THUMBNAIL, Collector

KINDS = ["good", "good", "crack", "hole", "good", "crack"]
SCORES = [0.1, 5.0, 3.0, 9.0, 0.2, 0.15]


def collect(*, masks: bool) -> Collector:
    """Six images in two batches; the map is the score within the mask, and outside for a normal image."""
    paths = [f"{kind}/{number}.png" for number, kind in enumerate(KINDS)]
    collector = Collector(dict(zip(paths, KINDS, strict=True)))
    for begin in (0, 3):
        chosen = slice(begin, begin + 3)
        labels = torch.tensor([kind != "good" for kind in KINDS[chosen]])
        mask = torch.zeros(3, 8, 8, dtype=torch.bool)
        mask[labels, 2:5, 2:5] = True
        maps = torch.zeros(3, 1, 16, 16)
        maps[:, :, 4:10, 4:10] = torch.tensor(SCORES[chosen])[:, None, None, None]
        batch: Any = SimpleNamespace(
            pred_score=torch.tensor(SCORES[chosen]),
            gt_label=labels,
            image_path=paths[chosen],
            anomaly_map=maps,
            gt_mask=mask if masks else None,
        )
        collector.on_predict_batch_start(None, None)  # type: ignore[arg-type]  # both are unused
        collector.on_predict_batch_end(None, None, batch, None)  # type: ignore[arg-type]
    return collector


def test_metrics_of_each_type_by_hand() -> None:
    rows = collect(masks=False).rows(threshold=1.0)
    assert rows.keys() == {"crack", "hole", ALL_TYPES}
    assert [rows[name]["images"] for name in ("crack", "hole", ALL_TYPES)] == [2, 1, 3]
    # Of three normal images, 3.0 is above two and 0.15 above one; 9.0 is above all.
    assert rows["crack"]["image_AUROC"] == pytest.approx(3 / 6)
    assert rows["hole"]["image_AUROC"] == 1
    assert rows[ALL_TYPES]["image_AUROC"] == pytest.approx(6 / 9)
    # Above the threshold: 5.0, 3.0 and 9.0.
    assert rows["crack"]["image_F1Score"] == pytest.approx(2 / (2 + 1 + 1))
    assert rows["crack"]["image_Accuracy"] == pytest.approx(3 / 5)
    assert rows[ALL_TYPES]["image_F1Score"] == pytest.approx(4 / 6)
    assert rows[ALL_TYPES]["image_Accuracy"] == pytest.approx(4 / 6)
    assert "pixel_AUROC" not in rows[ALL_TYPES]


def test_no_threshold_no_metrics_at_it() -> None:
    assert "image_F1Score" not in collect(masks=False).rows(threshold=float("nan"))[ALL_TYPES]


def test_pixels_of_each_type_where_there_are_masks() -> None:
    collector = collect(masks=True)
    rows = collector.rows(threshold=1.0)
    assert rows["hole"]["pixel_AUROC"] > rows[ALL_TYPES]["pixel_AUROC"] > 0.5
    assert {"pixel_AUPRO", "mIoU", "mAD"} <= rows[ALL_TYPES].keys()
    assert collector.maps[0].shape == (THUMBNAIL, THUMBNAIL)
    assert len(collector.seconds) == len(KINDS)
