"""The methods called by ``anomalib export`` and ``Engine.export``, and the graph that they export."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType
from torch import Tensor, nn

from anomalib_ckaad.export.quantize import check_calibration, check_compression, quantize_auto_encoder
from anomalib_ckaad.export.whole import (
    check_fitted,
    check_installed,
    export_at_once,
    with_raw,
    without,
)
from anomalib_ckaad.network.gradients import without_gradients

ONNX_OPSET = 18
"""Opset of torch's exporter. anomalib asks for an older one: the conversion fails and logs a traceback."""


class ExportMethods:
    """anomalib's export methods, for fitted models only, without the discriminator, and never with half a file.

    A mix-in: list it before ``AnomalibModule`` among the bases, as it calls that class's methods.
    """

    model: nn.Module

    pre_processor: nn.Module | None
    post_processor: nn.Module | None
    discriminator: nn.Module | None
    _has_weights: bool
    _raw_outputs: bool = False

    def forward(self, batch: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - anomalib's
        """Pre-processor, model and post-processor on images (N, 3, H, W) in [0, 1]: the graph that is exported."""
        del args, kwargs
        raw = self.model(batch if self.pre_processor is None else self.pre_processor(batch))
        processed = raw if self.post_processor is None else self.post_processor(raw)
        return with_raw(processed, raw) if self._raw_outputs else processed

    @contextmanager
    def raw_outputs(self, *, enabled: bool = True) -> Iterator[None]:
        """Within this context, ``forward`` also returns ``raw_pred_score`` and ``raw_anomaly_map``."""
        self._raw_outputs = enabled
        try:
            yield
        finally:
            self._raw_outputs = False

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export as anomalib does, without the discriminator.

        Raises:
            ExportError: If the model is not fitted.
            FileError: If ``export_root`` is a file.
        """
        check_fitted(self.post_processor, has_weights=self._has_weights, model=self.model)
        anomalibs: Any = super()
        module: Any = self
        with without(self, "discriminator"), without_gradients(module):
            return export_at_once(export_root, lambda root: Path(anomalibs.to_torch(root, model_file_name)))

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        *,
        raw_outputs: bool = False,
        **kwargs: Any,  # noqa: ANN401 - torch's exporter's
    ) -> Path:
        """Export as anomalib does.

        Args:
            export_root: Folder below which ``weights/onnx`` is made.
            model_file_name: Name of the file without its ending.
            input_size: Height and width of the images; None for any.
            raw_outputs: Whether ``raw_pred_score`` and ``raw_anomaly_map`` are outputs, too. For OpenVINO, and on
                anomalib's command line, put it into ``onnx_kwargs``.
            **kwargs: Arguments of ``torch.onnx.export``.

        Raises:
            ExportError: If the model is not fitted.
            FileError: If ``export_root`` is a file.
            MissingPackageError: If the exporter's packages are missing.
        """
        check_fitted(self.post_processor, has_weights=self._has_weights, model=self.model)
        check_installed("onnx", "onnxscript")
        kwargs.setdefault("opset_version", ONNX_OPSET)
        anomalibs: Any = super()
        with self.raw_outputs(enabled=raw_outputs):
            return export_at_once(
                export_root, lambda root: Path(anomalibs.to_onnx(root, model_file_name, input_size, **kwargs))
            )

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | str | None = None,
        datamodule: AnomalibDataModule | None = None,
        **kwargs: Any,  # noqa: ANN401 - anomalib's
    ) -> Path:
        """Export as anomalib does, with its arguments. ``INT8_PTQ`` quantizes the auto-encoder only.

        Raises:
            ExportError: If the model is not fitted, there is no such compression, or no images to quantize with.
            FileError: If ``export_root`` is a file.
            MissingPackageError: If OpenVINO or NNCF is missing.
        """
        check_fitted(self.post_processor, has_weights=self._has_weights, model=self.model)
        compression_type = check_compression(compression_type)
        check_installed("openvino", *([] if compression_type in {None, CompressionType.FP16} else ["nncf"]))
        calibrated = compression_type == CompressionType.INT8_PTQ
        anomalibs: Any = super()
        kwargs |= {
            "model_file_name": model_file_name,
            "input_size": input_size,
            "compression_type": None if calibrated else compression_type,
            "datamodule": datamodule,
        }
        if compression_type in {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}:
            check_calibration(compression_type, datamodule)

        def write(root: Path) -> Path:
            path = Path(anomalibs.to_openvino(root, **kwargs))
            if calibrated and datamodule is not None:
                quantize_auto_encoder(path, datamodule)
            return path

        return export_at_once(export_root, write)
