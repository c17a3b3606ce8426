"""How the map should be calibrated: residuals and maps compared on images that are not a result's.

    python benchmarks/calibration.py --data DATA --groups groups.csv [--seeds 2] [--steps 200]
        [--report docs/accuracy.md]

A plain auto-encoder is trained on normal images (EfficientNet-Lite0, stages 2 3, features computed once), and its
residuals are made maps of in several ways. Scored on

- chest: 70 normal images held out of the training set against the training set's pneumonia images;
- tile: half of magnetic tile's test images, every other group of each type (the study has both halves);
- brick: the built-in textures, drawn by another seed than the package's own data.

Image AUROC and AUPRO in percent, means over seeds with their standard deviation; images are scored by their 100 largest
pixels unless a row says otherwise. Without an auto-encoder a feature's residual is its difference to the mean feature
of its position, which makes the map PaDiM's with all channels. The last line is a JSON object.
"""

import argparse
import csv
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from machine import mean_and_deviation, publish
from PIL import Image
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc
from torchvision.transforms.v2.functional import normalize, pil_to_tensor, resize

from anomalib_ckaad.data.textures.images import Category
from anomalib_ckaad.data.textures.textures import Textures
from anomalib_ckaad.metrics.streaming import PixelMetric
from anomalib_ckaad.network.objective import STRATEGIES, Objective, alternating_step
from anomalib_ckaad.scoring import residuals
from anomalib_ckaad.scoring.anomaly_map import TopK, image_score, join_stages, stage_map
from anomalib_ckaad.scoring.calibration import ResidualCalibration, ResidualMoments
from anomalib_ckaad.scoring.residuals import reconstruction_share
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.fast_training import bfloat16_if, make_adam
from anomalib_ckaad.weights.loading import load_backbone_weights, normalization

BACKBONE, WEIGHTS, STAGES, SIZE = "tf_efficientnet_lite0", "package", (2, 3), 224
Stages = list[Tensor]
"""One tensor (N, C_k, H_k, W_k) a stage."""
Maker = Callable[[Stages, Stages], Callable[[Stages, Stages], Stages]]
"""From features and reconstructions of normal training images to what makes stage maps of others."""


ASKED: dict[str, float | None] = {"share": None}
"""What ``--share`` says."""


class Part(NamedTuple):
    """Files of images, and whether each is anomalous; masks where there are some."""

    train: Sequence[Path]
    test: Sequence[Path]
    labels: Sequence[bool]
    masks: Sequence[Path | None] | None
    known: dict[str, list[Path]] | None = None
    """Known anomalies by type, where they are none of the test images."""


def chest(root: Path, seed: int) -> Part:
    """Training images alone."""
    normal = sorted((root / "chest_xray/train/NORMAL").iterdir())
    known = sorted((root / "chest_xray/train/PNEUMONIA").iterdir())
    order = np.random.default_rng(seed).permutation(len(normal))
    held, rest = [normal[i] for i in order[:70]], [normal[i] for i in order[70:]]
    return Part(rest, held + known, [False] * len(held) + [True] * len(known), None)


def tile(root: Path, groups: Path) -> Part:
    """Every other group of test images."""
    base = root / "magnetic_tile"
    with groups.open(newline="") as file:
        group_of = {row["image"]: row["group"] for row in csv.DictReader(file)}
    kept = set(sorted(set(group_of.values()))[::2])
    normal = sorted((base / "test/good").iterdir())[::2]
    bad = [base / "test" / name for name, group in sorted(group_of.items()) if group in kept and "good" not in name]
    masks = [next((base / "ground_truth" / path.parent.name).glob(f"{path.stem}*")) for path in bad]
    train = sorted((base / "train/good").iterdir())
    return Part(train, normal + bad, [False] * len(normal) + [True] * len(bad), [None] * len(normal) + list(masks))


