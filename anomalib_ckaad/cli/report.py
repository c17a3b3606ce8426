"""``anomalib-ckaad report``: the results of a study as tables and plots."""

from pathlib import Path


def report(
    dir_: Path,
    *,
    output: Path | None = None,
    metric: str = "image_AUROC",
    section: Path | None = None,
) -> int:
    """Write the results of a study: tables, plots, and a gallery of its mistakes.

    Args:
        dir_: Folder of the study.
        output: Folder of the report. Default: the study's folder.
        metric: Metric that ranks the methods.
        section: Markdown file whose section named like the study gets the tables.
    """
    from anomalib_ckaad.study.report import write_report

    for path in write_report(dir_, output or dir_, metric, section):
        print(path)
    return 0
