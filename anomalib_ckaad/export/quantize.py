"""Post-training quantization that keeps scores and labels."""

import logging
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType

from anomalib_ckaad.errors import ExportError

AUTO_ENCODER = "model.auto_encoder."
CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData"})
RECOMMENDED_IMAGES = 300
logger = logging.getLogger(__name__)


def check_compression(compression: CompressionType | str | None) -> CompressionType | None:
    """anomalib's compression type of this name, in upper or lower case; None for no compression.

    Raises:
        ExportError: If there is no such compression.
    """
    if not compression:
        return None
    names = [one.value for one in CompressionType]
    if str(getattr(compression, "value", compression)).lower() not in names:
        msg = f"`compression_type` must be one of {', '.join(names)}, not {compression!r}."
        raise ExportError(msg)
    return CompressionType(str(getattr(compression, "value", compression)).lower())


def check_calibration(compression: CompressionType, datamodule: AnomalibDataModule | None) -> None:
    """Check that there are images to calibrate a quantized model with.

    Raises:
        ExportError: If there is no datamodule, or INT8_ACQ would get single images, which its metric does not take.
    """
    name = compression.name
    if datamodule is None:
        msg = f"{name} needs validation images to calibrate the model. Pass `--data`, or a datamodule in Python."
        raise ExportError(msg)
    if compression == CompressionType.INT8_ACQ:
        if datamodule.eval_batch_size == 1:
            msg = "INT8_ACQ needs batches of 2 images or more, and `eval_batch_size` is 1. Use a larger one."
            raise ExportError(msg)
        logger.warning("INT8_ACQ runs the model on all test images many times, which may take hours.")


def quantize_auto_encoder(path: Path, datamodule: AnomalibDataModule) -> None:
    """Quantize the convolutions of the auto-encoder in an OpenVINO model to INT8, in place.

    Backbone and comparison keep their precision: features are compared with their reconstructions, so that rounded
    features would look like anomalies.

    Args:
        path: The ``.xml`` file.
        datamodule: Its validation images are used for calibration.

    Raises:
        ExportError: If the graph's nodes have lost their names.
    """
    import nncf  # noqa: PLC0415 - of the extra `openvino`
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the file is overwritten below
    model = core.read_model(path)
    others = [op.get_friendly_name() for op in model.get_ordered_ops() if not _is_quantized(op)]
    if len(others) == len(model.get_ordered_ops()):
        msg = f"INT8_PTQ found no weights named {AUTO_ENCODER}… in the exported graph. Export without INT8_PTQ."
        raise ExportError(msg)
    datamodule.setup("fit")
    loader = datamodule.val_dataloader()
    if len(loader.dataset) < RECOMMENDED_IMAGES:
        logger.warning(
            "INT8_PTQ is calibrated with %d validation images; %d or more are recommended. Check the result with "
            "`anomalib-ckaad validate`.",
            len(loader.dataset),
            RECOMMENDED_IMAGES,
        )
    images = nncf.Dataset(loader, lambda batch: batch["image"])
    quantized = nncf.quantize(model, images, ignored_scope=nncf.IgnoredScope(names=others))
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _is_quantized(node: Any) -> bool:  # noqa: ANN401 - openvino's
    """Whether a node is a convolution whose weights are the auto-encoder's."""
    if node.get_type_name() not in CONVOLUTIONS:
        return False
    weights = node.input_value(1).get_node()
    while weights.get_input_size():  # through reshapes and casts
        weights = weights.input_value(0).get_node()
    return bool(weights.get_friendly_name().startswith(AUTO_ENCODER))
