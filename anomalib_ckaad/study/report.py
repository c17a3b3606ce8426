"""A study as Markdown with pictures, and as one page that needs nothing else."""

import base64
import io
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from anomalib_ckaad.errors import StudyError
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
        study: Folder of a study; some of its jobs are done.
        output: Folder of the report; made if missing.
        metric: What methods are ranked by, and what tables by type show.
        section: Markdown file whose section named like the study gets the tables.

    Returns:
        Paths of both files.

    Raises:
        StudyError: If there are no results, or the metric is none of theirs.
    """
    results = Results.read(study)
    known = sorted({name for data in results.data_sets for name in results.metrics(data)})
    if metric not in known:
        msg = f"Expected a metric among {', '.join(known)}, got {metric!r}. Do give one of them as --metric."
        raise StudyError(msg)
    ranks = ranks_of(results, metric)
    tables = all_tables(results, metric, ranks)
    plots = [(caption, _png(figure)) for caption, figure in all_plots(results, ranks)]
    output.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(_as_markdown(table) for table in tables)
    pictures = []
    for number, (caption, png) in enumerate(plots, start=1):
        _write(output / f"plot_{number}.png", png)
        pictures.append(f"![{caption}](plot_{number}.png)")
    _write(output / "report.md", "\n\n".join([f"# {results.name}", text, *pictures, ""]).encode())
    _write(output / "report.html", _page(results, tables, plots).encode())
    if section is not None:
        write_section(section, results.name, re.sub("^## ", "### ", text, flags=re.MULTILINE))
    return output / "report.md", output / "report.html"


def _as_markdown(table: Table) -> str:
    return f"## {table.title}\n\n{table.note}\n\n{markdown_table(table.rows)}"


def _page(results: Results, tables: list[Table], plots: list[tuple[str, bytes]]) -> str:
    # File and method names go into the page: all of them are escaped.
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


def _write(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        msg = f"Expected to write {path}, got {error.strerror or error}. Do make room, or give another --output."
        raise OSError(error.errno, msg) from error
    temporary.replace(path)
