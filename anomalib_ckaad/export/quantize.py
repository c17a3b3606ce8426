"""Post-training quantization that keeps scores and labels."""

import logging
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType

AUTO_ENCODER = "model.auto_encoder."
CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData"})
RECOMMENDED_IMAGES = 300
logger = logging.getLogger(__name__)


def check_compression(compression: CompressionType | str | None) -> CompressionType | None:
    """What anomalib knows by this name.

    Raises:
        ValueError: If there is no such compression.
    """
    if not compression:
        return None
    names = [one.value for one in CompressionType]
    if str(getattr(compression, "value", compression)).lower() not in names:
        msg = f"Expected compression_type to be {', '.join(names)}, got {compression!r}. Do correct it."
        raise ValueError(msg)
    return CompressionType(str(getattr(compression, "value", compression)).lower())


def check_calibration(compression: CompressionType, datamodule: AnomalibDataModule | None) -> None:
    """Refuse to quantize without images.

    Raises:
        ValueError: If there is no datamodule, or INT8_ACQ would get single images, which its metric does not take.
    """
    name = compression.name
    if datamodule is None:
        msg = f"Expected data to calibrate {name} on the validation images, got none. Do pass --data, or a datamodule."
        raise ValueError(msg)
    if compression == CompressionType.INT8_ACQ:
        if datamodule.eval_batch_size == 1:
            msg = "Expected batches of 2 images or more for INT8_ACQ, got 1. Do raise eval_batch_size."
            raise ValueError(msg)
        logger.warning("INT8_ACQ tests the model on all test images again and again, which may take hours.")


def quantize_auto_encoder(path: Path, datamodule: AnomalibDataModule) -> None:
    """Quantize the convolutions of the auto-encoder in an OpenVINO model to INT8, in place.

    Features are compared with their reconstructions, and what rounding does to features looks like an anomaly. So
    backbone and comparison keep their precision.

    Args:
        path: The ``.xml`` file.
        datamodule: Its validation images, as they lie on disk, are calibrated on.

    Raises:
        RuntimeError: If the graph's nodes have lost their names.
    """
    import nncf  # noqa: PLC0415 - of the extra `openvino`
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the file is written again
    model = core.read_model(path)
    others = [op.get_friendly_name() for op in model.get_ordered_ops() if not _is_quantized(op)]
    if len(others) == len(model.get_ordered_ops()):
        msg = f"Expected weights named {AUTO_ENCODER}… in the exported graph, got none. Do export without INT8_PTQ."
        raise RuntimeError(msg)
    datamodule.setup("fit")
    loader = datamodule.val_dataloader()
    if len(loader.dataset) < RECOMMENDED_IMAGES:
        logger.warning(
            "Expected %d validation images or more to calibrate INT8_PTQ on, got %d. Do compare the result by "
            "`anomalib-ckaad validate`.",
            RECOMMENDED_IMAGES,
            len(loader.dataset),
        )
    images = nncf.Dataset(loader, lambda batch: batch["image"])
    quantized = nncf.quantize(model, images, ignored_scope=nncf.IgnoredScope(names=others))
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _is_quantized(node: Any) -> bool:  # noqa: ANN401 - openvino's
    """Whether a node is a convolution whose weights are the auto-encoder's."""
    if node.get_type_name() not in CONVOLUTIONS:
        return False
    weights = node.input_value(1).get_node()
    while weights.get_input_size():  # reshaped or cast
        weights = weights.input_value(0).get_node()
    return bool(weights.get_friendly_name().startswith(AUTO_ENCODER))
