"""Write which images show the same part, where numbers at the end of their names tell.

Cameras count: images of one part in several exposures have numbers close to each other.

    python examples/group_by_number.py DATA/magnetic_tile/test --gap 300 > groups.csv
"""

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path


def group(numbers: Sequence[int], gap: int) -> list[int]:
    """The first number of the group that each number is in; in a group, the next one is at most ``gap`` away."""
    first: dict[int, int] = {}
    previous = None
    for number in sorted(set(numbers)):
        first[number] = first[previous] if previous is not None and number - previous <= gap else number
        previous = number
    return [first[number] for number in numbers]


def main() -> None:
    """Group the images of each folder in the given one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gap", type=int, default=300)
    options = parser.parse_args()
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "group"])
    for folder in sorted(path for path in options.folder.iterdir() if path.is_dir()):
        paths = [path for path in sorted(folder.iterdir()) if re.search(r"\d+$", path.stem)]
        numbers = [int(re.search(r"(\d+)$", path.stem).group()) for path in paths]
        for path, name in zip(paths, group(numbers, options.gap), strict=True):
            writer.writerow([f"{folder.name}/{path.name}", f"{folder.name}-{name}"])


if __name__ == "__main__":
    main()
