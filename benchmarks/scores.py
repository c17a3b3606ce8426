"""Other ways to weigh stages, positions and scales of a map: quantiles, deviations, one stage, several blurs.

    python benchmarks/scores.py --data DATA --groups groups.csv [--seeds 2] [--steps 200] [--report docs/accuracy.md]

On the parts of the data of ``calibration.py``, with its plain auto-encoder; a tenth of the normal training images is
held out of training, and what maps are divided by is estimated on it. A position's quantile is what 99 % of them stay
below there, half-way to the mean of all positions, as few images know little of it; the quantiles of a stage are
EfficientAD's: what 90 and 99.5 % of all its positions stay below become 0 and 1. Scales are blurs of 8 and 16 pixels
besides the map's own of 4; the score of each is divided by its mean over the images held out, and these are added, or
the largest is taken. Image AUROC and AUPRO in percent, means over seeds with their standard deviation. The last line is
a JSON object.
"""

import tempfile
from collections.abc import Callable
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
    paper,
    parts_of,
    train,
    whitened,
)
from machine import mean_and_deviation, publish
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_ckaad.metrics.streaming import PixelMetric
from anomalib_ckaad.scoring.anomaly_map import image_score, join_stages
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.weights.loading import load_backbone_weights

QUANTILE = 0.99
RANGE = (0.9, 0.995)
SCALES = (8.0, 16.0)
"""Deviations in pixels of the blurs besides the map's own."""
HELD_OUT = 10
"""One of so many normal training images is held out of training."""
Weigh = Callable[[Stages, Stages], Stages]
"""From the stage maps (N, 1, H_k, W_k) of normal images and of others to what the others' become."""


def by_position(usual: Stages, maps: Stages) -> Stages:
    """Divided by the quantile at each position, half-way to the mean of all positions."""
    quantiles = [torch.quantile(one, QUANTILE, dim=0) for one in usual]
    return [one / ((q + q.mean()) / 2) for one, q in zip(maps, quantiles, strict=True)]


def by_deviation(usual: Stages, maps: Stages) -> Stages:
    """Divided by a stage's deviation over images and positions."""
    return [one / normal.std() for one, normal in zip(maps, usual, strict=True)]


def by_largest(usual: Stages, maps: Stages) -> Stages:
    """Divided by the quantile over images of a stage's largest value."""
    return [one / torch.quantile(n.amax(dim=(1, 2, 3)), QUANTILE) for one, n in zip(maps, usual, strict=True)]


def by_range(usual: Stages, maps: Stages) -> Stages:
    """EfficientAD's: two quantiles of a stage become 0 and 1; what is below 0 counts as 0."""
    found = []
    for one, normal in zip(maps, usual, strict=True):
        low, high = (torch.quantile(normal, q) for q in RANGE)
        found.append(((one - low) / (high - low)).clamp(min=0))
    return found


def times(*factors: float) -> Weigh:
    """Each stage by a factor."""
    return lambda _, maps: [factor * one for factor, one in zip(factors, maps, strict=True)]


WEIGHS: dict[str, Weigh] = {
    "by the quantile at each position": by_position,
    "stages by their deviation": by_deviation,
    "stages by their largest values": by_largest,
    "stages by two quantiles (EfficientAD's)": by_range,
    "the shallow stage twice": times(2, 1),
    "the deep stage twice": times(1, 2),
    "the shallow stage alone": times(1, 0),
    "the deep stage alone": times(0, 1),
}


def joined(maps: Stages, **sigma: float) -> Tensor:
    """Maps (N, 1, H, W) of stage maps."""
    batches = zip(*(one.split(64) for one in maps), strict=True)
    return torch.cat([join_stages(batch, (SIZE, SIZE), **sigma) for batch in batches])


def score(maps: Tensor) -> Tensor:
    """The package's image scores (N,)."""
    return image_score(maps, "power_mean")


def scored(part: Part, steps: int, seed: int) -> dict[str, tuple[Tensor | None, Tensor]]:
    """Maps, None where they are those of the row before, and image scores of test images, by way."""
    torch.manual_seed(seed)
    model = CkaadModel(BACKBONE, STAGES)
    load_backbone_weights(model.backbone, WEIGHTS)
    normal = features_of(model, [path for index, path in enumerate(part.train) if index % HELD_OUT])
    train(model, normal, steps, seed)
    of_normal, of_held_out, of_test = (
        list(by_batches(model, one))
        for one in (normal, features_of(model, part.train[::HELD_OUT]), features_of(model, part.test))
    )
    found: dict[str, tuple[Tensor | None, Tensor]] = {}
    for name, make in (("the package's map", whitened(of_normal, USUAL, shared=True)), ("equation (14)", paper([]))):
        usual, test = (
            [torch.cat(stage) for stage in zip(*[make(f, g) for f, g in pairs], strict=True)]
            for pairs in (of_held_out, of_test)
        )
        maps = joined(test)
        found[name] = (maps, score(maps))
        shares = torch.stack(
            [
                score(maps) / score(joined(usual)).mean(),
                *(score(joined(test, sigma=s)) / score(joined(usual, sigma=s)).mean() for s in SCALES),
            ]
        )
        found[f"{name}, scores of three scales added"] = (None, shares.sum(dim=0))
        found[f"{name}, the largest of three scales"] = (None, shares.amax(dim=0))
        for suffix, weigh in WEIGHS.items():
            other = joined(weigh(usual, test))
            found[f"{name}, {suffix}"] = (other, score(other))
    return found


def main() -> None:
    """Compare, print, and write the table where asked to."""
    options = make_parser(__doc__, "scores").parse_args()
    values: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name, part in parts_of(options, Path(folder), seed).items():
                masks, labels = masks_of(part), torch.tensor(part.labels).long()
                pixels = 0.0
                for way, (maps, scores) in scored(part, options.steps, seed).items():
                    of = values.setdefault(way, {})
                    ranks = scores.argsort().argsort() / len(scores)  # binary_auroc's sigmoid would tie large scores
                    of.setdefault(f"{name}, AUROC", []).append(100 * float(binary_auroc(ranks, labels)))
                    if masks is None:
                        continue
                    if maps is not None:
                        metric = PixelMetric()
                        metric.update(maps, masks)
                        pixels = 100 * metric.counts().aupro()[0]
                    of.setdefault(f"{name}, AUPRO", []).append(pixels)
    rows = [
        {"map and score": way} | {name: mean_and_deviation(found) for name, found in of.items()}
        for way, of in values.items()
    ]
    note = f"Means of {options.seeds} seeds with their standard deviation, {options.steps} steps of training."
    publish(f"{markdown_table(rows)}\n\n{note}", {"rows": rows, "values": values}, options.report, "scores")


if __name__ == "__main__":
    main()
