"""What known anomalies may say beside the anomaly map: by the directions they stand out in, and by their energies.

    python benchmarks/energies.py --data DATA --groups groups.csv [--seeds 2] [--steps 400] [--known 8]
        [--keep FILE] [--report docs/accuracy.md]

The method scores what the auto-encoder cannot give back and leaves the discriminator behind, which has learned from
the known anomalies directly. Its energies of the backbone's features are a map too. On the parts of
``known_directions.py``, and on the textures grass and gravel, with known anomalies of one type at a time, and with
fewer normal training images of X-rays and more of textures: the map without the emphasis of known directions and with
it, by n / (n + 32) for n known ones, by that times the cube of the share of the reconstruction that is taken away, and
with no direction counting more than thrice as much (the package has both), the energies alone, and sums of the
package's map and them in units of what normal training images have in the mean. Image AUROC by the power mean and
AUPRO, in percent, of the known type and in the mean of all others, means over seeds with their standard deviation. What
is found of a part and a seed is kept in ``--keep`` and not measured again. The last line is a JSON object.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

import torch
from calibration import (
    BACKBONE,
    SIZE,
    STAGES,
    WEIGHTS,
    Part,
    Stages,
    by_batches,
    features_of,
    make_parser,
    masks_of,
    moments_of,
    parts_of,
    texture,
)
from known_directions import draw, maps_of, measure, read, standing_out
from machine import mean_and_deviation, publish
from multiple_instances import WAYS, train
from shares import more_images
from torch import Tensor

from anomalib_ckaad.data.textures.images import Category
from anomalib_ckaad.network.discriminator import PatchDiscriminator
from anomalib_ckaad.scoring.anomaly_map import join_stages
from anomalib_ckaad.scoring.calibration import ResidualCalibration
from anomalib_ckaad.scoring.known_directions import MOST, POWER, SHARE, emphasis_of, emphasis_weight
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.weights.loading import load_backbone_weights

KNOWN = {
    "brick": ("seam", "stain"),
    "grass": ("stain",),
    "grass, 240 normal": ("stain",),
    "gravel": ("stain",),
    "gravel, 240 normal": ("stain",),
    "chest": ("bacteria",),
    "chest, 80 normal": ("bacteria",),
    "tile": ("blowhole", "uneven"),
}
"""The types that are known in turn."""
Found = dict[str, dict[str, dict[str, float]]]
"""Metrics by part, known type and seed, and by map."""
TEXTURES: tuple[Category, ...] = ("grass", "gravel")
"""Parts besides those of ``known_directions.py``."""
PACKAGE = "the package's map"
EMPHASES = {
    "emphasis: n / (n + 32)": (0, math.inf),
    "emphasis: that times the share's cube": (POWER, math.inf),
    "emphasis: n / (n + 32), none more than thrice": (0, MOST),
    PACKAGE: (POWER, MOST),
}
"""The power of the share by which known directions weigh less, and what is added to one of them at most."""
ADDED = (0.05, 0.1, 0.3)
"""Shares of the energies in a sum."""


def energies_of(discriminator: PatchDiscriminator, features: Stages) -> Tensor:
    """Energies of the features as a map (N, 1, H, W)."""
    return join_stages([score.abs().unsqueeze(1) for score in discriminator(features)], (SIZE, SIZE))


@torch.no_grad()
def maps_by_name(
    model: CkaadModel, discriminator: PatchDiscriminator, normal: Stages, known: Stages, test: Stages
) -> dict[str, Tensor]:
    """All maps of the test images."""
    of_normal, of_known, of_test = (list(by_batches(model, one)) for one in (normal, known, test))
    calibration, moments = ResidualCalibration(len(STAGES)), moments_of(of_normal)
    calibration.set(moments)
    found = {"no emphasis": maps_of(calibration, of_test)}
    sums = [standing_out([calibration.whitened(*p) for p in some], SHARE) for some in (of_normal[:8], of_known)]
    for name, (power, most) in EMPHASES.items():
        calibration.set(moments)
        calibration.emphasize(emphasis_of(*sums, emphasis_weight(sums[1].images, moments.share, power=power), most))
        found[name] = maps_of(calibration, of_test)
    # The calibration is the package's, the last one, from here on.
    maps = found[PACKAGE] / maps_of(calibration, of_normal[:4]).mean()
    usual = torch.cat([energies_of(discriminator, f) for f, _ in of_normal[:4]]).mean()
    energies = torch.cat([energies_of(discriminator, f) for f, _ in of_test]) / usual
    added = {f"{PACKAGE} + {share:g} * energies": maps + share * energies for share in ADDED}
    return found | {"energies": energies} | added


def find(name: str, kind: str, part: Part, options: argparse.Namespace, seed: int) -> dict[str, dict[str, float]]:
    """Metrics of every map where a type is known."""
    images = read(name.split(",", maxsplit=1)[0], part, options.groups)
    torch.manual_seed(seed)
    model = CkaadModel(BACKBONE, STAGES)
    load_backbone_weights(model.backbone, WEIGHTS)
    normal, test = features_of(model, part.train), features_of(model, part.test)
    taken: list[int] = []
    if part.known is None:
        taken = draw(images, kind, options.known, seed)
        known = [stage[taken] for stage in test]
    else:
        known = features_of(model, part.known[kind][: options.known])
    groups = {images.groups[index] for index in taken}
    kept = [index for index, group in enumerate(images.groups) if group not in groups]
    discriminator = train(model, normal, known, WAYS["all patches, equation (11)"], options.steps, seed)
    masks = masks_of(part)
    return {
        way: measure(maps, masks, images.types, kept, kind, "power_mean")
        for way, maps in maps_by_name(model, discriminator, normal, known, test).items()
    }


def settings_of(options: argparse.Namespace) -> dict[str, float | None]:
    """What results depend on besides part and seed."""
    return {"steps": options.steps, "known": options.known, "share": options.share}


def read_kept(options: argparse.Namespace) -> Found:
    """What an earlier run of the same settings has found."""
    if options.keep is None or not options.keep.exists():
        return {}
    settings, kept = json.loads(options.keep.read_text(encoding="utf-8"))
    if settings != settings_of(options):
        msg = f"Expected {options.keep} to be of {settings_of(options)}, got {settings}. Do give another --keep."
        raise SystemExit(msg)
    found: Found = kept
    return found


def keep(kept: Found, options: argparse.Namespace) -> None:
    """Write what was found, if asked to."""
    if options.keep is not None:
        part = options.keep.with_name(f"{options.keep.name}.part")
        part.write_text(json.dumps([settings_of(options), kept]), encoding="utf-8")
        part.replace(options.keep)


def main() -> None:
    """Compare, print, and write the table where asked to."""
    parser = make_parser(__doc__, "energies")
    parser.add_argument("--known", type=int, default=8, help="known anomalies of the one type")
    parser.add_argument("--keep", type=Path, help="file of what was found, and is not measured again")
    parser.set_defaults(steps=400)
    options = parser.parse_args()
    kept = read_kept(options)
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            parts = parts_of(options, Path(folder), seed, options.known)
            for category in TEXTURES:
                part = texture(Path(folder), seed, options.known, category)
                more = more_images(Path(folder), seed, category, 240)
                parts |= {category: part, f"{category}, 240 normal": part._replace(train=more)}
            if "chest" in parts:  # in a random order
                parts["chest, 80 normal"] = parts["chest"]._replace(train=parts["chest"].train[:80])
            for name, kind in ((part, one) for part in parts for one in KNOWN[part]):
                key = f"{name}: {kind}, seed {seed}"
                if key not in kept:
                    kept[key] = find(name, kind, parts[name], options, seed)
                    keep(kept, options)
                for way, metrics in kept[key].items():
                    for metric, value in metrics.items():
                        found.setdefault((f"{name}: {kind}", way), {}).setdefault(metric, []).append(value)
                    print(f"{name}, {kind}, seed {seed}, {way}: {metrics}", flush=True)
    rows = [
        {"known": kind, "map": way, **{metric: mean_and_deviation(values) for metric, values in metrics.items()}}
        for (kind, way), metrics in found.items()
    ]
    note = (
        f"At most {options.known} known images of one type, whole groups of them; means of {options.seeds} seeds with "
        f"their standard deviation, {options.steps} steps."
    )
    publish(f"{markdown_table(rows)}\n\n{note}", {"rows": rows}, options.report, "energies")


if __name__ == "__main__":
    main()
