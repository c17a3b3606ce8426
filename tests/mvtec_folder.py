"""A data set in MVTec AD's folder layout, small enough to train on within a second."""

from pathlib import Path

import numpy as np
from PIL import Image

SUBSETS = {"train/good": 12, "test/good": 4, "test/bad": 4}


def write_mvtec_folder(category: Path, side: int = 64) -> Path:
    """Write grey noise as normal images and white squares as defects, with masks, and return ``category``."""
    random = np.random.default_rng(0)
    for subset, count in SUBSETS.items():
        for index in range(count):
            image = random.integers(90, 160, (side, side, 3), dtype=np.uint8)
            if subset == "test/bad":
                mask = np.zeros((side, side), dtype=np.uint8)
                top, left = random.integers(0, side // 2, 2)
                mask[top : top + side // 3, left : left + side // 3] = 255
                image[mask > 0] = 255
                save(mask, category / "ground_truth" / "bad" / f"{index:03}_mask.png")
            save(image, category / subset / f"{index:03}.png")
    return category


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
