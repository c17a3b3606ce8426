"""How time and memory of training grow with the number of images, their size and the backbone.

    python benchmarks/growth.py [--rounds 3] [--threads 2] [--counts 40 80 160] [--sizes 128 256 384]
        [--device cpu] [--workers 0] [--report docs/speed.md]

Every training is a process of its own: two epochs through anomalib's engine, with 16 normal images and 16 known
anomalies a batch, stages 2 and 3, no cache of features and random weights. The second epoch is timed with its
validation. One thing varies at a time; the others are 80 images, 256x256 and ResNet18. Every round runs each training
once, so that a busy machine slows all of them alike; seconds and memory are medians over rounds. Memory is that of the
process, or on a GPU what torch has allocated there. The last line is a JSON object.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from cache import BATCH, run
from machine import describe_machine, publish, spread, write_images

from anomalib_ckaad.study.memory import peak_memory
from anomalib_ckaad.study.sections import markdown_table

USUAL = {"images": 80, "size": 256, "backbone": "resnet18"}
BACKBONES = ("tf_efficientnet_lite0", "resnet18", "wide_resnet50_2")


def train_once(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the second epoch and peak memory in MiB of this process."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name, count in (("good", options.images), ("test", 1), ("bad", 1), ("known", BATCH)):
            write_images(root / name, count, options.image_size, seed=len(name))
        timer = run(options.backbones[0], root, {"memory": 0}, options)
    memory = peak_memory() if options.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    return {"seconds": timer.seconds, "memory": memory}


def measure(case: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak memory of one training in a process of its own."""
    arguments = ["--one", "--images", case["images"], "--image-size", case["size"], "--backbones", case["backbone"]]
    arguments += ["--threads", options.threads, "--device", options.device, "--workers", options.workers]
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_all(cases: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each case with its medians; one that is there several times is measured once a round."""
    keys = [json.dumps(case, sort_keys=True) for case in cases]
    runs: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
    for _ in range(options.rounds):
        for key, found in runs.items():
            found.append(measure(json.loads(key), options))
    rows = []
    for case, key in zip(cases, keys, strict=True):
        seconds = [one["seconds"] for one in runs[key]]
        median = statistics.median(seconds)
        memory = statistics.median(one["memory"] for one in runs[key])
        rows.append({**case, "seconds": median, "all_seconds": seconds, "memory": memory})
        rows[-1]["seconds_an_image"] = median / case["images"]
    return rows


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--counts", type=int, nargs="+", default=(40, 80, 160), help="default: 40 80 160")
    parser.add_argument("--sizes", type=int, nargs="+", default=(128, 256, 384), help="default: 128 256 384")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, help="default: three from small to large")
    parser.add_argument("--images", type=int, default=USUAL["images"], help="where their number does not vary")
    parser.add_argument("--image-size", type=int, default=USUAL["size"], help="where it does not vary")
    parser.add_argument("--usual-backbone", default=USUAL["backbone"], help="where it does not vary")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images; default: %(default)s")
    parser.add_argument("--report", type=Path, help="Markdown file whose section gets the table")
    parser.add_argument("--section", default="growth", help="of the report; default: %(default)s")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {options.rounds}.")
    return options


def main() -> None:
    """Measure and print."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    options = parse()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(train_once(options)))
        return
    usual = {"images": options.images, "size": options.image_size, "backbone": options.usual_backbone}
    varied = {"images": options.counts, "size": options.sizes, "backbone": options.backbones}
    cases = [(name, {**usual, name: value}) for name, values in varied.items() for value in values]
    measured = measure_all([case for _, case in cases], options)
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in varied}
    for (name, _), row in zip(cases, measured, strict=True):
        groups[name].append(row)
    rows = [
        {
            "varied": name,
            "images": str(row["images"]),
            "size": str(row["size"]),
            "backbone": row["backbone"],
            "epoch, s": spread(row["all_seconds"]),
            "ms an image": f"{1e3 * row['seconds_an_image']:.1f}",
            "peak memory, MiB": f"{row['memory']:.0f}",
        }
        for name, group in groups.items()
        for row in group
    ]
    machine = describe_machine(options.threads, options.device)
    text = (
        f"{markdown_table(rows)}\n\nMedian (quartiles) of {options.rounds} rounds; "
        f"{options.workers} processes that read images; {machine}."
    )
    publish(text, {"machine": machine, "groups": groups}, options.report, options.section)


if __name__ == "__main__":
    main()
