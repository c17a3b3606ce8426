"""How much the directions of known anomalies should weigh: compared on images that are not a result's.

    python benchmarks/known_directions.py --data DATA --groups groups.csv [--seeds 2] [--steps 200] [--known 8]
        [--report docs/accuracy.md]

As ``calibration.py``, on the same parts of the data and with the same plain auto-encoder, which knows no anomaly. Of
each type in turn some images are known, whole groups of one tile or patient; neither they nor their groups are scored.
Known textures are of the part of the photograph that the training images show.
The last rows choose the image score by the known anomalies: the one of the candidates that ranks them best against a
twentieth of the normal training images, which is held out of training for that. Guarded, the package's own stays unless
another's AUROC is five points larger.
A single direction may count as much as it does, which the package bounds (``energies.py``).
Image AUROC and AUPRO in percent of the known type and in the mean of all others, means over types, and over seeds with
their standard deviation. The last line is a JSON object.
"""

import csv
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from calibration import (
    BACKBONE,
    SIZE,
    STAGES,
    WEIGHTS,
    Part,
    by_batches,
    features_of,
    make_parser,
    masks_of,
    moments_of,
    parts_of,
    train,
)
from machine import mean_and_deviation, publish
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_ckaad.metrics.streaming import PixelMetric
from anomalib_ckaad.scoring.anomaly_map import TopK, image_score, join_stages
from anomalib_ckaad.scoring.calibration import ResidualCalibration
from anomalib_ckaad.scoring.known_directions import PRIOR, SHARE, StandingOut, emphasis_of, emphasis_weight
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.weights.loading import load_backbone_weights


class Way(NamedTuple):
    """How known anomalies are used.

    Attributes:
        share: Of an image's positions that count; None leaves the map as it is calibrated.
        prior: Number of known anomalies that weigh half as much as all else.
        gain: Of AUROC that another image score must bring to be chosen; None keeps the package's.
    """

    share: float | None = SHARE
    prior: float = PRIOR
    gain: float | None = None


WAYS: dict[str, Way] = {
    "calibrated alone": Way(None),
    f"{SHARE:.0%} of the positions, prior {PRIOR}": Way(),
    "1 % of the positions": Way(0.01),
    "20 % of the positions": Way(0.2),
    "all positions": Way(1.0),
    "prior 128: weighs less": Way(prior=128),
    "prior 8: weighs more": Way(prior=8),
    "prior 0: as much as all else": Way(prior=0),
    "calibrated alone, score chosen": Way(None, gain=0.0),
    "calibrated alone, score chosen with a guard": Way(None, gain=0.05),
    "that prior, score chosen": Way(gain=0.0),
    "that prior, score chosen with a guard": Way(gain=0.05),
}
SCORES: tuple[TopK, ...] = ("power_mean", 100, 500, 2000, 8000, "all")
"""Image scores to choose from, the package's first."""
HELD_OUT = 20
"""One of so many normal training images is held out of training."""


class Images(NamedTuple):
    """What is known of test images: type, ``good`` if normal, and the group that must not be divided."""

    types: list[str]
    groups: list[str]


def read(name: str, part: Part, groups: Path | None) -> Images:
    """Types and groups by the rules of each data set."""
    if name == "chest":  # such as person23_bacteria_81.jpeg
        types = [path.name.split("_")[1] if bad else "good" for path, bad in zip(part.test, part.labels, strict=True)]
        return Images(types, [path.name.split("_")[0] for path in part.test])
    group_of = {}
    if name == "tile" and groups is not None:
        with groups.open(newline="") as file:
            group_of = {row["image"]: row["group"] for row in csv.DictReader(file)}
    types = [path.parent.name if bad else "good" for path, bad in zip(part.test, part.labels, strict=True)]
    return Images(types, [group_of.get(f"{path.parent.name}/{path.name}", str(path)) for path in part.test])


def draw(images: Images, kind: str, count: int, seed: int) -> list[int]:
    """Images of a type to know, at most so many, as whole groups."""
    members = [index for index, one in enumerate(images.types) if one == kind]
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: list[int] = []
    for group in dict.fromkeys(images.groups[members[place]] for place in order):
        all_of_it = [index for index in members if images.groups[index] == group]
        if len(chosen) + len(all_of_it) <= count:
            chosen += all_of_it
    return chosen


def standing_out(whitened: Sequence[list[Tensor]], share: float) -> StandingOut:
    """Sums over batches of whitened residuals."""
    found = StandingOut([stage.shape[-1] for stage in whitened[0]], like=whitened[0][0], share=share)
    for batch in whitened:
        found.add(batch)
    return found


def choose_score(known: Tensor, normal: Tensor, gain: float | None) -> TopK:
    """The image score that ranks maps of known anomalies (K, 1, H, W) best against those of normal images."""
    if gain is None:
        return SCORES[0]
    found = {one: auroc(image_score(torch.cat([normal, known]), one), len(normal)) for one in SCORES}
    best = max(SCORES, key=lambda one: found[one])  # the first of equal ones
    return best if found[best] > found[SCORES[0]] + gain else SCORES[0]


