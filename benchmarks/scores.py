"""Other ways to calibrate and score a map: quantiles, stages that weigh by what they say, several scales.

    python benchmarks/scores.py --data DATA --groups groups.csv [--seeds 2] [--steps 200] [--report docs/accuracy.md]

On the parts of the data of ``calibration.py``, with its plain auto-encoder, everything estimated on normal training
images alone. A quantile's rows divide by what 99 % of the normal images stay below, at each position; quantiles of few
images are noisy, so they are shrunk half-way to their mean over positions. Scales are blurs of the map besides its own;
the score of each is divided by its mean over normal images, and these are added, or the largest is taken. Image AUROC
and AUPRO in percent, means over seeds with their standard deviation. The last line is a JSON object.
"""

import statistics
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
from machine import publish
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc
from torchvision.transforms.v2.functional import gaussian_blur

from anomalib_ckaad.anomaly_map import image_score, join_stages
from anomalib_ckaad.metrics.streaming import PixelMetric
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.weights import load_backbone_weights

QUANTILE = 0.99
SCALES = (8.0, 16.0)
"""Deviations in pixels of the blurs besides the map's own."""
Weigh = Callable[[Stages], list[Tensor]]
"""From the stage maps (N, 1, H_k, W_k) of normal images to what those of any image are divided by."""


def of_position(maps: Stages) -> list[Tensor]:
    """Quantile at each position, half-way to the mean of all positions."""
    quantiles = [torch.quantile(one, QUANTILE, dim=0) for one in maps]
    return [(one + one.mean()) / 2 for one in quantiles]


def of_deviation(maps: Stages) -> list[Tensor]:
    """A stage's deviation over images and positions."""
    return [one.std() for one in maps]


def of_largest(maps: Stages) -> list[Tensor]:
    """The quantile over images of a stage's largest value."""
    return [torch.quantile(one.amax(dim=(1, 2, 3)), QUANTILE) for one in maps]


def joined(maps: Stages, divisors: list[Tensor] | None = None) -> Tensor:
    """Maps (N, 1, H, W) of stage maps, each divided by something."""
    divided = maps if divisors is None else [one / by for one, by in zip(maps, divisors, strict=True)]
    batches = zip(*(one.split(64) for one in divided), strict=True)
    return torch.cat([join_stages(batch, (SIZE, SIZE)) for batch in batches])


def scales(maps: Tensor) -> list[Tensor]:
    """Image scores (N,) of a map and of its blurs."""
    sizes = [(sigma, 6 * int(sigma) + 1) for sigma in SCALES]
    blurred = (torch.cat([gaussian_blur(one, [n, n], [s, s]) for one in maps.split(64)]) for s, n in sizes)
    return [image_score(one, "power_mean") for one in (maps, *blurred)]


def scored(part: Part, steps: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Maps and image scores of test images, by way."""
    torch.manual_seed(seed)
    model = CkaadModel(BACKBONE, STAGES)
    load_backbone_weights(model.backbone, WEIGHTS)
    normal = features_of(model, part.train)
    train(model, normal, steps, seed)
    of_normal, of_test = (list(by_batches(model, one)) for one in (normal, features_of(model, part.test)))
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, make in (("the package's map", whitened(of_normal, USUAL, shared=True)), ("equation (14)", paper([]))):
        usual, test = (
            [torch.cat(stage) for stage in zip(*[make(f, g) for f, g in pairs], strict=True)]
            for pairs in (of_normal, of_test)
        )
        weighs: dict[str, Weigh] = {
            "by its quantile at each position": of_position,
            "stages by their deviation": of_deviation,
            "stages by their largest values": of_largest,
        }
        maps = joined(test)
        found[name] = (maps, image_score(maps, "power_mean"))
        for suffix, weigh in weighs.items():
            other = joined(test, weigh(usual))
            found[f"{name}, {suffix}"] = (other, image_score(other, "power_mean"))
        shares = [one / scale.mean() for one, scale in zip(scales(maps), scales(joined(usual)), strict=True)]
        found[f"{name}, scores of three scales added"] = (maps, torch.stack(shares).sum(dim=0))
        found[f"{name}, the largest of three scales"] = (maps, torch.stack(shares).amax(dim=0))
    return found


def main() -> None:
    """Compare, print, and write the table where asked to."""
    options = make_parser(__doc__, "scores").parse_args()
    values: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name, part in parts_of(options, Path(folder), seed).items():
                masks, labels = masks_of(part), torch.tensor(part.labels).long()
                for way, (maps, scores) in scored(part, options.steps, seed).items():
                    of = values.setdefault(way, {})
                    ranks = scores.argsort().argsort() / len(scores)  # binary_auroc's sigmoid would tie large scores
                    of.setdefault(f"{name}, AUROC", []).append(100 * float(binary_auroc(ranks, labels)))
                    if masks is not None:
                        metric = PixelMetric()
                        metric.update(maps, masks)
                        of.setdefault(f"{name}, AUPRO", []).append(100 * metric.counts().aupro()[0])
    rows = [
        {"map and score": way} | {name: mean_and_deviation(found) for name, found in of.items()}
        for way, of in values.items()
    ]
    note = f"Means of {options.seeds} seeds with their standard deviation, {options.steps} steps of training."
    publish(f"{markdown_table(rows)}\n\n{note}", {"rows": rows, "values": values}, options.report, "scores")


def mean_and_deviation(found: list[float]) -> str:
    """Mean with standard deviation, where there are several values."""
    deviation = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{deviation}"


if __name__ == "__main__":
    main()
