"""Image and pixel metrics apart for each type of defect, on raw scores."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_ckaad.metrics.raw_scores import raw_scores

ALL_TYPES = "all"


@dataclass(frozen=True)
class Scored:
    """Everything that was scored, on the CPU, in the order it came.

    Attributes:
        paths: Path of each image.
        scores: Raw image scores (N,).
        labels: Whether each image is anomalous (N,).
        maps: Raw anomaly maps (N, H, W).
        masks: What is anomalous in each image (N, H, W), or None where the data have no masks.
    """

    paths: list[str]
    scores: Tensor
    labels: Tensor
    maps: Tensor
    masks: Tensor | None

    @classmethod
    def collect(cls, batches: Iterable[ImageBatch]) -> "Scored":
        """Join what ``Engine.predict`` returned for a Ckaad model; all images of one size."""
        batches = list(batches)
        raw = [raw_scores(batch) for batch in batches]
        has_masks = all(batch.gt_mask is not None for batch in batches)
        return cls(
            paths=[path for batch in batches for path in batch.image_path or []],
            scores=torch.cat([scores.detach().cpu().float() for scores, _ in raw]),
            labels=torch.cat([torch.as_tensor(batch.gt_label).cpu() for batch in batches]).bool(),
            maps=torch.cat([maps.detach().cpu().float() for _, maps in raw]),
            masks=torch.cat([torch.as_tensor(batch.gt_mask).cpu() for batch in batches]).bool() if has_masks else None,
        )

    @property
    def types(self) -> list[str | None]:
        """Type of each image's defect, its parent folder; None for a normal image."""
        return [
            Path(path).parent.name if anomalous else None
            for path, anomalous in zip(self.paths, self.labels.tolist(), strict=True)
        ]


def score_types(scored: Scored) -> dict[str, dict[str, float]]:
    """Metrics of each type of defect against all normal images, and of all types together.

    Args:
        scored: What was scored; at least one normal and one anomalous image.

    Returns:
        For each type by name, and for ``all``: ``images`` (how many are anomalous), ``image_AUROC``, and with masks
        ``pixel_AUROC`` and ``pixel_AUPRO``.

    Raises:
        ValueError: If there are only normal or only anomalous images.
    """
    if scored.labels.all() or not scored.labels.any():
        kind = "anomalous" if scored.labels.all() else "normal"
        msg = f"Expected normal and anomalous test images, got {kind} ones only. Do add the others."
        raise ValueError(msg)
    types = scored.types
    rows = {}
    for name in [*sorted({kind for kind in types if kind is not None}), ALL_TYPES]:
        chosen = torch.tensor([kind is None or name in {kind, ALL_TYPES} for kind in types])
        labels = scored.labels[chosen]
        rows[name] = {
            "images": float(labels.sum()),
            "image_AUROC": _auroc(scored.scores[chosen], labels),
        }
        if scored.masks is not None:
            rows[name] |= _pixel_metrics(scored.maps[chosen], scored.masks[chosen])
    return rows


def _auroc(scores: Tensor, labels: Tensor) -> float:
    # torchmetrics passes scores outside [0, 1] through a sigmoid, which rounds large ones together.
    unit = (scores - scores.min()) / (scores.max() - scores.min()).clamp(min=torch.finfo(scores.dtype).tiny)
    return float(binary_auroc(unit, labels.int()))


def _pixel_metrics(maps: Tensor, masks: Tensor) -> dict[str, float]:
    aupro = AUPRO(fields=["maps", "masks"])
    aupro.update(SimpleNamespace(maps=maps, masks=masks))  # type: ignore[arg-type]  # it reads two fields of a batch
    return {
        "pixel_AUROC": _auroc(maps.flatten(), masks.flatten()),
        "pixel_AUPRO": float(aupro.compute()),
    }
