"""Images per second and peak memory of Ckaad, PatchCore and PaDiM, on one backbone and the same images.

    python benchmarks/inference.py [--repeats 30] [--threads 2] [--report docs/results.md]

Images have the models' size and are normalized; pre- and post-processing, the same for all, is left out. Weights are
random, which changes no time. PatchCore's memory bank has the rows that a coreset of 10 % keeps of 100, 400 or
800 images, drawn at random instead of by its greedy search. Every round times every model once, so that a busy machine
slows all of them alike; memory is that of a process of its own, everything included. Printed are medians and quartiles;
the last line is a JSON object with the same numbers.
"""

import argparse
import contextlib
import json
import logging
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import torch
from anomalib.models import Padim, Patchcore
from torch import Tensor, nn

from anomalib_ckaad import Ckaad
from anomalib_ckaad.backbone import resolve_layers
from anomalib_ckaad.study.sections import markdown_table, write_section

BACKBONE, STAGES = "tf_efficientnet_lite0", (2, 3)
TRAINING_IMAGES = (100, 400, 800)
CORESET = 0.1
BATCHES = (1, 16)
RUNTIMES = ("torch", "OpenVINO")
REFERENCE = "PatchCore, 400 images"
PARTS = "Ckaad, backbone and auto-encoder alone"


class Scores(nn.Module):
    """Score and map alone: a trace takes tensors only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image scores and anomaly maps."""
        found = self.model(images)
        return found.pred_score, found.anomaly_map


class BackboneAndAutoEncoder(nn.Module):
    """What of Ckaad must be computed: all else is overhead."""

    def __init__(self, model: Ckaad) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features and reconstructions."""
        features, reconstructions = self.model.reconstruct(images)
        return [*features, *reconstructions]


def build(name: str, size: int) -> nn.Module:
    """A model ready to score, by the name of its row in the table."""
    torch.manual_seed(0)
    shared: dict[str, Any] = {"post_processor": False, "evaluator": False, "visualizer": False}
    ckaad = Ckaad(BACKBONE, STAGES, pre_trained=False, image_size=size, **shared)
    if name == PARTS:
        return BackboneAndAutoEncoder(ckaad).eval()
    if name == "Ckaad":
        return Scores(ckaad.model).eval()
    shared |= {
        "backbone": BACKBONE,
        "layers": [stage.name for stage in resolve_layers(BACKBONE, STAGES)],
        "pre_trained": False,
    }
    images = torch.rand(16, 3, size, size)
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


def compile_model(model: nn.Module, runtime: str, batch: int, size: int, threads: int) -> Callable[[Tensor], object]:
    """A function that scores images (N, 3, H, W) with a runtime."""
    if runtime == "torch":

        def score(images: Tensor) -> object:
            with torch.inference_mode():
                return model(images)

        return score
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        # For each batch: anomalib's own export of PatchCore is fixed to the batch that it was traced with.
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (torch.rand(batch, 3, size, size),), path, opset_version=18, dynamo=True)
        compiled = openvino.compile_model(path, "CPU", settings)
    return lambda images: compiled(images.numpy())


def jobs() -> list[tuple[str, str, int]]:
    """Model, runtime and batch; other sizes of PatchCore's bank only one image at a time: they take gigabytes."""
    banks = [(f"PatchCore, {count} images", (1, 16) if count == 400 else (1,)) for count in TRAINING_IMAGES]  # noqa: PLR2004
    rows = [("Ckaad", BATCHES), (PARTS, BATCHES), ("PaDiM", BATCHES), *banks]
    return [(name, runtime, batch) for runtime in RUNTIMES for name, batches in rows for batch in batches]


def measure_seconds(options: argparse.Namespace) -> dict[tuple[str, str, int], list[float]]:
    """Seconds of every call, round by round."""
    ready = {
        job: compile_model(build(job[0], options.image_size), *job[1:], options.image_size, options.threads)
        for job in jobs()
    }
    images = torch.rand(max(BATCHES), 3, options.image_size, options.image_size)
    seconds: dict[tuple[str, str, int], list[float]] = {job: [] for job in jobs()}
    for number in range(-1, options.repeats):  # the first round warms up
        for job in jobs():
            begin = time.perf_counter()
            ready[job](images[: job[2]])
            if number >= 0:
                seconds[job].append(time.perf_counter() - begin)
    return seconds


def measure_memory(job: tuple[str, str, int], options: argparse.Namespace) -> float:
    """Peak memory in MiB of a process that scores once."""
    arguments = ["--image-size", options.image_size, "--threads", options.threads, "--memory-of", *job]
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def score_once(options: argparse.Namespace) -> None:
    """Score one batch and print this process's peak memory in MiB."""
    name, runtime, batch = options.memory_of
    score = compile_model(build(name, options.image_size), runtime, int(batch), options.image_size, options.threads)
    score(torch.rand(int(batch), 3, options.image_size, options.image_size))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="rounds, at least 2; default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--image-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--report", type=Path, help="Markdown file whose section `inference` gets the table")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeats < 2:  # noqa: PLR2004  # quartiles need two values
        parser.error(f"Expected --repeats of at least 2, got {options.repeats}. Do leave it out for 30.")
    return options


def main() -> None:
    """Measure and print."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options = parse()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        score_once(options)
        return
    seconds = measure_seconds(options)
    rows = []
    for job in jobs():
        name, runtime, batch = job
        rates = [batch / taken for taken in seconds[job]]
        low, median, high = statistics.quantiles(rates, n=4)
        row = {"runtime": runtime, "batch": batch, "model": name, "low": low, "median": median, "high": high}
        row["ratio"] = statistics.median(
            reference / taken for taken, reference in zip(seconds[job], seconds[REFERENCE, runtime, batch], strict=True)
        )
        row["memory"] = measure_memory(job, options)
        rows.append(row)
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
    print(markdown_table(shown))
    outside = {
        f"{runtime}, batch {batch}": statistics.median(
            1 - part / whole
            for whole, part in zip(seconds["Ckaad", runtime, batch], seconds[PARTS, runtime, batch], strict=True)
        )
        for runtime in RUNTIMES
        for batch in BATCHES
    }
    share = "; ".join(f"{name}: {100 * value:.0f} %" for name, value in outside.items())
    text = f"{markdown_table(shown)}\n\nShare of Ckaad's time outside backbone and auto-encoder: {share}."
    print(text.splitlines()[-1])
    if options.report:
        write_section(options.report, "inference", text)
    machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
    print(json.dumps({**machine, "repeats": options.repeats, "rows": rows, "outside": outside}))


if __name__ == "__main__":
    main()
