"""Checks before an export, exports that are written whole or not at all, and raw scores among the outputs."""

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

from anomalib_ckaad.errors import ExportError, FileError, MissingPackageError
from anomalib_ckaad.files import PART

EXTRA = "openvino"
OF_EXTRA = {"nncf", "onnx", "onnxscript", "openvino"}


class RawAndProcessed(NamedTuple):
    """anomalib's outputs, then the scores (N,) and maps (N, 1, H, W) before the post-processor."""

    pred_score: Tensor | None
    pred_label: Tensor | None
    anomaly_map: Tensor | None
    pred_mask: Tensor | None
    raw_pred_score: Tensor | None
    raw_anomaly_map: Tensor | None


def with_raw(processed: InferenceBatch, raw: InferenceBatch) -> RawAndProcessed:
    """Join the outputs of the post-processor with its inputs.

    Example:
        >>> raw = InferenceBatch(pred_score=torch.tensor([3.0]))
        >>> with_raw(InferenceBatch(pred_score=torch.tensor([1.0])), raw).raw_pred_score
        tensor([3.])
    """
    fields = processed._asdict()
    # A graph needs a separate node for each output, even if the post-processor changes nothing.
    return RawAndProcessed(
        **{name: fields[name] for name in InferenceBatch._fields},
        raw_pred_score=None if raw.pred_score is None else raw.pred_score.clone(),
        raw_anomaly_map=None if raw.anomaly_map is None else raw.anomaly_map.clone(),
    )


def check_fitted(post_processor: nn.Module | None, *, has_weights: bool, model: nn.Module | None = None) -> None:
    """Check that a model gives meaningful scores and labels.

    Raises:
        ExportError: If the model was neither fitted nor loaded, has weights that are not finite, or its post-processor
            needs a threshold that was never set.
    """
    problem = None
    if isinstance(post_processor, PostProcessor):
        if post_processor.enable_thresholding and bool(torch.isnan(post_processor.image_threshold)):
            problem = "has no threshold, so its labels would mean nothing"
    elif not has_weights:
        problem = "was neither trained nor loaded from a checkpoint"
    if problem is None and model is not None and not all(bool(p.isfinite().all()) for p in model.parameters()):
        problem = "has weights that are not finite"
    if problem is not None:
        msg = (
            f"The model cannot be exported: it {problem}. Train it with validation images, and pass its checkpoint as "
            "`ckpt_path`."
        )
        raise ExportError(msg)


def check_installed(*packages: str) -> None:
    """Check that packages are installed.

    Raises:
        MissingPackageError: If one is missing; the message has the command that installs it.
    """
    for package in packages:
        if find_spec(package) is None:
            what = f"'anomalib-ckaad[{EXTRA}]'" if package in OF_EXTRA else package
            msg = f"The package {package} is not installed. Run `pip install {what}`."
            raise MissingPackageError(msg, name=package)


def export_at_once(export_root: Path | str, write: Callable[[Path], Path]) -> Path:
    """Let ``write`` export into a temporary folder inside ``export_root``, then move its files to their places.

    An export that fails leaves an earlier one unchanged and no new folders.

    Args:
        export_root: Folder for exported models; made if missing.
        write: Exports into the folder that it is called with, and returns the path of the main file.

    Returns:
        Path of the main file below ``export_root``.

    Raises:
        FileError: If ``export_root`` is a file, or inside one.
    """
    root = Path(export_root)
    made = _make_folders(root)
    try:
        with tempfile.TemporaryDirectory(prefix=PART, dir=root) as temporary:
            main = write(Path(temporary))
            # Weights first, as the graph refers to them.
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
    """Make a folder and its parents; return those that were missing, the innermost first.

    Raises:
        FileError: If it is a file, or inside one.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        msg = f"`export_root` is not a folder: {folder}. Pass another one."
        raise FileError(msg) from error
    return missing


@contextmanager
def without(owner: object, *names: str) -> Iterator[None]:
    """Set attributes to None within this context."""
    kept = {name: getattr(owner, name) for name in names}
    for name in names:
        setattr(owner, name, None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(owner, name, value)
