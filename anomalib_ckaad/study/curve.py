"""How much do known anomalies help? Trainings with more and more of them, tested on the same images."""

import copy
import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from anomalib_ckaad.data.reading.anomaly_types import types_of
from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.files import write_whole, written_whole
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.metrics.per_type import ALL_TYPES, Scored, score_types
from anomalib_ckaad.study.classes import Recipe
from anomalib_ckaad.study.sections import markdown_table, write_section

COLUMNS = ("count", "seed", "type", "images", "image_AUROC", "pixel_AUPRO")
KNOWN = "KnownAnomalies"


def run_curve(config: Path, counts: Sequence[int], seeds: int, output: Path, report: Path | None = None) -> str:
    """Train with every count and seed, and write ``curve.csv`` and ``curve.png``.

    Each seed draws as many known anomalies as the largest count, and no count of this seed is tested on them. Rows are
    written as they come, so a call that was interrupted continues where it stopped.

    Args:
        config: A config for ``anomalib train`` with ``KnownAnomalies`` as data; its ``count`` and seeds are replaced.
        counts: Numbers of known anomalies.
        seeds: Number of seeds, counted from 0.
        output: Folder of the results.
        report: Markdown file that gets the sentence and the table, in a section with the name of the config.

    Returns:
        One sentence with the result.

    Raises:
        StudyError: If the config's data set is not ``KnownAnomalies``, counts or seeds are wrong, or the folder has a
            curve of another config or largest count.
    """
    settings: Any = OmegaConf.to_container(OmegaConf.load(config))
    name = str(settings.get("data", {}).get("class_path", "nothing"))
    if name.rpartition(".")[2] != KNOWN:
        msg = f"The data set in {config} must be {KNOWN}, not {name}. Wrap it in {KNOWN}."
        raise StudyError(msg)
    if not counts or min(counts) < 0 or len(set(counts)) != len(counts):
        msg = f"--counts must be different numbers of at least 0, not {list(counts)}."
        raise StudyError(msg)
    if seeds < 1:
        msg = f"--seeds must be at least 1, not {seeds}."
        raise StudyError(msg)
    output.mkdir(parents=True, exist_ok=True)
    table = output / "curve.csv"
    check_record(output / "curve.json", settings, max(counts))
    rows = read_rows(table)
    done = {(row["count"], row["seed"]) for row in rows}
    for seed in range(seeds):
        for count in sorted(counts):
            if (count, seed) not in done:
                rows += [
                    {"count": count, "seed": seed, **row}
                    for row in train_once(settings, count, max(counts), seed, output / "trainings")
                ]
                write_rows(table, rows)
    rows = [row for row in rows if row["count"] in counts and row["seed"] < seeds]
    draw(rows, output / "curve.png")
    if report is not None:
        write_section(report, config.stem, f"{sentence(rows)}\n\n{table_of(rows)}")
    return sentence(rows)


def check_record(record: Path, settings: Mapping[str, Any], reserve: int) -> None:
    """Record config and largest count of a curve, or refuse to continue one that has others.

    Raises:
        StudyError: If config or largest count differ, since rows of both could not be compared.
    """
    wanted = json.dumps({"reserve": reserve, "config": settings}, sort_keys=True, default=str)
    if not record.exists():
        write_whole(record, wanted)
    elif record.read_text(encoding="utf-8") != wanted:
        msg = (
            f"The curve in {record.parent} was begun with another config or another largest count, so its test images "
            "differ. Pass another --output, or delete this folder."
        )
        raise StudyError(msg)


