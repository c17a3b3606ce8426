"""The report of a study: Markdown with pictures, and one HTML page without other files."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from anomalib_ckaad.errors import FileError, StudyError
from anomalib_ckaad.files import write_whole
from anomalib_ckaad.study.gallery import make_cards
from anomalib_ckaad.study.plots import all_plots
from anomalib_ckaad.study.results import Results
from anomalib_ckaad.study.sections import markdown_table, write_section
from anomalib_ckaad.study.tables import Table, all_tables, ranks_of

RESOLUTION = 110


def write_report(
    study: Path, output: Path, metric: str = "image_AUROC", section: Path | None = None
) -> tuple[Path, ...]:
    """Write ``report.md`` with its pictures, and ``report.html``.

    Args:
        study: Folder of a study with at least one job done.
        output: Folder of the report; created if missing.
        metric: Metric by which methods are ranked, and which tables by type show.
        section: Markdown file that gets the tables, in a section with the name of the study.

    Returns:
        Paths of both files.

    Raises:
        StudyError: If there are no results, or they do not have the metric.
        FileError: If a file cannot be written.
    """
    results = Results.read(study)
    known = sorted({name for data in results.data_sets for name in results.metrics(data)})
    if metric not in known:
        msg = f"--metric must be one of {', '.join(known)}, not {metric!r}."
        raise StudyError(msg)
    ranks = ranks_of(results, metric)
    tables = all_tables(results, metric, ranks)
    plots = [(caption, _png(figure)) for caption, figure in all_plots(results, ranks)]
    text = "\n\n".join(_as_markdown(table) for table in tables)
    pictures = []
    for number, (caption, png) in enumerate(plots, start=1):
        _write(output / f"plot_{number}.png", png)
        pictures.append(f"![{caption}](plot_{number}.png)")
    _write(output / "report.md", "\n\n".join([f"# {results.name}", text, *pictures, ""]))
    _write(output / "report.html", _page(results, tables, plots))
    if section is not None:
        with _file_errors(section):
            write_section(section, results.name, re.sub("^## ", "### ", text, flags=re.MULTILINE))
    return output / "report.md", output / "report.html"


def _as_markdown(table: Table) -> str:
    return f"## {table.title}\n\n{table.note}\n\n{markdown_table(table.rows)}"


def _page(results: Results, tables: list[Table], plots: list[tuple[str, bytes]]) -> str:
    # Names of files and methods are escaped.
    environment = Environment(
        loader=PackageLoader("anomalib_ckaad.study", "."), autoescape=True, undefined=StrictUndefined
    )
    cards = [card for data in results.data_sets for card in make_cards(results, data)]
    tabular: list[dict[str, Any]] = [
        {
            "title": table.title,
            "note": table.note,
            "rows": table.rows,
            "headings": list(dict.fromkeys(name for row in table.rows for name in row)),
        }
        for table in tables
    ]
    return environment.get_template("report.html").render(
        name=results.name,
        done=len(results.done),
        failed=len(results.failed),
        missing=len(results.missing),
        tables=tabular,
        plots=[
            {"caption": caption, "url": "data:image/png;base64," + base64.b64encode(png).decode()}
            for caption, png in plots
        ],
        cards=cards,
        data_sets=results.data_sets,
        methods=results.methods,
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=RESOLUTION)
    return buffer.getvalue()


def _write(path: Path, content: bytes | str) -> None:
    with _file_errors(path):
        write_whole(path, content)


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Name the file in errors of writing it."""
    try:
        yield
    except OSError as error:
        msg = f"Cannot write {path}: {error.strerror or error}. Free some space, or pass another --output."
        raise FileError(msg) from error
