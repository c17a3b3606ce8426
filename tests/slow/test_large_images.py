"""A model without a resize, as docs/large_images.md trains it, exported."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import openvino
import pytest
import torch
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Normalize

from anomalib_ckaad import Ckaad
from anomalib_ckaad.weights.loading import normalization
from tests.conftest import write_images

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RUN = """
import json, sys
from anomalib_ckaad.__main__ import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    main()
"""
"""``python -m anomalib_ckaad`` with one list of arguments after another: torch is imported once for all of them."""


def test_trained_on_crops_and_exported_it_scores_whole_images_of_the_size_given(tmp_path: Path) -> None:
    mean, std = normalization("tf_efficientnet_lite0", "package")
    model = Ckaad(
        "tf_efficientnet_lite0",
        layers=(2, 3),
        weights="package",
        image_size=96,
        pre_processor=PreProcessor(Normalize(mean=list(mean), std=list(std))),
        post_processor=PostProcessor(enable_normalization=False, enable_thresholding=False),
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


def test_the_documented_config_and_commands_train_and_export(tmp_path: Path) -> None:
    text = (DOCS / "large_images.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"```yaml\n(# crops\.yaml\n.*?)```", text, re.DOTALL)
    (commands,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    (tmp_path / "crops.yaml").write_text(config.replace("512", "64").replace("100", "1"))
    for folder, count in {"good": 6, "bad": 3}.items():
        write_images(tmp_path / "line" / folder, count, size=160)
    lines = commands.replace("[2160, 3840]", "[160, 160]").replace("\\\n", " ").splitlines()
    words = [shlex.split(line) for line in lines]
    assert [line[:4] for line in words] == [["python", "-m", "anomalib_ckaad", name] for name in ("train", "export")]
    command = [sys.executable, "-c", RUN, json.dumps([line[3:] for line in words])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "normalized with mean" not in done.stdout + done.stderr
    (exported,) = tmp_path.rglob("model.xml")
    found = openvino.compile_model(exported, "CPU")(torch.rand(1, 3, 160, 160).numpy())
    assert found["anomaly_map"].shape[-2:] == (160, 160)