def texture(folder: Path, seed: int, known: int = 0, category: Category = "brick") -> Part:
    """Textures drawn by another seed."""
    root = folder / str(seed)
    data = Textures(root=root, category=category, images_per_defect=16, known_per_defect=known, texture_seed=seed + 1)
    data.prepare_data()
    data.setup()
    train, test = data.train_data.samples, data.test_data.samples
    masks = [Path(path) if label else None for path, label in zip(test.mask_path, test.label_index, strict=True)]
    of_type = {kind.name: sorted(kind.iterdir()) for kind in (root / category / "known").glob("*")}
    images = (list(map(Path, subset.image_path)) for subset in (train, test))
    return Part(*images, list(test.label_index > 0), masks, of_type or None)


def features_of(model: CkaadModel, paths: Sequence[Path]) -> Stages:
    """The backbone's features, in bfloat16 to save memory."""
    mean, std = normalization(BACKBONE, WEIGHTS)
    found = []
    for start in range(0, len(paths), 32):
        images = [pil_to_tensor(Image.open(path).convert("RGB")) for path in paths[start : start + 32]]
        batch = torch.stack([resize(one.float() / 255, [SIZE, SIZE], antialias=True) for one in images])
        found.append([f.bfloat16() for f in model.backbone(normalize(batch, list(mean), list(std)))])
    return [torch.cat(stage) for stage in zip(*found, strict=True)]


def train(model: CkaadModel, features: Stages, steps: int, seed: int) -> None:
    """A plain auto-encoder, batches of 16, 1e-3."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = make_adam(model.auto_encoder.parameters(), 1e-3)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < 16:  # noqa: PLR2004 - the batch
            order = torch.randperm(len(features[0]), generator=generator).tolist()
        chosen, order = order[:16], order[16:]
        with bfloat16_if(wanted=True):
            alternating_step(
                [f[chosen].float() for f in features],
                torch.zeros(16, dtype=torch.bool),
                auto_encoder=model.auto_encoder,
                discriminator=None,
                objective=Objective(STRATEGIES["recon"]),
                auto_encoder_optimizer=optimizer,
            )


def by_batches(model: CkaadModel, features: Stages) -> Iterator[tuple[Stages, Stages]]:
    """Features and reconstructions of 32 images at a time."""
    with torch.no_grad():
        for start in range(0, len(features[0]), 32):
            batch = [f[start : start + 32].float() for f in features]
            yield batch, model.auto_encoder(batch)


def paper(normal: Sequence[tuple[Stages, Stages]]) -> Callable[[Stages, Stages], Stages]:
    """Equation (14)."""
    del normal
    return lambda f, g: [stage_map(*pair) for pair in zip(f, g, strict=True)]


def standardized(normal: Sequence[tuple[Stages, Stages]], *, by_position: bool) -> Callable[[Stages, Stages], Stages]:
    """Equation (14) less its mean over normal images, by its deviation; a position's is shrunk to that of all."""
    plain = paper([])
    maps = [torch.cat(stage) for stage in zip(*[plain(f, g) for f, g in normal], strict=True)]
    means = [one.mean(dim=0) if by_position else one.mean() for one in maps]
    deviations = [
        ((one.var(dim=0) + 0.1 * one.var(dim=0).mean()) / 1.1).sqrt() if by_position else one.std() for one in maps
    ]
    return lambda f, g: [(m - a) / s for m, a, s in zip(plain(f, g), means, deviations, strict=True)]


def moments_of(normal: Sequence[tuple[Stages, Stages]], share: float | None = None) -> ResidualMoments:
    """Of residuals with a share of the reconstruction taken away; None for what was asked for, or the package's."""
    images = sum(len(features[0]) for features, _ in normal)
    share = ASKED["share"] if share is None else share
    moments = ResidualMoments(reconstruction_share(images) if share is None else share)
    for pair in normal:
        moments.add(*pair)
    return moments


