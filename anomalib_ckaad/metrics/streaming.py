"""Pixel metrics that need the same memory for any number of images: they keep histograms of scores."""

from typing import Any, ClassVar

import torch
from anomalib.metrics import AnomalibMetric
from torch import Tensor
from torchmetrics import Metric

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.metrics.pixel_counts import PixelCounts, region_weights
from anomalib_ckaad.metrics.raw_scores import RAW_MAP
from anomalib_ckaad.metrics.threshold_range import check_maps
from anomalib_ckaad.thresholds.score_histogram import BINS, histogram

PIXEL_FIELDS = (RAW_MAP, "gt_mask")


class PixelMetric(Metric):
    """Counts pixels by score, in 24 MiB for any number of images, and adds the counts up over processes.

    Scores that differ by less than 2^-11 of their value may share a bin. ``error_bound`` of the metrics below is the
    largest error that this can cause: small for many pixels with different scores, larger for few pixels or for scores
    that are all close together.
    """

    full_state_update = False
    normal: Tensor
    anomalous: Tensor
    overlap: Tensor
    regions: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - torchmetrics'
        super().__init__(**kwargs)
        for name, dtype in (("normal", torch.int64), ("anomalous", torch.int64), ("overlap", torch.float64)):
            self.add_state(name, torch.zeros(BINS, dtype=dtype), dist_reduce_fx="sum")
        self.add_state("regions", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("low", torch.tensor(torch.inf), dist_reduce_fx="min")
        self.add_state("high", torch.tensor(-torch.inf), dist_reduce_fx="max")

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Count the pixels of raw maps (N, H, W) or (N, 1, H, W) and masks of the same shape.

        Raises:
            MetricError: If shapes differ, or a value is not finite.
        """
        maps, masks = check_maps(maps, masks)
        maps = maps.float()
        weights, regions = region_weights(masks)
        self.normal += histogram(maps[~masks])
        self.anomalous += histogram(maps[masks])
        self.overlap += histogram(maps[masks], weights.to(maps.device)[masks])
        self.regions += regions
        self.low = torch.minimum(self.low, maps.min())
        self.high = torch.maximum(self.high, maps.max())

    def compute(self) -> Tensor:
        """Number of counted pixels."""
        return self.normal.sum() + self.anomalous.sum()

    def counts(self) -> PixelCounts:
        """Counts of this process so far."""
        return PixelCounts.of(
            self.normal.cpu(),
            self.anomalous.cpu(),
            self.overlap.cpu(),
            int(self.regions),
            float(self.low),
            float(self.high),
        )


class _Bounded(PixelMetric):
    """A metric that knows the largest error its bins can cause."""

    _bound: float

    def value_and_bound(self) -> tuple[float, float]:
        raise NotImplementedError

    def compute(self) -> Tensor:
        value, self._bound = self.value_and_bound()
        return torch.tensor(value)

    @property
    def error_bound(self) -> float:
        """Largest possible difference between the value and the exact one."""
        self.compute()
        return self._bound


class _StreamingAUROC(_Bounded):
    def value_and_bound(self) -> tuple[float, float]:
        return self.counts().auroc()


class _StreamingAP(_Bounded):
    def value_and_bound(self) -> tuple[float, float]:
        return self.counts().average_precision()


class _StreamingAUPRO(_Bounded):
    def __init__(self, fpr_limit: float = 0.3, **kwargs: Any) -> None:  # noqa: ANN401 - torchmetrics'
        super().__init__(**kwargs)
        if not 0 < fpr_limit <= 1:
            msg = f"`fpr_limit` must be in (0, 1], not {fpr_limit}. The usual value is 0.3."
            raise ConfigurationError(msg)
        self.fpr_limit = fpr_limit

    def value_and_bound(self) -> tuple[float, float]:
        return self.counts().aupro(self.fpr_limit)


class _StreamingF1Max(_Bounded):
    def value_and_bound(self) -> tuple[float, float]:
        return self.counts().best_f1()


class _ThresholdRange(_Bounded):
    score: ClassVar[str]

    def value_and_bound(self) -> tuple[float, float]:
        counts = self.counts()
        return counts.threshold_range()[self.score] if counts.anomalous.any() else (0.0, 0.0)


class StreamingAUROC(AnomalibMetric, _StreamingAUROC):  # type: ignore[misc]
    """Area under the ROC curve of the pixels, in [0, 1]; pairs in one bin count half, as ties do.

    Example:
        >>> from types import SimpleNamespace
        >>> metric = StreamingAUROC(fields=["maps", "masks"])
        >>> metric.update(SimpleNamespace(maps=torch.tensor([[[0.1, 0.4, 0.2]]]), masks=torch.tensor([[[0, 1, 0]]])))
        >>> metric.compute(), metric.error_bound
        (tensor(1.), 0.0)
    """

    default_fields = PIXEL_FIELDS


class StreamingAP(AnomalibMetric, _StreamingAP):  # type: ignore[misc]
    """Average precision of the pixels, in [0, 1]. See ``PixelCounts.average_precision``."""

    default_fields = PIXEL_FIELDS


class StreamingAUPRO(AnomalibMetric, _StreamingAUPRO):  # type: ignore[misc]
    """Area under the per-region overlap curve up to a false-positive rate, in [0, 1], like anomalib's ``AUPRO``.

    Args:
        fpr_limit: The rate, in (0, 1]. Default 0.3, as in the paper of MVTec AD.

    Raises:
        ConfigurationError: If ``fpr_limit`` is not in (0, 1].
    """

    default_fields = PIXEL_FIELDS


class StreamingF1Max(AnomalibMetric, _StreamingF1Max):  # type: ignore[misc]
    """F1 of the pixels at the threshold where it is largest, in [0, 1]."""

    default_fields = PIXEL_FIELDS


class mF1(AnomalibMetric, _ThresholdRange):  # type: ignore[misc]  # noqa: N801 - the paper's name, which reports show
    """Mean F1 of the pixels over thresholds 0.2 to 0.8 of maps normalized over the test set (arXiv 2404.10760)."""

    default_fields = PIXEL_FIELDS
    score = "mF1"


class mAcc(AnomalibMetric, _ThresholdRange):  # type: ignore[misc]  # noqa: N801
    """Mean recall of anomalous pixels, which the paper calls accuracy, over the same thresholds as ``mF1``."""

    default_fields = PIXEL_FIELDS
    score = "mAcc"


class mIoU(AnomalibMetric, _ThresholdRange):  # type: ignore[misc]  # noqa: N801
    """Mean intersection over union of anomalous pixels over the same thresholds as ``mF1``."""

    default_fields = PIXEL_FIELDS
    score = "mIoU"


class mIoU_max(AnomalibMetric, _ThresholdRange):  # type: ignore[misc]  # noqa: N801
    """Largest intersection over union of anomalous pixels over thresholds 0, 0.05 … 1."""

    default_fields = PIXEL_FIELDS
    score = "mIoU_max"
