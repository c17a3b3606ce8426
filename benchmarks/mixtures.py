"""Would a model of the features themselves add to the auto-encoder's map, where no two places look alike?

    python benchmarks/mixtures.py --data DATA --groups groups.csv [--seeds 2] [--steps 400] [--report docs/accuracy.md]

The parts of benchmarks/calibration.py, and the textures grass and gravel besides. Compared with the package's map are
maps of features without an auto-encoder, by position or wherever they are: the length of a feature whitened by the
nearest of some clusters of normal features (k-means of whitened features, covariances shrunk to that of all), and its
distance to the nearest of 15,000 normal features. Image AUROC by the power mean and AUPRO, in percent, means over seeds
with their standard deviation. The last line is a JSON object.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from calibration import (
    BACKBONE,
    SIZE,
    STAGES,
    USUAL,
    WEIGHTS,
    Part,
    Stages,
    by_batches,
    features_of,
    make_parser,
    masks_of,
    metrics_of,
    parts_of,
    texture,
    train,
    whitened,
    without_auto_encoder,
)
from machine import mean_and_deviation, publish
from torch import Tensor

from anomalib_ckaad.scoring.anomaly_map import join_stages
from anomalib_ckaad.scoring.calibration import FLOOR
from anomalib_ckaad.scoring.residuals import residual_of
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.weights.loading import load_backbone_weights

CLUSTERS = (8, 32)
ROUNDS = 15
"""Of k-means."""
BANK = 15_000
ADDED = (0.5, 1.0)
"""Shares of the mixture's map that are added to the package's."""


def rows_of(features: Tensor) -> Tensor:
    """(N, C, H, W) by their strength, as the package's residuals, as rows (N * H * W, C)."""
    scaled = residual_of(features, torch.zeros_like(features))
    return scaled.permute(0, 2, 3, 1).flatten(0, 2)


def whitening(covariance: Tensor) -> Tensor:
    """W with W'W = M^-1, of a covariance with the package's floor."""
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    factor = torch.linalg.cholesky(covariance + FLOOR * covariance.diagonal().mean() * eye)
    return torch.linalg.solve_triangular(factor, eye, upper=False).float()


def nearest(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest of others, and which it is."""
    found = [torch.cdist(some, others).min(dim=1) for some in rows.split(4096)]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def mixture(rows: Tensor, clusters: int) -> Callable[[Tensor], Tensor]:
    """Lengths of rows whitened by the cluster in which they are shortest."""
    mean, covariance = rows.mean(dim=0), torch.cov(rows.mT.double())
    white = (rows - mean) @ whitening(covariance).mT
    generator = torch.Generator().manual_seed(0)
    centers = white[torch.randperm(len(white), generator=generator)[:clusters]]
    for _ in range(ROUNDS):
        own = nearest(white, centers)[1]
        centers = torch.stack(
            [white[own == k].mean(dim=0) if (own == k).any() else centers[k] for k in range(clusters)]
        )
    channels = rows.shape[1]
    parts = []
    for k in range(clusters):
        members = rows[own == k]
        if len(members):
            share = 4 * channels / (4 * channels + len(members))
            centered = (members - members.mean(dim=0)).double()
            shrunk = (1 - share) * (centered.mT @ centered) / len(members) + share * covariance
            parts.append((members.mean(dim=0), whitening(shrunk)))
    return lambda some: torch.stack([((some - m) @ w.mT).square().sum(dim=1) for m, w in parts]).amin(dim=0).sqrt()


def bank(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """Distances of whitened rows to the nearest that are kept."""
    mean, white = rows.mean(dim=0), whitening(torch.cov(rows.mT.double()))
    kept = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:BANK]
    others = (rows[kept] - mean) @ white.mT
    return lambda some: nearest((some - mean) @ white.mT, others)[0]


def maps_of(make: Callable[[Tensor], Callable[[Tensor], Tensor]], normal: Stages, test: Iterable[Stages]) -> Tensor:
    """Maps of the test images, made of the lengths that normal features make; in the unit of the package's."""
    lengths = [make(rows_of(stage.float())) for stage in normal]
    found = []
    for batch in test:
        stages = [
            one(rows_of(stage)).reshape(len(stage), 1, *stage.shape[-2:])
            for one, stage in zip(lengths, batch, strict=True)
        ]
        found.append(join_stages(stages, (SIZE, SIZE)))
    return torch.cat(found) / normal[-1].shape[1] ** 0.5


@torch.no_grad()
def compare(model: CkaadModel, normal: Stages, part: Part) -> dict[str, dict[str, float]]:
    """AUROC and AUPRO of every map."""
    unit = normal[-1].shape[1] ** 0.5
    of_normal, of_test = list(by_batches(model, normal)), list(by_batches(model, features_of(model, part.test)))
    maps = {}
    for name, maker in (
        ("the package's map", lambda pairs: whitened(pairs, USUAL, shared=True)),
        ("features by position", without_auto_encoder),
    ):
        stages_of = maker(of_normal)
        maps[name] = torch.cat([join_stages(stages_of(f, g), (SIZE, SIZE)) for f, g in of_test]) / unit
    features = [f for f, _ in of_test]
    for clusters in CLUSTERS:
        name = f"features by {clusters} clusters"
        maps[name] = maps_of(lambda rows, k=clusters: mixture(rows, k), normal, features)
        for share in ADDED:
            maps[f"the package's map + {share:g} * {name}"] = maps["the package's map"] + share * maps[name]
    maps["features by the nearest normal one"] = maps_of(bank, normal, features)
    masks = masks_of(part)
    return {name: metrics_of(one, part, masks, "power_mean") for name, one in maps.items()}


def find(options: argparse.Namespace, folder: Path, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Of one seed, by part and map."""
    found = {}
    parts = parts_of(options, folder, seed)
    parts |= {name: texture(folder, seed, category=name) for name in ("grass", "gravel")}
    for name, part in parts.items():
        torch.manual_seed(seed)
        model = CkaadModel(BACKBONE, STAGES)
        load_backbone_weights(model.backbone, WEIGHTS)
        normal = features_of(model, part.train)
        train(model, normal, options.steps, seed)
        found[name] = compare(model, normal, part)
    return found


def main() -> None:
    """Compare, print, and write the table where asked to."""
    parser = make_parser(__doc__, "mixtures")
    parser.set_defaults(steps=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [find(options, Path(folder), seed) for seed in range(options.seeds)]
    rows = [
        {"map": way}
        | {
            f"{name}, {metric}": mean_and_deviation([run[name][way][metric] for run in runs])
            for name, ways in runs[0].items()
            for metric in ways[way]
        }
        for way in next(iter(runs[0].values()))
    ]
    note = f"Means of {options.seeds} seeds with their standard deviation, {options.steps} steps of training."
    publish(f"{markdown_table(rows)}\n\n{note}", {"rows": rows}, options.report, "mixtures")


if __name__ == "__main__":
    main()
