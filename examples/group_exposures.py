"""Write a table that says which images show the same part, for ``groups`` of ``KnownAnomalies``.

For cameras that number their images: images whose numbers are close show the same part. Images whose numbers are a
little further apart may show it once more; their pattern decides, whatever the light. Labels do not matter: of one
part, one image may be labeled as normal and another one as anomalous.

    python examples/group_exposures.py DATA/magnetic_tile/test > groups.csv
"""

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur, pil_to_tensor

SIDE = 48
"""Side in pixels at which patterns are compared."""
BROAD, BROADER = (4.0, 6.0)
"""Standard deviations, in these pixels, of blurs that leave only the light, and only the contrast."""


def pattern(path: Path) -> Tensor:
    """An image without its light, its contrast and marks that run down all parts: a vector of length one."""
    with Image.open(path) as image:
        gray = pil_to_tensor(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)).double()
    detail = gray - _blur(gray, BROAD)
    detail = detail / (_blur(detail**2, BROADER).sqrt() + 1)
    detail = (detail - detail.mean(dim=-2, keepdim=True)).flatten()
    return detail / detail.norm().clamp_min(1e-12)


def _blur(image: Tensor, sigma: float) -> Tensor:
    return gaussian_blur(image, [SIDE - 1, SIDE - 1], [sigma, sigma])


def group(numbers: Sequence[int], patterns: Tensor, *, gap: int, far: int, alike: float) -> list[int]:
    """The smallest number in the group of each image.

    Args:
        numbers: One an image (N).
        patterns: Vectors of length one (N, D).
        gap: Images whose numbers differ by at most this show the same part.
        far: So do images whose numbers differ by at most this and whose patterns correlate by ``alike``.
        alike: Smallest correlation, in [-1, 1].
    """
    distance = (torch.tensor(numbers)[:, None] - torch.tensor(numbers)).abs()
    same = (distance <= gap) | ((distance <= far) & (patterns @ patterns.T >= alike))
    found = torch.tensor(numbers)
    while True:  # the smallest number spreads from neighbor to neighbor
        smaller = torch.where(same, found, found.max()).amin(dim=1)
        if torch.equal(smaller, found):
            return found.tolist()
        found = smaller


def main() -> None:
    """Group the images in all folders of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gap", type=int, default=150, help="see `group` above; default: %(default)s")
    parser.add_argument("--far", type=int, default=1500, help="default: %(default)s")
    parser.add_argument("--alike", type=float, default=0.5, help="default: %(default)s")
    options = parser.parse_args()
    numbered = [(path, re.search(r"(\d+)$", path.stem)) for path in sorted(options.folder.glob("*/*"))]
    images = [(path, int(found.group())) for path, found in numbered if found is not None]
    if not images:
        parser.error(f"{options.folder} has no folders with images whose names end in a number. Check the path.")
    patterns = torch.stack([pattern(path) for path, _ in images])
    limits = {"gap": options.gap, "far": options.far, "alike": options.alike}
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "group"])
    for (path, _), name in zip(images, group([number for _, number in images], patterns, **limits), strict=True):
        writer.writerow([path.relative_to(options.folder).as_posix(), name])


if __name__ == "__main__":
    main()
