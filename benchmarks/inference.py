"""Images per second and peak memory of Ckaad, PatchCore and PaDiM, on one backbone and the same images.

    python benchmarks/inference.py [--repeats 30] [--threads 2] [--report docs/speed.md]

Images have the models' size and are normalized; pre- and post-processing, the same for all, is left out. Weights are
random, which changes no time. PatchCore's memory bank has as many rows as a coreset of 10 % keeps of 100, 400 or
800 images, drawn at random instead of by its greedy search. Every round visits every model for an untimed and a timed
call, so that a busy machine slows all of them alike. Memory is that of a process that only loads the model and scores
one batch. The medians and quartiles are printed; the last line is a JSON object with the same numbers.
"""

import argparse
import contextlib
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import openvino
import torch
from anomalib.models import Padim, Patchcore
from machine import describe_machine, publish
from peak_memory import load
from torch import Tensor, nn

from anomalib_ckaad import Ckaad
from anomalib_ckaad.network.backbone import resolve_layers
from anomalib_ckaad.scoring.calibration import ResidualMoments
from anomalib_ckaad.scoring.residuals import reconstruction_share
from anomalib_ckaad.study.sections import markdown_table

BACKBONE, STAGES = "tf_efficientnet_lite0", (2, 3)
TRAINING_IMAGES = (100, 400, 800)
CORESET = 0.1
BATCHES = (1, 16)
RUNTIMES = ("torch", "OpenVINO")
REFERENCE = f"PatchCore, {TRAINING_IMAGES[1]} images"
Job: TypeAlias = tuple[str, str, int]
"""Model, runtime and batch."""


class Scores(nn.Module):
    """Score and map alone: a trace takes tensors only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image scores and anomaly maps."""
        found = self.model(images)
        return found.pred_score, found.anomaly_map


def build(name: str, size: int) -> nn.Module:
    """A model ready to score, by the name of its row in the table."""
    torch.manual_seed(0)
    shared: dict[str, Any] = {"post_processor": False, "evaluator": False, "visualizer": False}
    images = torch.rand(16, 3, size, size)
    if name == "Ckaad":  # with its defaults for this backbone, calibrated as after a training
        ckaad = Ckaad(BACKBONE, STAGES, pre_trained=False, image_size=size, **shared)
        moments = ResidualMoments(reconstruction_share(len(images)))
        with torch.no_grad():
            moments.add(*ckaad.model.eval().reconstruct(images))
        ckaad.model.calibration.set(moments)
        return Scores(ckaad.model).eval()
    shared |= {
        "backbone": BACKBONE,
        "layers": [stage.name for stage in resolve_layers(BACKBONE, STAGES)],
        "pre_trained": False,
    }
    if name == "PaDiM":
        padim = Padim(n_features=100, **shared)
        padim.model.train()
        padim.model(images)
        padim.model.fit()
        return Scores(padim.model).eval()
    patchcore = Patchcore(**shared)
    patchcore.model.train()
    embedding = patchcore.model(images)
    trained_on = int(name.split()[1])
    rows = int(CORESET * trained_on * len(embedding) / len(images))
    patchcore.model.memory_bank = embedding[torch.randint(len(embedding), (rows,))] + 1e-3 * torch.randn(rows, 1)
    patchcore.model.embedding_store.clear()
    return Scores(patchcore.model).eval()


def prepare(job: Job, folder: Path, size: int) -> Path:
    """Write a model to a file that ``peak_memory.load`` reads."""
    name, runtime, batch = job
    model = build(name, size)
    path = folder / f"{name}-{batch}"
    if runtime == "torch":
        torch.save(model, path.with_suffix(".pt"))
        return path.with_suffix(".pt")
    with contextlib.redirect_stdout(None):
        # For each batch: anomalib's own export of PatchCore is fixed to the batch that it was traced with.
        exported = path.with_suffix(".onnx")
        torch.onnx.export(model, (torch.rand(batch, 3, size, size),), exported, opset_version=18, dynamo=True)
    openvino.save_model(openvino.Core().read_model(exported), path.with_suffix(".xml"), compress_to_fp16=False)
    return path.with_suffix(".xml")


