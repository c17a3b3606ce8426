"""Images on which a checkpoint and an exported file are compared, with labels if there are any."""

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from anomalib_ckaad.data.reading.image_files import check_image_files, warn_of_turned
from anomalib_ckaad.data.reading.image_paths import images_below
from anomalib_ckaad.errors import CkaadError, ConfigurationError, DataError, MissingDataError

NORMAL: Final = {"good", "normal"}
MASKS: Final = {"ground_truth", "masks"}
LabeledPath = tuple[Path, bool | None]


def find_test_images(data: Path) -> list[LabeledPath]:
    """List images, each with whether it is anomalous, or None if it has no label.

    Args:
        data: A folder, or a config for ``anomalib train``, whose test images are taken. In a folder, images below
            ``good`` or ``normal`` are normal, images below other folders anomalous, and images directly in it have no
            label. ``ground_truth`` and ``masks`` are left out.

    Raises:
        MissingDataError: If there is no such folder or file, or no image in it.
        ConfigurationError: If the file is not a config with data.
        DataError: If the data of a config cannot be loaded, or anomalib would misread an image.
    """
    if data.is_dir():
        found = [(path, _label(path.relative_to(data))) for path in images_below(data)]
        found = [one for one in found if not MASKS & set(one[0].relative_to(data).parts[:-1])]
    elif data.is_file():
        found = _test_images_of(data)
    else:
        msg = f"There is no folder or file {data}. Pass a folder of images, or a config for `anomalib train`."
        raise MissingDataError(msg)
    if not found:
        msg = f"There is no image in {data}. Pass the folder of your test images."
        raise MissingDataError(msg)
    warn_of_turned(check_image_files(path for path, _ in found))
    return found


def _label(path: Path) -> bool | None:
    """Whether an image is anomalous, judging by the names of its folders.

    >>> [_label(Path(path)) for path in ("test/good/0.png", "NORMAL/0.png", "crack/0.png", "0.png")]
    [False, False, True, None]
    """
    folders = [part.lower() for part in path.parts[:-1]]
    return not NORMAL & set(folders) if folders else None


def _test_images_of(config: Path) -> list[LabeledPath]:
    """Paths and labels of a config's test images.

    Raises:
        ConfigurationError: If the file is not a config with data.
        DataError: If the data cannot be loaded.
    """
    datamodule = make_datamodule(config)
    try:
        datamodule.prepare_data()
        datamodule.setup()
    except CkaadError:
        raise
    except Exception as error:
        raise DataError(_unusable(config, error)) from error
    samples = datamodule.test_data.samples
    labels = samples.label_index if "label_index" in samples else [None] * len(samples)
    return [
        (Path(path), None if label is None else bool(label))
        for path, label in zip(samples.image_path, labels, strict=True)
    ]


def make_datamodule(config: Path) -> Any:  # noqa: ANN401 - an AnomalibDataModule, or one that wraps it
    """Make the data module of a config for ``anomalib train``.

    Raises:
        ConfigurationError: If the file is not a config with data.
        DataError: If the data module does not take its arguments.
    """
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.load(config))
        module, _, name = settings["data"]["class_path"].rpartition(".")
        made = getattr(import_module(module or "anomalib.data"), name)
    except Exception as error:  # from YAML, from omegaconf, or because it is a config of something else
        msg = (
            f"{config} is not a config with a `class_path` in its section `data`. Pass a folder of images, or a config "
            "that `anomalib train --config` takes."
        )
        raise ConfigurationError(msg) from error
    try:
        return made(**(settings["data"].get("init_args") or {}))
    except CkaadError:
        raise
    except Exception as error:  # whatever a data module raises for its arguments
        raise DataError(_unusable(config, error)) from error


def _unusable(config: Path, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"The data of {config} cannot be loaded: {reason} ({type(error).__name__}). Correct its section `data`."
