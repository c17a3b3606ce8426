"""Whatever ends a training, thresholds and checkpoints that are kept are of a calibrated map."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from torchvision.transforms.v2 import Compose, RandomInvert, Resize

from anomalib_ckaad import Ckaad
from anomalib_ckaad.training import training_images
from anomalib_ckaad.training.length import TrainingLength
from tests.conftest import make_folder_data
from tests.test_calibration import make_model

BATCHES = 2
"""Of an epoch of ``folder_root``."""


class Validations(Callback):
    """Remembers after which epochs there was a validation, and whether the map was calibrated for it."""

    def __init__(self) -> None:
        self.found: list[tuple[int, bool]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Ckaad)
        if not trainer.sanity_checking:
            self.found.append((trainer.current_epoch, pl_module.model.calibration.is_set))


class StopAfter(Callback):
    """Asks for an end after an epoch that nothing else says is the last."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del pl_module
        trainer.should_stop = trainer.current_epoch >= self.epoch


def fit(model: Ckaad, root: Path, output: Path, *callbacks: Callback, **arguments: Any) -> tuple[Engine, Validations]:
    watching = Validations()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    engine = Engine(default_root_dir=output, callbacks=[*callbacks, watching], **quiet, **arguments)
    data = make_folder_data(root)
    engine.fit(model, datamodule=data)
    return engine, watching


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # Ends in the middle of epoch 3, which is not validated; a batch may take two steps, and takes one here.
        ({"max_epochs": 20, "max_steps": 3 * BATCHES + 1}, [(0, False), (1, True), (2, True)]),
        ({"max_epochs": -1, "max_steps": 4 * BATCHES}, [(0, False), (1, True), (2, True), (3, True)]),
        ({"max_epochs": 4, "check_val_every_n_epoch": None, "val_check_interval": 3}, [(1, True), (2, True)]),
        ({"max_epochs": 5, "check_val_every_n_epoch": 2}, [(1, False), (3, True)]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [(1, True)]),
        ({"max_epochs": 2, "callbacks": [Timer(timedelta(hours=9))]}, [(0, True), (1, True)]),
        ({"max_epochs": 2, "callbacks": [ModelCheckpoint(monitor="val_reconstruction")]}, [(0, True), (1, True)]),
        ({"max_epochs": 3, "callbacks": [ModelCheckpoint(every_n_epochs=2)]}, [(0, True), (1, True), (2, True)]),
        ({"max_epochs": 2, "callbacks": [EarlyStopping("val_reconstruction")]}, [(0, True), (1, True)]),
        ({"max_epochs": 2}, [(0, False), (1, True)]),
    ],
)
def test_what_may_be_kept_is_calibrated(
    arguments: dict[str, Any], expected: list[tuple[int, bool]], folder_root: Path, tmp_path: Path
) -> None:
    given = dict(arguments)
    model = make_model(strategy="recon")
    engine, validations = fit(model, folder_root, tmp_path, *given.pop("callbacks", []), **given)
    assert validations.found == expected
    assert model.model.calibration.is_set
    assert Ckaad.load_from_checkpoint(engine.best_model_path).model.calibration.is_set


