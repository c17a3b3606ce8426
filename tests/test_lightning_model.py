"""Ckaad under anomalib's engine: everything a user does with an anomalib model."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_ckaad import lightning_model
from anomalib_ckaad.data import KnownAnomalies
from anomalib_ckaad.errors import (
    CheckpointError,
    CkaadError,
    ConfigurationError,
    DataError,
    ImageFileError,
    NonFiniteLossError,
)
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.network.objective import STRATEGIES
from tests.conftest import make_folder_data, write_images
from tests.image_files import write_dicom, write_png, write_turned
from tests.models import make_ckaad


def make_model(**arguments: Any) -> Ckaad:
    defaults = {"backbone": "resnet18", "layers": (2, 3), "image_size": 64, "pre_trained": False, "visualizer": False}
    return make_ckaad(**{**defaults, **arguments})


def make_engine(tmp_path: Path, **arguments: Any) -> Engine:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Engine(default_root_dir=tmp_path, **{**quiet, "max_epochs": 1, **arguments})


@pytest.mark.parametrize("masks", [False, True], ids=["classification", "segmentation"])
def test_whole_life(folder_root: Path, tmp_path: Path, masks: bool) -> None:
    """fit, validate, test, load, predict, export to torch: the rounds of anomalib's own model tests."""
    data = make_folder_data(folder_root, masks=masks)
    model = make_model(visualizer=True)
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=data)
    engine.validate(model, datamodule=data)
    (results,) = engine.test(model, datamodule=data)
    image = {"image_AUROC", "image_F1Score", "image_oracle_F1Max"}
    pixel = {"pixel_AUROC", "pixel_AUPRO", "pixel_F1Score"}
    assert set(results) == (image | pixel if masks else image)

    checkpoint = Path(engine.best_model_path)
    written = json.loads((checkpoint.parent / "metrics.json").read_text())
    assert written["metrics"] == pytest.approx(results)
    assert written["data"] == "tiny"

    loaded = Ckaad.load_from_checkpoint(checkpoint)
    (again,) = make_engine(tmp_path / "other").test(loaded, datamodule=make_folder_data(folder_root, masks=masks))
    assert again == pytest.approx(results)

    predictions = engine.predict(model, datamodule=data, ckpt_path=checkpoint)
    assert sum(len(batch.image) for batch in predictions) == 8
    for batch in predictions:
        assert batch.raw_anomaly_map.shape == batch.anomaly_map.shape
        assert 0 <= batch.pred_score.min() <= batch.pred_score.max() <= 1
    exported = engine.export(model, ExportType.TORCH, export_root=tmp_path / "exported")
    assert exported.exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_trains_and_logs_its_losses(strategy: str, folder_root: Path, tmp_path: Path) -> None:
    model = make_model(strategy=strategy)
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=make_folder_data(folder_root))
    logged = set(engine.trainer.callback_metrics)
    assert {"reconstruction", "val_reconstruction"} <= logged
    assert ({"generator", "discriminator"} <= logged) is (STRATEGIES[strategy].discriminator is not None)


def test_metrics_are_of_raw_scores(folder_root: Path, tmp_path: Path) -> None:
    """The post-processor clamps scores, and the ties change AUROC: the default evaluator does not see them."""
    data = make_folder_data(folder_root, masks=True)
    model = make_model()
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=data)

    class Keep(Callback):
        raw: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []

        def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
            self.raw.append(batch.raw_pred_score.clone())
            self.labels.append(batch.gt_label.clone())

    engine.trainer.callbacks.append(keep := Keep())
    # Every score above the largest of the validation set is clamped to 1.
    model.post_processor.image_max.fill_(model.post_processor.image_min)
    (results,) = engine.test(model, datamodule=data)
    raw, labels = torch.cat(keep.raw), torch.cat(keep.labels)
    normal, anomalous = raw[labels == 0], raw[labels == 1]
    assert results["image_AUROC"] == pytest.approx(float((anomalous[:, None] > normal).double().mean()))
    assert len(raw.unique()) == len(raw)


def weights_of(model: Ckaad) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "processor" not in name}


