"""Image and pixel metrics for each type of defect, on raw scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from torch import Tensor
from torchmetrics.functional.classification import binary_f1_score

from anomalib_ckaad.errors import MetricError
from anomalib_ckaad.metrics.auroc import auroc
from anomalib_ckaad.metrics.raw_scores import raw_scores

ALL_TYPES = "all"


@dataclass(frozen=True)
class Scored:
    """Scores, maps and labels of all scored images, on the CPU, in their order.

    Attributes:
        paths: Path of each image.
        scores: Raw image scores (N,).
        labels: Whether each image is anomalous (N,).
        maps: Raw anomaly maps (N, H, W).
        masks: Anomalous pixels of each image (N, H, W); None if the data have no masks.
        predicted: Whether each image's score exceeds the threshold (N,); None if no threshold was applied.
        named_types: Types of defects by path, if the data set names them.
    """

    paths: list[str]
    scores: Tensor
    labels: Tensor
    maps: Tensor
    masks: Tensor | None
    predicted: Tensor | None = None
    named_types: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def collect(cls, batches: Iterable[ImageBatch]) -> "Scored":
        """Join the batches that ``Engine.predict`` returns for a Ckaad model; all images must have one size."""
        batches = list(batches)
        raw = [raw_scores(batch) for batch in batches]
        has_masks = all(batch.gt_mask is not None for batch in batches)
        has_labels = all(batch.pred_label is not None for batch in batches)
        return cls(
            paths=[path for batch in batches for path in batch.image_path or []],
            scores=torch.cat([scores.detach().cpu().float() for scores, _ in raw]),
            labels=torch.cat([torch.as_tensor(batch.gt_label).cpu() for batch in batches]).bool(),
            maps=torch.cat([maps.detach().cpu().float() for _, maps in raw]),
            masks=torch.cat([torch.as_tensor(batch.gt_mask).cpu() for batch in batches]).bool() if has_masks else None,
            predicted=torch.cat([torch.as_tensor(batch.pred_label).cpu() for batch in batches]).bool()
            if has_labels
            else None,
        )

    @classmethod
    def join(cls, parts: Sequence["Scored"]) -> "Scored":
        """Join several into one, in their order."""

        def together(tensors: list[Tensor | None]) -> Tensor | None:
            present = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(present) if len(present) == len(parts) else None

        return cls(
            paths=[path for part in parts for path in part.paths],
            scores=torch.cat([part.scores for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            maps=torch.cat([part.maps for part in parts]),
            masks=together([part.masks for part in parts]),
            predicted=together([part.predicted for part in parts]),
            named_types={path: name for part in parts for path, name in part.named_types.items()},
        )

    def with_types(self, named_types: Mapping[str, str]) -> "Scored":
        """The same, with the data set's own names of types by path."""
        return replace(self, named_types=named_types)

    @property
    def types(self) -> list[str | None]:
        """Type of each image's defect: its name in the data set, or its parent folder; None for a normal image."""
        return [
            self.named_types.get(path, Path(path).parent.name) if anomalous else None
            for path, anomalous in zip(self.paths, self.labels.tolist(), strict=True)
        ]


def score_types(scored: Scored) -> dict[str, dict[str, float]]:
    """Metrics of each type of defect against all normal images, and of all types together.

    Args:
        scored: Scored images; at least one normal and one anomalous image.

    Returns:
        For each type by name, and for ``all``: ``images`` (number of anomalous images), ``image_AUROC``,
        ``image_F1Score`` if there are predicted labels, ``pixel_AUROC`` and ``pixel_AUPRO`` if there are masks.

    Raises:
        MetricError: If there are only normal or only anomalous images.
    """
    if scored.labels.all() or not scored.labels.any():
        kind = "anomalous" if scored.labels.all() else "normal"
        msg = f"All test images are {kind}. Metrics need normal and anomalous ones; add the others."
        raise MetricError(msg)
    types = scored.types
    rows = {}
    for name in [*sorted({kind for kind in types if kind is not None}), ALL_TYPES]:
        chosen = torch.tensor([kind is None or name in {kind, ALL_TYPES} for kind in types])
        labels = scored.labels[chosen]
        rows[name] = {
            "images": float(labels.sum()),
            "image_AUROC": auroc(scored.scores[chosen], labels),
        }
        if scored.predicted is not None:
            rows[name]["image_F1Score"] = float(binary_f1_score(scored.predicted[chosen].int(), labels.int()))
        if scored.masks is not None:
            rows[name] |= _pixel_metrics(scored.maps[chosen], scored.masks[chosen])
    return rows


def _pixel_metrics(maps: Tensor, masks: Tensor) -> dict[str, float]:
    aupro = AUPRO(fields=["maps", "masks"])
    aupro.update(SimpleNamespace(maps=maps, masks=masks))  # type: ignore[arg-type]  # it reads these two fields only
    return {
        "pixel_AUROC": auroc(maps, masks),
        "pixel_AUPRO": float(aupro.compute()),
    }
