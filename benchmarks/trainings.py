"""Would another way of training find more where nothing is known: schedules, averages, losses, last activations?

    python benchmarks/trainings.py --data DATA --groups groups.csv [--seeds 2] [--steps 400] [--long]
        [--report docs/accuracy.md]

On the parts of the data of ``calibration.py``, with the package's calibrated map and with the paper's, equation (14),
both with the power mean as image score. ``constant rate`` is what the package does. The moving average is of the same
training's weights, with a decay of 0.99. With ``--long`` a cosine schedule of four times the steps is compared with the
constant rate alone, and the section is ``trainings-long``. Image AUROC and AUPRO in percent, means over seeds with
their standard deviation. The last line is a JSON object.
"""

import copy
import tempfile
from argparse import Namespace
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
    Stages,
    by_batches,
    features_of,
    make_parser,
    masks_of,
    metrics_of,
    paper,
    parts_of,
    whitened,
)
from machine import mean_and_deviation, publish
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anomalib_ckaad.network.objective import reconstruction_error
from anomalib_ckaad.scoring.anomaly_map import join_stages, stage_map
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.fast_training import bfloat16_if, make_adam
from anomalib_ckaad.weights.loading import load_backbone_weights

BATCH = 16
RATE = 1e-3
DECAY = 0.99
LONG = "cosine schedule, four times the steps"


def train(
    auto_encoder: nn.Module, features: Stages, steps: int, seed: int, *, by_position: bool = False, cosine: bool = False
) -> Iterator[tuple[int, nn.Module]]:
    """After every step its number and the moving average of the weights so far."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = make_adam(auto_encoder.parameters(), RATE)
    scheduler = CosineAnnealingLR(optimizer, steps) if cosine else None
    average = AveragedModel(auto_encoder, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    order: list[int] = []
    for step in range(1, steps + 1):
        if len(order) < BATCH:
            order = torch.randperm(len(features[0]), generator=generator).tolist()
        chosen, order = order[:BATCH], order[BATCH:]
        batch = [stage[chosen].float() for stage in features]
        optimizer.zero_grad()
        with bfloat16_if(wanted=True):
            found = auto_encoder(batch)
        if by_position:
            loss = torch.stack([stage_map(f, g).mean() for f, g in zip(batch, found, strict=True)]).sum()
        else:
            loss = reconstruction_error(batch, found).mean()
        loss.backward()
        optimizer.step()
        average.update_parameters(auto_encoder)
        if scheduler is not None:
            scheduler.step()
        yield step, average.module


def trained(normal: Stages, options: Namespace, seed: int) -> Iterator[tuple[str, CkaadModel]]:
    """Name and model of every way of training."""

    def build(*, output_relu: bool | None = None) -> CkaadModel:
        torch.manual_seed(seed)
        model = CkaadModel(BACKBONE, STAGES, output_relu=output_relu)
        load_backbone_weights(model.backbone, WEIGHTS)
        return model

    model = build()
    for step, average in train(model.auto_encoder, normal, options.steps, seed):
        if step == options.steps // 2 and not options.long:
            yield "constant rate, half the steps", model
        if step == options.steps:
            yield "constant rate", model
        if step == options.steps and not options.long:
            averaged = copy.deepcopy(model)
            averaged.auto_encoder.load_state_dict(average.state_dict())
            yield "constant rate, moving average", averaged
    usual = (("cosine schedule", {"cosine": True}), ("loss by position", {"by_position": True}), ("ReLU", {}))
    for name, ways in ((LONG, {"cosine": True}),) if options.long else usual:
        model = build(output_relu=True if name == "ReLU" else None)
        for _ in train(model.auto_encoder, normal, options.steps * (4 if name == LONG else 1), seed, **ways):
            pass
        yield "reconstructions end in a ReLU" if name == "ReLU" else name, model


@torch.no_grad()
def score(model: CkaadModel, normal: Stages, test: Stages, part: Part) -> Iterator[tuple[str, dict[str, float]]]:
    """Name of a map, and what it finds."""
    of_normal, of_test = list(by_batches(model, normal)), list(by_batches(model, test))
    masks = masks_of(part)
    for name, make in (("calibrated", whitened(of_normal, USUAL, shared=True)), ("equation (14)", paper(of_normal))):
        maps = torch.cat([join_stages(make(f, g), (SIZE, SIZE)) for f, g in of_test])
        yield name, metrics_of(maps, part, masks, "power_mean")


def main() -> None:
    """Compare, print, and write the table where asked to."""
    parser = make_parser(__doc__, "trainings")
    parser.add_argument("--long", action="store_true", help="a cosine schedule of four times the steps alone")
    parser.set_defaults(steps=400)
    options = parser.parse_args()
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name, part in parts_of(options, Path(folder), seed).items():
                backbone = CkaadModel(BACKBONE, STAGES)
                load_backbone_weights(backbone.backbone, WEIGHTS)
                normal, test = features_of(backbone, part.train), features_of(backbone, part.test)
                for way, model in trained(normal, options, seed):
                    for kind, metrics in score(model, normal, test, part):
                        print(f"{name}, seed {seed}, {way}, {kind}: {metrics}", flush=True)
                        for metric, value in metrics.items():
                            row = found.setdefault((kind, way), {})
                            row.setdefault(f"{name}, {metric}", []).append(value)
    rows = [
        {"map": kind, "training": way, **{name: mean_and_deviation(values) for name, values in metrics.items()}}
        for (kind, way), metrics in sorted(found.items(), key=lambda one: one[0][0])
    ]
    note = f"Means of {options.seeds} seeds with their standard deviation, {options.steps} steps of training."
    section = "trainings-long" if options.long else "trainings"
    publish(f"{markdown_table(rows)}\n\n{note}", {"rows": rows}, options.report, section)


if __name__ == "__main__":
    main()