def test_seed_makes_runs_equal_and_another_seed_different(folder_root: Path, tmp_path: Path) -> None:
    runs = []
    for run, seed in enumerate((3, 3, 4)):
        seed_everything(100 + run)  # what was drawn before must not matter
        model = make_model(seed=seed)
        make_engine(tmp_path / str(run)).fit(model, datamodule=make_folder_data(folder_root))
        runs.append(weights_of(model))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_resumed_training_equals_an_uninterrupted_one(folder_root: Path, tmp_path: Path) -> None:
    """To the last bit: without the cache, as which features are computed together changes their last bits."""
    whole = make_model(seed=1, cache={"memory": 0})
    make_engine(tmp_path / "whole", max_epochs=3).fit(whole, datamodule=make_folder_data(folder_root))

    first = make_model(seed=1, cache={"memory": 0})
    engine = make_engine(tmp_path / "first", max_epochs=1)
    engine.fit(first, datamodule=make_folder_data(folder_root))
    resumed = make_model(seed=1, cache={"memory": 0})
    torch.rand(17)  # what was drawn in between must not matter
    make_engine(tmp_path / "resumed", max_epochs=3).fit(
        resumed, datamodule=make_folder_data(folder_root), ckpt_path=engine.best_model_path
    )
    expected, actual = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert not all(torch.equal(expected[name], value) for name, value in weights_of(first).items())


def test_checkpoint_holds_plain_data_and_needs_no_network(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = {"backbone": "tf_efficientnet_lite0", "weights": "package", "pre_trained": True, "image_size": [64, 96]}
    model = make_model(**pack, layers=["blocks.2", "blocks.4"])
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=make_folder_data(folder_root))
    content = torch.load(engine.best_model_path, weights_only=True)
    assert content["hyper_parameters"]["layers"] == ("blocks.2", "blocks.4")
    assert content["hyper_parameters"]["image_size"] == (64, 96)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("looked for the network or for weights")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(lightning_model, "load_backbone_weights", refuse)
    monkeypatch.setattr(lightning_model, "check_weights", refuse)
    loaded = Ckaad.load_from_checkpoint(engine.best_model_path)
    for name, value in weights_of(model).items():
        assert torch.equal(loaded.state_dict()[name], value)
    # Training on from a checkpoint looks for no weights either: it holds them.
    engine = make_engine(tmp_path / "on", max_epochs=2)
    engine.fit(loaded, datamodule=make_folder_data(folder_root), ckpt_path=engine.best_model_path if False else None)


