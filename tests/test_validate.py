"""`anomalib-ckaad validate` with a stand-in for the exported file, and bad input to the command."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_ckaad.cli import main as cli
from anomalib_ckaad.cli import validation
from anomalib_ckaad.cli.validation import load_checkpoint, make_table, run_validate
from anomalib_ckaad.errors import (
    CheckpointError,
    CkaadError,
    ConfigurationError,
    DataError,
    ExportError,
    FileError,
    MissingDataError,
    MissingPackageError,
)
from anomalib_ckaad.export import whole
from anomalib_ckaad.export.runtimes import Array, Exported, load_exported
from anomalib_ckaad.export.validate import Comparison, compare
from anomalib_ckaad.export.validation_images import find_test_images
from anomalib_ckaad.lightning_model import Ckaad
from tests.conftest import write_images
from tests.test_export import tiny

Outputs = dict[str, Array]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for folder, size in (("Good", 80), ("bad", 96), ("ground_truth/bad", 96)):
        write_images(tmp_path / folder, 3, size)
    return tmp_path


def stand_in(model: Ckaad, change: Callable[[Outputs], Outputs], size: tuple[int, int] | None = None) -> Exported:
    def run(given: Array) -> Outputs:
        assert size is None or given.shape[-2:] == size
        with torch.no_grad(), model.raw_outputs():
            return change(
                {name: value.numpy().copy() for name, value in model(torch.from_numpy(given))._asdict().items()}
            )

    return Exported("a stand-in", size, run)


def compared(folder: Path, change: Callable[[Outputs], Outputs], size: tuple[int, int] | None = None) -> Comparison:
    model = tiny()
    return compare(model, stand_in(model, change, size), find_test_images(folder))


def test_equal_outputs_agree_at_any_tolerance(images: Path) -> None:
    found = compared(images, lambda outputs: outputs)
    assert found.within(0)
    assert set(found.differences.values()) == {0.0}
    assert (found.flipped_labels, found.flipped_pixels, found.resized, found.raw) == (0, 0, 0, True)
    assert found.labels is not None
    assert found.labels.tolist() == [False] * 3 + [True] * 3
    assert [len(seconds) for seconds in found.seconds] == [6, 6]


@pytest.mark.parametrize("name", ["pred_score", "anomaly_map", "raw_pred_score", "raw_anomaly_map"])
@pytest.mark.parametrize("error", [0.01, math.nan])
def test_any_output_that_differs_is_found(name: str, error: float, images: Path) -> None:
    found = compared(images, lambda outputs: {**outputs, name: outputs[name] + np.float32(error)})
    assert not found.within(0.009)
    assert found.within(0.011) == (error == 0.01)


@pytest.mark.parametrize("names", [["anomaly_map"], ["pred_mask"], ["anomaly_map", "pred_mask"]])
def test_maps_of_another_size_differ(names: list[str], images: Path) -> None:
    found = compared(images, lambda outputs: {**outputs, **{name: outputs[name][..., :-1] for name in names}})
    assert found.within(1e9) == ("anomaly_map" not in names)  # pixels may flip
    assert found.flipped_pixels == (0 if "pred_mask" not in names else 6 * 64 * 64)


def test_a_model_that_gives_no_numbers_does_not_agree_with_itself(images: Path) -> None:
    model = tiny()
    for parameter in model.model.auto_encoder.parameters():
        parameter.data.fill_(math.nan)
    found = compare(model, stand_in(model, lambda outputs: outputs), find_test_images(images))
    assert found.not_finite == 6
    assert not found.within(1e9)
    assert found.auroc is None
    assert "not finite" in "".join(str(cell) for cell in make_table(found, "any").columns[0].cells)


def test_flipped_labels_differ_and_flipped_pixels_are_counted(images: Path) -> None:
    def flip(outputs: Outputs) -> Outputs:
        outputs["pred_mask"][0, 0, 0, :2] ^= True
        return {**outputs, "pred_label": ~outputs["pred_label"]}

    found = compared(images, flip)
    assert (found.flipped_labels, found.flipped_pixels) == (6, 12)
    assert not found.within(1)
    assert dataclasses.replace(found, flipped_labels=0).within(1)


def test_a_file_without_labels_and_raw_outputs_is_compared_on_what_it_has(images: Path) -> None:
    found = compared(images, lambda outputs: {name: outputs[name] for name in ("pred_score", "anomaly_map")})
    assert found.within(0)
    assert not found.raw
    assert found.flipped_labels is None
    flat = compared(images, lambda outputs: {**outputs, "raw_pred_score": outputs["raw_pred_score"]})
    assert flat.cut_off == 0
    ones = dataclasses.replace(found, scores=(np.ones(6), np.ones(6)))
    assert ones.cut_off == 6
    assert "6 of them are clamped" in str(make_table(ones, "any").caption)
    assert make_table(found, "any").row_count == 6


@pytest.mark.parametrize("size", [(64, 64), (300, 50)])
def test_images_are_resized_for_a_file_of_one_size(size: tuple[int, int], images: Path) -> None:
    found = compared(images, lambda outputs: outputs, size=size)
    assert found.resized == 6
    assert found.within(0)
    assert "6 images were resized" in str(make_table(found, "any").caption)


def test_auroc_ranks_raw_scores_without_making_ties() -> None:
    scores = np.array([20.0, 21.0, 22.0, 23.0])  # a sigmoid in float32 makes all of them 1
    found = Comparison({}, 0, 0, (scores, -scores), True, np.array([False, False, True, True]), (scores, scores), 0)
    assert found.auroc == (1.0, 0.0)
    assert dataclasses.replace(found, labels=None).auroc is None
    assert dataclasses.replace(found, labels=np.array([True] * 4)).auroc is None


def test_labels_come_from_folders_and_masks_are_no_images(images: Path) -> None:
    write_images(images, 1)
    labels = {path.relative_to(images).as_posix(): label for path, label in find_test_images(images)}
    assert labels["Good/000.png"] is False
    assert labels["bad/000.png"] is True
    assert labels["000.png"] is None
    assert len(labels) == 7


@pytest.mark.parametrize(
    ("name", "kind", "hint"),
    [
        ("model.pt", ExportError, "TRUST_REMOTE_CODE=1"),
        ("model.onnx", ExportError, "Export the model again"),
        ("model.xml", ExportError, "Export the model again"),
        ("model.txt", ExportError, ".pt, .onnx or .xml"),
        ("missing.onnx", FileError, "Check the path"),
        ("empty", MissingDataError, "folder of your test images"),
        ("none", MissingDataError, "a folder of images, or a config"),
        ("config", ConfigurationError, "class_path"),
        ("model.ckpt", CheckpointError, ""),
        ("missing.ckpt", CheckpointError, "Check the path"),
    ],
)
def test_bad_input_ends_in_one_message_with_the_file_and_what_to_do(
    name: str,
    kind: type[CkaadError],
    hint: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("TRUST_REMOTE_CODE", raising=False)
    (tmp_path / "empty").mkdir()
    for file in ("model.pt", "model.onnx", "model.xml", "model.bin", "model.txt", "config", "model.ckpt"):
        (tmp_path / file).write_text("nothing: of any use")
    exported = tmp_path / (name if "." in name and "ckpt" not in name else "model.onnx")
    data = tmp_path / name if "." not in name else images / "Good"
    checkpoint = tmp_path / (name if "ckpt" in name else "model.ckpt")
    if "ckpt" in name:
        monkeypatch.setattr(validation, "load_exported", lambda *_: None)
    with pytest.raises(kind):
        run_validate(checkpoint, exported, data)
    command = ["validate", "--ckpt", str(checkpoint), "--exported", str(exported), "--data", str(data)]
    assert cli.main(command) == 2
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert str(tmp_path / name) in message
    assert hint in message


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt"):
        load_checkpoint(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    "arguments",
    [
        "{name: x, root: /nowhere, normal_dir: good}",
        "{name: x, root: FOLDER, normal_dir: Good, no_such: 1}",
        "{name: x, root: FOLDER, normal_dir: Good, abnormal_dir: none}",
    ],
)
def test_data_that_a_config_describes_and_nobody_has(arguments: str, images: Path, tmp_path: Path) -> None:
    config = tmp_path / "data.yaml"
    arguments = arguments.replace("FOLDER", str(images))
    config.write_text(f"data:\n  class_path: anomalib.data.Folder\n  init_args: {arguments}\n")
    with pytest.raises(DataError, match=r"data\.yaml"):
        find_test_images(config)


def test_a_file_of_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    torch.save({"model": torch.nn.Identity()}, tmp_path / "other.pt")
    with pytest.raises(ExportError, match=r"other\.pt .*Identity, not a Ckaad"):
        load_exported(tmp_path / "other.pt")


@pytest.mark.parametrize("number", ["-1", "nan", "some"])
def test_the_tolerance_is_a_number_of_at_least_zero(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["validate", "--ckpt", "c", "--exported", "e", "--data", "d", f"--tolerance={number}"]
    try:  # what is no number ends in the parser, what is a wrong one in the command
        status = cli.main(command)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert "tolerance" in capsys.readouterr().err


@pytest.mark.parametrize(("ending", "install"), [(".onnx", "onnxruntime"), (".xml", r"'anomalib-ckaad\[openvino\]'")])
def test_a_runtime_that_is_not_installed(
    ending: str, install: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for suffix in (ending, ".bin"):
        (tmp_path / "model").with_suffix(suffix).write_text("")
    monkeypatch.setattr(whole, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=f"`pip install {install}`"):
        load_exported(tmp_path / f"model{ending}")


def test_precision_is_openvinos(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"bf16 .*OpenVINO.*ONNX Runtime"):
        load_exported(tmp_path / "model.onnx", "bf16")
