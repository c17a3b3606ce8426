"""Shared by the benchmarks: describes the machine, formats medians, writes images to train on, prints results."""

import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from anomalib_ckaad.study.sections import write_section


def describe_machine(threads: int, device: str = "cpu") -> str:
    """The GPU, if any, the processor, its cores, threads and torch's version."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}; {describe_machine(threads)}"
    names: list[str] = []
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    name = f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()
    return f"{name}, {threads} threads, torch {torch.__version__}"


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    """Median with quartiles.

    Example:
        >>> spread([1.0, 2.0, 3.0])
        '2.00 (1.50 to 2.50)'
    """
    if len(values) == 1:
        return f"{scale * values[0]:.2f}"
    low, median, high = (scale * value for value in statistics.quantiles(values, n=4, method="inclusive"))
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def publish(text: str, found: object, report: Path | None, section: str) -> None:
    """Print a text and, as the last line, the results as JSON; write the text into a section of a Markdown file."""
    print(text)
    if report is not None:
        write_section(report, section, text)
    print(json.dumps(found))


def write_images(folder: Path, count: int, size: int, seed: int) -> None:
    """Noise on a gradient, as PNG: enough for a model to train on, nothing to learn."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    ramp = np.linspace(0, 120, size)[None, :, None]
    for index in range(count):
        pixels = ramp + generator.uniform(0, 100, (size, size, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:05}.png")
