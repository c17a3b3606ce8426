"""Any metric for each type of defect or each category, and the mean over these groups."""

import logging
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from anomalib.metrics import AnomalibMetric
from torch import Tensor, nn
from torchmetrics import Metric

from anomalib_ckaad.distributed import gather
from anomalib_ckaad.errors import MetricError

logger = logging.getLogger(__name__)


def parent_folder(path: str) -> str:
    """Name of the folder of an image: the type of its defect in MVTec AD's layout.

    >>> parent_folder("bottle/test/crack/000.png")
    'crack'
    """
    return Path(path).parent.name


class PerGroup(AnomalibMetric, Metric):
    """A metric computed for each group of images; its value is the mean over the groups.

    A group is left out of the mean, with a warning, if it lacks images that the metric needs: normal and anomalous ones
    for a metric of ``gt_label``, an anomalous one for a metric of ``gt_mask``.

    Args:
        metric: The metric. The name of this one is that name with ``macro_`` before it.
        group_of: Returns the group of an image, given its path. Default: the name of the image's folder.
        share_normal: Whether normal images count in every group. Default True, for groups that are types of defects.
            False for categories that have normal images of their own.
        prefix: Prefix of the name.

    Example:
        >>> from anomalib.data import ImageBatch
        >>> from anomalib_ckaad.metrics import AccuracyAtF1Max
        >>> metric = PerGroup(AccuracyAtF1Max(fields=["pred_score", "gt_label"]))
        >>> batch = ImageBatch(image=torch.zeros(3, 3, 8, 8), image_path=["good/0", "crack/0", "hole/0"])
        >>> metric.update(batch.update(pred_score=torch.tensor([0.2, 0.9, 0.1]), gt_label=torch.tensor([0, 1, 1])))
        >>> metric.compute(), metric.values_by_group
        (tensor(0.7500), {'crack': 1.0, 'hole': 0.5})
    """

    full_state_update = False

    def __init__(
        self,
        metric: AnomalibMetric,
        group_of: Callable[[str], str] = parent_folder,
        *,
        share_normal: bool = True,
        prefix: str = "",
    ) -> None:
        Metric.__init__(self)
        inner: Any = metric
        self.name = f"{prefix}macro_{inner.name}"
        self.fields = (*inner.fields, "gt_label", "image_path")
        self.strict = inner.strict
        self.group_of = group_of
        self.share_normal = share_normal
        self.values_by_group: dict[str, float] = {}
        self._normal = inner  # gets shared normal images only; a new group starts as a copy of it
        self._names: list[str] = []
        self._kinds: dict[str, set[bool]] = {}  # whether a group has anomalous images (True), normal ones (False)
        self._has_normal = False
        self._metrics = nn.ModuleList()

    def _metric_of(self, name: str) -> Any:  # noqa: ANN401 - an AnomalibMetric and torchmetrics.Metric
        if name not in self._names:
            self._names.append(name)
            self._kinds[name] = set()
            self._metrics.append(deepcopy(self._normal))
        return self._metrics[self._names.index(name)]

    def update(self, batch: Any) -> None:  # noqa: ANN401 - an ImageBatch
        """Add every image to the metric of its group.

        Raises:
            MetricError: If paths, labels or a field of the metric are missing.
        """
        missing = [name for name in self.fields if getattr(batch, name, None) is None]
        if missing:
            if not self.strict:
                return
            msg = f"{self.name} needs {', '.join(missing)} in every batch, which a batch does not have."
            raise MetricError(msg)
        labels = torch.as_tensor(batch.gt_label).bool().cpu()
        groups = [self.group_of(path) for path in batch.image_path or []]
        for name in sorted({name for name, bad in zip(groups, labels.tolist(), strict=True) if self._is_own(bad)}):
            self._metric_of(name)
        for name, metric in zip(self._names, self._metrics, strict=True):
            own = torch.tensor([self._is_own(bad) and group == name for group, bad in zip(groups, labels, strict=True)])
            self._kinds[name] |= set(labels[own].tolist())
            self._feed(metric, batch, own | ~labels if self.share_normal else own)
        if self.share_normal:
            self._has_normal = self._has_normal or bool((~labels).any())
            self._feed(self._normal, batch, ~labels)

    def _is_own(self, anomalous: Any) -> bool:  # noqa: ANN401 - a bool or a tensor of one
        return bool(anomalous) or not self.share_normal

    def _feed(self, metric: Any, batch: Any, chosen: Tensor) -> None:  # noqa: ANN401
        if chosen.any():
            values = {name: getattr(batch, name) for name in metric.fields}
            metric.update(SimpleNamespace(**{name: value[chosen.to(value.device)] for name, value in values.items()}))

    def compute(self) -> Tensor:
        """Mean over the groups. Afterwards ``values_by_group`` has the value of each.

        Raises:
            MetricError: If no group has the images that the metric needs.
        """
        # All processes must compute all groups, also those of which they have no image.
        gathered = gather((self._kinds, self._has_normal))
        self._has_normal = any(has_normal for _, has_normal in gathered)
        for name in sorted({name for kinds, _ in gathered for name in kinds}):
            self._metric_of(name)
            self._kinds[name] = set().union(*(kinds.get(name, set()) for kinds, _ in gathered))
        if not self._names:
            msg = f"{self.name} needs anomalous images, and there are none. Add some to the test set."
            raise MetricError(msg)
        whole = [name for name in sorted(self._names) if self._can_be_measured(name)]
        if len(whole) < len(self._names):
            others = ", ".join(sorted(set(self._names) - set(whole)))
            logger.warning(
                "%s does not include %s: these groups have only normal or only anomalous images.", self.name, others
            )
        if not whole:
            msg = f"{self.name} needs a group with normal and anomalous images, and there is none. Add such images."
            raise MetricError(msg)
        self.values_by_group = {name: float(self._metric_of(name).compute()) for name in whole}
        return torch.tensor(sum(self.values_by_group.values()) / len(self.values_by_group))

    def _can_be_measured(self, name: str) -> bool:
        """Whether a group has the images that its metric needs."""
        kinds = self._kinds[name] | ({False} if self.share_normal and self._has_normal else set())
        fields = self._normal.fields
        return kinds == {False, True} if "gt_label" in fields else True in kinds or "gt_mask" not in fields

    def reset(self) -> None:
        """Forget all images and groups."""
        super().reset()
        self._normal.reset()
        self._names, self._kinds, self._has_normal, self._metrics = [], {}, False, nn.ModuleList()
