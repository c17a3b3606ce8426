"""Runs exported files with the runtime they need: torch (.pt), ONNX Runtime (.onnx) or OpenVINO (.xml)."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from anomalib_ckaad.errors import ExportError, FileError
from anomalib_ckaad.export.methods import ExportMethods
from anomalib_ckaad.export.whole import check_installed

Array = npt.NDArray[Any]
Precision = Literal["f32", "bf16", "f16"]
RUNTIMES: Final = {".pt": "torch", ".onnx": "ONNX Runtime", ".xml": "OpenVINO"}
OUTPUTS: Final = ("pred_score", "anomaly_map")
TRUST: Final = "TRUST_REMOTE_CODE"
"""Environment variable that must be set before anomalib reads a pickle."""


@dataclass(frozen=True)
class Exported:
    """An exported model, ready to run.

    Attributes:
        runtime: Name of the runtime.
        size: Height and width that it was exported for; None if it takes any.
        run: Takes images (N, 3, H, W), float32 in [0, 1], and returns outputs by name.
    """

    runtime: str
    size: tuple[int, int] | None
    run: Callable[[Array], Mapping[str, Array]]


def load_exported(path: Path, precision: Precision = "f32") -> Exported:
    """Load a file that ``anomalib export`` has written.

    Args:
        path: A ``.pt``, ``.onnx`` or ``.xml`` file.
        precision: OpenVINO's ``INFERENCE_PRECISION_HINT``. Without it, OpenVINO uses bf16 on CPUs that support it.

    Raises:
        FileError: If the file, or the ``.bin`` file of an ``.xml`` file, is missing.
        MissingPackageError: If the runtime is not installed.
        ExportError: If the file has another ending, is damaged or not an exported Ckaad, if it is a pickle and
            ``TRUST_REMOTE_CODE`` is not set, or if a precision is given for another runtime than OpenVINO.
    """
    if path.suffix not in RUNTIMES:
        msg = f"{path} is not an exported model. Pass a .pt, .onnx or .xml file that `anomalib export` has written."
        raise ExportError(msg)
    runtime = RUNTIMES[path.suffix]
    if precision != "f32" and path.suffix != ".xml":
        msg = f"Precision {precision} is for OpenVINO (.xml files) only; {runtime} runs {path.name} in f32."
        raise ExportError(msg)
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    for part in parts:
        if not part.is_file():
            msg = f"There is no file {part}. Check the path, or export the model again."
            raise FileError(msg)
    if path.suffix == ".xml":
        return _load_openvino(path, precision)
    return _load_torch(path) if path.suffix == ".pt" else _load_onnx(path)


def _load_torch(path: Path) -> Exported:
    if os.environ.get(TRUST, "0").lower() not in {"1", "true"}:
        msg = (
            f"{path} is a pickle, which can run any program when it is read. Set {TRUST}=1 in the environment if you "
            "trust it, or export to ONNX or OpenVINO."
        )
        raise ExportError(msg)
    from anomalib.deploy import TorchInferencer  # noqa: PLC0415  # brings OpenVINO's inferencer along

    model = _read(path, lambda: TorchInferencer(path, device="cpu").model)
    if not isinstance(model, ExportMethods):
        msg = f"{path} holds a model of type {type(model).__name__}, not a Ckaad. Pass an exported Ckaad."
        raise ExportError(msg)

    def run(images: Array) -> dict[str, Array]:
        with torch.inference_mode(), model.raw_outputs():
            outputs = model.forward(torch.from_numpy(images))._asdict()
        return {name: value.numpy() for name, value in outputs.items() if value is not None}

    return Exported(RUNTIMES[path.suffix], None, run)


def _load_onnx(path: Path) -> Exported:
    check_installed("onnxruntime")
    import onnxruntime  # noqa: PLC0415  # optional

    onnxruntime.set_default_logger_severity(3)
    session = _read(path, lambda: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]))
    names = [output.name for output in session.get_outputs()]
    _check_outputs(path, names)
    entry = session.get_inputs()[0]

    def run(images: Array) -> dict[str, Array]:
        return dict(zip(names, session.run(names, {entry.name: images}), strict=True))

    height, width = entry.shape[-2:]
    fixed = isinstance(height, int) and isinstance(width, int)
    return Exported(RUNTIMES[path.suffix], (height, width) if fixed else None, run)


def _load_openvino(path: Path, precision: Precision) -> Exported:
    check_installed("openvino")
    import openvino  # noqa: PLC0415  # optional

    settings = {"INFERENCE_PRECISION_HINT": precision}
    compiled = _read(path, lambda: openvino.Core().compile_model(str(path), "CPU", settings))
    names = [output.any_name for output in compiled.outputs]
    _check_outputs(path, names)
    shape = compiled.inputs[0].partial_shape
    fixed = shape[2].is_static and shape[3].is_static

    def run(images: Array) -> dict[str, Array]:
        outputs = compiled(images)
        return {name: np.asarray(outputs[name]) for name in names}

    name = RUNTIMES[path.suffix] + ("" if precision == "f32" else f", {precision}")
    return Exported(name, (shape[2].get_length(), shape[3].get_length()) if fixed else None, run)


def _read(path: Path, read: Callable[[], Any]) -> Any:  # noqa: ANN401 - each runtime's own
    """Let a runtime read a file.

    Raises:
        ExportError: If it fails, for whatever reason.
    """
    try:
        return read()
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        msg = f"{RUNTIMES[path.suffix]} cannot read {path}: {first.rstrip('.')}. Export the model again."
        raise ExportError(msg) from error


def _check_outputs(path: Path, names: list[str]) -> None:
    if not set(OUTPUTS) <= set(names):
        msg = f"{path} has the outputs {', '.join(names)}, without {' or '.join(OUTPUTS)}. Pass an exported Ckaad."
        raise ExportError(msg)
