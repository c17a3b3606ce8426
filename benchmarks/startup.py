"""What the start-up hook costs every interpreter of an environment, and what importing the package costs.

    python benchmarks/startup.py [--repeats 100]

Starts interpreters of two new virtual environments, one bare and one with the hook, in turn and over and over, so that
a busy machine slows all of them alike. ``anomalib-ckaad --help`` and ``import torch`` run in the environment of this
program. Whole processes are timed; the hook's line in the .pth file is also timed from inside, which is far less noisy.
Medians and quartiles are printed in milliseconds. A cost is the median of the differences, pair by pair; the last row
is the median of ratios. The last line is a JSON object with the same numbers.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from anomalib_ckaad.study.sections import markdown_table, write_section

ROOT = Path(__file__).resolve().parent.parent
HOOK_FILES = [ROOT / f"anomalib_ckaad_startup.{ending}" for ending in ("py", "pth", "start")]
LINE = HOOK_FILES[1].read_text(encoding="utf-8")
# Run where site has run without the hook: its modules are loaded, as they are when site comes to the line.
TIMED_LINE = (
    f"import sys, time; sys.path.append({str(ROOT)!r})\nt = time.perf_counter()\n{LINE}\nt = time.perf_counter() - t"
)

HELP, TORCH = "anomalib-ckaad --help", "import torch (for comparison)"
RATIO = "anomalib-ckaad --help / import torch"


@dataclass(frozen=True)
class Way:
    """A way to start an interpreter."""

    environment: str  # "bare" or "hook" or "own"
    code: str = "pass"
    options: tuple[str, ...] = ()
    switch: str = "1"

    def seconds(self, folder: Path) -> float:
        """Start the interpreter, wait for its end and return the time that took."""
        own = self.environment == "own"
        python = sys.executable if own else folder / self.environment / "bin" / "python"
        command = [python, *self.options, "-c", self.code]
        variables = {**os.environ, "ANOMALIB_CKAAD_AUTOLOAD": self.switch, "PYTHONPATH": str(ROOT)}
        begin = time.perf_counter()
        subprocess.run(command, env=variables, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin


WAYS = {
    "without site (-S)": Way("bare", options=("-S",)),
    "without hook": Way("bare"),
    "hook turned off": Way("hook", switch="0"),
    "hook": Way("hook"),
    "import anomalib_ckaad": Way("bare", "import anomalib_ckaad"),
    HELP: Way("own", "from anomalib_ckaad.cli.main import main; main(['--help'])"),
    TORCH: Way("own", "import torch"),
}
COSTS = {
    "cost of site (for comparison)": ("without hook", "without site (-S)"),
    "cost of the hook turned off": ("hook turned off", "without hook"),
    "cost of the hook": ("hook", "without hook"),
    "cost of import anomalib_ckaad": ("import anomalib_ckaad", "without hook"),
}


def line_seconds(folder: Path) -> float:
    """Return how long the .pth line takes inside a new interpreter."""
    command = [folder / "bare" / "bin" / "python", "-c", f"{TIMED_LINE}; print(t)"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(repeats: int) -> dict[str, list[float]]:
    """Return the times of every way, of the line and of every cost, in milliseconds, one a repeat."""
    times: dict[str, list[float]] = {name: [] for name in (*WAYS, "the .pth line, from inside")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("bare", "hook"):
            venv.create(folder / name, symlinks=True)
        (site_packages,) = (folder / "hook").glob("lib/python*/site-packages")
        for file in HOOK_FILES:
            shutil.copy(file, site_packages)
        for repeat in range(-3, repeats):  # the first rounds fill caches and write bytecode
            for name, way in WAYS.items():
                taken = way.seconds(folder)
                if repeat >= 0:
                    times[name].append(1e3 * taken)
            taken = line_seconds(folder)
            if repeat >= 0:
                times["the .pth line, from inside"].append(1e3 * taken)
    for name, (more, less) in COSTS.items():
        times[name] = [a - b for a, b in zip(times[more], times[less], strict=True)]
    times[RATIO] = [a / b for a, b in zip(times[HELP], times[TORCH], strict=True)]
    return times


def summarize(values: list[float]) -> dict[str, float]:
    """Return median and quartiles, rounded to a microsecond."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return dict(zip(("lower", "median", "upper"), (round(value, 3) for value in quartiles), strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the start-up hook costs every interpreter of an environment.")
    parser.add_argument("--repeats", type=int, default=100, help="rounds to measure, at least 2; default: %(default)s")
    parser.add_argument("--report", type=Path, help="Markdown file whose section `startup` gets the table")
    options = parser.parse_args()
    repeats = options.repeats
    if repeats < 2:  # noqa: PLR2004  # quartiles need two values
        parser.error(f"--repeats must be at least 2, not {repeats}.")
    summary = {name: summarize(values) for name, values in measure(repeats).items()}
    print(f"{'milliseconds':<40}{'median':>10}{'lower':>10}{'upper':>10}   (quartiles of {repeats} rounds)")
    for name, row in summary.items():
        print(f"{name:<40}{row['median']:>10.3f}{row['lower']:>10.3f}{row['upper']:>10.3f}")
    if options.report:
        rows = [
            {"milliseconds": name, **{key: f"{value:.2f}" for key, value in row.items()}}
            for name, row in summary.items()
        ]
        write_section(options.report, "startup", markdown_table(rows))
    print(json.dumps({"python": sys.version.split()[0], "repeats": repeats, "milliseconds": summary}))


if __name__ == "__main__":
    main()
