"""Shared by all tests: one thread (what is measured must not depend on the machine), and tiny data sets.

Neither torch nor anomalib is imported here: tests that need neither start at once.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from anomalib.data import Folder

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported; subprocesses inherit it
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def write_images(folder: Path, count: int, size: int = 80, seed: int = 0) -> None:
    """Noise on a gradient: enough for a model to run on, nothing to learn."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, *folder.name.encode()])
    ramp = np.linspace(0, 120, size)[None, :, None]
    for index in range(count):
        pixels = ramp + generator.uniform(0, 100, (size, size, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03}.png")


@pytest.fixture(scope="session")
def folder_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with ``good``, ``test_good``, ``bad`` and ``masks`` of ``bad``, in 80x80 pixels."""
    root = tmp_path_factory.mktemp("folder")
    for name, count in (("good", 6), ("test_good", 4), ("bad", 4)):
        write_images(root / name, count)
    (root / "masks").mkdir()
    for path in sorted((root / "bad").iterdir()):
        mask = np.zeros((80, 80), dtype=np.uint8)
        mask[20:50, 30:60] = 255
        Image.fromarray(mask).save(root / "masks" / path.name)
    return root


def make_folder_data(root: Path, *, masks: bool = False, **arguments: Any) -> "Folder":
    """anomalib's ``Folder`` on a data set such as ``folder_root``; validation images are training images."""
    from anomalib.data import Folder  # noqa: PLC0415 - some tests import no anomalib

    defaults = {
        "name": "tiny",
        "root": root,
        "normal_dir": "good",
        "normal_test_dir": "test_good",
        "abnormal_dir": "bad",
        "mask_dir": "masks" if masks else None,
        "num_workers": 0,
        "train_batch_size": 2,
        "eval_batch_size": 4,
        "val_split_mode": "from_train",
        "val_split_ratio": 0.34,
        "seed": 0,
    }
    return Folder(**{**defaults, **arguments})
