"""bfloat16 where it is measured to be faster, and nowhere that somebody has decided otherwise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine

from anomalib_ckaad.features.cache import FeatureCache
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.training import precision
from tests.conftest import make_folder_data

CPU, FLOAT = torch.device("cpu"), torch.float32


@pytest.fixture
def speed_up(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda value: monkeypatch.setattr(precision, "bfloat16_speed_up", lambda: value)


def test_measured(speed_up: Any) -> None:
    for value, expected in ((0.0, False), (1.49, False), (1.5, True), (4.0, True)):
        speed_up(value)
        assert precision.use_bfloat16(None, "32-true", CPU, FLOAT) is expected
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
def test_what_was_chosen_stands(speed_up: Any, name: str, device: str, dtype: torch.dtype) -> None:
    speed_up(4.0)
    for wanted in (None, True, False):
        assert not precision.use_bfloat16(wanted, name, torch.device(device), dtype)


def test_no_such_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(precision.functional, "conv2d", refuse)
    precision.bfloat16_speed_up.cache_clear()
    assert precision.bfloat16_speed_up() == 0
    precision.bfloat16_speed_up.cache_clear()


@pytest.mark.parametrize("stalled", [range(10), range(10, 20), range(0, 20, 3)])
def test_other_programs_do_not_decide(stalled: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 takes 4 seconds and bfloat16 one; other programs make half of the runs a hundred times as long."""
    now, runs = [0.0], [0]

    def convolve(images: torch.Tensor, *_: Any, **__: Any) -> None:
        now[0] += (4 if images.dtype == FLOAT else 1) * (100 if runs[0] in stalled else 1)
        runs[0] += 1

    monkeypatch.setattr(precision.functional, "conv2d", convolve)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    precision.bfloat16_speed_up.cache_clear()
    threads = torch.get_num_threads()
    assert precision.bfloat16_speed_up() == 4
    assert torch.get_num_threads() == threads
    precision.bfloat16_speed_up.cache_clear()


def test_a_training_goes_on_in_the_precision_it_was_begun_in(speed_up: Any, folder_root: Path, tmp_path: Path) -> None:
    speed_up(4.0)
    fit(folder_root, tmp_path / "first", autocast=None, image_size=128)
    (path,) = (tmp_path / "first").glob("**/model.ckpt")
    assert torch.load(path, weights_only=True)["ckaad_bfloat16"] is True
    speed_up(1.0)  # measured anew on a machine that does other work
    model = Ckaad("resnet18", 2, pre_trained=False, image_size=128, seed=0, max_epochs=2, visualizer=False)
    engine = Engine(default_root_dir=tmp_path / "second", accelerator="cpu", enable_progress_bar=False)
    engine.fit(model, datamodule=make_folder_data(folder_root), ckpt_path=str(path))
    assert model._use_bfloat16


def test_a_new_training_of_loaded_weights_is_measured_anew(speed_up: Any, folder_root: Path, tmp_path: Path) -> None:
    speed_up(4.0)
    fit(folder_root, tmp_path / "first", autocast=None, image_size=128)
    (path,) = (tmp_path / "first").glob("**/model.ckpt")
    speed_up(1.0)
    model = Ckaad.load_from_checkpoint(path)
    engine = Engine(default_root_dir=tmp_path / "second", accelerator="cpu", enable_progress_bar=False)
    engine.fit(model, datamodule=make_folder_data(folder_root))
    assert not model._use_bfloat16


def test_measuring_draws_no_random_numbers() -> None:
    precision.bfloat16_speed_up.cache_clear()
    state = torch.get_rng_state()
    assert precision.bfloat16_speed_up() > 0
    assert torch.equal(state, torch.get_rng_state())


def fit(root: Path, folder: Path, **arguments: Any) -> tuple[Ckaad, set[torch.dtype], set[torch.dtype]]:
    """The model after an epoch and a test, and the types of reconstructions in training and elsewhere."""
    defaults = {"backbone": "resnet18", "layers": (2,), "pre_trained": False, "image_size": 64, "seed": 0}
    model = Ckaad(**{**defaults, **arguments}, max_epochs=1, visualizer=False)
    training: set[torch.dtype] = set()
    elsewhere: set[torch.dtype] = set()

    def note(_module: Any, _args: Any, out: Any) -> None:
        (training if torch.is_grad_enabled() else elsewhere).add(out[0].dtype)

    model.model.auto_encoder.register_forward_hook(note)
    engine = Engine(default_root_dir=folder, accelerator="cpu", enable_progress_bar=False)
    engine.fit(model, datamodule=make_folder_data(root))
    engine.test(model, datamodule=make_folder_data(root))
    return model, training, elsewhere


def test_features_are_kept_in_the_precision_that_asks_for_them(
    speed_up: Any, folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training's in bfloat16; those of validation images in float32, and calibration's as well, which are not kept."""
    speed_up(4.0)
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
    autocast: Any, size: int, expected: torch.dtype, speed_up: Any, folder_root: Path, tmp_path: Path
) -> None:
    """Validation sets the thresholds of the test's scores: both stay in float32. Small images gain nothing."""
    speed_up(4.0)
    model, training, elsewhere = fit(folder_root, tmp_path, autocast=autocast, image_size=size)
    assert training == {expected}
    assert elsewhere == {FLOAT}
    assert {parameter.dtype for parameter in model.parameters()} == {FLOAT}
