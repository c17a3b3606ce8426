"""A study's results as tables, each a list of rows of text."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from anomalib_ckaad.metrics.per_type import ALL_TYPES
from anomalib_ckaad.study.results import SEEN, UNSEEN, Results
from anomalib_ckaad.study.statistics import Ranks, count_parts, paired_difference, rank_methods

FEW = 10
"""Normal or anomalous images, or parts that they show: of fewer a bootstrap says nothing."""
SHOWN = {
    "image_AUROC": "image AUROC",
    "image_AP": "image AP",
    "image_F1Max": "best F1",
    "image_AccuracyAtF1Max": "accuracy there",
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
"""Metrics that tables show, in percent, and their headings."""


class Table(NamedTuple):
    """Rows of text by heading, under a title, with a sentence on how to read them."""

    title: str
    note: str
    rows: Sequence[dict[str, str]]


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, in percent.

    >>> percent([0.8, 0.9]), percent([0.8]), percent([])
    ('85.0 ± 7.1', '80.0', '')
    """
    return spread([100 * value for value in values])


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation, where there are several."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def main_table(results: Results, data: str) -> Table:
    """Every method with every metric, of all types together, and what it cost."""
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
        row["ms an image"] = spread([1000 * run["seconds_image"] for run in runs])
        row["peak MiB"] = spread([run["memory_MiB"] for run in runs], 0)
        if any(run.get("gpu_memory_MiB") for run in results.done):
            row["peak MiB of the GPU"] = spread([run.get("gpu_memory_MiB", 0.0) for run in runs], 0)
        rows.append(row)
    some = results.rows(data, rows[0]["method"])[0]
    note = (
        f"Mean ± standard deviation over seeds, metrics in percent of raw scores; {some['images']['train']} normal "
        f"training images, {some['images']['test']} test images (first seed); {some['machine']}, "
        f"{some['threads']} threads a job."
    )
    errors = {
        name: max(run.get("errors", {}).get(name, 0.0) for run in results.done if run["data"] == data)
        for name in ("mF1", "mAcc", "mIoU", "mIoU_max")
        if name in shown
    }
    if any(errors.values()):
        known = ", ".join(f"{SHOWN[name]} by {100 * error:.1g}" for name, error in errors.items())
        note += f" As pixels are counted in bins, values may be off: {known} points at most."
    return Table(f"{data}: all types", note, rows)


def type_table(results: Results, data: str, metric: str) -> Table | None:
    """A metric for each type against all normal images, seen and unseen ones apart; None with one type or none."""
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
    note = "Every type against all normal test images. Seen: some known anomaly is of this type, in some seed at least."
    return Table(f"{data}: {SHOWN.get(metric, metric)} by type", note, rows)


def difference_table(results: Results, data: str) -> Table | None:
    """Each method's image AUROC against the best one's; None with one method."""
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
        verdict = "worse" if found.high < 0 else "better" if found.low > 0 else "not told apart"
        if len(pairs) == 1:
            verdict = "one seed"
        if min(parts) < FEW:
            verdict = "too few to tell"
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
        "Image AUROC in percentage points, both methods on the same images; the interval is a bootstrap over seeds and "
        f"over normal and anomalous test images, {_how_drawn(drawn)}. With two or three seeds it is "
        "too narrow. It does not correct for the number of comparisons."
    )
    return Table(f"{data}: paired differences to {best}", note, rows)


def _how_drawn(drawn: Sequence[tuple[bool, tuple[int, int]]]) -> str:
    """Whether intervals know which images show the same part, and of how many parts there are images."""
    if all(grouped for grouped, _ in drawn):
        normal, anomalous = drawn[0][1]
        return f"those of one part together ({normal} parts have normal ones, {anomalous} anomalous ones)"
    independent = "as if these were independent: several images of one part make it too narrow"
    return f"some {independent}" if any(grouped for grouped, _ in drawn) else independent


def ranks_of(results: Results, metric: str) -> Ranks | None:
    """Ranks over data sets, seeds and types; blocks that some method lacks are left out; None with one method."""
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
    # Only blocks of all methods: one that some job is missing in would rank the others better than they are.
    blocks = [
        block
        for block in blocks
        if not any(math.isnan(by_block.get((method, *block), math.nan)) for method in results.methods)
    ]
    values = {method: [by_block[method, *block] for block in blocks] for method in results.methods}
    return rank_methods(values) if len(values) > 1 and blocks else None


def rank_table(ranks: Ranks, metric: str) -> Table:
    """Mean ranks."""
    rows = [{"method": name, "mean rank": f"{rank:.2f}"} for name, rank in ranks.mean.items()]
    note = (
        f"1 is the best, by {SHOWN.get(metric, metric)} over the {ranks.blocks} blocks (data set, seed, type) that all "
        "methods have a result in."
    )
    if not math.isnan(ranks.critical_difference):
        note += f" Ranks less than {ranks.critical_difference:.2f} apart are not told apart (Nemenyi at 5 %)."
        note += " Blocks of one data set depend on each other, which is optimistic."
    if not math.isnan(ranks.p_value):
        note += f" Friedman's p = {ranks.p_value:.2g}."
    return Table("Ranks", note, rows)


def unfinished_table(results: Results) -> Table | None:
    """Jobs that failed or were not run; None if there are none."""
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
    note = f"{len(results.done)} of {total} jobs are done. Run the study again for the others."
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
