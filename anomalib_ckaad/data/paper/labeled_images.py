"""Turns a list of labeled images into the samples of training, validation and test images."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from anomalib.data.utils import LabelName
from pandas import DataFrame

from anomalib_ckaad.data.reading.image_paths import images_in
from anomalib_ckaad.errors import DataError


class LabeledImage(NamedTuple):
    """An image of a data set.

    Attributes:
        path: Its file.
        label: The data set's own name for its class.
        type: Type of the anomaly; empty for a normal image.
        split: The data set's own split.
    """

    path: Path
    label: str
    type: str
    split: Literal["train", "test"]


def images_of_classes(root: Path, classes: Iterable[str], normal: str) -> list[LabeledImage]:
    """List the images of ``root/{train,test}/<class>``; the type of an anomalous one is its class.

    Args:
        root: Folder of the data set.
        classes: Names of the classes' folders.
        normal: Name of the normal class.
    """
    return [
        LabeledImage(path, name, "" if name == normal else name, split)
        for split in ("train", "test")
        for name in classes
        for path in images_in(root / split / name)
    ]


def held_out_count(normal: int, anomalous: int, share: float) -> int:
    """Number of validation images of either kind, normal and anomalous, as the paper's reference code counts them.

    That is ``share`` of the training images of the rarer kind, plus one; of the normal ones if there are no others.

    Example:
        >>> held_out_count(1349, 3883, 0.05)
        68
    """
    return 1 + int(share * (min(normal, anomalous) or normal))


def make_samples(images: Iterable[LabeledImage], validation_share: float, seed: int) -> DataFrame:
    """Samples as anomalib's data sets hold them, with validation images drawn from the training images.

    Args:
        images: All images of a data set.
        validation_share: Share of the training images of the rarer kind, normal or anomalous, in (0, 1).
        seed: Of the draw, which otherwise depends on the names of the images only.

    Returns:
        Rows sorted by path with ``image_path``, ``label``, ``type``, ``split`` (``train``, ``val`` or ``test``),
        ``label_index`` (0 normal, 1 anomalous) and an empty ``mask_path``.

    Raises:
        DataError: If no normal training image would be left.
    """
    columns = list(LabeledImage._fields)
    samples = DataFrame(images, columns=columns).rename(columns={"path": "image_path"})
    samples["image_path"] = samples["image_path"].map(str)
    samples = samples.sort_values("image_path", ignore_index=True)
    is_anomalous = samples["type"] != ""
    samples["label_index"] = is_anomalous.map({True: int(LabelName.ABNORMAL), False: int(LabelName.NORMAL)})
    samples["mask_path"] = ""
    samples.attrs["task"] = "classification"
    in_train = samples["split"] == "train"
    normal, anomalous = (list(samples.index[in_train & kind]) for kind in (~is_anomalous, is_anomalous))
    count = held_out_count(len(normal), len(anomalous), validation_share)
    if count >= len(normal):
        msg = (
            f"Too few normal training images: {len(normal)}, of which {count} would be held out for validation. "
            "Check the `root` of the data, or lower `val_split_ratio`."
        )
        raise DataError(msg)
    draw = random.Random(seed)
    held_out = draw.sample(normal, count) + draw.sample(anomalous, min(count, len(anomalous)))
    samples.loc[held_out, "split"] = "val"
    return samples
