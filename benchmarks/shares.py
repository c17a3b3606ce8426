"""How much of its reconstruction should be taken away from a feature, by the number of training images.

    python benchmarks/shares.py --data DATA --groups groups.csv [--seeds 2] [--steps 400] [--report docs/accuracy.md]

The parts of benchmarks/calibration.py, and the textures grass and gravel besides; of each some of the normal training
images, as few as the textures have or more. A plain auto-encoder learns from these alone, and the calibrated map takes
a share of what it makes of them from the features: all of it, none, or N / (N + 64), as the package does. Image AUROC
by the power mean and AUPRO, in percent, means over seeds with their standard deviation. The last line is a JSON object.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from calibration import (
    BACKBONE,
    SIZE,
    STAGES,
    USUAL,
    WEIGHTS,
    Part,
    by_batches,
    features_of,
    make_parser,
    masks_of,
    metrics_of,
    parts_of,
    texture,
    train,
    whitened,
)
from machine import mean_and_deviation, publish

from anomalib_ckaad.data.textures.images import CATEGORIES, Category
from anomalib_ckaad.data.textures.textures import Textures
from anomalib_ckaad.scoring.anomaly_map import join_stages
from anomalib_ckaad.scoring.residuals import RECONSTRUCTION_PRIOR, reconstruction_share
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.weights.loading import load_backbone_weights

SHARES = {
    "all": 1.0,
    "three quarters": 0.75,
    "half": 0.5,
    "a quarter": 0.25,
    "none": 0.0,
}
PACKAGE = f"the package: N / (N + {RECONSTRUCTION_PRIOR})"
FEW = (80, 240)
"""Numbers of training images, besides all that there are."""


def more_images(folder: Path, seed: int, category: Category, count: int) -> list[Path]:
    """More training images of a texture."""
    data = Textures(
        root=folder / f"more{seed}", category=category, images_per_defect=1, train_images=count, texture_seed=seed + 1
    )
    data.prepare_data()
    data.setup()
    return list(map(Path, data.train_data.samples.image_path))


def parts_by_count(options: argparse.Namespace, folder: Path, seed: int) -> Iterator[tuple[str, Part]]:
    """Parts with some of their training images, by what they are called in the table."""
    parts = parts_of(options, folder, seed)
    parts |= {name: texture(folder, seed, category=name) for name in CATEGORIES if name not in parts}
    for name, part in parts.items():
        images: list[Path] = list(part.train)
        if name in CATEGORIES:
            images = more_images(folder, seed, name, max(FEW))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
        for count in sorted({min(count, len(images)) for count in (*FEW, len(images))}):
            yield f"{name}, {count}", part._replace(train=[images[place] for place in order[:count]])


@torch.no_grad()
def compare(part: Part, steps: int, seed: int) -> dict[str, dict[str, float]]:
    """Metrics of every share."""
    torch.manual_seed(seed)
    model = CkaadModel(BACKBONE, STAGES)
    load_backbone_weights(model.backbone, WEIGHTS)
    normal = features_of(model, part.train)
    with torch.enable_grad():
        train(model, normal, steps, seed)
    of_normal, of_test = list(by_batches(model, normal)), list(by_batches(model, features_of(model, part.test)))
    masks = masks_of(part)
    found = {}
    for name, share in (SHARES | {PACKAGE: reconstruction_share(len(part.train))}).items():
        make = whitened(of_normal, USUAL, shared=True, share=share)
        maps = torch.cat([join_stages(make(f, g), (SIZE, SIZE)) for f, g in of_test])
        found[name] = metrics_of(maps, part, masks, "power_mean")
    return found


def main() -> None:
    """Compare, print, and write the table where asked to."""
    parser = make_parser(__doc__, "shares", with_share=False)
    parser.set_defaults(steps=400)
    options = parser.parse_args()
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name, part in parts_by_count(options, Path(folder), seed):
                for share, metrics in compare(part, options.steps, seed).items():
                    print(f"{name}, seed {seed}, {share}: {metrics}", flush=True)
                    for metric, value in metrics.items():
                        found.setdefault(name, {}).setdefault(metric, {}).setdefault(share, []).append(value)
    rows = [
        {"part, training images": name, "metric": metric}
        | {share: mean_and_deviation(values) for share, values in shares.items()}
        for name, metrics in found.items()
        for metric, shares in metrics.items()
    ]
    note = f"Means of {options.seeds} seeds with their standard deviation, {options.steps} steps of training."
    publish(f"{markdown_table(rows)}\n\n{note}", {"rows": rows}, options.report, "shares")


if __name__ == "__main__":
    main()
