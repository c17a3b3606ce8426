"""Where the time of a training step goes: shares of kinds of operations, by torch's profiler.

    python benchmarks/profile_step.py [--steps 3] [--threads 2] [--backbones resnet18 wide_resnet50_2]
        [--device cpu] [--report docs/speed.md]

The package's step of ``training_step.py``, features computed and not cached. An operation's own time counts, without
that of the operations it calls, so that the shares add up to the time that torch spends in operations; on a GPU to the
time of its kernels, which is said beside the time of a step: the rest of that it waits. The last line is a JSON object.
"""

import argparse
from pathlib import Path

import torch
from machine import describe_machine, publish
from torch.profiler import ProfilerActivity, profile
from training_step import DEFAULT_SETUPS, SETUPS, Setup, build, make_batch, seconds_of, wait_for

from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.training.precision import WORTHWHILE, bfloat16_speed_up

KINDS = {
    "convolutions, backward": ("convolution_backward",),
    "convolutions, forward": ("convolution",),
    "normalization": ("batch_norm", "instance_norm"),
    "Adam": ("adam",),
    "copies between precisions and layouts": ("copy_", "to_copy", "clone", "contiguous", "cat"),
    "activations": ("relu", "threshold", "elu", "sigmoid", "tanh", "hardtanh"),
}
"""Parts of the names of a kind's operations; the first kind that has one takes it."""
REST = "rest: sums, losses, bookkeeping"


def kind_of(operation: str) -> str:
    """The kind that an operation counts to.

    Example:
        >>> kind_of("aten::mkldnn_convolution"), kind_of("aten::convolution_backward"), kind_of("aten::sum")
        ('convolutions, forward', 'convolutions, backward', 'rest: sums, losses, bookkeeping')
    """
    return next((kind for kind, parts in KINDS.items() if any(part in operation for part in parts)), REST)


def shares_of(setup: Setup, options: argparse.Namespace, *, bfloat16: bool) -> dict[str, float]:
    """Share of the time by kind of operation."""
    on_gpu = options.device != "cpu"
    _, package, _ = build(setup, options.device, bfloat16=bfloat16)
    images, is_anomalous = make_batch(setup, options.image_size, options.device)

    def some_steps() -> None:
        for _ in range(options.steps):
            package(package.features(images), is_anomalous)

    some_steps()  # warms up
    seconds = seconds_of(some_steps, options.device) / options.steps
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
        some_steps()
        wait_for(options.device)
    spent = dict.fromkeys([*KINDS, REST], 0.0)
    for event in found.key_averages():
        if not on_gpu:
            spent[kind_of(event.key)] += event.self_cpu_time_total
        elif event.key.startswith("aten::"):  # kernels have entries of their own besides
            spent[kind_of(event.key)] += event.self_device_time_total
    total = sum(spent.values())
    shares = {kind: time / total for kind, time in spent.items()}
    return shares | ({"step, ms": 1e3 * seconds, "kernels, ms": total / options.steps / 1e3} if on_gpu else {})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--backbones", nargs="+", choices=SETUPS, default=DEFAULT_SETUPS, help="default: both ResNets")
    parser.add_argument("--image-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--precision", choices=("auto", "bfloat16", "float32"), default="auto", help="default: auto")
    parser.add_argument("--report", type=Path, help="Markdown file whose section gets the table")
    parser.add_argument("--section", default="profile", help="of the report; default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = options.precision == "auto" and options.device == "cpu" and bfloat16_speed_up() >= WORTHWHILE
    bfloat16 = measured or options.precision == "bfloat16"
    found = {name: shares_of(SETUPS[name], options, bfloat16=bfloat16) for name in options.backbones}
    rows = [
        {"operations": kind, **{name: f"{100 * shares[kind]:.0f} %" for name, shares in found.items()}}
        for kind in [*KINDS, REST]
    ]
    rows += [
        {"operations": measure, **{name: f"{shares[measure]:.1f}" for name, shares in found.items()}}
        for measure in ("kernels, ms", "step, ms")
        if options.device != "cpu"
    ]
    precision = "bfloat16" if bfloat16 else "float32"
    machine = describe_machine(options.threads, options.device)
    text = f"{markdown_table(rows)}\n\n{options.steps} steps, {precision}; {machine}."
    publish(text, found | {"machine": machine}, options.report, options.section)


if __name__ == "__main__":
    main()
