"""Train and test Ckaad on folders of real images, with and without known anomalies.

A data set is a folder with ``train/<normal>``, ``test/<normal>``, ``test/<type>`` and, if there are masks,
``ground_truth/<type>``. Known anomalies come from ``train/<type>`` where there is one; else ``--known`` of them are
drawn from each ``test/<type>`` named by ``--known-types`` and taken out of the test set.

    python examples/real_images.py --data DATA/chest_xray --normal NORMAL --layers 2 3 --strategies recon cka_patch
"""

import argparse
import itertools
import json
import logging
import statistics
import time
import warnings
from pathlib import Path

import pandas as pd
from anomalib.data import Folder
from anomalib.engine import Engine

from anomalib_ckaad import Ckaad, KnownAnomalies
from anomalib_ckaad.metrics.per_type import ALL_TYPES, Scored, score_types
from anomalib_ckaad.study.sections import markdown_table, write_section

WITHOUT_DISCRIMINATOR = {"recon", "recon_sub"}
IMAGES = {".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff"}


class FolderWithTrainAnomalies(Folder):
    """anomalib's ``Folder`` that offers the anomalies of ``train/<type>`` to ``KnownAnomalies``, if there are any."""

    def __init__(self, train_anomalies: list[str], **arguments: object) -> None:
        super().__init__(**arguments)
        labels = {"label": "abnormal", "label_index": 1, "split": "train"}
        self.train_anomalies = pd.DataFrame({"image_path": train_anomalies}).assign(**labels)


def images_in(folder: Path) -> list[str]:
    """Paths of the images in a folder, in order of their names."""
    return sorted(str(path) for path in folder.glob("*") if path.suffix.lower() in IMAGES)


def make_data(options: argparse.Namespace, types: list[str], seed: int, **arguments: object) -> KnownAnomalies:
    """The data set's folders as a datamodule; validation images are normal training images."""
    tested = sorted(folder.name for folder in (options.data / "test").iterdir() if folder.name != options.normal)
    in_train = [folder for folder in sorted((options.data / "train").iterdir()) if folder.name != options.normal]
    has_masks = (options.data / "ground_truth").is_dir()
    folder = FolderWithTrainAnomalies(
        [path for each in in_train for path in images_in(each)],
        name=options.data.name,
        root=options.data,
        normal_dir=f"train/{options.normal}",
        normal_test_dir=f"test/{options.normal}",
        abnormal_dir=[f"test/{name}" for name in tested],
        mask_dir=[f"ground_truth/{name}" for name in tested] if has_masks else None,
        train_batch_size=options.batch_size,
        eval_batch_size=32,
        num_workers=0,
        val_split_mode="from_train",
        val_split_ratio=0.05,
        seed=0,
    )
    if not in_train:
        arguments = {"count": len(types) * options.known, "types": types, **arguments}
    return KnownAnomalies(folder, groups=options.groups, seed=seed, **arguments)


def make_model(options: argparse.Namespace, strategy: str, discriminator_rate: float | None, seed: int) -> Ckaad:
    """The model of the options."""
    return Ckaad(
        backbone=options.backbone,
        weights=options.weights,
        layers=options.layers,
        strategy=strategy,
        learning_rate=options.learning_rate,
        **({} if discriminator_rate is None else {"discriminator_learning_rate": discriminator_rate}),
        calibrate=options.map == "calibrated",
        score_top_k=100 if options.map == "paper" else None,
        output_relu=options.output_relu,
        image_size=options.image_size,
        max_epochs=options.epochs,
        seed=seed,
        visualizer=False,
    )