def whitened(
    normal: Sequence[tuple[Stages, Stages]], strength: float, *, shared: bool, share: float | None = None
) -> Callable[[Stages, Stages], Stages]:
    """Mahalanobis lengths of residuals; shallower stages share the matrices of their neighbors, or have their own."""
    count = len(normal[0][0])
    parts = [range(count)] if shared else [range(k, k + 1) for k in range(count)]
    residuals.STRENGTH = strength
    made = []
    for part in parts:
        one = ResidualCalibration(len(part))
        one.set(moments_of([([f[k] for k in part], [g[k] for k in part]) for f, g in normal], share))
        made.append(one)

    def maps(f: Stages, g: Stages) -> Stages:
        residuals.STRENGTH = strength
        return [
            found * f[part[-1]].shape[1] ** 0.5  # in one unit
            for one, part in zip(made, parts, strict=True)
            for found in one([f[k] for k in part], [g[k] for k in part])
        ]

    return maps


def without_auto_encoder(normal: Sequence[tuple[Stages, Stages]]) -> Callable[[Stages, Stages], Stages]:
    """Mahalanobis lengths of what features differ by from the mean feature of their position."""
    means = [torch.cat(stage).mean(dim=0, keepdim=True) for stage in zip(*[f for f, _ in normal], strict=True)]

    def as_reconstructions(features: Stages) -> Stages:
        return [mean.expand_as(one) for mean, one in zip(means, features, strict=True)]

    maps = whitened([(f, as_reconstructions(f)) for f, _ in normal], USUAL, shared=True, share=1.0)
    return lambda f, _: maps(f, as_reconstructions(f))


def both(normal: Sequence[tuple[Stages, Stages]]) -> Callable[[Stages, Stages], Stages]:
    """Lengths with and without an auto-encoder, added; both are about 1 for normal images."""
    makers = (whitened(normal, USUAL, shared=True), without_auto_encoder(normal))
    return lambda f, g: [sum(stage) for stage in zip(*(make(f, g) for make in makers), strict=True)]


USUAL = residuals.STRENGTH
WAYS: dict[str, tuple[Maker, TopK]] = {
    "paper, equation (14)": (paper, 100),
    "standardized by stage": (lambda normal: standardized(normal, by_position=False), 100),
    "standardized by position": (lambda normal: standardized(normal, by_position=True), 100),
    "whitened directions (strength 0)": (lambda normal: whitened(normal, 1e-3, shared=True), 100),
    "whitened, whole map's strength (infinite)": (lambda normal: whitened(normal, 1e3, shared=True), 100),
    f"whitened, strength {USUAL:g}": (lambda normal: whitened(normal, USUAL, shared=True), 100),
    f"strength {USUAL:g}, a matrix for each position": (lambda normal: whitened(normal, USUAL, shared=False), 100),
    f"strength {USUAL:g}, score: 2000 pixels": (lambda normal: whitened(normal, USUAL, shared=True), 2000),
    f"strength {USUAL:g}, score: whole map": (lambda normal: whitened(normal, USUAL, shared=True), "all"),
    f"the package: strength {USUAL:g}, score: power mean": (
        lambda normal: whitened(normal, USUAL, shared=True),
        "power_mean",
    ),
    "the package, but all of the reconstruction taken away": (
        lambda normal: whitened(normal, USUAL, shared=True, share=1.0),
        "power_mean",
    ),
    "whitened directions (strength 0), score: power mean": (
        lambda normal: whitened(normal, 1e-3, shared=True),
        "power_mean",
    ),
    "without an auto-encoder": (without_auto_encoder, 100),
    "without an auto-encoder, score: power mean": (without_auto_encoder, "power_mean"),
    "with and without an auto-encoder, added, score: power mean": (both, "power_mean"),
    "paper, equation (14), score: power mean": (paper, "power_mean"),
}
"""Maker of maps, and how the image score is made of them."""


def masks_of(part: Part) -> Tensor | None:
    """Masks (N, H, W) of the test images."""
    if part.masks is None:
        return None
    empty = np.zeros((SIZE, SIZE), dtype=bool)
    found = []
    for path in part.masks:
        image = empty if path is None else Image.open(path).convert("L").resize((SIZE, SIZE), Image.Resampling.NEAREST)
        found.append(np.array(image) > 0)
    return torch.from_numpy(np.stack(found))


