"""Time and memory of one training step, compared with a plain one.

    python benchmarks/training_step.py [--rounds 7] [--threads 2] [--backbones resnet18 wide_resnet50_2]
        [--device cpu] [--report docs/speed.md]

The plain step is ``plain_step.py``: the reference's order of computation in float32, with nothing done for speed. Both
have the same images and begin with the same weights; weights are random, which changes no time. Every round does one
step of each kind, so that a busy machine slows all of them alike; ratios are medians over rounds. "Saving memory" is
the package's step with gradient checkpointing; "cached" is given the backbone's features. Memory is the peak of a
process that does two steps of one kind, of one that only holds the weights, their gradients and Adam's moments, and of
one that only imports the package. On a GPU it is what torch has allocated there, and the plain step's convolutions are
in TF32, torch's default. The last line is a JSON object.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine, publish, spread
from plain_step import PlainStep
from torch import Tensor

from anomalib_ckaad.network.discriminator import PatchDiscriminator
from anomalib_ckaad.network.grad_checkpointing import set_grad_checkpointing
from anomalib_ckaad.network.objective import STRATEGIES, Objective, alternating_step
from anomalib_ckaad.study.memory import peak_memory
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.optimizer import make_adam

LEARNING_RATES = (1e-3, 1e-4)
KINDS = ("plain", "package", "saving", "state", "nothing")
"""What a process whose memory is measured does."""


@dataclass(frozen=True)
class Setup:
    """A backbone, its stages, and the number of normal images in a batch, which has as many anomalous ones."""

    backbone: str
    stages: tuple[int, ...]
    each: int


SETUPS = {
    "resnet18": Setup("resnet18", (2, 3), 16),
    "wide_resnet50_2": Setup("wide_resnet50_2", (1, 2, 3), 4),
    "wide_resnet50_2_large": Setup("wide_resnet50_2", (1, 2, 3), 16),
    "tf_efficientnet_lite0": Setup("tf_efficientnet_lite0", (2, 3), 16),
}
DEFAULT_SETUPS = ("resnet18", "wide_resnet50_2")


class PackageStep:
    """What ``Ckaad`` does in a step, without Lightning.

    Args:
        model: Backbone and auto-encoder.
        discriminator: The patch discriminator.
        bfloat16: Whether under autocast.
        saving: Whether activations are computed again.
    """

    def __init__(
        self, model: CkaadModel, discriminator: PatchDiscriminator, *, bfloat16: bool, saving: bool = False
    ) -> None:
        self.model, self.discriminator, self.bfloat16 = model, discriminator, bfloat16
        if saving:
            set_grad_checkpointing(model.auto_encoder, discriminator)
        self.of_auto_encoder = make_adam(model.auto_encoder.parameters(), LEARNING_RATES[0])
        self.of_discriminator = make_adam(discriminator.parameters(), LEARNING_RATES[1])

    def features(self, images: Tensor) -> list[Tensor]:
        """Features in the precision of the step."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.model.backbone(images)

    def __call__(self, features: list[Tensor], is_anomalous: Tensor) -> dict[str, Tensor]:
        """One step on features, one tensor (N, C_k, H_k, W_k) a stage."""
        with torch.autocast(features[0].device.type, torch.bfloat16, enabled=self.bfloat16):
            return alternating_step(
                features,
                is_anomalous,
                auto_encoder=self.model.auto_encoder,
                discriminator=self.discriminator,
                objective=Objective(STRATEGIES["cka_patch"]),
                auto_encoder_optimizer=self.of_auto_encoder,
                discriminator_optimizer=self.of_discriminator,
            )


def build_model(setup: Setup, device: str = "cpu") -> tuple[CkaadModel, PatchDiscriminator]:
    """Model and discriminator, the same each time."""
    torch.manual_seed(0)
    model = CkaadModel(setup.backbone, setup.stages).to(device)
    return model, PatchDiscriminator(model.auto_encoder.architecture.channels).to(device)


def build(setup: Setup, device: str = "cpu", *, bfloat16: bool) -> tuple[PlainStep, PackageStep, PackageStep]:
    """A plain step, the package's, and the package's that saves memory, with the same weights."""
    model, discriminator = build_model(setup, device)
    plain = PlainStep(model, discriminator, *LEARNING_RATES)
    saving = PackageStep(*build_model(setup, device), bfloat16=bfloat16, saving=True)
    return plain, PackageStep(model, discriminator, bfloat16=bfloat16), saving


