"""AUROC, differences to the checkpoint, size and latency of OpenVINO exports in f32, bf16, FP16 and INT8.

    python benchmarks/export_precision.py [--config configs/demo.yaml --ckpt MODEL.ckpt] [--output DIR]
        [--map paper] [--without int8_acq] [--report docs/deployment.md --section precision]

Without a checkpoint, a small model is trained on the built-in textures, with the calibrated map or the paper's. Test
images are those of the config; post-training quantization calibrates on its validation images. Every export is compared
with its checkpoint as `anomalib-ckaad validate` does it, on raw scores.
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from anomalib.engine import Engine

from anomalib_ckaad import Ckaad, Textures
from anomalib_ckaad.cli.validation import load_checkpoint
from anomalib_ckaad.export.runtimes import load_exported
from anomalib_ckaad.export.validate import Comparison, compare
from anomalib_ckaad.export.validation_images import find_test_images, make_datamodule
from anomalib_ckaad.study.sections import markdown_table, write_section

# name, anomalib's compression_type, OpenVINO's precision
WAYS = (
    ("f32", None, "f32"),
    ("bf16, OpenVINO's own choice", None, "bf16"),
    ("`fp16` weights", "fp16", "f32"),
    ("`int8` weights", "int8", "f32"),
    ("`int8_ptq`", "int8_ptq", "f32"),
    ("`int8_acq`", "int8_acq", "f32"),
)
TEXTURES = {"image_size": 128, "train_images": 48, "train_batch_size": 8, "eval_batch_size": 4}


def train(output: Path, *, paper: bool) -> tuple[Path, Path]:
    """Train on textures; return the checkpoint and a config with the data."""
    data = {"root": str(output / "data"), **TEXTURES}
    config = output / "config.yaml"
    lines = [f"    {name}: {value}" for name, value in data.items()]
    config.write_text("\n".join(["data:", "  class_path: anomalib_ckaad.Textures", "  init_args:", *lines, ""]))
    model = Ckaad(
        "tf_efficientnet_lite0",
        weights="package",
        layers=(2, 3),
        image_size=128,
        learning_rate=5e-3,
        score_top_k=100 if paper else "power_mean",
        synthesis=True,
        research={"discriminator_learning_rate": 1e-3, "calibrate": not paper, "reconstruction_prior": 0},
        seed=0,
        visualizer=False,
    )
    engine = Engine(
        default_root_dir=output / "run", accelerator="cpu", logger=False, enable_progress_bar=False, max_epochs=8
    )
    engine.fit(model, datamodule=Textures(**data))
    (checkpoint,) = output.glob("run/Ckaad/Textures/brick/v*/weights/lightning/model.ckpt")
    return checkpoint, config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="a config of `anomalib train`, for its data")
    parser.add_argument("--ckpt", type=Path, help="its checkpoint")
    parser.add_argument("--map", choices=("calibrated", "paper"), default="calibrated", help="where none is given")
    parser.add_argument("--without", nargs="+", choices=[way[1] for way in WAYS if way[1]], default=(), help="left out")
    parser.add_argument("--output", type=Path, help="where exports go; default: a temporary folder")
    parser.add_argument("--report", type=Path, help="Markdown file whose section SECTION gets the table")
    parser.add_argument("--section", default="precision", help="name of that section; default: %(default)s")
    arguments = parser.parse_args()
    if (arguments.config is None) != (arguments.ckpt is None):
        parser.error("Pass both --config and --ckpt, or neither.")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        output = arguments.output or Path(temporary)
        output.mkdir(parents=True, exist_ok=True)
        checkpoint, config = (
            (arguments.ckpt, arguments.config) if arguments.ckpt else train(output, paper=arguments.map == "paper")
        )
        text = measure(checkpoint, config, output, arguments.without)
    print(text)
    if arguments.report:
        write_section(arguments.report, arguments.section, text)


def measure(checkpoint: Path, config: Path, output: Path, without: Sequence[str]) -> str:
    images = find_test_images(config)
    model = load_checkpoint(checkpoint)
    rows: list[dict[str, str]] = []
    paths: dict[str | None, Path] = {}
    for name, compression, precision in WAYS:
        if compression in without:
            continue
        path = paths.get(compression) or export(checkpoint, config, output / str(compression), compression)
        paths[compression] = path
        found = compare(model, load_exported(path, precision), images)
        if not rows:
            rows.append(row_of("checkpoint, in torch", found, 0))
        rows.append(
            row_of(name, found, 1)
            | {
                "raw score, largest difference": f"{found.differences['raw_pred_score']:.1e}",
                "labels flipped": str(found.flipped_labels),
                "MiB": f"{path.with_suffix('.bin').stat().st_size / 2**20:.1f}",
            }
        )
    return f"{markdown_table(rows)}\n\n{len(images)} test images."


def row_of(name: str, found: Comparison, side: int) -> dict[str, str]:
    return {
        "OpenVINO": name,
        "image AUROC": f"{100 * found.auroc[side]:.1f}" if found.auroc else "no labels",
        "raw score, largest difference": "",
        "labels flipped": "",
        "MiB": "",
        "median ms an image": f"{1000 * np.median(found.seconds[side]):.1f}",
    }


def export(checkpoint: Path, config: Path, output: Path, compression: str | None) -> Path:
    path = Engine(logger=False).export(
        Ckaad(pre_trained=False),
        "openvino",
        export_root=output,
        compression_type=compression,
        datamodule=make_datamodule(config),
        onnx_kwargs={"raw_outputs": True, "verbose": False},
        ckpt_path=checkpoint,
    )
    if path is None:
        msg = f"The export with compression {compression} failed; anomalib's messages above say why."
        raise RuntimeError(msg)
    return path


if __name__ == "__main__":
    main()
