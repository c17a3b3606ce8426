"""Where the time of a training step goes: shares of kinds of operations, by torch's profiler.

    python benchmarks/profile_step.py [--steps 3] [--threads 2] [--backbones resnet18 wide_resnet50_2]
        [--report docs/speed.md]

The package's step of ``training_step.py``, features computed and not cached. An operation's own time counts, without
that of the operations it calls, so that the shares add up to the time that torch spends in operations. The last line is
a JSON object.
"""

import argparse
from pathlib import Path

import torch
from machine import describe_machine, publish
from torch.profiler import ProfilerActivity, profile
from training_step import DEFAULT_SETUPS, SETUPS, Setup, build, make_batch

from anomalib_ckaad.precision import WORTHWHILE, bfloat16_speed_up
from anomalib_ckaad.study.sections import markdown_table

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
    _, package = build(setup, bfloat16=bfloat16)
    images, is_anomalous = make_batch(setup, options.image_size)
    package(package.features(images), is_anomalous)  # warms up
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(options.steps):
            package(package.features(images), is_anomalous)
    spent = dict.fromkeys([*KINDS, REST], 0.0)
    for event in found.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
    return {kind: time / sum(spent.values()) for kind, time in spent.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--backbones", nargs="+", choices=SETUPS, default=DEFAULT_SETUPS, help="default: both ResNets")
    parser.add_argument("--image-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--report", type=Path, help="Markdown file whose section gets the table")
    parser.add_argument("--section", default="profile", help="of the report; default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bfloat16 = bfloat16_speed_up() >= WORTHWHILE
    found = {name: shares_of(SETUPS[name], options, bfloat16=bfloat16) for name in options.backbones}
    rows = [
        {"operations": kind, **{name: f"{100 * shares[kind]:.0f} %" for name, shares in found.items()}}
        for kind in [*KINDS, REST]
    ]
    precision = "bfloat16" if bfloat16 else "float32"
    text = f"{markdown_table(rows)}\n\n{options.steps} steps, {precision}; {describe_machine(options.threads)}."
    publish(text, found | {"machine": describe_machine(options.threads)}, options.report, options.section)


if __name__ == "__main__":
    main()
