"""Which patches of a known anomaly count as anomalous: all, as in equation (11), or those that stand out.

    python benchmarks/multiple_instances.py --data DATA [--seeds 2] [--steps 400] [--known 8]
        [--report docs/accuracy.md]

On chest X-ray's training images: some pneumonia images, of patients of their own, are known, and the others are scored
against 70 normal images that are held out (``calibration.py``). An image is only known to be anomalous somewhere. The
other ways let a part of its patches push the discriminator: the quarter with the largest energies, all of them weighed
by a softmax of their energies, or the quarter that is reconstructed worst. Map and score are the package's, with and
without the emphasis of known directions, which is not bounded here. Image AUROC in percent, means over seeds with their
standard deviation. The last line is a JSON object.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from calibration import BACKBONE, SIZE, STAGES, WEIGHTS, Stages, add_share, by_batches, chest, features_of, moments_of
from known_directions import auroc, draw, read, standing_out
from machine import mean_and_deviation, publish
from torch import Tensor, nn

from anomalib_ckaad.network import objective as objectives
from anomalib_ckaad.network.discriminator import PatchDiscriminator
from anomalib_ckaad.network.objective import STRATEGIES, Objective, alternating_step
from anomalib_ckaad.scoring.anomaly_map import image_score, join_stages, stage_map
from anomalib_ckaad.scoring.calibration import ResidualCalibration
from anomalib_ckaad.scoring.known_directions import SHARE, emphasis_of, emphasis_weight
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.fast_training import bfloat16_if, make_adam
from anomalib_ckaad.weights.loading import load_backbone_weights

PART = 0.25
BATCH = 16
Choose = Callable[[Tensor, Tensor], Tensor]
"""From energies and errors (N, P) of an image's patches to their weights (N, P), which add up to 1."""


def _largest(values: Tensor) -> Tensor:
    kept = max(1, int(PART * values.shape[1]))
    return torch.zeros_like(values).scatter(1, values.topk(kept, dim=1).indices, 1 / kept)


WAYS: dict[str, Choose] = {
    "all patches, equation (11)": lambda energies, _: torch.full_like(energies, 1 / energies.shape[1]),
    "the quarter with the largest energies": lambda energies, _: _largest(energies),
    "a softmax of the energies": lambda energies, _: energies.softmax(dim=1),
    "the quarter that is reconstructed worst": lambda _, errors: _largest(errors),
}


class Recorded(nn.Module):
    """An auto-encoder that remembers the errors (N, P) of its last pass, one tensor a stage."""

    def __init__(self, auto_encoder: nn.Module) -> None:
        super().__init__()
        self.auto_encoder = auto_encoder
        self.errors: list[Tensor] = []

    def forward(self, features: Stages) -> Stages:
        """Reconstruct."""
        made: Stages = self.auto_encoder(features)
        self.errors = [stage_map(f, g.detach()).flatten(1) for f, g in zip(features, made, strict=True)]
        return made