def scores_of(part: Part, steps: int, seed: int) -> dict[str, dict[str, float]]:
    """AUROC and AUPRO of every way."""
    torch.manual_seed(seed)
    model = CkaadModel(BACKBONE, STAGES)
    load_backbone_weights(model.backbone, WEIGHTS)
    normal = features_of(model, part.train)
    train(model, normal, steps, seed)
    of_normal = list(by_batches(model, normal))
    of_test = list(by_batches(model, features_of(model, part.test)))
    masks = masks_of(part)
    found: dict[str, dict[str, float]] = {}
    for name, (make, top_k) in WAYS.items():
        maps_of = make(of_normal)
        maps = torch.cat([join_stages(maps_of(f, g), (SIZE, SIZE)) for f, g in of_test])
        found[name] = metrics_of(maps, part, masks, top_k)
    return found


def metrics_of(maps: Tensor, part: Part, masks: Tensor | None, top_k: TopK) -> dict[str, float]:
    """AUROC of image scores, and with masks AUPRO, in percent."""
    # binary_auroc's sigmoid would tie large scores.
    ranks = image_score(maps, top_k).argsort().argsort() / len(maps)
    found = {"AUROC": 100 * float(binary_auroc(ranks, torch.tensor(part.labels).long()))}
    if masks is not None:
        metric = PixelMetric()
        metric.update(maps, masks)
        found["AUPRO"] = 100 * metric.counts().aupro()[0]
    return found


def parts_of(options: argparse.Namespace, folder: Path, seed: int, known: int = 0) -> dict[str, Part]:
    """The parts of the data that there are."""
    parts = {"brick": texture(folder, seed, known)}
    if options.data is not None:
        parts["chest"] = chest(options.data, seed)
        if options.groups is not None:
            parts["tile"] = tile(options.data, options.groups)
    return parts


def add_share(parser: argparse.ArgumentParser) -> None:
    """An option for the share of the reconstruction that calibrated maps take away."""

    def keep(text: str) -> float:
        share = float(text)
        if not 0 <= share <= 1:
            msg = f"Expected a share in [0, 1], got {text}. Do change --share."
            raise argparse.ArgumentTypeError(msg)
        ASKED["share"] = share
        return share

    parser.add_argument("--share", type=keep, help="of the reconstruction that is taken away; default: the package's")


def make_parser(description: str | None, section: str, *, with_share: bool = True) -> argparse.ArgumentParser:
    """Options of a comparison on these parts of the data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with chest_xray and magnetic_tile; default: textures alone")
    parser.add_argument("--groups", type=Path, help="written by examples/group_exposures.py; needed for magnetic_tile")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    if with_share:
        add_share(parser)
    parser.add_argument("--report", type=Path, help=f"Markdown file whose section `{section}` gets the table")
    return parser


def main() -> None:
    """Compare, print, and write the table where asked to."""
    parser = make_parser(__doc__, "calibration")
    options = parser.parse_args()
    found: dict[str, list[dict[str, dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name, part in parts_of(options, Path(folder), seed).items():
                found.setdefault(name, []).append(scores_of(part, options.steps, seed))
    rows = []
    for way in WAYS:
        asked = ASKED["share"]
        row = {"map": way if asked is None else way.replace("the package", f"{asked:g} of the reconstruction")}
        for name, runs in found.items():
            for metric in runs[0][way]:
                row[f"{name}, {metric}"] = mean_and_deviation([run[way][metric] for run in runs])
        rows.append(row)
    table = markdown_table(rows)
    note = f"Means of {options.seeds} seeds with their standard deviation, {options.steps} steps of training."
    publish(f"{table}\n\n{note}", {"rows": rows}, options.report, "calibration")


if __name__ == "__main__":
    main()
