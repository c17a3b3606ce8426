"""The tables of a report, each a list of rows of text."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from anomalib_ckaad.metrics.per_type import ALL_TYPES
from anomalib_ckaad.study.results import SEEN, UNSEEN, Results
from anomalib_ckaad.study.statistics import Ranks, count_parts, paired_difference, rank_methods

FEW = 10
"""Least number of normal and of anomalous images, or of parts that they show, for a meaningful bootstrap."""
SHOWN = {
    "image_AUROC": "image AUROC",
    "image_AP": "image AP",
    "image_F1Max": "best F1",
    "image_AccuracyAtF1Max": "accuracy at best F1",
    "image_F1Score": "F1 at the threshold",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AP": "pixel AP",
    "pixel_AUPRO": "AUPRO",
    "mF1": "mF1",
    "mAcc": "mAcc",
    "mIoU": "mIoU",
    "mIoU_max": "mIoU-max",
    "mAD": "mAD",
}
"""Headings of the metrics that tables show, in percent."""


class Table(NamedTuple):
    """A title, a note on how to read the table, and rows of text by heading."""

    title: str
    note: str
    rows: Sequence[dict[str, str]]


def percent(values: Sequence[float]) -> str:
    """Format the mean and standard deviation over seeds, in percent.

    >>> percent([0.8, 0.9]), percent([0.8]), percent([])
    ('85.0 ± 7.1', '80.0', '')
    """
    return spread([100 * value for value in values])


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Format the mean, and with several values their standard deviation."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def main_table(results: Results, data: str) -> Table:
    """All metrics of every method over all types, with time and memory."""
    present = results.metrics(data)
    shown = {name: heading for name, heading in SHOWN.items() if name in present}
    rows = []
    for method in results.methods:
        runs = results.rows(data, method)
        if not runs:
            continue
        row = {"method": method, "seeds": str(len(runs))}
        row |= {heading: percent(results.values(data, method, name)) for name, heading in shown.items()}
        row["known (given)"] = (
            spread([float(sum(run["known"].values())) for run in runs], 0) if any(run["known"] for run in runs) else "0"
        )
        row["training, s"] = spread([run["seconds_fit"] for run in runs], 0)
        row["ms per image"] = spread([1000 * run["seconds_image"] for run in runs])
        row["peak MiB"] = spread([run["memory_MiB"] for run in runs], 0)
        if any(run.get("gpu_memory_MiB") for run in results.done):
            row["peak MiB of GPU"] = spread([run.get("gpu_memory_MiB", 0.0) for run in runs], 0)
        rows.append(row)
    some = results.rows(data, rows[0]["method"])[0]
    note = (
        f"Mean ± standard deviation over seeds; metrics in percent, from raw scores. First seed: "
        f"{some['images']['train']} normal training images, {some['images']['test']} test images. Machine: "
        f"{some['machine']}, {some['threads']} threads per job."
    )
    errors = {
        name: max(run.get("errors", {}).get(name, 0.0) for run in results.done if run["data"] == data)
        for name in ("mF1", "mAcc", "mIoU", "mIoU_max")
        if name in shown
    }
    if any(errors.values()):
        bounds = ", ".join(f"{SHOWN[name]} {100 * error:.1g}" for name, error in errors.items())
        note += f" Pixels are counted in bins; largest possible error in points: {bounds}."
    return Table(f"{data}: all types", note, rows)


def type_table(results: Results, data: str, metric: str) -> Table | None:
    """A metric for each type against all normal images, with means of seen and unseen types; None below two types."""
    types = results.types(data)
    if len(types) < 2:  # noqa: PLR2004
        return None
    seen = {name for row in results.done if row["data"] == data for name in row["seen"]}
    rows = []
    for name in [*types, SEEN, UNSEEN]:
        row = {"type": f"{name} (seen)" if name in seen else name}
        row |= {
            method: percent(found)
            for method in results.methods
            if (found := results.values(data, method, metric, name))
        }
        if len(row) > 1:
            rows.append(row)
    note = "Each type against all normal test images. Seen: at least one seed has a known anomaly of this type."
    return Table(f"{data}: {SHOWN.get(metric, metric)} by type", note, rows)


def difference_table(results: Results, data: str) -> Table | None:
    """Difference in image AUROC of each method to the best one; None with one method."""
    means = {
        method: statistics.mean(values)
        for method in results.methods
        if (values := results.values(data, method, "image_AUROC"))
    }
    best = max(means, key=lambda name: means[name])
    rows, drawn = [], []
    for method in means:
        pairs = results.pairs(data, method, best) if method != best else []
        if not pairs:
            continue
        found, parts = paired_difference(pairs), count_parts(pairs[0])
        drawn.append((pairs[0].groups is not None, parts))
        verdict = "worse" if found.high < 0 else "better" if found.low > 0 else "no clear difference"
        if len(pairs) == 1:
            verdict = "one seed"
        if min(parts) < FEW:
            verdict = "too few images"
        rows.append(
            {
                "method": method,
                f"difference to {best}": f"{100 * found.value:+.1f}",
                "95 % interval": f"{100 * found.low:+.1f} to {100 * found.high:+.1f}",
                "": verdict,
            }
        )
    if not rows:
        return None
    note = (
        "Difference in image AUROC on the same images, in percentage points. The interval is a bootstrap over seeds "
        f"and over normal and anomalous test images{_how_drawn(drawn)}. It is too narrow with two or three seeds, and "
        "not corrected for the number of comparisons."
    )
    return Table(f"{data}: paired differences to {best}", note, rows)


def _how_drawn(drawn: Sequence[tuple[bool, tuple[int, int]]]) -> str:
    """Say whether intervals take images of the same part into account."""
    if all(grouped for grouped, _ in drawn):
        normal, anomalous = drawn[0][1]
        return f", where images of one part are drawn together ({normal} parts with normal, {anomalous} with anomalous)"
    which = "For some methods, images" if any(grouped for grouped, _ in drawn) else "Images"
    return f". {which} are taken as independent, so several images of one part make it too narrow"


def ranks_of(results: Results, metric: str) -> Ranks | None:
    """Mean ranks over blocks of data set, seed and type that all methods have; None with one method or no block."""
    wanted = [(data, kind) for data in results.data_sets for kind in (results.types(data) or [ALL_TYPES])]
    blocks = [
        (data, seed, kind)
        for data, kind in wanted
        for seed in sorted({row["seed"] for row in results.done if row["data"] == data})
    ]
    by_block = {
        (row["method"], row["data"], row["seed"], kind): row["scores"][kind].get(metric, math.nan)
        for row in results.done
        for kind in row["scores"]
    }
    # A block in which a job is missing would rank the other methods better than they are.
    blocks = [
        block
        for block in blocks
        if not any(math.isnan(by_block.get((method, *block), math.nan)) for method in results.methods)
    ]
    values = {method: [by_block[method, *block] for block in blocks] for method in results.methods}
    return rank_methods(values) if len(values) > 1 and blocks else None


def rank_table(ranks: Ranks, metric: str) -> Table:
    """Mean ranks, with the critical difference and Friedman's test."""
    rows = [{"method": name, "mean rank": f"{rank:.2f}"} for name, rank in ranks.mean.items()]
    note = (
        f"Ranked by {SHOWN.get(metric, metric)}; 1 is the best. Mean over {ranks.blocks} blocks (data set, seed, type) "
        "for which all methods have a result."
    )
    if not math.isnan(ranks.critical_difference):
        note += f" Differences below {ranks.critical_difference:.2f} are not significant (Nemenyi at 5 %)."
        note += " Blocks of one data set depend on each other, so differences seem more significant than they are."
    if not math.isnan(ranks.p_value):
        note += f" Friedman's p = {ranks.p_value:.2g}."
    return Table("Ranks", note, rows)


def unfinished_table(results: Results) -> Table | None:
    """Jobs that failed or have not been run; None if there are none."""
    rows = [
        {
            "method": row["method"],
            "data": row["data"],
            "seed": str(row["seed"]),
            "error": row["error"].strip().splitlines()[-1][:300],
        }
        for row in results.failed
    ]
    rows += [
        {"method": method, "data": data, "seed": str(seed), "error": "not run"}
        for method, data, seed in results.missing
    ]
    total = len(results.done) + len(rows)
    note = f"{len(results.done)} of {total} jobs are done. Start the study again to run the others."
    return Table("Jobs without a result", note, rows) if rows else None


def all_tables(results: Results, metric: str, ranks: Ranks | None) -> list[Table]:
    """The tables of a report, in their order."""
    tables: list[Table | None] = [unfinished_table(results)]
    if ranks is not None:
        tables.append(rank_table(ranks, metric))
    for data in results.data_sets:
        tables += [main_table(results, data), type_table(results, data, metric), difference_table(results, data)]
        if "pixel_AUPRO" in results.metrics(data):
            tables.append(type_table(results, data, "pixel_AUPRO"))
    return [table for table in tables if table is not None]