def chosen_loss(recorded: Recorded, choose: Choose, usual: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Equation (11) whose second term weighs an anomalous image's patches."""

    def loss(
        of_features: Sequence[Tensor],
        of_reconstructions: Sequence[Tensor],
        is_anomalous: Tensor,
        *,
        margin: float,
        balance: float,
        knowledge: bool,
    ) -> Tensor:
        total = usual(of_features, of_reconstructions, is_anomalous, margin=margin, balance=balance, knowledge=False)
        if knowledge and bool(is_anomalous.any()):
            for energies, errors in zip(of_features, recorded.errors, strict=True):
                each = energies.flatten(1)[is_anomalous]
                weights = choose(each.detach().float(), errors[is_anomalous].float())
                total = total + (1 - balance) * (weights * (margin - each).clamp(min=0)).sum(dim=1).mean()
        return total

    return loss


def train(
    model: CkaadModel, normal: Stages, known: Stages, choose: Choose, steps: int, seed: int
) -> PatchDiscriminator:
    """Train as Ckaad does, with all known anomalies in every batch of 16 normal images; the discriminator."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    discriminator = PatchDiscriminator(model.auto_encoder.architecture.channels)
    optimizers = [make_adam(module.parameters(), 1e-3) for module in (model.auto_encoder, discriminator)]
    recorded = Recorded(model.auto_encoder)
    usual = objectives.discriminator_loss
    objectives.discriminator_loss = chosen_loss(recorded, choose, usual)
    is_anomalous = torch.arange(BATCH + len(known[0])) >= BATCH
    order: list[int] = []
    try:
        for _ in range(steps):
            if len(order) < BATCH:
                order = torch.randperm(len(normal[0]), generator=generator).tolist()
            chosen, order = order[:BATCH], order[BATCH:]
            with bfloat16_if(wanted=True):
                alternating_step(
                    [torch.cat([f[chosen], a]).float() for f, a in zip(normal, known, strict=True)],
                    is_anomalous,
                    auto_encoder=recorded,
                    discriminator=discriminator,
                    objective=Objective(STRATEGIES["cka_patch"]),
                    auto_encoder_optimizer=optimizers[0],
                    discriminator_optimizer=optimizers[1],
                )
    finally:
        objectives.discriminator_loss = usual
    return discriminator


def evaluate(model: CkaadModel, normal: Stages, known: Stages, test: Stages, held_out: int) -> dict[str, float]:
    """Image AUROC of the calibrated map, without and with the emphasis; the first test images are normal."""
    of_normal, of_test = (list(by_batches(model, one)) for one in (normal, test))
    calibration = ResidualCalibration(len(STAGES))
    moments = moments_of(of_normal)
    calibration.set(moments)
    found = {}
    for name in ("AUROC", "AUROC, emphasized"):
        if name != "AUROC":
            sums = [
                standing_out([calibration.whitened(*pair) for pair in pairs], SHARE)
                for pairs in (of_normal[:8], list(by_batches(model, known)))
            ]
            weight = emphasis_weight(sums[1].images, moments.share)
            calibration.emphasize(emphasis_of(*sums, weight, math.inf))
        maps = torch.cat([join_stages(calibration(*pair), (SIZE, SIZE)) for pair in of_test])
        found[name] = 100 * auroc(image_score(maps, "power_mean"), held_out)
    return found


def main() -> None:
    """Compare, print, and write the table where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with chest_xray")
    parser.add_argument("--seeds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--known", type=int, default=8, help="known anomalies; default: %(default)s")
    add_share(parser)
    parser.add_argument("--report", type=Path, help="Markdown file whose section `multiple-instances` gets the table")
    options = parser.parse_args()
    if options.known > BATCH:
        parser.error(f"Expected --known of at most {BATCH}, got {options.known}. Do lower it: a batch holds them all.")
    values: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.seeds):
        part = chest(options.data, seed)
        images = read("chest", part, None)
        of_any_type = images._replace(types=["bad" if label else "good" for label in part.labels])
        taken = draw(of_any_type, "bad", options.known, seed)
        groups = {images.groups[index] for index in taken}
        kept = [index for index, group in enumerate(images.groups) if group not in groups]
        torch.manual_seed(seed)
        model = CkaadModel(BACKBONE, STAGES)
        load_backbone_weights(model.backbone, WEIGHTS)
        began = {name: value.clone() for name, value in model.auto_encoder.state_dict().items()}
        normal = features_of(model, part.train)
        known, test = (features_of(model, [part.test[index] for index in some]) for some in (taken, kept))
        for way, choose in WAYS.items():
            model.auto_encoder.load_state_dict(began)
            train(model, normal, known, choose, options.steps, seed)
            held_out = sum(not part.labels[index] for index in kept)
            for name, value in evaluate(model, normal, known, test, held_out).items():
                values.setdefault(way, {}).setdefault(name, []).append(value)
                print(f"seed {seed}, {way}: {name} {value:.1f}", flush=True)
    rows = [
        {"patches that count": way} | {name: mean_and_deviation(found) for name, found in of.items()}
        for way, of in values.items()
    ]
    note = (
        f"{options.known} known anomalies; means of {options.seeds} seeds with their standard deviation, "
        f"{options.steps} steps."
    )
    publish(f"{markdown_table(rows)}\n\n{note}", {"rows": rows, "values": values}, options.report, "multiple-instances")


if __name__ == "__main__":
    main()
