"""Seconds of training until an image AUROC is passed: the package's fast way against the paper's rates and precision.

    python benchmarks/time_to_quality.py ../shared/data/chest_xray [--seeds 3] [--threads 2] [--limit 3600]
        [--report docs/speed.md] [--keep FOLDER]

Chest X-ray: folders train and test, each with NORMAL and PNEUMONIA; the images of train/PNEUMONIA are the known
anomalies. EfficientNet-Lite0 with the weights of its package, stages 2 3, 256x256. The test images are scored every
so many steps, for this benchmark alone: nothing is chosen by it, and its time is taken out. Time begins before the
model is built, the imports being done. ``paper``: its learning rates for medical images, 1e-3 and 1e-4, its map and
image score, float32, no cache. ``package``: its defaults: 1e-3 for both, bfloat16 where it pays, features from the
cache, and a map that is calibrated when training ends: it is at every look, and the seconds of that look's
calibration count, as if training had ended there. ``package, uncalibrated``: the same with the paper's map and score.
All have batches of 32. What has not passed after ``--limit`` seconds is stopped there: its time is a lower bound.
After it has passed the package trains on for as long as it does by default, and the paper's way until the limit: the
AUROCs there are reported as well. What is found for a way and a seed is kept in ``--keep`` and not measured again, so
that hours may be put together of several runs, each of some seeds, with the same options but ``--limit``. The last line
is a JSON object.
"""

import argparse
import hashlib
import json
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
from machine import describe_machine, publish, spread
from torchmetrics.functional.classification import binary_auroc

from anomalib_ckaad.data.known.known_anomalies import KnownAnomalies
from anomalib_ckaad.features.cache import FeatureCache
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.metrics.auroc import into_unit_range
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.training.presets import PRESETS
from anomalib_ckaad.training.read_once import SUBSETS, ReadOnce

BATCH = 32
WAYS: dict[str, dict[str, Any]] = {
    "package": {"reconstruction_prior": 0},
    "package, uncalibrated": {"score_top_k": 100, "calibrate": False},
    "paper": {"preset": "paper", "learning_rate": 1e-3, "autocast": False, "feature_cache": 0},
}
STEPS = PRESETS["measured"].steps
"""After so many the package is done."""


class UntilPassed(Callback):
    """Scores the test images now and then, and stops when time is over, or the package's number of steps."""

    def __init__(self, batches: list[Any], options: argparse.Namespace, begin: float, most: int | None) -> None:
        self.batches, self.options, self.begin, self.most = batches, options, begin, most
        self.paused = 0.0
        self.steps = 0
        self.passed = False
        self.found: list[tuple[int, float, float]] = []

    @property
    def seconds(self) -> float:
        """Time of training so far."""
        return time.perf_counter() - self.begin - self.paused

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: object) -> None:  # noqa: ANN401
        """Look whether it is good enough."""
        self.steps += 1
        over = self.seconds >= self.options.limit or self.steps == self.most
        if (self.steps % self.options.every or self.passed) and not over:
            return
        seconds, pause = self.seconds, time.perf_counter()
        if pl_module.calibrate:
            own, pl_module.feature_cache = pl_module.feature_cache, FeatureCache(0)
            data = trainer.datamodule
            kept = {name: one for name in SUBSETS if isinstance(one := getattr(data, name, None), ReadOnce)}
            for name, one in kept.items():  # training is given nothing for free
                setattr(data, name, one.data)
            pl_module.calibrate_map()
            seconds += time.perf_counter() - pause
            pl_module.feature_cache = own
            for name, one in kept.items():
                setattr(data, name, one)
        auroc = self.score(pl_module)
        self.passed = self.passed or auroc > self.options.target / 100
        self.found.append((self.steps, seconds, auroc))
        self.paused += time.perf_counter() - pause
        trainer.should_stop = over

    @torch.no_grad()
    def score(self, model: Ckaad) -> float:
        """Image AUROC of the test images."""
        training = model.training
        model.eval()
        scores, labels = [], []
        for batch in self.batches:
            transformed = model.pre_processor.transform(batch.image)
            scores.append(model.model(transformed).pred_score)
            labels.append(batch.gt_label)
        model.train(training)
        return binary_auroc(into_unit_range(torch.cat(scores)), torch.cat(labels).long()).item()