def make_batch(setup: Setup, size: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Images (2 n, 3, H, W), normal ones first, and which are anomalous (2 n,)."""
    images = torch.randn(2 * setup.each, 3, size, size, generator=torch.Generator().manual_seed(1))
    return images.to(device), torch.arange(len(images), device=device) >= setup.each


def wait_for(device: str) -> None:
    """Until a GPU has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds_of(function: Callable[[], object], device: str = "cpu") -> float:
    """How long a call takes."""
    wait_for(device)
    begin = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - begin


def measure(setup: Setup, options: argparse.Namespace, *, bfloat16: bool) -> dict[str, list[float]]:
    """Seconds of every kind of step, and ratios of the plain step's to the others', one value a round."""
    device = options.device
    plain, package, saving = build(setup, device, bfloat16=bfloat16)
    images, is_anomalous = make_batch(setup, options.image_size, device)
    cached = package.features(images)
    kinds: dict[str, Callable[[], float]] = {
        "plain": lambda: seconds_of(lambda: plain(images[: setup.each], images[setup.each :]), device),
        "package": lambda: seconds_of(lambda: package(package.features(images), is_anomalous), device),
        "saving": lambda: seconds_of(lambda: saving(saving.features(images), is_anomalous), device),
        "cached": lambda: seconds_of(lambda: package(cached, is_anomalous), device),
    }
    values: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(-1 if device == "cpu" else -3, options.rounds):  # the first rounds warm up
        for name, run in kinds.items():
            value = run()
            if number >= 0:
                values[name].append(value)
    for name, other in (("ratio", "package"), ("ratio_saving", "saving"), ("ratio_cached", "cached")):
        values[name] = [one / two for one, two in zip(values["plain"], values[other], strict=True)]
    return values


def measure_memory(name: str, kind: str, options: argparse.Namespace) -> float:
    """Peak memory in MiB of a process that does two steps of a kind, or none for ``state`` and ``nothing``.

    On a GPU of this process, which holds little there yet.
    """
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        bfloat16 = options.precision == "bfloat16"
        two_steps(SETUPS[name], kind, options.image_size, options.device, bfloat16=bfloat16)
        return torch.cuda.max_memory_allocated() / 2**20
    arguments = ["--steps-of", kind, "--backbones", name, "--image-size", options.image_size]
    arguments += ["--threads", options.threads, "--precision", options.precision]
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def two_steps(setup: Setup, kind: str, size: int, device: str, *, bfloat16: bool) -> None:
    """Two steps of a kind and nothing else."""
    if kind == "nothing":
        return
    images, is_anomalous = make_batch(setup, size, device)
    model, discriminator = build_model(setup, device)
    if kind == "state":
        step = PackageStep(model, discriminator, bfloat16=bfloat16)
        for optimizer in (step.of_auto_encoder, step.of_discriminator):
            for parameter in (one for group in optimizer.param_groups for one in group["params"]):
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()  # makes its moments
        return
    plain = PlainStep(model, discriminator, *LEARNING_RATES) if kind == "plain" else None
    package = None if plain else PackageStep(model, discriminator, bfloat16=bfloat16, saving=kind == "saving")
    del model, discriminator
    for _ in range(2):
        if plain:
            plain(images[: setup.each], images[setup.each :])
        elif package:
            package(package.features(images), is_anomalous)


def row_of(name: str, values: dict[str, list[float]], memory: dict[str, float], device: str) -> dict[str, str]:
    """A row of the table, times in milliseconds on a GPU."""
    unit, scale = ("s", 1.0) if device == "cpu" else ("ms", 1e3)
    setup = SETUPS[name]
    stages = " ".join(map(str, setup.stages))
    return {
        "backbone, stages, images": f"{setup.backbone}, {stages}, {setup.each} + {setup.each}",
        f"plain, {unit}": spread(values["plain"], scale),
        f"package, {unit}": spread(values["package"], scale),
        "ratio": spread(values["ratio"]),
        f"saving memory, {unit}": spread(values["saving"], scale),
        "ratio, saving": spread(values["ratio_saving"]),
        f"with features cached, {unit}": spread(values["cached"], scale),
        "ratio, cached": spread(values["ratio_cached"]),
        "peak memory, MiB: plain, package, saving, state alone, imports alone": ", ".join(
            f"{value:.0f}" for value in memory.values()
        ),
    }


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="at least 2; default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--backbones", nargs="+", choices=SETUPS, default=DEFAULT_SETUPS, help="default: both ResNets")
    parser.add_argument("--image-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16", help="default: %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--report", type=Path, help="Markdown file whose section gets the table")
    parser.add_argument("--section", default="training-step", help="of the report; default: %(default)s")
    parser.add_argument("--steps-of", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 2:  # noqa: PLR2004  # quartiles need two values
        parser.error(f"--rounds must be at least 2, not {options.rounds}.")
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    bfloat16 = options.precision == "bfloat16"
    if options.steps_of:
        setup = SETUPS[options.backbones[0]]
        two_steps(setup, options.steps_of, options.image_size, options.device, bfloat16=bfloat16)
        print(f"{peak_memory():.0f}")
        return
    machine = describe_machine(options.threads, options.device)
    rows: list[dict[str, str]] = []
    found: dict[str, dict[str, Any]] = {}
    for name in options.backbones:
        memory = {kind: measure_memory(name, kind, options) for kind in KINDS}
        values = measure(SETUPS[name], options, bfloat16=bfloat16)
        rows.append(row_of(name, values, memory, options.device))
        shown = ("ratio", "ratio_saving", "ratio_cached")
        found[name] = {key: statistics.median(values[key]) for key in shown}
        found[name]["memory_ratio"] = memory["package"] / memory["plain"]
        found[name]["memory_ratio_saving"] = memory["saving"] / memory["plain"]
        found[name] |= {"machine": machine, "precision": options.precision, "mebibytes": memory}
        found[name] |= {
            f"{key}_quartiles": statistics.quantiles(values[key], n=4, method="inclusive")
            for key in ("plain", "package", "saving", "cached", "ratio", "ratio_saving", "ratio_cached")
        }
    text = f"{markdown_table(rows)}\n\nMedian (quartiles) of {options.rounds} rounds, {options.precision}; {machine}."
    publish(text, found, options.report, options.section)


if __name__ == "__main__":
    main()