def test_weights_are_fetched_when_fitting_starts_and_not_before(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    monkeypatch.setattr(lightning_model, "load_backbone_weights", lambda backbone, weights: fetched.append(weights))
    model = make_model(pre_trained=True)
    make_engine(tmp_path).predict(model, datamodule=make_folder_data(folder_root))
    with pytest.raises(ValueError, match="cannot be exported"):
        make_engine(tmp_path).export(model, ExportType.TORCH, export_root=tmp_path)
    assert fetched == []
    make_engine(tmp_path).fit(model, datamodule=make_folder_data(folder_root))
    assert fetched == [None]


def test_warm_start_begins_with_another_trainings_weights(
    folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_model(seed=1)
    engine = make_engine(tmp_path)
    engine.fit(first, datamodule=make_folder_data(folder_root))
    fetched = []
    monkeypatch.setattr(lightning_model, "load_backbone_weights", lambda *_: fetched.append(1))
    second = make_model(seed=2, pre_trained=True, warm_start=engine.best_model_path)
    assert not torch.equal(next(second.discriminator.parameters()), next(first.discriminator.parameters()))
    make_engine(tmp_path / "on", limit_train_batches=0).fit(second, datamodule=make_folder_data(folder_root))
    for name, value in weights_of(first).items():
        assert torch.equal(second.state_dict()[name], value)
    assert fetched == []

    with pytest.raises(
        CheckpointError, match=r"trained with layers \(2, 3\), but the model has layers \(1, 2\)\. Pass"
    ):
        make_model(layers=(1, 2), warm_start=engine.best_model_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint none\.ckpt"):
        make_model(warm_start="none.ckpt")


def test_bf16(folder_root: Path, tmp_path: Path) -> None:
    model = make_model()
    engine = make_engine(tmp_path, precision="bf16-mixed")
    engine.fit(model, datamodule=make_folder_data(folder_root))
    assert all(value.dtype != torch.bfloat16 for value in model.state_dict().values())
    (results,) = engine.test(model, datamodule=make_folder_data(folder_root))
    assert 0 <= results["image_AUROC"] <= 1


def test_half_precision_that_needs_a_scaler_is_refused(folder_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"bf16-true\. Use one of 32-true, 64-true, bf16-mixed"):
        make_engine(tmp_path, precision="bf16-true").fit(make_model(), datamodule=make_folder_data(folder_root))


@pytest.mark.parametrize(("of_trainer", "expected"), [(None, 200), (3, 3), (1000, 1000)])
def test_epochs(of_trainer: int | None, expected: int, folder_root: Path, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, max_epochs=of_trainer, limit_train_batches=0)
    engine.fit(make_model(), datamodule=make_folder_data(folder_root))
    assert engine.trainer.max_epochs == expected


@pytest.mark.parametrize("of_trainer", [None, 3])
def test_epochs_that_hold_the_measured_steps(
    of_trainer: int | None, folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ckaad, "training_step", lambda *_: None)  # epochs are counted alone
    engine = make_engine(tmp_path, max_epochs=of_trainer, limit_val_batches=0)
    data = make_folder_data(folder_root)
    data.setup()
    batches = len(data.train_dataloader())
    engine.fit(make_model(preset="measured", calibrate=False), datamodule=data)
    least = of_trainer or -(-400 // batches)
    assert least <= engine.trainer.max_epochs < least + engine.trainer.check_val_every_n_epoch
    assert engine.trainer.max_epochs % engine.trainer.check_val_every_n_epoch == 0  # the last one is validated
    assert engine.trainer.current_epoch == engine.trainer.max_epochs


def test_epochs_of_the_papers_industrial_data(folder_root: Path, tmp_path: Path) -> None:
    class Visa(Folder):
        """Called as anomalib's."""

    data = make_folder_data(folder_root)
    data.__class__ = Visa
    engine = make_engine(tmp_path, max_epochs=None, limit_train_batches=0)
    engine.fit(make_model(), datamodule=data)
    assert engine.trainer.max_epochs == 400


def test_epochs_of_what_known_anomalies_wrap(folder_root: Path, tmp_path: Path) -> None:
    class Visa(Folder):
        """Called as anomalib's."""

    data = make_folder_data(folder_root)
    data.__class__ = Visa
    engine = make_engine(tmp_path, max_epochs=None, limit_train_batches=0)
    engine.fit(make_model(), datamodule=KnownAnomalies(data, count=1))
    assert engine.trainer.max_epochs == 400


def test_a_limit_of_steps_is_kept(folder_root: Path, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, max_epochs=None, max_steps=2)
    engine.fit(make_model(), datamodule=make_folder_data(folder_root))
    assert engine.trainer.global_step == 2  # Lightning counts the steps of both optimizers


@pytest.mark.parametrize("monitor", ["val_reconstruction", "image_AUROC"])
def test_early_stopping(monitor: str, folder_root: Path, tmp_path: Path) -> None:
    evaluator: Evaluator | bool = True
    split = {}
    if monitor == "image_AUROC":
        evaluator = Evaluator(val_metrics=[AUROC(fields=["raw_pred_score", "gt_label"], prefix="image_")])
        split = {"val_split_mode": "from_test", "val_split_ratio": 0.5}
    stopping = EarlyStopping(monitor=monitor, mode="min", patience=1, min_delta=100.0)
    engine = make_engine(tmp_path, max_epochs=9, callbacks=[stopping])
    engine.fit(make_model(evaluator=evaluator), datamodule=make_folder_data(folder_root, **split))
    assert stopping.stopped_epoch == 1


def normalize_of(model: Ckaad) -> Normalize:
    return model.pre_processor.transform.transforms[-1]


def test_images_are_normalized_as_the_backbone_was_pre_trained() -> None:
    assert normalize_of(make_model()).mean == [0.485, 0.456, 0.406]
    lite = make_model(backbone="tf_efficientnet_lite0")
    assert (normalize_of(lite).mean, normalize_of(lite).std) == ([0.5] * 3, [0.5] * 3)
    packaged = make_model(backbone="tf_efficientnet_lite0", weights="package")
    assert normalize_of(packaged).mean == pytest.approx([0.498] * 3, abs=1e-3)
    assert packaged.pre_processor.transform.transforms[0].size == [64, 64]


def test_a_pre_processor_of_ones_own_is_kept_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    own = PreProcessor(Compose([Resize((96, 64)), Normalize(mean=[0.0] * 3, std=[1.0] * 3)]))
    model = make_model(pre_processor=own)
    assert model.pre_processor is own
    assert "mean (0.485, 0.456, 0.406)" in caplog.text
    assert "mean [0.0, 0.0, 0.0]" in caplog.text
    caplog.clear()
    make_model(pre_processor=Ckaad.configure_pre_processor((96, 64), backbone="resnet18"))
    assert caplog.text == ""


class Brighten:
    """A maker that remembers what it was given."""

    def __call__(self, images: torch.Tensor, *, generator: torch.Generator | None = None) -> torch.Tensor:
        del generator
        self.seen = images
        return (images + 0.25).clamp(0, 1)


def train_batch(model: Ckaad, labels: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images = torch.rand(len(labels), 3, 64, 64) * 0.5
    batch = ImageBatch(image=model.pre_processor.transform(images), gt_label=torch.tensor(labels))
    found = model.learned_from(batch)
    return images, found.images, found.is_anomalous


def test_batches_without_known_anomalies_get_synthetic_ones_made_in_the_unit_range() -> None:
    maker = Brighten()
    model = make_model(synthesis=maker)
    images, used, is_anomalous = train_batch(model, [0, 0])
    assert torch.allclose(maker.seen, images, atol=1e-6)
    assert is_anomalous.tolist() == [False, False, True, True]
    normalize = normalize_of(model)
    step = 0.25 / torch.tensor(normalize.std).view(3, 1, 1)
    assert torch.allclose(used[2:], used[:2] + step, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "makes"),
    [
        ({}, True),
        ({"preset": "measured"}, False),
        ({"preset": "measured", "synthesis": True}, True),
        ({"preset": "measured", "synthesis": Brighten()}, True),
        ({"preset": "paper", "synthesis": False}, False),
    ],
)
def test_the_measured_preset_makes_no_anomalies_unless_asked(arguments: dict[str, Any], makes: bool) -> None:
    _, used, is_anomalous = train_batch(make_model(**arguments), [0, 0])
    assert len(used) == (4 if makes else 2)
    assert is_anomalous.any() == makes


@pytest.mark.parametrize("strategy", ["cka_patch", "recon_sub"])
def test_without_anomalies_any_strategy_trains_as_reconstruction_alone(
    folder_root: Path, tmp_path: Path, strategy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    trained = []
    for number, name in enumerate((strategy, "recon")):
        model = make_model(preset="measured", strategy=name, seed=0)
        make_engine(tmp_path / str(number), max_epochs=2).fit(model, datamodule=make_folder_data(folder_root))
        trained.append(model.model.state_dict())
        said = "this strategy learns from" if name == "recon" else "batches without known anomalies have"
        assert f"Training for 2 epochs; {said} normal images only" in caplog.text
        caplog.clear()
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(one, other) for one, other in zip(trained[0].values(), trained[1].values(), strict=True))


def test_batches_with_known_anomalies_use_those() -> None:
    maker = Brighten()
    model = make_model(synthesis=maker)
    images, used, is_anomalous = train_batch(model, [1, 0, 0, 1])
    assert is_anomalous.tolist() == [False, False, True, True]
    assert torch.allclose(used, model.pre_processor.transform(images)[[1, 2, 0, 3]])
    assert not hasattr(maker, "seen")


def test_both_kinds_or_known_ones_only_on_request() -> None:
    _, used, is_anomalous = train_batch(make_model(synthesis=True), [1, 0, 0])
    assert is_anomalous.tolist() == [False] * 2 + [True] * 3
    assert len(used) == 5
    _, _, is_anomalous = train_batch(make_model(synthesis=False), [0, 0])
    assert not is_anomalous.any()


def test_reconstruction_alone_needs_no_anomalies() -> None:
    maker = Brighten()
    _, used, is_anomalous = train_batch(make_model(strategy="recon", synthesis=maker), [0, 1, 0])
    assert len(used) == 2
    assert not is_anomalous.any()
    assert not hasattr(maker, "seen")


def test_a_batch_of_anomalies_only() -> None:
    with pytest.raises(DataError, match=r"2 anomalous images and no normal one"):
        train_batch(make_model(), [1, 1])


def test_a_single_training_image_and_a_batch_larger_than_the_set(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "good", 1)
    write_images(tmp_path / "data" / "test_good", 2)
    write_images(tmp_path / "data" / "bad", 2)
    data = make_folder_data(tmp_path / "data", train_batch_size=64, val_split_mode="same_as_test")
    model = make_model()
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=data)
    assert engine.trainer.global_step == 2  # one step of each optimizer


def test_an_empty_training_set(tmp_path: Path) -> None:
    (tmp_path / "data" / "good").mkdir(parents=True)
    write_images(tmp_path / "data" / "bad", 2)
    with pytest.raises(RuntimeError, match=r"Found 0 .* images in .*good"):  # anomalib's own words, and clear
        make_engine(tmp_path).fit(make_model(), datamodule=make_folder_data(tmp_path / "data", normal_test_dir=None))


def save_modes(folder: Path) -> None:
    """One image of each kind that anomalib reads as RGB."""
    folder.mkdir(parents=True)
    image = Image.effect_noise((80, 80), 50)
    for mode in ("L", "RGB", "RGBA", "P", "1", "CMYK"):
        image.convert(mode).save(folder / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}")


def test_grey_scale_palette_and_rgba_images(tmp_path: Path) -> None:
    for name in ("good", "test_good", "bad"):
        save_modes(tmp_path / "data" / name)
    engine = make_engine(tmp_path)
    model = make_model()
    engine.fit(model, datamodule=make_folder_data(tmp_path / "data"))
    assert engine.test(model, datamodule=make_folder_data(tmp_path / "data"))


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (
            lambda p: Image.new("I;16", (80, 80), 3000).save(p),
            ValueError,
            r"misread .*000\.png \(more than 8 bits per channel\).* Convert",
        ),
        (lambda p: p.write_bytes(b"not an image"), ImageFileError, r"Cannot read the image .*000\.png"),
        (lambda p: p.write_bytes(p.read_bytes()[:2000]), OSError, r"Cannot read the image .*000\.png"),
    ],
    ids=["16-bit", "not an image", "truncated"],
)
def test_unusable_images_are_named(break_it: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    for name in ("good", "test_good", "bad"):
        write_images(tmp_path / "data" / name, 3)
    break_it(tmp_path / "data" / "good" / "000.png")
    data = make_folder_data(tmp_path / "data", val_split_mode="same_as_test")
    with pytest.raises(error, match=message):
        make_engine(tmp_path).fit(make_model(), datamodule=data)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "000.png",
            lambda p: write_png(p, np.zeros((80, 80, 3), np.uint16)),
            r"misread .*000.* \(more than 8 bits per channel\)",
        ),
        ("000.dcm", lambda p: write_dicom(p, np.zeros((80, 80), np.uint16)), r"misread .*000\.dcm \(DICOM\)"),
    ],
)
def test_images_that_anomalib_would_misread(name: str, write: Any, message: str, tmp_path: Path) -> None:
    for folder in ("good", "test_good", "bad"):
        write_images(tmp_path / "data" / folder, 3)
    write(tmp_path / "data" / "good" / name)
    data = make_folder_data(tmp_path / "data", extensions=(".png", ".dcm"))
    with pytest.raises(ImageFileError, match=message):
        make_engine(tmp_path).fit(make_model(), datamodule=data)