def link_without_known(source: Path, target: Path) -> None:
    """A folder of links to the images, without those test images that are among the known anomalies as well."""

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    known = {digest(path) for path in (source / "train" / "PNEUMONIA").iterdir()}
    for folder in ("train/NORMAL", "train/PNEUMONIA", "test/NORMAL", "test/PNEUMONIA"):
        (target / folder).mkdir(parents=True)
        for path in sorted((source / folder).iterdir()):
            if folder != "test/PNEUMONIA" or digest(path) not in known:
                (target / folder / path.name).symlink_to(path.resolve())


def run(way: str, seed: int, options: argparse.Namespace, results: Path) -> dict[str, Any]:
    """One training until the target or the limit."""
    root = results.parent / "data"
    if not root.exists():
        link_without_known(options.data, root)

    def make_data() -> Folder:
        return Folder(
            "chest_xray",
            root=root,
            normal_dir="train/NORMAL",
            normal_test_dir="test/NORMAL",
            abnormal_dir="test/PNEUMONIA",
            train_batch_size=BATCH,
            eval_batch_size=BATCH,
            num_workers=options.workers,
            val_split_mode="from_train",
            val_split_ratio=0.05,
            seed=seed,
        )

    scored = make_data()
    scored.setup()
    batches = list(scored.test_dataloader())
    begin = time.perf_counter()
    data = KnownAnomalies(make_data(), known_anomaly_dir=root / "train" / "PNEUMONIA", seed=seed)
    model = Ckaad(
        options.backbone,
        (2, 3),
        weights=options.weights,
        pre_trained=options.weights is not None,
        image_size=options.image_size,
        seed=seed,
        max_epochs=-1 if way == "paper" else None,  # the package stops as it does by default
        visualizer=False,
        evaluator=False,
        **WAYS[way],
    )
    until = UntilPassed(batches, options, begin, None if way == "paper" else STEPS)
    engine = Engine(
        default_root_dir=results,
        accelerator="cpu",
        callbacks=[until],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    engine.fit(model, datamodule=data)
    passing = [one for one in until.found if one[2] > options.target / 100]
    step, seconds, auroc = passing[0] if passing else until.found[-1]
    found = {"seed": seed, "seconds": seconds, "steps": step, "auroc": auroc, "passed": bool(passing)}
    last_step, last_seconds, final = until.found[-1]
    return found | {"final": {"seconds": last_seconds, "steps": last_step, "auroc": final}, "course": until.found}


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with train and test")
    parser.add_argument("--target", type=float, default=94.0, help="image AUROC in percent; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="how many; default: %(default)s")
    parser.add_argument("--first-seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--limit", type=float, default=3600, help="seconds; default: %(default)s")
    parser.add_argument("--every", type=int, default=5, help="steps between two looks; default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images; default: %(default)s")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=tuple(WAYS), help="default: all")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="default: %(default)s")
    parser.add_argument("--weights", default="package", help="as Ckaad's, or `none`; default: %(default)s")
    parser.add_argument("--image-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--keep", type=Path, help="folder of what was found, and is not measured again")
    parser.add_argument("--report", type=Path, help="Markdown file whose section gets the table")
    parser.add_argument("--section", default="time-to-quality", help="of the report; default: %(default)s")
    options = parser.parse_args()
    if not (options.data / "train" / "PNEUMONIA").is_dir():
        parser.error(f"Expected train/PNEUMONIA in {options.data}, got no such folder. Do give the data set's folder.")
    options.weights = None if options.weights == "none" else options.weights
    if options.seeds < 1:
        parser.error(f"Expected --seeds of at least 1, got {options.seeds}. Do leave it out for 3.")
    if options.keep is not None:
        if options.keep.exists() and not options.keep.is_dir():
            parser.error(f"Expected --keep to be a folder, got the file {options.keep}. Do name another.")
        options.keep.mkdir(parents=True, exist_ok=True)
    return options


