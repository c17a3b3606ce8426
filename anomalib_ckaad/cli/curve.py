"""``anomalib-ckaad curve``: how much known anomalies help."""

from pathlib import Path

from anomalib_ckaad.cli.values import whole_numbers
from anomalib_ckaad.errors import FileError


def curve(
    *,
    config: Path,
    counts: str = "0,1,2,5,10,20",
    seeds: int = 3,
    output: Path = Path("results/curve"),
    report: Path | None = None,
) -> int:
    """Measure how much n known anomalies help: a table, a plot and a sentence.

    Args:
        config: A config for ``anomalib train`` with KnownAnomalies.
        counts: Numbers of known anomalies.
        seeds: Number of seeds.
        output: Folder of the results.
        report: Markdown file that also gets the sentence and the table.
    """
    numbers = whole_numbers(counts, "--counts")
    if not config.is_file():
        msg = f"--config {config} is not a file. Pass a config for `anomalib train`."
        raise FileError(msg)
    from anomalib_ckaad.study.curve import run_curve

    print(run_curve(config, numbers, seeds, output, report))
    print(f"Table and plot: {output / 'curve.csv'}, {output / 'curve.png'}")
    return 0
