"""Peak memory in MiB of a process that does nothing but load a model and score one batch.

    python benchmarks/peak_memory.py MODEL.pt|MODEL.xml [--batch 1] [--image-size 256] [--threads 2]

A `.pt` file holds a whole module and is a pickle: give it files of your own only. An `.xml` file is read by OpenVINO,
without torch. Needs Linux, as ``peak_memory`` says.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_ckaad.study.memory import peak_memory


def load(path: Path, threads: int) -> Callable[[np.ndarray], object]:
    """A function that scores images (N, 3, H, W) of float32, in torch or OpenVINO by the file's ending."""
    if path.suffix == ".xml":
        import openvino  # noqa: PLC0415 - a process that measures the other runtime must not have it in memory

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        return openvino.compile_model(path, "CPU", settings)
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    model: Any = torch.load(path, weights_only=False)

    def score(images: np.ndarray) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(images))

    return score


def main() -> None:
    """Score one batch and print the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--image-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    options = parser.parse_args()
    images = np.random.default_rng(0).random((options.batch, 3, options.image_size, options.image_size), np.float32)
    load(options.model, options.threads)(images)
    print(f"{peak_memory():.0f}")


if __name__ == "__main__":
    main()
