"""Types of anomalies, such as scratch or hole: by the data set's own name for them, else by the image's folder."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from pandas import DataFrame

from anomalib_ckaad.data.reading.image_paths import IMAGE_SUFFIXES, images_below
from anomalib_ckaad.errors import KnownAnomaliesError

UNTYPED: Final = "untyped"
"""Type of known anomalies in a folder whose name says nothing about their type."""
UNTYPED_LABELS: Final = frozenset(
    {"abnormal", "anomalous", "anomaly", "bad", "defect", "defective", "test", "train", "ng"}
)
UNTYPED_FOLDERS: Final = frozenset({"anomalies", "defects", "known", "known_anomalies", "known_bad"})
NORMAL_FOLDERS: Final = frozenset({"good", "normal", "ok"})


def type_of(row: Mapping[str, object]) -> str:
    """Type of an anomalous image: the data set's name for it where it has one, else the image's parent folder.

    Example:
        >>> type_of({"image_path": "test/crack/1.png", "label": "abnormal"})
        'crack'
    """
    own = row.get("type") or row.get("label")
    if isinstance(own, str) and own and own.lower() not in UNTYPED_LABELS:
        return own
    return Path(str(row["image_path"])).parent.name


def types_of(samples: DataFrame) -> list[str]:
    """``type_of`` each row."""
    return [type_of(row) for row in samples.to_dict("records")]


def read_anomaly_folder(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> DataFrame:
    """Samples of a folder of known anomalies, with or without a folder for each type.

    Args:
        folder: Images in it, or in folders named after their types.
        suffixes: Endings of image files, in lower case.

    Returns:
        Rows with ``image_path`` and ``type``, sorted by path.

    Raises:
        KnownAnomaliesError: If the folder is missing or empty, or holds a folder named like normal images.
    """
    if not folder.is_dir():
        msg = f"The folder of known anomalies does not exist: {folder}. Correct `known_anomaly_dir`."
        raise KnownAnomaliesError(msg)
    paths = images_below(folder, suffixes)
    if not paths:
        msg = f"The folder of known anomalies has no images: {folder}. Put at least one there."
        raise KnownAnomaliesError(msg)
    inner_folders = [path.relative_to(folder).parts[:-1] for path in paths]
    normal = [
        path
        for path, inner in zip(paths, inner_folders, strict=True)
        if {part.lower() for part in (folder.name, *inner)} & NORMAL_FOLDERS
    ]
    if normal:
        msg = (
            f"The folder of known anomalies {folder} has images in a folder for normal ones, such as {normal[0]}. "
            "Move normal images elsewhere."
        )
        raise KnownAnomaliesError(msg)
    without_folder = UNTYPED if folder.name.lower() in UNTYPED_LABELS | UNTYPED_FOLDERS else folder.name
    types = [inner[0] if inner else without_folder for inner in inner_folders]
    return DataFrame({"image_path": [str(path) for path in paths], "type": types})