def auroc(scores: Tensor, normal: int) -> float:
    """AUROC of scores, those of normal images first."""
    ranks = scores.argsort().argsort() / len(scores)  # binary_auroc's sigmoid would tie large scores
    return float(binary_auroc(ranks, (torch.arange(len(scores)) >= normal).long()))


def scores_of(part: Part, images: Images, steps: int, seed: int, count: int) -> dict[str, list[dict[str, float]]]:
    """Metrics of every way, for each type that has images left to score."""
    torch.manual_seed(seed)
    model = CkaadModel(BACKBONE, STAGES)
    load_backbone_weights(model.backbone, WEIGHTS)
    normal = features_of(model, [path for index, path in enumerate(part.train) if index % HELD_OUT])
    train(model, normal, steps, seed)
    of_normal, of_test, of_held_out = (
        list(by_batches(model, one))
        for one in (normal, features_of(model, part.test), features_of(model, part.train[::HELD_OUT]))
    )
    moments = moments_of(of_normal)
    plain = ResidualCalibration(len(STAGES))
    plain.set(moments)
    white_normal = [plain.whitened(*pair) for pair in of_normal[:8]]
    white_test = [torch.cat(stage) for stage in zip(*[plain.whitened(*pair) for pair in of_test], strict=True)]
    masks = masks_of(part)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for kind in sorted(set(images.types) - {"good"}):
        if part.known is None:
            known = draw(images, kind, count, seed)
            white_known = [stage[known] for stage in white_test]
        else:
            known = []
            of_known = list(by_batches(model, features_of(model, part.known[kind][:count])))
            (white_known,) = [plain.whitened(*pair) for pair in of_known]
        taken = {images.groups[index] for index in known}
        kept = [index for index, group in enumerate(images.groups) if group not in taken]
        if not len(white_known[0]) or all(images.types[index] != kind for index in kept):
            print(f"{kind}: nothing left to score")
            continue
        for way, (share, prior, gain) in WAYS.items():
            calibration = ResidualCalibration(len(STAGES))
            calibration.set(moments)
            if share is not None:
                sums = [standing_out(one, share) for one in (white_normal, [white_known])]
                weight = emphasis_weight(sums[1].images, moments.share, prior)
                calibration.emphasize(emphasis_of(sums[0], sums[1], weight, math.inf))
            maps, of_held = (maps_of(calibration, pairs) for pairs in (of_test, of_held_out))
            score = choose_score(maps[known] if known else maps_of(calibration, of_known), of_held, gain)
            found[way].append(measure(maps, masks, images.types, kept, kind, score))
    return found


def maps_of(calibration: ResidualCalibration, pairs: Sequence[tuple[list[Tensor], list[Tensor]]]) -> Tensor:
    """Maps (N, 1, H, W) from batches of features and reconstructions."""
    return torch.cat([join_stages(calibration(*pair), (SIZE, SIZE)) for pair in pairs])


def measure(
    maps: Tensor, masks: Tensor | None, types: list[str], kept: list[int], kind: str, score: TopK
) -> dict[str, float]:
    """Metrics of the known type, and in the mean of all others."""
    scores = image_score(maps, score)
    results: dict[str, dict[str, list[float]]] = {"known type": {}, "other types": {}}
    for other in sorted(set(types) - {"good"}):
        scored = [index for index in kept if types[index] in {other, "good"}]
        order = sorted(scored, key=lambda index: types[index] == other)  # normal ones first
        of = results["known type" if other == kind else "other types"]
        normal = sum(types[index] == "good" for index in scored)
        of.setdefault("AUROC", []).append(100 * auroc(scores[order], normal))
        if masks is not None:
            metric = PixelMetric()
            metric.update(maps[scored], masks[scored])
            of.setdefault("AUPRO", []).append(100 * metric.counts().aupro()[0])
    return {
        f"{which}, {name}": statistics.mean(values)
        for which, metrics in results.items()
        for name, values in metrics.items()
    }


def main() -> None:
    """Compare, print, and write the table where asked to."""
    parser = make_parser(__doc__, "known-directions")
    parser.add_argument("--known", type=int, default=8, help="known anomalies of the one type")
    options = parser.parse_args()
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name, part in parts_of(options, Path(folder), seed, options.known).items():
                images = read(name, part, options.groups)
                for way, results in scores_of(part, images, options.steps, seed, options.known).items():
                    if not results:
                        continue
                    means = {metric: statistics.mean(one[metric] for one in results) for metric in results[0]}
                    found.setdefault(name, {}).setdefault(way, []).append(means)
    rows = []
    for way in WAYS:
        row = {"map": way}
        for name, ways in found.items():
            for metric in ways[way][0]:
                row[f"{name}, {metric}"] = mean_and_deviation([one[metric] for one in ways[way]])
        rows.append(row)
    note = (
        f"At most {options.known} known images of one type; means over types, and over {options.seeds} seeds with "
        f"their standard deviation, {options.steps} steps."
    )
    publish(f"{markdown_table(rows)}\n\n{note}", {"rows": rows}, options.report, "known-directions")


if __name__ == "__main__":
    main()
