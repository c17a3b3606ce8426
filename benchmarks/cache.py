"""An epoch with the backbone's features from memory or disk, compared with computing them every time.

    python benchmarks/cache.py [--rounds 5] [--threads 2] [--images 80] [--backbones resnet18 tf_efficientnet_lite0]
        [--report docs/speed.md]

Trains through anomalib's engine on a plain folder of images of 256x256 without augmentations, in batches of 16, a fifth
of them for validation: with known anomalies in the batches, with none, and with elastic ones, which are new each time
and in no cache. Weights are random, which changes no time. In every round each way trains for two epochs; the second is
timed, with its validation. Ratios are medians over rounds. In memory, images are read once as well. For the disk, the
cache in memory is off, and an untimed round writes the files. The last line is a JSON object.
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from lightning.pytorch import Callback
from machine import describe_machine, publish, spread, write_images

from anomalib_ckaad.data.known.known_anomalies import KnownAnomalies
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.training.read_once import ReadOnce

STAGES = (2, 3)
BATCH = 16
ANOMALIES = ("known", "none", "elastic")
WAYS: dict[str, dict[str, Any]] = {
    "computed": {"memory": 0},
    "memory": {"memory": 8},
    "disk": {"memory": 0, "folder": "features"},
}


class SecondEpoch(Callback):
    """Times the second epoch, and notes how much the cache holds before it is cleared."""

    seconds = 0.0
    held = 0
    images = 0

    def on_train_epoch_start(self, *_: object) -> None:
        """Start the clock."""
        self.begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Stop the clock; validation is over."""
        self.seconds = time.perf_counter() - self.begin
        self.held = pl_module.frozen_features.cache.bytes_held
        data = trainer.datamodule.train_data
        self.images = data.room.taken if isinstance(data, ReadOnce) else 0


def run(
    backbone: str, root: Path, way: dict[str, Any], options: argparse.Namespace, *, anomalies: str = "known"
) -> SecondEpoch:
    """Train for two epochs with anomalies that are ``known``, ``elastic`` or ``none``."""
    cache = {**way, "folder": str(root / way["folder"])} if "folder" in way else way
    data: Any = Folder(
        "cache",
        root=root,
        normal_dir="good",
        normal_test_dir="test",
        abnormal_dir="bad",
        train_batch_size=BATCH,
        eval_batch_size=BATCH,
        num_workers=options.workers,
        val_split_mode="from_train",
        val_split_ratio=0.2,
        seed=0,
    )
    if anomalies == "known":
        data = KnownAnomalies(data, known_anomaly_dir=root / "known")
    model = Ckaad(
        backbone,
        STAGES,
        pre_trained=False,
        image_size=options.image_size,
        seed=0,
        evaluator=False,
        visualizer=False,
        synthesis=anomalies == "elastic",
        cache=cache,
        research={"calibrate": False},  # once in a training, and so in none of its other epochs
    )
    timer = SecondEpoch()
    engine = Engine(
        default_root_dir=root / "results",
        accelerator="cpu" if options.device == "cpu" else "gpu",
        callbacks=[timer],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        max_epochs=2,
    )
    engine.fit(model, datamodule=data)
    return timer


def measure(backbone: str, options: argparse.Namespace, *, anomalies: str) -> dict[str, Any]:
    """Seconds of every way, one a round, and the bytes in memory and on disk."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    held = images = 0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name, count in (("good", options.images), ("test", 1), ("bad", 1), ("known", BATCH)):
            write_images(root / name, count, options.image_size, seed=len(name))
        for number in range(-1, options.rounds):  # the first round warms up and writes files
            for name, way in WAYS.items():
                timer = run(backbone, root, way, options, anomalies=anomalies)
                held, images = max(held, timer.held), max(images, timer.images)
                if number >= 0:
                    seconds[name].append(timer.seconds)
        disk = sum(file.stat().st_size for file in (root / "features").rglob("[!.]*.safetensors"))
        count = len(list((root / "features").rglob("[!.]*.safetensors")))
    ratios = {
        name: [one / other for one, other in zip(seconds["computed"], seconds[name], strict=True)]
        for name in ("memory", "disk")
    }
    return {"seconds": seconds, "ratios": ratios, "memory": held, "images": images, "disk": disk, "files": count}


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="at least 2; default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--images", type=int, default=80, help="normal images; default: %(default)s")
    parser.add_argument("--image-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--anomalies", nargs="+", choices=ANOMALIES, default=ANOMALIES, help="default: all")
    parser.add_argument(
        "--backbones", nargs="+", default=("resnet18", "tf_efficientnet_lite0"), help="default: ResNet18 and Lite0"
    )
    parser.add_argument("--report", type=Path, help="Markdown file whose section `cache` gets the table")
    parser.set_defaults(device="cpu", workers=0)  # growth.py, which trains by the same function, has options for them
    options = parser.parse_args()
    if options.rounds < 2:  # noqa: PLR2004  # quartiles need two values
        parser.error(f"--rounds must be at least 2, not {options.rounds}.")
    return options


def main() -> None:
    """Measure and print."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options = parse()
    torch.set_num_threads(options.threads)
    rows = []
    results: dict[str, dict[str, Any]] = {}
    for backbone in options.backbones:
        for anomalies in options.anomalies:
            found = measure(backbone, options, anomalies=anomalies)
            rows.append(
                {
                    "backbone": backbone,
                    "anomalies": anomalies,
                    **{f"{name}, s": spread(values) for name, values in found["seconds"].items()},
                    **{f"{name}, ratio": spread(values) for name, values in found["ratios"].items()},
                    **{
                        f"{title}, MiB an image": f"{found[name] / max(found['files'], 1) / 2**20:.2f}"
                        for title, name in (("features", "memory"), ("image kept", "images"), ("disk", "disk"))
                    },
                    "images in the cache": str(found["files"]),
                }
            )
            medians = {name: statistics.median(values) for name, values in found["ratios"].items()}
            sizes = {f"{name}_bytes": found[name] for name in ("memory", "images", "disk")}
            raw = {"machine": describe_machine(options.threads), "seconds": found["seconds"]}
            results.setdefault(backbone, {})[anomalies] = {"ratio": medians["memory"], **medians, **sizes, **raw}
    text = (
        f"{markdown_table(rows)}\n\nMedian (quartiles) of {options.rounds} rounds, {options.images} normal images, "
        f"{BATCH} known ones; {describe_machine(options.threads)}."
    )
    publish(text, results, options.report, "cache")


if __name__ == "__main__":
    main()