def train_once(settings: Mapping[str, Any], count: int, reserve: int, seed: int, output: Path) -> list[dict[str, Any]]:
    """Train and test with ``count`` known anomalies; returns a row for each type of defect and one for all."""
    settings = copy.deepcopy(dict(settings))
    settings["data"].setdefault("init_args", {}).update(
        count=count, reserve=reserve, seed=seed, ratio=None, use="train"
    )
    settings["model"].setdefault("init_args", {}).update(seed=seed, visualizer=False)
    data: AnomalibDataModule = Recipe(AnomalibDataModule, settings["data"], "data").make()
    model: Ckaad = Recipe(Ckaad, settings["model"], "model").make()
    # The results of `anomalib train` keep their `latest`.
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(**{**quiet, **settings.get("trainer", {}), "default_root_dir": output})
    engine.fit(model, datamodule=data)
    batches: Any = engine.predict(model, datamodule=data)
    samples = data.test_data.samples
    scored = Scored.collect(batches).with_types(dict(zip(samples.image_path, types_of(samples), strict=True)))
    return [
        {"type": name, **{key: row[key] for key in COLUMNS[3:] if key in row}}
        for name, row in score_types(scored).items()
    ]


def read_rows(table: Path) -> list[dict[str, Any]]:
    """Read the rows of an earlier call; numbers become numbers."""
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return [
            {
                key: value if key == "type" else int(value) if key in {"count", "seed"} else float(value)
                for key, value in row.items()
                if value
            }
            for row in csv.DictReader(file)
        ]


def write_rows(table: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows."""
    with written_whole(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float, float]]:
    """Compute count, mean and standard deviation over seeds of the image AUROC of a type, in percent.

    Example:
        >>> points([{"count": 1, "type": "all", "image_AUROC": value} for value in (0.8, 0.9)], "all")
        [(1, 85.0, 7.0710678118654755)]
    """
    found = []
    for count in sorted({row["count"] for row in rows}):
        values = [100 * row["image_AUROC"] for row in rows if row["count"] == count and row["type"] == name]
        if values:
            found.append((count, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0))
    return found


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of the image AUROC, with a line for each type and a column for each count.

    Example:
        >>> print(table_of([{"count": 0, "type": "all", "image_AUROC": value} for value in (0.8, 0.9)]))
        | image AUROC | 0 known |
        |---|---|
        | all | 85.0 ± 7.1 |
    """
    names = [ALL_TYPES, *sorted({str(row["type"]) for row in rows} - {ALL_TYPES})]
    cells = [
        {"image AUROC": name}
        | {f"{count} known": f"{mean:.1f} ± {spread:.1f}" for count, mean, spread in points(rows, name)}
        for name in names
    ]
    return markdown_table(cells)


def draw(rows: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw the mean image AUROC by count for each type and for all, with its standard deviation."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = sorted({str(row["type"]) for row in rows} - {ALL_TYPES})
    for name in [ALL_TYPES, *names] if len(names) > 1 else [ALL_TYPES]:
        counts, means, spreads = zip(*points(rows, name), strict=True)
        is_all = name == ALL_TYPES
        (line,) = axes.plot(counts, means, "o-", label=name, linewidth=2.5 if is_all else 1, zorder=3 if is_all else 2)
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.fill_between(counts, low, high, color=line.get_color(), alpha=0.2 if is_all else 0.08, linewidth=0)
    axes.set_xlabel("known anomalies")
    axes.set_ylabel("image AUROC in percent, mean and standard deviation")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks(sorted({row["count"] for row in rows}), [str(c) for c in sorted({row["count"] for row in rows})])
    axes.grid(alpha=0.3)
    axes.legend()
    with written_whole(picture) as temporary:
        figure.savefig(temporary, dpi=120)


def sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """Compare the smallest and the largest count in one sentence.

    Example:
        >>> sentence([{"count": c, "seed": 0, "type": "all", "image_AUROC": v} for c, v in ((0, 0.8), (8, 0.9))])
        'With 8 known anomalies instead of 0, image AUROC changes from 80.0 ± 0.0 to 90.0 ± 0.0 over 1 seed(s).'
    """
    found = points(rows, ALL_TYPES)
    (low, first, first_spread), (high, last, last_spread) = found[0], found[-1]
    seeds = len({row["seed"] for row in rows})
    if low == high:
        return f"With {low} known anomalies, image AUROC is {first:.1f} ± {first_spread:.1f} over {seeds} seed(s)."
    return (
        f"With {high} known anomalies instead of {low}, image AUROC changes from {first:.1f} ± {first_spread:.1f} to "
        f"{last:.1f} ± {last_spread:.1f} over {seeds} seed(s)."
    )
