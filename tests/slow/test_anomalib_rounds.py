"""The rounds that anomalib's own integration tests make with every model of ``list_models()``."""

from pathlib import Path

import openvino
import pytest
import torch
from anomalib.data import Folder
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, get_model, list_models

from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.scoring.anomaly_map import TopK
from tests.conftest import make_folder_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def fresh(folder_root: Path, project: Path) -> tuple[AnomalibModule, Folder, Engine]:
    """A model by its name, a data set and an engine, as anomalib's tests set them up."""
    model = get_model("ckaad", backbone="resnet18", layers=(1, 2, 3), pre_trained=False)
    engine = Engine(default_root_dir=project, max_epochs=1, devices=1, accelerator="cpu")
    return model, make_folder_data(folder_root, masks=True), engine


@pytest.fixture(scope="module")
def project(folder_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder in which the model has been fitted once."""
    root = tmp_path_factory.mktemp("project")
    model, data, engine = fresh(folder_root, root)
    engine.fit(model=model, datamodule=data)
    return root


def checkpoint(project: Path) -> Path:
    return project / "Ckaad" / "tiny" / "v0" / "weights" / "lightning" / "model.ckpt"


def test_listed() -> None:
    assert "ckaad" in list_models()


def test_fit(project: Path) -> None:
    assert checkpoint(project).exists()


def test_test(project: Path, folder_root: Path) -> None:
    model, data, engine = fresh(folder_root, project)
    (results,) = engine.test(model=model, datamodule=data, ckpt_path=checkpoint(project))
    assert "image_AUROC" in results


def test_train(project: Path, folder_root: Path) -> None:
    model, data, engine = fresh(folder_root, project)
    assert engine.train(model=model, datamodule=data)


def test_train_on_from_a_checkpoint(project: Path, folder_root: Path) -> None:
    model, data, _ = fresh(folder_root, project)
    engine = Engine(default_root_dir=project, max_epochs=2, devices=1, accelerator="cpu")
    assert engine.train(model=model, datamodule=data, ckpt_path=checkpoint(project))
    assert engine.trainer.current_epoch == 2


def test_validate(project: Path, folder_root: Path) -> None:
    model, data, engine = fresh(folder_root, project)
    engine.validate(model=model, datamodule=data, ckpt_path=checkpoint(project))


def test_predict_with_a_datamodule(project: Path, folder_root: Path) -> None:
    model, data, engine = fresh(folder_root, project)
    assert engine.predict(model=model, datamodule=data, ckpt_path=checkpoint(project))


def test_predict_a_folder(project: Path, folder_root: Path) -> None:
    model, _, engine = fresh(folder_root, project)
    batches = engine.predict(model=model, data_path=folder_root / "bad", ckpt_path=checkpoint(project))
    assert sum(len(batch.image) for batch in batches) == 4


@pytest.mark.parametrize("export_type", list(ExportType))
def test_export(export_type: ExportType, project: Path, folder_root: Path) -> None:
    model, _, engine = fresh(folder_root, project)
    path = engine.export(
        model=model,
        ckpt_path=checkpoint(project),
        export_type=export_type,
        onnx_kwargs={"opset_version": 18},
    )
    assert path.exists()


@pytest.mark.parametrize("score_top_k", [100, "all", "power_mean"])
def test_openvino_gives_the_same_scores_at_any_batch_and_size(score_top_k: TopK, tmp_path: Path) -> None:
    model = Ckaad("tf_efficientnet_lite0", weights="package", image_size=64, score_top_k=score_top_k, seed=0).eval()
    # With a threshold alone it counts as fitted, and scores stay raw.
    model.post_processor.load_state_dict({"_image_threshold": torch.tensor(0.5)}, strict=False)
    path = model.to_openvino(tmp_path)
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch, height, width in ((1, 64, 64), (3, 100, 81), (8, 50, 96)):
        images = torch.rand(batch, 3, height, width)
        with torch.no_grad():
            expected = model.model(model.pre_processor(images))
        outputs = compiled(images.numpy())
        assert outputs["pred_score"] == pytest.approx(expected.pred_score.numpy(), abs=1e-4)
        assert outputs["anomaly_map"] == pytest.approx(expected.anomaly_map.numpy(), abs=1e-4)