def test_an_end_that_could_not_be_foreseen_keeps_the_map_that_thresholds_are_of(
    folder_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(strategy="recon")
    _, validations = fit(model, folder_root, tmp_path, StopAfter(1), max_epochs=9)
    assert validations.found == [(0, False), (1, False)]
    assert not model.model.calibration.is_set
    assert "Training ended after epoch 1" in caplog.text


def test_an_end_without_validation_is_calibrated(folder_root: Path, tmp_path: Path) -> None:
    model = make_model(strategy="recon")
    fit(model, folder_root, tmp_path, StopAfter(1), max_epochs=9, limit_val_batches=0)
    assert model.model.calibration.is_set


def test_a_preset_number_of_steps_is_saved_without_validation(folder_root: Path, tmp_path: Path) -> None:
    model = make_model(strategy="recon", preset="measured")
    engine, _ = fit(model, folder_root, tmp_path, StopAfter(1), limit_val_batches=0)
    assert engine.trainer.max_epochs > 100
    assert Ckaad.load_from_checkpoint(engine.best_model_path).model.calibration.is_set


def test_a_resumed_training_that_ends_without_validation_keeps_its_map(
    folder_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(strategy="recon")
    engine, validations = fit(model, folder_root, tmp_path, StopAfter(1), max_epochs=9, check_val_every_n_epoch=2)
    assert validations.found == [(1, False)]
    resumed = make_model(strategy="recon")
    again = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=3, check_val_every_n_epoch=2)
    again.fit(resumed, datamodule=make_folder_data(folder_root), ckpt_path=engine.best_model_path)
    assert again.trainer.current_epoch == 3
    assert not resumed.model.calibration.is_set
    assert "Training ended after epoch 2" in caplog.text


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_images_at_once_than_are_scored_at_once(count: int, folder_root: Path, tmp_path: Path) -> None:
    data = make_folder_data(folder_root, eval_batch_size=count)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1)
    engine.fit(make_model(strategy="recon"), datamodule=data)
    assert [len(batch.image) for batch in training_images.normal_batches(engine.trainer)] == (
        [1] * 4 if count == 1 else [3, 1]
    )


def test_patience_counts_epochs_where_nobody_has_limited_them(folder_root: Path, tmp_path: Path) -> None:
    model = make_model(strategy="recon", preset="measured")
    stopping = EarlyStopping("val_reconstruction", patience=2, min_delta=100.0)
    engine, validations = fit(model, folder_root, tmp_path, stopping)
    assert engine.trainer.max_epochs > 100  # few images: validated every few epochs where nothing is watched
    assert [epoch for epoch, _ in validations.found] == [0, 1, 2]


def test_calibration_sees_images_as_they_are_scored(folder_root: Path) -> None:
    always = Compose([RandomInvert(p=1.0), Resize((64, 64))])
    data = make_folder_data(folder_root, train_augmentations=always, num_workers=0)
    model = make_model()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer = trainer
    trainer.datamodule = data  # type: ignore[attr-defined]
    model.trainer = trainer
    data.setup("fit")
    plain = make_folder_data(folder_root)
    plain.setup("fit")
    (batch,) = training_images.normal_batches(trainer)
    expected = torch.stack([item.image for item in plain.train_data])
    torch.testing.assert_close(batch.image, expected)
    assert isinstance(data.train_data.augmentations, Compose)  # training goes on with its own


def trainer_with(max_epochs: int | None, **arguments: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=max_epochs, **quiet, **arguments)
    trainer.fit_loop.max_batches = BATCHES
    return trainer


def test_each_training_of_one_model_has_its_own_length() -> None:
    """The preset's where the trainer has no limit, else the trainer's; a training before it does not matter."""
    length = TrainingLength(steps=400)
    for limit in (None, 5, None):
        trainer = trainer_with(limit)
        for _ in range(2):  # Lightning may attach a model more than once
            length.attach(trainer)
        length.on_train_start(trainer, pl.LightningModule())
        assert trainer.max_epochs == (limit or 400 // BATCHES)


def test_a_limit_of_steps_is_a_limit_and_one_of_time_is_another() -> None:
    """What measures or limits time does not make a training endless: the preset's length still holds."""
    for arguments, expected in (
        ({"max_steps": 7}, None),  # Lightning takes this for no limit of epochs
        ({"max_time": {"minutes": 1}}, 400 // BATCHES),
        ({"callbacks": [Timer()]}, 400 // BATCHES),
    ):
        trainer, length = trainer_with(None, **arguments), TrainingLength(steps=400)
        length.attach(trainer)
        length.on_train_start(trainer, pl.LightningModule())
        assert trainer.max_epochs == expected


def test_the_log_tells_a_limit_of_steps(folder_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fit(make_model(strategy="recon"), folder_root, tmp_path, max_epochs=-1, max_steps=1)
    assert "Training for 1 step;" in caplog.text
