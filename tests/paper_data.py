"""Miniatures of the paper's data sets: the right names, few images, every image different from all others."""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 48


def write(paths: Iterable[Path]) -> None:
    for path in paths:
        generator = np.random.default_rng(list("/".join(path.parts[-3:]).encode()))  # no two images are the same
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)


def chest_xray(root: Path) -> Path:
    """Train 40 normal, 30 bacteria, 10 virus; test 4, 3, 2; Kaggle's val, a stray file and one that macOS left."""
    folder = root / "chest_xray"
    for split, normal, bacteria, virus in (("train", 40, 30, 10), ("test", 4, 3, 2), ("val", 2, 2, 0)):
        write(folder / split / "NORMAL" / f"IM-{i:04}-0001.jpeg" for i in range(normal))
        pneumonia = folder / split / "PNEUMONIA"
        write(pneumonia / f"person{i}_bacteria_{i}.jpeg" for i in range(bacteria))
        write(pneumonia / f"person{i}_virus_{i}.jpeg" for i in range(virus))
    (folder / "train" / "NORMAL" / ".DS_Store").write_bytes(b"")
    (folder / "train" / "NORMAL" / "._IM-0000-0001.jpeg").write_bytes(b"no image")
    return folder


def oct2017(root: Path) -> Path:
    """Train 60 normal and 20, 12, 8 of the diseases; test 3 of each."""
    folder = root / "OCT2017"
    for name, count in {"NORMAL": 60, "CNV": 20, "DME": 12, "DRUSEN": 8}.items():
        write(folder / "train" / name / f"{name}-{i}-1.jpeg" for i in range(count))
        write(folder / "test" / name / f"{name}-{100 + i}-1.jpeg" for i in range(3))
    return folder


def br35h(root: Path) -> Path:
    """25 without and 20 with a tumor."""
    folder = root / "Br35H"
    write(folder / "no" / f"no{i}.jpg" for i in range(25))
    write(folder / "yes" / f"y{i}.jpg" for i in range(20))
    write(folder / "pred" / f"pred{i}.jpg" for i in range(2))
    return folder


ISIC_COLUMNS = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
ISIC_TRAIN = {"NV": 45, "MEL": 8, "BCC": 6, "AKIEC": 4, "BKL": 4, "DF": 1, "VASC": 2}
ISIC_TEST = {"NV": 5, "MEL": 2, "BKL": 1}


def isic2018(root: Path) -> Path:
    """Train 45 nevi and 25 of six types; test 5 and 3."""
    folder = root / "ISIC2018"
    number = 24306
    for part, counts in (("Training", ISIC_TRAIN), ("Validation", ISIC_TEST)):
        rows = [",".join(("image", *ISIC_COLUMNS))]
        for name, count in counts.items():
            for _ in range(count):
                values = ["1.0" if column == name else "0.0" for column in ISIC_COLUMNS]
                rows.append(",".join((f"ISIC_{number:07}", *values)))
                number += 1
        images = folder / f"ISIC2018_Task3_{part}_Input"
        write(images / f"{row.split(',')[0]}.jpg" for row in rows[1:])
        (images / "LICENSE.txt").write_text("CC BY-NC 4.0")
        truth = folder / f"ISIC2018_Task3_{part}_GroundTruth"
        truth.mkdir()
        (truth / f"{truth.name}.csv").write_text("\n".join(rows) + "\n")
    return folder


CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(root: Path) -> Path:
    """Five training batches of 30 images and a test batch of 20, as many of each class."""
    folder = root / "CIFAR10"
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    generator = np.random.default_rng(0)
    sizes = {**{f"data_batch_{i}": 30 for i in range(1, 6)}, "test_batch": 20}
    for name, size in sizes.items():
        data = generator.integers(0, 255, (size, 3 * 32 * 32), dtype=np.uint8)
        dump(batches / name, {"data": data, "labels": [i % 10 for i in range(size)]})
    dump(batches / "batches.meta", {"label_names": list(CIFAR_CLASSES)})
    return folder


def dump(path: Path, content: Mapping[str, object]) -> None:
    with path.open("wb") as stream:
        pickle.dump(content, stream)