def make_engine(options: argparse.Namespace) -> Engine:
    """A quiet engine."""
    return Engine(
        default_root_dir=options.output,
        precision=options.precision,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def run(options: argparse.Namespace, strategy: str, discriminator_rate: float | None, seed: int) -> dict:
    """One training and its test; every figure is of the test images without the known anomalies."""
    data = make_data(options, options.known_types, seed)
    model = make_model(options, strategy, discriminator_rate, seed)
    engine = make_engine(options)
    start = time.perf_counter()
    engine.fit(model, datamodule=data)
    seconds = time.perf_counter() - start
    scored = Scored.collect(engine.predict(model, datamodule=data))
    whole = Scored(scored.paths, scored.maps.flatten(1).mean(dim=1), scored.labels, scored.maps, masks=None)
    rows = score_types(scored)
    for name, row in score_types(whole).items():
        rows[name]["image_AUROC_mean"] = row["image_AUROC"]
    used = data.known_types if strategy != "recon" else {}
    return {
        "strategy": strategy,
        "discriminator_learning_rate": discriminator_rate,
        "seed": seed,
        "known": used,
        "seconds": seconds,
        "types": rows,
    }


def spread(values: list[float], scale: float = 100.0) -> str:
    """Mean and standard deviation over seeds."""
    mean = statistics.mean(values) * scale
    return f"{mean:.1f} ± {statistics.stdev(values) * scale:.1f}" if len(values) > 1 else f"{mean:.1f}"


def table(results: list[dict]) -> str:
    """Rows of strategies and types, with mean and spread over seeds."""
    rows = []
    for key in dict.fromkeys((r["strategy"], r["discriminator_learning_rate"]) for r in results):
        runs = [r for r in results if (r["strategy"], r["discriminator_learning_rate"]) == key]
        names = [ALL_TYPES, *[name for name in runs[0]["types"] if name != ALL_TYPES]]
        one_type = {ALL_TYPES}  # a single type is all there is
        for name in names if len({*names} - one_type) > 1 else names[:1]:
            of_type = [r["types"][name] for r in runs]
            row = {"strategy": key[0], "rate of D": f"{key[1]:g}" if key[1] else "", "type": name}
            row["known"] = str(sum(runs[0]["known"].values()) if name == ALL_TYPES else runs[0]["known"].get(name, 0))
            row["image AUROC (top 100)"] = spread([t["image_AUROC"] for t in of_type])
            row["image AUROC (mean)"] = spread([t["image_AUROC_mean"] for t in of_type])
            if "pixel_AUPRO" in of_type[0]:
                row["pixel AUROC"] = spread([t["pixel_AUROC"] for t in of_type])
                row["AUPRO"] = spread([t["pixel_AUPRO"] for t in of_type])
            if name == ALL_TYPES:
                row["seconds of training"] = spread([r["seconds"] for r in runs], scale=1.0)
            rows.append(row)
    return markdown_table(rows)


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--normal", default="good", help="name of the folders with normal images")
    parser.add_argument("--known", type=int, default=8, help="known anomalies of each type drawn from the test images")
    parser.add_argument("--known-types", nargs="*", default=[], help="types that they are drawn from")
    parser.add_argument("--groups", help="which images show the same part or patient: see KnownAnomalies")
    parser.add_argument("--strategies", nargs="+", default=["recon", "cka_patch"])
    parser.add_argument("--discriminator-rates", nargs="+", type=float, default=[1e-3])
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="package", help="'hub' for timm's")
    parser.add_argument("--layers", nargs="+", default=["2", "3"])
    parser.add_argument("--map", choices=["calibrated", "paper"], default="calibrated", help="docs/accuracy.md")
    parser.add_argument("--output-relu", choices=["auto", "yes", "no"], default="auto")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--precision", default="32-true", help="bf16-mixed is faster where the processor computes in it"
    )
    parser.add_argument("--output", type=Path, default=Path("results/real_images"))
    parser.add_argument("--report", type=Path, help="Markdown file whose section SECTION gets the table")
    parser.add_argument("--section", help="name of that section; default: name of the data set's folder")
    options = parser.parse_args()
    options.weights = None if options.weights == "hub" else options.weights
    options.layers = [int(layer) if layer.isdecimal() else layer for layer in options.layers]
    options.output_relu = {"auto": None, "yes": True, "no": False}[options.output_relu]
    return options


def main() -> None:
    """Run every strategy with every seed, print a line of JSON each, then the table.

    The lines are kept in the output folder: a call that was cut off goes on where it stopped. Other options want a
    folder of their own.
    """
    warnings.filterwarnings("ignore")
    options = parse()
    logging.disable(logging.WARNING)
    results = []
    options.output.mkdir(parents=True, exist_ok=True)
    store = options.output / "results.jsonl"
    earlier = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    for strategy in options.strategies:
        rates = options.discriminator_rates if strategy not in WITHOUT_DISCRIMINATOR else [None]
        for rate, seed in itertools.product(rates, range(options.seeds)):
            key = {"strategy": strategy, "discriminator_learning_rate": rate, "seed": seed}
            done = [row for row in earlier if key.items() <= row.items()]
            if not done:
                done = [run(options, strategy, rate, seed)]
                with store.open("a") as file:
                    file.write(json.dumps(done[0]) + "\n")
            results.append(done[0])
            print(json.dumps(done[0]), flush=True)
    text = table(results)
    print(text)
    if options.report:
        write_section(options.report, options.section or options.data.name, text)


if __name__ == "__main__":
    main()
