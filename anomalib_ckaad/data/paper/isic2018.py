"""ISIC2018: dermoscopy of skin lesions (ISIC 2018 challenge, task 3)."""

import csv
from pathlib import Path
from typing import Literal

from anomalib_ckaad.data.paper.labeled_data import LabeledData
from anomalib_ckaad.data.paper.labeled_images import LabeledImage
from anomalib_ckaad.data.paper.layout import Layout
from anomalib_ckaad.data.reading.image_paths import images_in
from anomalib_ckaad.errors import DataError, MissingDataError

NORMAL = "NV"
CLASSES = ("MEL", NORMAL, "BCC", "AKIEC", "BKL", "DF", "VASC")
SPLITS: tuple[tuple[Literal["train", "test"], str], ...] = (
    ("train", "ISIC2018_Task3_Training"),
    ("test", "ISIC2018_Task3_Validation"),
)


def _ground_truth(prefix: str) -> tuple[str, str]:
    """Where a ground truth file may be: in the folder that its archive unpacks to, or directly in the data set."""
    name = f"{prefix}_GroundTruth"
    return f"{name}/{name}.csv", f"{name}.csv"


def read_ground_truth(file: Path) -> dict[str, str]:
    """Read a ground truth file: the class of each image, by the image's name without ending.

    Raises:
        DataError: If it has other columns than those of task 3, or a row does not name one class.
    """
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        if set(columns) != {"image", *CLASSES}:
            msg = (
                f"{file} must have the columns image, {', '.join(CLASSES)}, but has {', '.join(columns) or 'none'}. "
                "Use the ground truth of task 3 of 2018."
            )
            raise DataError(msg)
        classes = {}
        for row in reader:
            named = [name for name in CLASSES if row[name] and float(row[name]) == 1]
            if len(named) != 1:
                msg = (
                    f"{file} must name one class for {row['image']}, but names {', '.join(named) or 'none'}. "
                    "Download the file again."
                )
                raise DataError(msg)
            classes[row["image"]] = named[0]
    return classes


class ISIC2018(LabeledData):
    """Skin lesions: melanocytic nevi (NV) as normal, six other diagnoses as anomalies (ISIC 2018, task 3).

    The archives of task 3 of https://challenge.isic-archive.com/data/#2018 unpack to::

        ISIC2018_Task3_Training_Input          10,015 images, 6,705 of them NV
        ISIC2018_Task3_Training_GroundTruth    ISIC2018_Task3_Training_GroundTruth.csv
        ISIC2018_Task3_Validation_Input        193 images, 123 of them NV
        ISIC2018_Task3_Validation_GroundTruth  ISIC2018_Task3_Validation_GroundTruth.csv

    The types are MEL, BCC, AKIEC, BKL, DF and VASC. As in the paper's code, the challenge's validation images are the
    test images. Arguments and splits are those of ``LabeledData``.
    """

    layout = Layout(
        folder="ISIC2018",
        tree="ISIC2018_Task3_{Training,Validation}_{Input,GroundTruth}",
        parts=tuple(part for _, prefix in SPLITS for part in ((f"{prefix}_Input",), _ground_truth(prefix))),
        source="the training and validation archives of task 3 from https://challenge.isic-archive.com/data/#2018",
    )

    def images(self) -> list[LabeledImage]:
        """List all images of the data set.

        Raises:
            MissingDataError: If images named in a ground truth file are missing.
        """
        root = self.layout.find(self.root)
        images = []
        for split, prefix in SPLITS:
            folder = root / f"{prefix}_Input"
            file = next(root / place for place in _ground_truth(prefix) if (root / place).is_file())
            paths = {path.stem: path for path in images_in(folder)}
            classes = read_ground_truth(file)
            missing = [name for name in classes if name not in paths]
            if missing:
                problem = (
                    f"{len(missing)} of the {len(classes)} images of {file.name} are missing, such as {missing[0]}."
                )
                raise MissingDataError(self.layout.message(self.root, problem))
            images += [
                LabeledImage(paths[name], label, "" if label == NORMAL else label, split)
                for name, label in classes.items()
            ]
        return images