def meaning(options: argparse.Namespace) -> dict[str, Any]:
    """The options that a result depends on; it says itself when it ended."""
    names = ("target", "every", "threads", "workers", "backbone", "weights", "image_size")
    return {name: getattr(options, name) for name in names} | {"data": options.data.name}


def read_kept(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What an earlier run with the same options found.

    Raises:
        SystemExit: If it had others, or is not one.
    """
    try:
        one: dict[str, Any] = json.loads(path.read_text())
        other = {name: value for name, value in meaning(options).items() if one["options"][name] != value}
    except (ValueError, KeyError, TypeError) as error:
        msg = f"Expected {path} to be what an earlier run kept, got something else ({error!r}). Do delete it."
        raise SystemExit(msg) from error
    for name, value in other.items():
        msg = f"Expected {path} to be of {name} {value}, got {one['options'][name]}. Do give another --keep."
        raise SystemExit(msg)
    return one


def main() -> None:
    """Measure and print."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options = parse()
    torch.set_num_threads(options.threads)
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory() as results:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for way in options.ways:
                kept = options.keep and options.keep / f"{way}-{seed}.json"
                one = read_kept(kept, options) if kept and kept.exists() else None
                if one is None:
                    one = run(way, seed, options, Path(results) / f"{way}-{seed}")
                    one |= {"machine": describe_machine(options.threads), "options": meaning(options)}
                if kept:
                    temporary = kept.with_suffix(".tmp")
                    temporary.write_text(json.dumps(one))
                    temporary.replace(kept)
                found[way].append(one)
                print(f"{way}, seed {seed}: {one['seconds']:.0f} s, at the end {one['final']}", flush=True)
    rows = [
        {
            "way": way,
            "seed": str(one["seed"]),
            "seconds": f"{'' if one['passed'] else 'more than '}{one['seconds']:.0f}",
            "steps": str(one["steps"]),
            "AUROC, percent": f"{100 * one['auroc']:.1f}",
            "at the end: steps": str(one["final"]["steps"]),
            "seconds at the end": f"{one['final']['seconds']:.0f}",
            "AUROC at the end": f"{100 * one['final']['auroc']:.1f}",
        }
        for way, runs in found.items()
        for one in runs
    ]
    medians = {way: statistics.median(one["seconds"] for one in runs) for way, runs in found.items()}
    finals = {way: statistics.mean(one["final"]["auroc"] for one in runs) for way, runs in found.items()}
    machine = " and ".join(dict.fromkeys(one["machine"] for runs in found.values() for one in runs))
    summary: dict[str, Any] = {"machine": machine, "target": options.target}
    summary |= {"limit": options.limit, "median_seconds": medians, "mean_final_auroc": finals}
    text = f"{markdown_table(rows)}\n\nUntil {options.target:g} % is passed; {machine}."
    told = ", ".join(f"{way} {spread([one['seconds'] for one in runs])}" for way, runs in found.items())
    text += f" Seconds, median (quartiles): {told}."
    passed = {way: all(one["passed"] for one in runs) for way, runs in found.items()}
    if passed.get("package") and "paper" in passed:
        summary["ratio"] = medians["paper"] / medians["package"]
        bound = "" if passed["paper"] else "at least "
        text += f" Median of the paper's by the package's seconds: {bound}{summary['ratio']:.1f}."
    publish(text, {**summary, "runs": found}, options.report, options.section)


if __name__ == "__main__":
    main()
