"""Images and runs that the compatibility fixtures were made of."""

from pathlib import Path
from typing import Any

import numpy as np
from anomalib.data import AnomalibDataModule
from PIL import Image

from anomalib_ckaad.data import KnownAnomalies
from tests.conftest import make_folder_data

MEASURED = {"backbone": "test_efficientnet", "layers": (2, 3), "image_size": 64, "seed": 7}
PAPER = {"backbone": "test_resnet", "layers": (1, 2), "image_size": (64, 72), "score_top_k": 20, "seed": 3}

RUNS: dict[str, dict[str, Any]] = {
    "measured": {"arguments": MEASURED, "known": 3, "epochs": 3},
    "paper": {"arguments": PAPER, "epochs": 2, "post": {"image_false_positive_rate": 0.4}},
    "cka_image": {"arguments": {**MEASURED, "strategy": "cka_image", "synthesis": True}, "known": 2, "epochs": 2},
    "gan": {"arguments": {**PAPER, "strategy": "gan", "research": {"calibrate": True}}, "known": 2, "epochs": 2},
    "recon_sub": {
        "arguments": {
            **MEASURED,
            "strategy": "recon_sub",
            "research": {"subtraction_weight": 0.2, "output_relu": True, "norm": "batch"},
        },
        "known": 2,
        "epochs": 2,
    },
    "recon": {"arguments": {**MEASURED, "strategy": "recon", "score_top_k": "all"}, "epochs": 2},
}
"""What was trained in float64, by name; ``known`` anomalies of the test images were known."""


def write_data(root: Path) -> Path:
    """Noise on a gradient, with a bright square on the bad ones."""
    generator = np.random.default_rng(11)
    for name, count in (("good", 14), ("test_good", 4), ("bad", 7)):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.linspace(0, 120, 76)[None, :, None] + generator.uniform(0, 100, (80, 76, 3))
            if name == "bad":
                top = 10 + 5 * index
                pixels[top : top + 20, 30:52] += 35
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index:03}.png")
    return root


def data_of(root: Path, run: dict[str, Any]) -> AnomalibDataModule:
    """The data of a run."""
    folder = make_folder_data(root, train_batch_size=4, eval_batch_size=4)
    return KnownAnomalies(folder, count=run["known"], seed=0) if "known" in run else folder
