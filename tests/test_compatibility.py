"""What was trained and exported before the rooms still loads, and the same training still gives the same scores.

``tests/compatibility`` was made by commit 30255ef: two checkpoints, an exported graph, and of six trainings in float64
the scores, logged values, hyper-parameters and names of tensors.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.export.runtimes import load_exported
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.thresholds import RatePostProcessor
from anomalib_ckaad.training.arguments import flat
from anomalib_ckaad.training.old_checkpoints import hyper_parameters_of
from tests.compatibility_data import RUNS, data_of, write_data

FOLDER = Path(__file__).parent / "compatibility"
FACTS: dict[str, Any] = json.loads((FOLDER / "facts.json").read_text())
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "scores.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("compatibility"))


def make_model(run: dict[str, Any]) -> Ckaad:
    post_processor = RatePostProcessor(**run["post"]) if "post" in run else True
    return Ckaad(**run["arguments"], post_processor=post_processor, pre_trained=False, visualizer=False)


class KeepScores(Callback):
    def __init__(self) -> None:
        self.scores: list[torch.Tensor] = []
        self.maps: list[torch.Tensor] = []

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.scores.append(batch.raw_pred_score.clone())
        self.maps.append(batch.raw_anomaly_map.clone())


@pytest.mark.parametrize("name", RUNS)
def test_training_in_float64_gives_the_same_scores(
    name: str, expected: dict[str, np.ndarray], data_root: Path, tmp_path: Path
) -> None:
    run, kept = RUNS[name], KeepScores()
    model, data = make_model(run), data_of(data_root, run)
    names = {key: list(value.shape) for key, value in model.state_dict().items()}
    engine = Engine(default_root_dir=tmp_path, max_epochs=run["epochs"], precision="64-true", callbacks=[kept], **QUIET)
    engine.fit(model, datamodule=data)
    logged = {key: float(value) for key, value in engine.trainer.callback_metrics.items()}
    assert logged == pytest.approx(FACTS["logged"][name], rel=1e-9)
    engine.test(model, datamodule=data)
    np.testing.assert_allclose(torch.cat(kept.scores), expected[f"{name}/scores"], rtol=1e-9)
    np.testing.assert_allclose(torch.cat(kept.maps)[..., ::4, ::4], expected[f"{name}/maps"], rtol=1e-7, atol=1e-9)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == FACTS["state_dict"][name]
    assert names.keys() == FACTS["state_dict"][name].keys()


@pytest.mark.parametrize("name", RUNS)
def test_hyper_parameters_of_before_mean_the_same(name: str) -> None:
    before = FACTS["hyper_parameters"][name]
    today = hyper_parameters_of({"hyper_parameters": before})
    own = flat(make_model(RUNS[name]).hparams)
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}
    taken = {key: value for key, value in flat(today).items() if key != "pre_trained"}
    assert {key: found[key] for key in taken} == taken


@pytest.mark.parametrize("name", ["measured", "paper"])
def test_checkpoints_of_before_load_and_score_the_same(name: str, expected: dict[str, np.ndarray]) -> None:
    model = Ckaad.load_from_checkpoint(FOLDER / f"{name}.ckpt").eval()
    assert model.model.calibration.is_set == (name == "measured")
    with torch.inference_mode(), model.raw_outputs():
        found = model(torch.from_numpy(expected["images"]))
    for field in ("pred_score", "raw_pred_score", "pred_label"):
        np.testing.assert_allclose(getattr(found, field), expected[f"{name}.ckpt/{field}"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found.raw_anomaly_map[..., ::4, ::4], expected[f"{name}.ckpt/raw_anomaly_map"], rtol=1e-3, atol=1e-5
    )


def test_checkpoints_of_before_load_from_an_open_file(tmp_path: Path) -> None:
    content = torch.load(FOLDER / "measured.ckpt", weights_only=True)
    content["hyper_parameters"] |= {"synthetic": True, "margin": 3.0}
    torch.save(content, tmp_path / "changed.ckpt")
    with (tmp_path / "changed.ckpt").open("rb") as file:
        for source in (file, io.BytesIO((tmp_path / "changed.ckpt").read_bytes())):
            model = Ckaad.load_from_checkpoint(source)
            assert model.objective.margin == 3
            assert model.hparams["synthesis"] is True


def test_arguments_of_before_still_change_what_is_loaded() -> None:
    """One entry of a group changes, and the checkpoint's others stay."""
    path = FOLDER / "measured.ckpt"
    model = Ckaad.load_from_checkpoint(path, margin=9.0, synthetic=False, research={"balance": 0.25})
    assert (model.objective.margin, model.objective.balance) == (9, 0.25)
    assert model.hparams["research"]["norm"] == "instance"
    assert Ckaad.load_from_checkpoint(path, cache={"memory": 0}).frozen_features.options["folder_limit"] == 20
    with pytest.raises(ConfigurationError, match="max_epochs"):
        Ckaad.load_from_checkpoint(path, max_epochs=3)


def test_a_training_of_before_goes_on(data_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RUNS["measured"]
    engine = Engine(default_root_dir=tmp_path, max_epochs=run["epochs"] + 1, **QUIET)
    model = make_model(run)
    engine.fit(model, datamodule=data_of(data_root, run), ckpt_path=FOLDER / "measured.ckpt")
    assert engine.trainer.current_epoch == run["epochs"] + 1
    assert "thresholds do not fit" not in caplog.text


def test_a_graph_exported_before_agrees_with_its_checkpoint(expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    """And with what is exported of that checkpoint today."""
    images = expected["images"]
    before = load_exported(FOLDER / "measured.onnx").run(images)
    model = Ckaad.load_from_checkpoint(FOLDER / "measured.ckpt")
    today = load_exported(model.to_onnx(tmp_path, raw_outputs=True)).run(images)
    assert before.keys() == today.keys()
    for field in ("pred_score", "raw_pred_score", "anomaly_map", "raw_anomaly_map"):
        np.testing.assert_allclose(today[field], before[field], rtol=1e-4, atol=1e-5, err_msg=field)
    np.testing.assert_allclose(before["raw_pred_score"], expected["measured.ckpt/raw_pred_score"], rtol=1e-4)
