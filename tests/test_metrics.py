"""Metrics apart for each type, raw scores, and the files they are written to."""

import json
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch

from anomalib_ckaad.errors import MetricError
from anomalib_ckaad.metrics import AUROC, add_predictions, auroc
from anomalib_ckaad.metrics.file import write_metrics
from anomalib_ckaad.metrics.per_type import Scored, score_types
from anomalib_ckaad.metrics.raw_scores import raw_scores
from anomalib_ckaad.study.sections import markdown_table, write_section


def make_scored(*, masks: bool = True) -> Scored:
    """Two normal images, two cracks above them and one hole between them."""
    scores = torch.tensor([0.1, 0.5, 0.9, 2.0, 0.3])
    maps = torch.zeros(5, 8, 8)
    truth = torch.zeros(5, 8, 8, dtype=torch.bool)
    truth[2:, 2:4, 2:4] = True
    maps[2:4, 2:4, 2:4] = 30.0  # found; the hole is not
    return Scored(
        paths=["t/good/0.png", "t/good/1.png", "t/crack/0.png", "t/crack/1.png", "t/hole/0.png"],
        scores=scores,
        labels=torch.tensor([False, False, True, True, True]),
        maps=maps,
        masks=truth if masks else None,
    )


def test_each_type_against_all_normal_images() -> None:
    rows = score_types(make_scored())
    assert list(rows) == ["crack", "hole", "all"]
    assert [row["images"] for row in rows.values()] == [2, 1, 3]
    assert rows["crack"]["image_AUROC"] == 1.0
    assert rows["hole"]["image_AUROC"] == 0.5
    assert rows["all"]["image_AUROC"] == pytest.approx(5 / 6)
    assert rows["crack"]["pixel_AUROC"] == rows["crack"]["pixel_AUPRO"] == 1.0
    assert rows["hole"]["pixel_AUROC"] == 0.5
    assert rows["hole"]["pixel_AUPRO"] < rows["all"]["pixel_AUPRO"] < 1


def test_without_masks() -> None:
    assert set(score_types(make_scored(masks=False))["all"]) == {"images", "image_AUROC"}


def test_large_scores_are_not_rounded_together() -> None:
    """torchmetrics passes scores outside [0, 1] through a sigmoid."""
    labels = torch.tensor([0, 0, 1, 1])
    for factor in (1.0, 1e10, -1e10, 1e-30):
        assert auroc(factor * torch.tensor([20.0, 21.0, 22.0, 23.0]), labels) == (factor > 0)
    assert auroc(torch.full((4,), 1e10), labels) == 0.5
    scored = make_scored()
    far = Scored(scored.paths, scored.scores + 100, scored.labels, scored.maps + 100, scored.masks)
    assert score_types(far)["all"] == pytest.approx(score_types(scored)["all"])


@pytest.mark.parametrize(("labels", "kind"), [(torch.zeros(5), "normal"), (torch.ones(5), "anomalous")])
def test_one_kind_only(labels: torch.Tensor, kind: str) -> None:
    scored = make_scored()
    with pytest.raises(MetricError, match=rf"All test images are {kind}\b"):
        score_types(Scored(scored.paths, scored.scores, labels.bool(), scored.maps, scored.masks))


def test_collected_from_batches() -> None:
    def batch(names: list[str], label: int) -> ImageBatch:
        made = ImageBatch(
            image=torch.zeros(len(names), 3, 8, 8), gt_label=torch.full((len(names),), label), image_path=names
        )
        scores = torch.arange(len(names)).float()
        maps = torch.rand(len(names), 1, 8, 8)
        made = add_predictions(made, InferenceBatch(pred_score=scores, anomaly_map=maps))
        assert torch.equal(raw_scores(made)[1], maps[:, 0])
        made.pred_score = torch.ones(len(names))  # the post-processor's clamped ones
        return made

    scored = Scored.collect([batch(["good/0.png", "good/1.png"], 0), batch(["hole/0.png"], 1)])
    assert scored.types == [None, None, "hole"]
    assert scored.scores.tolist() == [0, 1, 0]
    assert scored.maps.shape == (3, 8, 8)
    assert scored.masks is None
    with pytest.raises(MetricError, match="raw scores"):
        Scored.collect([ImageBatch(image=torch.zeros(1, 3, 8, 8), pred_score=torch.zeros(1))])


def test_metrics_file_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    write_metrics(tmp_path / "new", {"a": 1.0}, model="m")
    path = write_metrics(tmp_path / "new", {"b": 0.5}, model="m", checkpoint=None)
    assert json.loads(path.read_text()) == {"model": "m", "checkpoint": None, "metrics": {"b": 0.5}}
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_sections_are_replaced_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    write_section(path, "one", "first")
    path.write_text("# Title\n\n" + path.read_text() + "\nThe end.\n")
    write_section(path, "two", "other")
    write_section(path, "one", r"second \1 $&")
    text = path.read_text()
    assert text.startswith("# Title\n")
    assert "<!-- begin one -->\nsecond \\1 $&\n<!-- end one -->\n\nThe end.\n" in text
    assert text.endswith("<!-- begin two -->\nother\n<!-- end two -->\n")
    assert "first" not in text


def test_tables_take_rows_with_gaps() -> None:
    lines = markdown_table([{"a": "1"}, {"b": "2"}]).splitlines()
    assert lines == ["| a | b |", "|---|---|", "| 1 |  |", "|  | 2 |"]


@pytest.mark.parametrize("size", [1, 4, 32])
def test_auroc_is_the_same_whatever_the_batches(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 3 == 0
    scores = 0.5 + torch.rand(64, generator=generator) + 0.4 * labels  # some below 1, some above
    metric = AUROC(fields=["raw_pred_score", "gt_label"])
    for start in range(0, 64, size):
        batch = ImageBatch(image=torch.zeros(size, 3, 1, 1), gt_label=labels[start : start + size])
        batch.raw_pred_score = scores[start : start + size]
        metric.update(batch)
    expected = (scores[labels][:, None] > scores[~labels]).double().mean()
    assert metric.compute().item() == pytest.approx(expected.item())


def test_auroc_without_images_and_with_labels_of_another_shape() -> None:
    metric = AUROC(fields=["raw_pred_score", "gt_label"])
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(MetricError, match="AUROC"):
        metric.compute()
    batch = ImageBatch(image=torch.zeros(2, 3, 1, 1), gt_label=torch.tensor([0, 1]))
    batch.raw_pred_score = torch.zeros(3)
    with pytest.raises(MetricError, match=r"\(3,\).*\(2,\)"):
        metric.update(batch)
