"""Checkpoints: no code of theirs runs, and what does not fit is refused in one sentence before anything is written."""

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from anomalib.models import Padim

from anomalib_ckaad import __version__
from anomalib_ckaad.__main__ import main
from anomalib_ckaad.errors import CheckpointError, WeightsError
from anomalib_ckaad.host import checkpoint_io
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.thresholds import RatePostProcessor
from anomalib_ckaad.training.checkpoints import check_fit, read_checkpoint
from anomalib_ckaad.weights.loading import load_backbone_weights
from tests.conftest import make_folder_data, write_images
from tests.image_files import write_dicom
from tests.models import make_ckaad

TINY = {"backbone": "resnet18", "layers": (2, 3), "image_size": 64, "pre_trained": False, "visualizer": False}


def make_engine(root: Path) -> Engine:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    return Engine(default_root_dir=root, **quiet)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name, count in (("good", 4), ("test_good", 2), ("bad", 2)):
        write_images(root / name, count)
    return root


@pytest.fixture(scope="module")
def checkpoint(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine = make_engine(tmp_path_factory.mktemp("trained"))
    model = make_ckaad(**TINY, post_processor=RatePostProcessor(image_false_positive_rate=0.4))
    engine.fit(model, datamodule=make_folder_data(data_root))
    return Path(engine.best_model_path)


@pytest.fixture(scope="module")
def padim(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine = make_engine(tmp_path_factory.mktemp("padim"))
    model = Padim(backbone="resnet18", layers=["layer1"], n_features=8, pre_trained=False, visualizer=False)
    engine.fit(model, datamodule=make_folder_data(data_root))
    return Path(engine.best_model_path)


class Intruder:
    """Makes a folder where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.trace,)


def write_malicious(path: Path, trace: Path, good: Path, how: str) -> None:
    content = torch.load(good, weights_only=True)
    content["callbacks"] = Intruder(trace)
    if how == "zip":
        torch.save(content, path)
    elif how == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Intruder(trace)}, protocol=2))


def load(path: Path, data: Path, root: Path) -> None:
    del data, root
    Ckaad.load_from_checkpoint(path)


def warm_start(path: Path, data: Path, root: Path) -> None:
    del data, root
    make_ckaad(**TINY, warm_start=path)


def engine_fit(path: Path, data: Path, root: Path) -> None:
    make_engine(root).fit(make_ckaad(**TINY), datamodule=make_folder_data(data), ckpt_path=path)


def engine_validate(path: Path, data: Path, root: Path) -> None:
    make_engine(root).validate(make_ckaad(**TINY), datamodule=make_folder_data(data), ckpt_path=path)


def engine_test(path: Path, data: Path, root: Path) -> None:
    make_engine(root).test(make_ckaad(**TINY), datamodule=make_folder_data(data), ckpt_path=path)


def engine_predict(path: Path, data: Path, root: Path) -> None:
    make_engine(root).predict(make_ckaad(**TINY), data_path=data / "bad", ckpt_path=path)


def engine_export(path: Path, data: Path, root: Path) -> None:
    del data
    make_engine(root).export(make_ckaad(**TINY), "torch", export_root=root / "exported", ckpt_path=path)


LOADERS = [load, warm_start, engine_fit, engine_validate, engine_test, engine_predict, engine_export]


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.__name__)
def test_code_in_a_checkpoint_never_runs(
    loader: Callable[..., None],
    how: str,
    checkpoint: Path,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even where the environment asks torch for it, as Lightning leaves the decision to torch."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trace = tmp_path / "trace"
    write_malicious(tmp_path / "bad.ckpt", trace, checkpoint, how)
    with pytest.raises(CheckpointError, match=r"bad\.ckpt was not loaded: it asks for \w+\.mkdir, code"):
        loader(tmp_path / "bad.ckpt", data_root, tmp_path / "results")
    assert not trace.exists()
    with suppress(RuntimeError, pickle.UnpicklingError):
        torch.load(tmp_path / "bad.ckpt", weights_only=False)  # the file does what it is here for
    assert trace.exists()


def test_weights_of_a_backbone_run_no_code_either(tmp_path: Path) -> None:
    torch.save({"state_dict": Intruder(tmp_path / "trace")}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth was not loaded: it asks for"):
        load_backbone_weights(make_ckaad(**TINY).model.backbone, str(tmp_path / "w.pth"))
    assert not (tmp_path / "trace").exists()


def test_code_cannot_be_allowed(checkpoint: Path) -> None:
    message = r"`weights_only` is False"
    with pytest.raises(CheckpointError, match=message):
        Ckaad.load_from_checkpoint(checkpoint, weights_only=False)
    with pytest.raises(CheckpointError, match=message):
        Ckaad.load_from_checkpoint(checkpoint, None, None, None, False)
    assert Ckaad.load_from_checkpoint(checkpoint, weights_only=True)


def missing(path: Path, good: Path, padim: Path) -> None:
    """Write nothing."""


def folder(path: Path, good: Path, padim: Path) -> None:
    path.mkdir()


def truncated(path: Path, good: Path, padim: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def damaged(path: Path, good: Path, padim: Path) -> None:
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def empty(path: Path, good: Path, padim: Path) -> None:
    path.touch()


def text(path: Path, good: Path, padim: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1")


def of_padim(path: Path, good: Path, padim: Path) -> None:
    shutil.copy(padim, path)


def weights_only_file(path: Path, good: Path, padim: Path) -> None:
    torch.save(torch.load(good, weights_only=True)["state_dict"], path)


def a_tensor(path: Path, good: Path, padim: Path) -> None:
    torch.save(torch.zeros(3), path)


BROKEN = [
    (missing, r"There is no checkpoint .*broken\.ckpt\. Correct the path\."),
    (folder, r"broken\.ckpt is a folder\. Pass the file in it, such as .*broken\.ckpt/model\.ckpt"),
    (truncated, r"broken\.ckpt cannot be read .*\(RuntimeError\)\. Copy it again"),
    (damaged, r"broken\.ckpt cannot be read .*\(BadZipFile\)\. Copy it again"),
    (empty, r"broken\.ckpt cannot be read .*\(EOFError\)\. Copy it again"),
    (text, r"broken\.ckpt cannot be read .*\(UnpicklingError\)\. Copy it again"),
    (of_padim, r"is not of Ckaad: it has no auto-encoder\. Pass"),
    (weights_only_file, r"is not of Ckaad: it has no auto-encoder\. Pass"),
    (a_tensor, r"is not of Ckaad: it has no auto-encoder\. Pass"),
]


@pytest.mark.parametrize(("breaks", "message"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
@pytest.mark.parametrize("loader", [load, warm_start, engine_test, engine_export], ids=lambda loader: loader.__name__)
def test_broken_checkpoints(
    loader: Callable[..., None],
    breaks: Callable[..., None],
    message: str,
    checkpoint: Path,
    padim: Path,
    data_root: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "broken.ckpt"
    breaks(path, checkpoint, padim)
    with pytest.raises(CheckpointError, match=message):
        loader(path, data_root, tmp_path / "results")
    assert not list(tmp_path.rglob("*.pt"))


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run ``python -m anomalib_ckaad`` in this process; what it wrote on standard error when it refused."""
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def command_of(subcommand: str, data: Path, root: Path, checkpoint: Path, **model: Any) -> list[str]:
    options = {"backbone": "resnet18", "layers": "[2, 3]", "image_size": "64", "pre_trained": "false", **model}
    command = [subcommand, "--model", "Ckaad", *(f"--model.{name}={value}" for name, value in options.items())]
    command += ["--ckpt_path", str(checkpoint), "--default_root_dir", str(root)]
    if subcommand == "export":
        return [*command, "--export_type", "torch"]
    if subcommand == "predict":
        return [*command, "--data", str(data / "bad")]
    return [*command, "--data", "Folder", "--data.name", "tiny", f"--data.root={data}", "--data.normal_dir", "good"]


def test_predicting_a_folder_of_dicom_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dicom(tmp_path / "bad" / "1.dcm", np.zeros((4, 4), np.uint16))
    command = command_of("predict", tmp_path, tmp_path / "results", tmp_path / "none.ckpt")
    error = run_main(monkeypatch, capsys, *command)
    assert "1.dcm" in error
    assert "anomalib-ckaad convert" in error
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("subcommand", ["train", "test", "predict", "export"])
def test_the_command_line_refuses_before_anything_is_written(
    subcommand: str,
    checkpoint: Path,
    padim: Path,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    trace, results = tmp_path / "trace", tmp_path / "results"
    write_malicious(tmp_path / "bad.ckpt", trace, checkpoint, "zip")
    cases = {
        tmp_path / "bad.ckpt": "was not loaded: it asks for ",
        tmp_path / "none.ckpt": "There is no checkpoint ",
        padim: "is not of Ckaad",
    }
    for path, said in cases.items():
        error = run_main(monkeypatch, capsys, *command_of(subcommand, data_root, results, path))
        assert said in error
        assert str(path) in error
    if subcommand != "export":  # which takes the checkpoint's architecture
        command = command_of(subcommand, data_root, results, checkpoint, backbone="resnet34", layers="[1, 2]")
        error = run_main(monkeypatch, capsys, *command)
        assert error == (
            "The checkpoint was trained with backbone 'resnet18', layers (2, 3), but the model has backbone "
            "'resnet34', layers (1, 2). Pass the checkpoint's backbone and layers."
        )
    assert not trace.exists()
    assert not results.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet34"}, r"trained with backbone 'resnet18', but the model has backbone 'resnet34'\."),
        ({"layers": (1, 2)}, r"trained with layers \(2, 3\), but the model has layers \(1, 2\)\. Pass the"),
        ({"norm": "batch"}, r"trained with norm 'instance', but the model has norm 'batch'\."),
        ({"strategy": "recon"}, r"trained with strategy 'cka_patch', but the model has strategy 'recon'\."),
    ],
)
def test_another_architecture(
    arguments: dict[str, Any], message: str, checkpoint: Path, data_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        make_engine(tmp_path).test(
            make_ckaad(**{**TINY, **arguments}), datamodule=make_folder_data(data_root), ckpt_path=checkpoint
        )
    with pytest.raises(CheckpointError, match=message):
        make_ckaad(**{**TINY, **arguments}).on_load_checkpoint(read_checkpoint(checkpoint))


def test_a_tensor_is_named_where_the_arguments_do_not_tell(checkpoint: Path) -> None:
    content = read_checkpoint(checkpoint)
    content["hyper_parameters"] = {}
    with pytest.raises(CheckpointError, match=r"tensor 'model\..*' has .* in the checkpoint and .* in the model"):
        check_fit(make_ckaad(**{**TINY, "layers": (1, 2)}), content)


def test_a_warm_start_leaves_the_discriminator_of_another_strategy_out(checkpoint: Path) -> None:
    assert make_ckaad(**TINY, strategy="recon", warm_start=checkpoint)
    with pytest.raises(
        CheckpointError, match=r"trained with strategy 'cka_patch', but the model has strategy 'cka_image'"
    ):
        make_ckaad(**TINY, strategy="cka_image", warm_start=checkpoint)


def test_the_same_stages_by_other_names_fit(checkpoint: Path) -> None:
    assert Ckaad.load_from_checkpoint(checkpoint, layers=("layer2", "layer3"))


def test_a_calibrated_map_is_not_undone(tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = read_checkpoint(checkpoint)
    make_ckaad(**TINY, calibrate=False).on_load_checkpoint(content)
    assert "calibrated" not in caplog.text
    content["state_dict"]["model.calibration.whitening_0"] = torch.eye(2)[None, None]
    make_ckaad(**TINY, calibrate=False).on_load_checkpoint(content)
    assert "The checkpoint's map is calibrated: calibrate=False has an effect on a new training only." in caplog.text
    caplog.clear()
    make_ckaad(**TINY, calibrate=True).on_load_checkpoint(content)
    assert "has no effect" not in caplog.text
    make_ckaad(**TINY, calibrate=True, reconstruction_prior=0, emphasize_known=False).on_load_checkpoint(content)
    for asked in ("reconstruction_prior=0", "emphasize_known=False"):
        assert f"The checkpoint's map is calibrated: {asked} has an effect on a new training only." in caplog.text


def test_arguments_that_change_scores_are_warned_of(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_ckaad(**TINY, score_top_k=7).on_load_checkpoint(read_checkpoint(checkpoint))
    assert "trained with score_top_k 100, not 7" in caplog.text


@pytest.mark.parametrize(
    ("versions", "warning"),
    [
        ({}, None),
        ({"anomalib_ckaad_version": "0.0.9"}, None),
        ({"anomalib_ckaad_version": f"{__version__}.dev1+local"}, None),
        (
            {"anomalib_ckaad_version": "99.0.0"},
            f"anomalib-ckaad 99.0.0, which is newer than the installed {__version__}. Upgrade",
        ),
        ({"anomalib_version": "99.1"}, "anomalib 99.1, which is newer than the installed"),
    ],
)
def test_versions(
    versions: dict[str, str], warning: str | None, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = read_checkpoint(checkpoint)
    assert content["anomalib_ckaad_version"] == __version__
    assert content["anomalib_version"]
    torch.save({**content, **versions}, checkpoint.parent / "versions.ckpt")
    Ckaad.load_from_checkpoint(checkpoint.parent / "versions.ckpt")
    assert (warning or "newer than") in caplog.text if warning else "newer than" not in caplog.text


def test_a_checkpoint_without_versions_loads(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = read_checkpoint(checkpoint)
    for key in ("anomalib_ckaad_version", "anomalib_version"):
        del content[key]
    torch.save(content, checkpoint.parent / "older.ckpt")
    assert Ckaad.load_from_checkpoint(checkpoint.parent / "older.ckpt")
    assert "newer than" not in caplog.text


def test_a_reader_of_ones_own_is_kept(data_root: Path, checkpoint: Path, tmp_path: Path) -> None:
    class Own(checkpoint_io.AnomalibCheckpointIO):
        read: list[Path] = []

        def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
            self.read.append(path)
            return super().load_checkpoint(path, *args, **kwargs)

    engine = Engine(default_root_dir=tmp_path, plugins=[own := Own()], accelerator="cpu", logger=False)
    engine.test(make_ckaad(**TINY), datamodule=make_folder_data(data_root), ckpt_path=checkpoint)
    assert own.read == [checkpoint]