def test_prediction_on_a_folder_looks_at_its_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path / "new", 2)
    write_turned(tmp_path / "new" / "turned.jpg", np.zeros((80, 60), np.uint8), 6)
    assert make_engine(tmp_path).predict(make_model(), data_path=tmp_path / "new")
    assert caplog.text.count("anomalib ignores the EXIF orientation of images; here of 1, such as ") == 1
    write_png(tmp_path / "new" / "cut.png", np.zeros((80, 80, 3), np.uint16))
    with pytest.raises(ImageFileError, match=r"misread .*cut\.png \(more than 8 bits per channel\)"):
        make_engine(tmp_path).predict(make_model(), data_path=tmp_path / "new")


def test_turned_photographs_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("good", "test_good", "bad"):
        write_images(tmp_path / "data" / folder, 4)
        write_turned(tmp_path / "data" / folder / "turned.jpg", np.zeros((80, 80, 3), np.uint8), 8)
    make_engine(tmp_path).fit(make_model(), datamodule=make_folder_data(tmp_path / "data"))
    assert caplog.text.count("anomalib ignores the EXIF orientation of images; here of 3, such as") == 1


def test_unusable_test_images_are_found_before_training(tmp_path: Path) -> None:
    for name in ("good", "test_good", "bad"):
        write_images(tmp_path / "data" / name, 3)
    (tmp_path / "data" / "bad" / "001.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"Cannot read the image .*bad/001\.png"):
        make_engine(tmp_path).fit(make_model(), datamodule=make_folder_data(tmp_path / "data"))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(folder_root: Path, tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Ckaad) -> None:
            if trainer.current_epoch == 1:
                next(pl_module.model.auto_encoder.parameters()).data.fill_(torch.nan)

    engine = make_engine(tmp_path, max_epochs=3, callbacks=[Poison()])
    with pytest.raises(NonFiniteLossError, match=r"Step 2, epoch 1: The .* loss is nan\. Lower `learning_rate`"):
        engine.fit(make_model(), datamodule=make_folder_data(folder_root))
    content = torch.load(engine.best_model_path, weights_only=True)
    assert all(
        torch.isfinite(value).all() for name, value in content["state_dict"].items() if name.startswith("model.")
    )
    assert Ckaad.load_from_checkpoint(engine.best_model_path)


def test_a_last_step_that_diverges_leaves_no_checkpoint(folder_root: Path, tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Ckaad, *args: Any) -> None:
            if trainer.is_last_batch:
                next(pl_module.model.auto_encoder.parameters()).data.fill_(torch.nan)

    engine = make_engine(tmp_path, callbacks=[Poison()])
    with pytest.raises(NonFiniteLossError, match=r"error of the validation images is nan"):
        engine.fit(make_model(), datamodule=make_folder_data(folder_root))
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "gann"}, r"`strategy` must be one of cka_patch, .*, not 'gann'"),
        ({"norm": "layer"}, r"`norm` in `research` must be instance or batch, not 'layer'"),
        ({"margin": 0}, r"`margin` in `research` must be a number greater than 0, not 0"),
        ({"balance": 1.5}, r"`balance` in `research` must be a number in \[0, 1\], not 1\.5"),
        ({"calibrate": "false"}, r"`calibrate` in `research` must be True, False or None, not 'false'"),
        ({"emphasize_known": "no"}, r"`emphasize_known` in `research` must be True or False, not 'no'"),
        ({"reconstruction_prior": -1}, r"`reconstruction_prior` .* must be .* at least 0, not -1"),
        (
            {"reconstruction_prior": float("nan")},
            r"`reconstruction_prior` .* must be .* at least 0, not nan",
        ),
        ({"learning_rate": float("nan")}, r"`learning_rate` must be a number greater than 0, not nan"),
        (
            {"score_top_k": 0},
            r"`score_top_k` must be a number of pixels of at least 1, all, power_mean, or None, not 0",
        ),
        ({"score_top_k": 5000}, r"`score_top_k` is 5000, but the anomaly map has only 4096 pixels"),
        ({"image_size": (64,)}, r"`image_size` must be one or two numbers of pixels, not \(64,\)"),
        ({"image_size": 32}, r"32x32 pixels are too small for layer layer3 of resnet18: at least 48x48"),
        ({"seed": -1}, r"`seed` must be a whole number in \[0, 2\^32\), or None, not -1"),
        ({"image_size": "64"}, r"`image_size` must be one or two numbers of pixels, not \('64', '64'\)"),
        ({"seed": 2**40}, r"`seed` must be a whole number in .*, not 1099511627776"),
        ({"layers": (True,)}, r"resnet18 has no layer True"),
        ({"layers": (2, 2)}, r"`layers` names 2 twice"),
        ({"layers": (9,)}, r"resnet18 has no layer 9"),
        ({"backbone": "resnet_18"}, r"timm has no model 'resnet_18'"),
        ({"pre_trained": True, "weights": "missing.pth"}, r"missing\.pth"),
        ({"research": {"marginal": 1}}, r"There is no `marginal` in `research`. Choose from .*margin"),
        ({"cache": {"disk": 1}}, r"There is no `disk` in `cache`. Choose from memory, folder, folder_limit"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_built(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CkaadError, match=message):
        make_model(**arguments)


def test_without_a_datamodule(folder_root: Path, tmp_path: Path) -> None:
    data = make_folder_data(folder_root)
    data.setup()
    loader = DataLoader(data.train_data, batch_size=2, collate_fn=data.train_data.collate_fn)
    engine = make_engine(tmp_path)
    engine.fit(make_model(), train_dataloaders=loader)
    assert engine.trainer.global_step > 0


def test_a_damaged_known_anomaly_is_named(folder_root: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "known", 2)
    damaged = tmp_path / "known" / "001.png"
    data = KnownAnomalies(make_folder_data(folder_root), known_anomaly_dir=tmp_path / "known")
    data.setup()
    damaged.write_bytes(damaged.read_bytes()[:2000])
    with pytest.raises(OSError, match=r"Cannot read the image .*known/001\.png"):
        make_engine(tmp_path / "results").fit(make_model(), datamodule=data)
