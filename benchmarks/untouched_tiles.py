"""Image AUROC of a study's methods on those tiles that no choice of docs/accuracy.md was made on.

    python benchmarks/untouched_tiles.py STUDY --groups groups.csv [--against "Ckaad, nothing known"]
        [--report docs/accuracy.md]

The choices were made on half of the groups of test images: first of groups by folder and number (at most 300 apart),
then of those that examples/group_exposures.py writes; of normal images, on every other one. What is scored here are
the images of parts that have no image in either half, by the scores that the study has kept. Intervals of differences
are bootstraps over seeds and parts. The last line is a JSON object.
"""

import argparse
import csv
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from machine import publish

from anomalib_ckaad.study.results import Results
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.study.statistics import Paired, paired_difference, weighted_auroc
from anomalib_ckaad.study.tables import percent

GAP = 300


def by_number(images: Sequence[str]) -> dict[str, str]:
    """Groups as they were told at first: numbers of one folder, each at most 300 from the next.

    >>> by_number(["crack/a_1.jpg", "crack/a_301.jpg", "crack/a_602.jpg"])
    {'crack/a_1.jpg': 'crack-1', 'crack/a_301.jpg': 'crack-1', 'crack/a_602.jpg': 'crack-602'}
    """
    found: dict[str, str] = {}
    for folder in sorted({image.split("/")[0] for image in images}):
        numbered = sorted((int(re.findall(r"\d+", one)[-1]), one) for one in images if one.startswith(f"{folder}/"))
        first = numbered[0][0]
        found[numbered[0][1]] = f"{folder}-{first}"
        for (before, _), (number, image) in pairwise(numbered):
            first = first if number - before <= GAP else number
            found[image] = f"{folder}-{first}"
    return found


def untouched(group_of: dict[str, str]) -> set[str]:
    """Images, as folder and name, of parts with no image in either half."""
    normal = sorted(image for image in group_of if image.startswith("good/"))
    left = set(group_of) - set(normal[::2])
    for groups in (group_of, by_number(sorted(group_of))):
        chosen = set(sorted(set(groups.values()))[::2])
        left -= {image for image in group_of if groups[image] in chosen and image not in normal}
    touched = {group_of[image] for image in set(group_of) - left}
    return {image for image in left if group_of[image] not in touched}


def scores_of(found: Mapping[str, Any], left: set[str]) -> tuple[Any, Any, Any]:
    """Names, scores and labels of the images to score, in order of names."""
    names = np.array(["/".join(Path(path).parts[-2:]) for path in found["paths"].tolist()])
    order = [index for index in np.argsort(names) if names[index] in left]
    return names[order], found["scores"][order], found["labels"][order].astype(bool)


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a study of magnetic tile")
    parser.add_argument("--groups", type=Path, required=True, help="written by examples/group_exposures.py")
    parser.add_argument(
        "--against", default="Ckaad, nothing known", help="method of the differences; default: %(default)s"
    )
    parser.add_argument("--report", type=Path, help="Markdown file whose section `untouched-tiles` gets the table")
    options = parser.parse_args()
    with options.groups.open(newline="") as file:
        group_of = {row["image"]: row["group"] for row in csv.DictReader(file)}
    left = untouched(group_of)
    results = Results.read(options.study)
    if options.against not in results.methods:
        methods = ", ".join(results.methods)
        parser.error(f"Expected --against to be one of {methods}, got {options.against}. Do change it.")
    rows, counts = [], set()
    for data in results.data_sets:
        kept = {
            method: [scores_of(results.scores(run), left) for run in results.rows(data, method)]
            for method in results.methods
        }
        for method, runs in kept.items():
            values = [float(weighted_auroc(one, labels, np.ones((1, len(labels))))[0]) for _, one, labels in runs]
            counts |= {(int((~labels).sum()), int(labels.sum())) for _, _, labels in runs}
            row = {"method": method, "seeds": str(len(values)), "image AUROC": percent(values)}
            column = f"difference to {options.against}, 95 % interval"
            if options.against in kept and method != options.against:
                pairs = [
                    Paired(scores, other, labels, names, np.array([group_of[name] for name in names]))
                    for (names, scores, labels), (_, other, _) in zip(runs, kept[options.against], strict=True)
                ]
                found = [100 * value for value in paired_difference(pairs)]
                row[column] = "{:+.1f}, {:+.1f} to {:+.1f}".format(*found)
            elif options.against in kept:
                row[column] = ""
            rows.append(row)
    told = ", ".join(f"{normal} normal and {anomalous} anomalous" for normal, anomalous in sorted(counts))
    publish(f"{markdown_table(rows)}\n\nImages, by seed: {told}.", {"rows": rows}, options.report, "untouched-tiles")


if __name__ == "__main__":
    main()
