"""What knowing some anomalies of a type brings for it, and for all other types, in one line for each study's data.

    python benchmarks/known_types.py STUDY [STUDY ...] [--report docs/accuracy.md]

For every type that some known anomaly of a study is of: the best method that is given none, Ckaad without and with
them, and the others that learn from them; and the mean of all other types. Metrics in percent, means over seeds with
their standard deviation. The last line is a JSON object.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from machine import publish

from anomalib_ckaad.study.results import SEEN, UNSEEN, Results
from anomalib_ckaad.study.sections import markdown_table
from anomalib_ckaad.study.tables import SHOWN, percent

CKAAD = "Ckaad"
WITHOUT = ("Ckaad, nothing known", "Ckaad recon", "Ckaad unemphasized strategy=recon")
"""What studies call Ckaad that does not look at known anomalies."""
TOLD = ("DevNet", "Deep SAD")
METRICS = ("image_AUROC", "pixel_AUPRO")


def told_of(run: Mapping[str, Any]) -> int:
    """Number of known anomalies that a job was given."""
    return sum(run["known"].values())


def rows_of(results: Results) -> Iterator[dict[str, str]]:
    """Rows of the data sets of which Ckaad is given a part of the types."""
    for data in results.data_sets:
        runs = results.rows(data, CKAAD)
        seen = sorted({kind for run in runs for kind in run["seen"]})
        without = next((name for name in WITHOUT if results.rows(data, name)), None)
        if not seen or without is None or not results.values(data, CKAAD, METRICS[0], UNSEEN):
            continue
        given_none = [
            method
            for method in results.methods
            if not method.startswith(CKAAD) and not any(map(told_of, results.rows(data, method)))
        ]
        for metric in (one for one in METRICS if one in results.metrics(data)):
            best = max(
                (method for method in given_none if results.values(data, method, metric, SEEN)),
                key=lambda method: statistics.mean(results.values(data, method, metric, SEEN)),
                default="",
            )
            others = {f"known: {name}": percent(results.values(data, name, metric, SEEN)) for name in TOLD}
            yield {
                "data: known type": f"{data}: {', '.join(seen)}",
                "metric": SHOWN[metric],
                "known: best without knowledge": f"{best} {percent(results.values(data, best, metric, SEEN))}",
                "known: Ckaad, nothing known": percent(results.values(data, without, metric, SEEN)),
                "known: Ckaad": percent(results.values(data, CKAAD, metric, SEEN)),
                **others,
                "others: Ckaad, nothing known": percent(results.values(data, without, metric, UNSEEN)),
                "others: Ckaad": percent(results.values(data, CKAAD, metric, UNSEEN)),
            }


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", metavar="STUDY", help="folders of studies")
    parser.add_argument("--report", type=Path, help="Markdown file whose section `known-types` gets the table")
    options = parser.parse_args()
    rows = [row for study in options.studies for row in rows_of(Results.read(study))]
    if not rows:
        names = ", ".join(map(str, options.studies))
        parser.error(f"Expected {CKAAD} with and without some known types in {names}, got none. Do give other studies.")
    publish(markdown_table(rows), {"rows": rows}, options.report, "known-types")


if __name__ == "__main__":
    main()
