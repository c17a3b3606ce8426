"""Post-training quantization that keeps scores and labels."""

import logging
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule

AUTO_ENCODER = "model.auto_encoder."
CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData"})
RECOMMENDED_IMAGES = 300
logger = logging.getLogger(__name__)


def check_calibration(datamodule: AnomalibDataModule | None) -> None:
    """Refuse to quantize without images.

    Raises:
        ValueError: If there is no datamodule.
    """
    if datamodule is None:
        msg = "Expected a datamodule to calibrate int8_ptq on its validation images, got none. Do pass --data."
        raise ValueError(msg)


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
        msg = f"Expected weights named {AUTO_ENCODER}… in the exported graph, got none. Do export without int8_ptq."
        raise RuntimeError(msg)
    datamodule.setup("fit")
    loader = datamodule.val_dataloader()
    if len(loader.dataset) < RECOMMENDED_IMAGES:
        logger.warning(
            "Expected %d validation images or more to calibrate int8_ptq on, got %d. Do compare the result by "
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
