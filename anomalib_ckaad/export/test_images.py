"""The images that a checkpoint and an exported file are compared on, with labels where there are any."""

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from anomalib_ckaad.data.reading.image_files import check_image_files, warn_of_turned
from anomalib_ckaad.data.reading.image_paths import images_below

NORMAL: Final = {"good", "normal"}
MASKS: Final = {"ground_truth", "masks"}
LabeledPath = tuple[Path, bool | None]


def find_test_images(data: Path) -> list[LabeledPath]:
    """List images, each with whether it is anomalous, or None where nothing says so.

    Args:
        data: A folder, in which images below ``good`` or ``normal`` are normal, those below other folders anomalous and
            those in none unlabeled; ``ground_truth`` and ``masks`` are left out. Or a config for ``anomalib train``,
            whose test images are taken.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If it holds no image or no data, or an image that anomalib would misread.
    """
    if data.is_dir():
        found = [(path, _label(path.relative_to(data))) for path in images_below(data)]
        found = [one for one in found if not MASKS & set(one[0].relative_to(data).parts[:-1])]
    elif data.is_file():
        found = _test_images_of(data)
    else:
        msg = f"Expected a folder of images or a config, got {str(data)!r}. Do give one that exists."
        raise FileNotFoundError(msg)
    if not found:
        msg = f"Expected at least one image, got none in {str(data)!r}. Do give the folder of your test images."
        raise ValueError(msg)
    warn_of_turned(check_image_files(path for path, _ in found))
    return found


def _label(path: Path) -> bool | None:
    """Whether the folders that an image lies in call it anomalous.

    >>> [_label(Path(path)) for path in ("test/good/0.png", "NORMAL/0.png", "crack/0.png", "0.png")]
    [False, False, True, None]
    """
    folders = [part.lower() for part in path.parts[:-1]]
    return not NORMAL & set(folders) if folders else None


def _test_images_of(config: Path) -> list[LabeledPath]:
    """Paths and labels of a config's test images.

    Raises:
        ValueError: If the file is no such config, or its data cannot be had.
    """
    datamodule = make_datamodule(config)
    try:
        datamodule.prepare_data()
        datamodule.setup()
    except Exception as error:
        if str(error).startswith("Expected "):
            raise
        raise ValueError(_unusable(config, error)) from error
    samples = datamodule.test_data.samples
    labels = samples.label_index if "label_index" in samples else [None] * len(samples)
    return [
        (Path(path), None if label is None else bool(label))
        for path, label in zip(samples.image_path, labels, strict=True)
    ]


def make_datamodule(config: Path) -> Any:  # noqa: ANN401 - an AnomalibDataModule, or one that wraps it
    """Make the data module of a config for ``anomalib train``.

    Raises:
        ValueError: If the file is no such config.
    """
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.load(config))
        module, _, name = settings["data"]["class_path"].rpartition(".")
        made = getattr(import_module(module or "anomalib.data"), name)
    except Exception as error:  # of YAML, of omegaconf, or because it is a config of something else
        msg = (
            f"Expected a folder, or a config with a class_path in its section data, got {str(config)!r}. "
            "Do give a config that `anomalib train --config` takes."
        )
        raise ValueError(msg) from error
    try:
        return made(**(settings["data"].get("init_args") or {}))
    except Exception as error:  # whatever a data module says of its arguments
        if str(error).startswith("Expected "):
            raise
        raise ValueError(_unusable(config, error)) from error


def _unusable(config: Path, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"Expected data that the config {str(config)!r} describes, got {type(error).__name__}: {reason}. Do mend it."