def jobs(largest: int) -> list[Job]:
    """Model, runtime and batch; other sizes of PatchCore's bank only one image at a time: they take gigabytes."""
    batches = [batch for batch in BATCHES if batch <= largest]
    banks = [f"PatchCore, {count} images" for count in TRAINING_IMAGES]
    rows = [("Ckaad", batches), ("PaDiM", batches), *[(bank, batches if bank == REFERENCE else [1]) for bank in banks]]
    return [(name, runtime, batch) for runtime in RUNTIMES for name, each in rows for batch in each]


def measure_seconds(files: dict[Job, Path], options: argparse.Namespace) -> dict[Job, list[float]]:
    """Seconds of every call, round by round."""
    ready = {job: load(path, options.threads) for job, path in files.items()}
    images = torch.rand(max(BATCHES), 3, options.image_size, options.image_size).numpy()
    seconds: dict[Job, list[float]] = {job: [] for job in files}
    for number in range(-1, options.repeats):  # the first round warms up
        for job, score in ready.items():
            score(images[: job[2]])  # the model before has filled the processor's caches with its own weights
            begin = time.perf_counter()
            score(images[: job[2]])
            if number >= 0:
                seconds[job].append(time.perf_counter() - begin)
    return seconds


def measure_memory(job: Job, path: Path, options: argparse.Namespace) -> float:
    """Peak memory in MiB of a process that scores once."""
    script = Path(__file__).with_name("peak_memory.py")
    arguments = [path, "--batch", job[2], "--image-size", options.image_size, "--threads", options.threads]
    # A .pt file finds the classes of this script there.
    path = os.pathsep.join([str(script.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return float(done.stdout.split()[-1])


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="rounds, at least 2; default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--image-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--largest-batch", type=int, choices=BATCHES, default=BATCHES[-1], help="default: %(default)s")
    parser.add_argument("--report", type=Path, help="Markdown file whose section `inference` gets the table")
    options = parser.parse_args()
    if options.repeats < 2:  # noqa: PLR2004  # quartiles need two values
        parser.error(f"--repeats must be at least 2, not {options.repeats}.")
    return options


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each job."""
    with tempfile.TemporaryDirectory() as folder:
        files = {job: prepare(job, Path(folder), options.image_size) for job in jobs(options.largest_batch)}
        memory = {job: measure_memory(job, path, options) for job, path in files.items()}
        seconds = measure_seconds(files, options)
    rows = []
    for job in files:
        name, runtime, batch = job
        low, median, high = statistics.quantiles([batch / taken for taken in seconds[job]], n=4, method="inclusive")
        row = {"runtime": runtime, "batch": batch, "model": name, "low": low, "median": median, "high": high}
        row["ratio"] = median_ratio(seconds[REFERENCE, runtime, batch], seconds[job])
        row["memory"] = memory[job]
        rows.append(row)
    return rows


def median_ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds of one time by another of the same round."""
    return statistics.median(one / other for one, other in zip(seconds, others, strict=True))


def main() -> None:
    """Measure and print."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options = parse()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    shown = [
        {
            "runtime": row["runtime"],
            "batch": str(row["batch"]),
            "model": row["model"],
            "images per second": f"{row['median']:.1f} ({row['low']:.1f} to {row['high']:.1f})",
            f"against {REFERENCE}": f"{row['ratio']:.1f}x",
            "peak memory, MiB": f"{row['memory']:.0f}",
        }
        for row in rows
    ]
    machine = describe_machine(options.threads)
    text = f"{markdown_table(shown)}\n\nMedian (quartiles) of {options.repeats} rounds; {machine}."
    publish(text, {"machine": machine, "repeats": options.repeats, "rows": rows}, options.report, "inference")


if __name__ == "__main__":
    # By its own name: memory is measured by another script, which must find the classes of the saved models.
    from inference import main as run

    run()
