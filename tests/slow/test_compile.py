"""``compile`` trains to the same weights, and leaves no trace in the model."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine

from anomalib_ckaad.lightning_model import Ckaad
from tests.conftest import make_folder_data

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
]


def fit(root: Path, folder: Path, **arguments: Any) -> Ckaad:
    options: dict[str, Any] = {"pre_trained": False, "image_size": 64, "seed": 0, "max_epochs": 1}
    model = Ckaad("resnet18", (2,), **options, visualizer=False, evaluator=False, **arguments).double()
    engine = Engine(default_root_dir=folder, accelerator="cpu", precision="64-true", enable_progress_bar=False)
    engine.fit(model, datamodule=make_folder_data(root))
    return model


def test_same_weights(folder_root: Path, tmp_path: Path) -> None:
    plain = fit(folder_root, tmp_path / "a").state_dict()
    model = fit(folder_root, tmp_path / "b", compile=True)
    assert model._compiled == {}
    compiled = model.state_dict()
    assert list(compiled) == list(plain)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-6, atol=1e-8, equal_nan=True, msg=name)
