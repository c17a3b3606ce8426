"""A new kind of defect on Tuesday: training goes on from Monday's checkpoint, and what was found is still found."""

from pathlib import Path

import pytest
from anomalib.data import Folder
from anomalib.engine import Engine
from PIL import Image

from anomalib_ckaad.data.known.known_anomalies import KnownAnomalies
from anomalib_ckaad.data.textures.images import make_image
from anomalib_ckaad.data.textures.textures import Textures
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.metrics.per_type import Scored, score_types

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MONDAY, TUESDAY = "stain", "seam"
EACH, KNOWN = 16, 8
"""Test images of each type, and known anomalies."""
NOISE = 0.05
"""Standard deviation of an AUROC over 16 images of a type and 20 normal ones, roughly."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Brick. Known anomalies show the part of the photograph that normal training images show: the same line."""
    textures = Textures(root=tmp_path_factory.mktemp("textures"), category="brick", images_per_defect=EACH)
    textures.prepare_data()
    return Path(textures.root) / "brick"


def learn_of(root: Path, kind: str) -> None:
    """Put images of a kind of defect into the folder of known anomalies."""
    folder = root / "known" / kind
    folder.mkdir(parents=True)
    for index in range(KNOWN):
        image, _, _ = make_image("brick", kind, "train", index, 256, seed=1)
        Image.fromarray(image).save(folder / f"{index}.png")


def train(root: Path, epochs: int, warm_start: str | None = None) -> tuple[Engine, Ckaad, KnownAnomalies]:
    """Train on what is known by now."""
    inner = Folder(
        name="line",
        root=root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{path.name}" for path in sorted((root / "test").iterdir()) if path.name != "good"],
        val_split_mode="from_train",
        val_split_ratio=0.1,
        train_batch_size=8,
        num_workers=0,
        seed=0,
    )
    data = KnownAnomalies(inner, known_anomaly_dir=root / "known")
    model = Ckaad(
        backbone="tf_efficientnet_lite0",
        weights="package",
        image_size=224,
        seed=0,
        warm_start=warm_start,
        visualizer=False,
    )
    engine = Engine(default_root_dir=root / "results", enable_progress_bar=False, max_epochs=epochs)
    engine.fit(model, datamodule=data)
    return engine, model, data


def error_of(engine: Engine) -> float:
    """The reconstruction error of held-out normal images; known after training until predictions are made."""
    return float(engine.trainer.callback_metrics["val_reconstruction"])


def auroc_of_types(engine: Engine, model: Ckaad, data: KnownAnomalies) -> dict[str, float]:
    rows = score_types(Scored.collect(engine.predict(model, datamodule=data)))
    return {name: row["image_AUROC"] for name, row in rows.items()}


def test_a_few_epochs_go_on_where_monday_ended(root: Path) -> None:
    learn_of(root, MONDAY)
    engine, model, data = train(root, epochs=10)
    before, checkpoint = auroc_of_types(engine, model, data), engine.best_model_path
    learn_of(root, TUESDAY)
    engine, model, data = train(root, epochs=2, warm_start=checkpoint)
    error, after = error_of(engine), auroc_of_types(engine, model, data)
    cold, _, _ = train(root, epochs=2)
    assert error < 0.8 * error_of(cold)
    for name in set(before) - {TUESDAY, "all"}:
        assert after[name] > before[name] - NOISE, (name, before, after)
