"""A model without a resize, as docs/large_images.md trains it, exported."""

from pathlib import Path

import openvino
import pytest
import torch
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Normalize

from anomalib_ckaad import Ckaad
from anomalib_ckaad.weights import normalization

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_trained_on_crops_and_exported_it_scores_whole_images_of_the_size_given(tmp_path: Path) -> None:
    mean, std = normalization("tf_efficientnet_lite0", "package")
    model = Ckaad(
        "tf_efficientnet_lite0",
        layers=(2, 3),
        weights="package",
        image_size=96,
        pre_processor=PreProcessor(Normalize(mean=list(mean), std=list(std))),
        seed=0,
    ).eval()
    path = model.to_openvino(tmp_path, input_size=(200, 331), onnx_kwargs={"opset_version": 18})
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = torch.rand(1, 3, 200, 331)
    with torch.no_grad():
        expected = model.model(model.pre_processor(images))
    found = compiled(images.numpy())
    assert found["anomaly_map"].shape[-2:] == (200, 331)
    assert found["anomaly_map"] == pytest.approx(expected.anomaly_map.numpy(), abs=1e-4)
    assert found["pred_score"] == pytest.approx(expected.pred_score.numpy(), abs=1e-4)
