"""bfloat16 where the processor multiplies it in hardware, and nowhere that somebody has decided otherwise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine

from anomalib_ckaad.features.cache import FeatureCache
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.training import precision
from tests.conftest import make_folder_data
from tests.models import make_ckaad

CPU, FLOAT = torch.device("cpu"), torch.float32


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says whether this processor multiplies bfloat16 in hardware."""
    return lambda can: monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: can)


def test_by_what_the_processor_can_do(processor: Any) -> None:
    for can in (True, False):
        processor(can)
        assert precision.use_bfloat16(None, "32-true", CPU, FLOAT) is can
        assert precision.use_bfloat16(True, "32-true", CPU, FLOAT)
        assert not precision.use_bfloat16(False, "32-true", CPU, FLOAT)


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("64-true", "cpu", torch.float64),
        ("bf16-mixed", "cpu", FLOAT),
        ("32-true", "meta", FLOAT),
        ("32-true", "cpu", torch.float64),
    ],
)
def test_what_was_chosen_stands(processor: Any, name: str, device: str, dtype: torch.dtype) -> None:
    processor(True)
    for wanted in (None, True, False):
        assert not precision.use_bfloat16(wanted, name, torch.device(device), dtype)


def test_a_training_goes_on_in_the_precision_it_was_begun_in(processor: Any, folder_root: Path, tmp_path: Path) -> None:
    processor(True)
    fit(folder_root, tmp_path / "first", autocast=None, image_size=128)
    (path,) = (tmp_path / "first").glob("**/model.ckpt")
    assert torch.load(path, weights_only=True)["ckaad_bfloat16"] is True
    processor(False)  # another machine
    model = make_ckaad("resnet18", 2, pre_trained=False, image_size=128, seed=0, visualizer=False)
    engine = Engine(default_root_dir=tmp_path / "second", accelerator="cpu", enable_progress_bar=False, max_epochs=2)
    engine.fit(model, datamodule=make_folder_data(folder_root), ckpt_path=str(path))
    assert model.training_precision.uses_bfloat16


def test_a_new_training_of_loaded_weights_asks_the_processor_anew(
    processor: Any, folder_root: Path, tmp_path: Path
) -> None:
    processor(True)
    fit(folder_root, tmp_path / "first", autocast=None, image_size=128)
    (path,) = (tmp_path / "first").glob("**/model.ckpt")
    processor(False)
    model = Ckaad.load_from_checkpoint(path)
    engine = Engine(default_root_dir=tmp_path / "second", accelerator="cpu", enable_progress_bar=False, max_epochs=1)
    engine.fit(model, datamodule=make_folder_data(folder_root))
    assert not model.training_precision.uses_bfloat16


def fit(root: Path, folder: Path, **arguments: Any) -> tuple[Ckaad, set[torch.dtype], set[torch.dtype]]:
    """The model after an epoch and a test, and the types of reconstructions in training and elsewhere."""
    defaults = {"backbone": "resnet18", "layers": (2,), "pre_trained": False, "image_size": 64, "seed": 0}
    model = make_ckaad(**{**defaults, **arguments}, visualizer=False)
    training: set[torch.dtype] = set()
    elsewhere: set[torch.dtype] = set()

    def note(_module: Any, _args: Any, out: Any) -> None:
        (training if torch.is_grad_enabled() else elsewhere).add(out[0].dtype)

    model.model.auto_encoder.register_forward_hook(note)
    engine = Engine(default_root_dir=folder, accelerator="cpu", enable_progress_bar=False, max_epochs=1)
    engine.fit(model, datamodule=make_folder_data(root))
    engine.test(model, datamodule=make_folder_data(root))
    return model, training, elsewhere


def test_features_are_kept_in_the_precision_that_asks_for_them(
    processor: Any, folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training's in bfloat16; those of validation images in float32, and calibration's as well, which are not kept."""
    processor(True)
    kept: list[tuple[str, torch.dtype]] = []
    remember = FeatureCache._remember

    def note(cache: FeatureCache, name: str, precision: str, row: list[torch.Tensor], image: torch.Tensor) -> None:
        kept.append((Path(name).parent.name, row[0].dtype))
        remember(cache, name, precision, row, image)

    monkeypatch.setattr(FeatureCache, "_remember", note)
    model, _, _ = fit(folder_root, tmp_path, image_size=128, calibrate=True)
    assert model.model.calibration.is_set
    assert sorted(kept, key=str) == [("good", torch.bfloat16)] * 4 + [("good", FLOAT)] * 2


@pytest.mark.parametrize(
    ("autocast", "size", "expected"),
    [(True, 64, torch.bfloat16), (False, 128, FLOAT), (None, 64, FLOAT), (None, 128, torch.bfloat16)],
)
def test_only_training_runs_in_it(
    autocast: Any, size: int, expected: torch.dtype, processor: Any, folder_root: Path, tmp_path: Path
) -> None:
    """Validation sets the thresholds of the test's scores: both stay in float32. Small images gain nothing."""
    processor(True)
    model, training, elsewhere = fit(folder_root, tmp_path, autocast=autocast, image_size=size)
    assert training == {expected}
    assert elsewhere == {FLOAT}
    assert {parameter.dtype for parameter in model.parameters()} == {FLOAT}
