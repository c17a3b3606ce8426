"""Exports of a fitted model, whole or not at all, with raw scores beside anomalib's where asked for."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor
from torch import Tensor, nn

EXTRA = "openvino"
OF_EXTRA = {"nncf", "onnx", "onnxscript", "openvino"}


class RawAndProcessed(NamedTuple):
    """anomalib's outputs under their names, then the scores (N,) and maps (N, 1, H, W) before its post-processor."""

    pred_score: Tensor | None
    pred_label: Tensor | None
    anomaly_map: Tensor | None
    pred_mask: Tensor | None
    raw_pred_score: Tensor | None
    raw_anomaly_map: Tensor | None


def with_raw(processed: InferenceBatch, raw: InferenceBatch) -> RawAndProcessed:
    """Join the outputs of the post-processor with what it was given.

    Example:
        >>> raw = InferenceBatch(pred_score=torch.tensor([3.0]))
        >>> with_raw(InferenceBatch(pred_score=torch.tensor([1.0])), raw).raw_pred_score
        tensor([3.])
    """
    fields = processed._asdict()
    # A graph needs a node of its own for each output, also where nothing was done to the scores.
    return RawAndProcessed(
        **{name: fields[name] for name in InferenceBatch._fields},
        raw_pred_score=None if raw.pred_score is None else raw.pred_score.clone(),
        raw_anomaly_map=None if raw.anomaly_map is None else raw.anomaly_map.clone(),
    )


def check_fitted(post_processor: nn.Module | None, *, has_weights: bool, model: nn.Module | None = None) -> None:
    """Refuse to export what gives meaningless scores or labels.

    Raises:
        ValueError: If the model was neither fitted nor loaded, has weights that are not finite, or its post-processor
            shall compare with a threshold that was never set.
    """
    got = None
    if isinstance(post_processor, PostProcessor):
        if post_processor.enable_thresholding and bool(torch.isnan(post_processor.image_threshold)):
            got = "one without a threshold, whose labels would mean nothing"
    elif not has_weights:
        got = "one that was neither fitted nor loaded"
    if got is None and model is not None and not all(bool(p.isfinite().all()) for p in model.parameters()):
        got = "one with weights that are not finite, whose scores would be none either"
    if got is not None:
        msg = (
            f"Expected a fitted model to export, got {got}. Do train it, with validation images for the threshold, "
            "and give its checkpoint as ckpt_path."
        )
        raise ValueError(msg)


def check_installed(*packages: str) -> None:
    """Refuse to begin what a missing package would end.

    Raises:
        ModuleNotFoundError: If a package is missing; the message names the extra that brings it.
    """
    for package in packages:
        if find_spec(package) is None:
            what = f"'anomalib-ckaad[{EXTRA}]'" if package in OF_EXTRA else package
            msg = f"Expected the package {package} to be installed, got none. Do `pip install {what}`."
            raise ModuleNotFoundError(msg, name=package)


def export_at_once(export_root: Path | str, write: Callable[[Path], Path]) -> Path:
    """Let ``write`` export into a temporary folder inside ``export_root``, and move its files out at the end.

    An export that fails half-way leaves an earlier one as it was, and no folders of its own.

    Args:
        export_root: Folder below which anomalib puts exported models; made if missing.
        write: Exports below the folder that it is called with, and returns the main file.

    Returns:
        Path of the main file below ``export_root``.

    Raises:
        NotADirectoryError: If ``export_root`` is a file or below one.
    """
    root = Path(export_root)
    made = _make_folders(root)
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=root) as temporary:
            main = write(Path(temporary))
            # Weights before the graph that refers to them.
            for file in sorted(main.parent.iterdir(), key=lambda file: file == main):
                target = root / file.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        return root / main.relative_to(temporary)
    except BaseException:
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and its parents; return those that were missing, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        msg = f"Expected a folder to export to, got {str(folder)!r}. Do give another export_root."
        raise NotADirectoryError(msg) from error
    return missing


@contextmanager
def without(owner: object, *names: str) -> Iterator[None]:
    """Set attributes to None for a while."""
    kept = {name: getattr(owner, name) for name in names}
    for name in names:
        setattr(owner, name, None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(owner, name, value)


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """Let no parameter ask for gradients for a while: outputs of what is saved then turn into arrays as they are."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad = True
