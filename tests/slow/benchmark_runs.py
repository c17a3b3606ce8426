"""Runs benchmarks of the repository as programs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run_to_its_end(name: str, folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """A benchmark's output, whatever it ends with."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *map(str, options)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def run(name: str, folder: Path, *options: object) -> tuple[dict[str, Any], str]:
    """The JSON object in a benchmark's last line, and the report that it wrote."""
    report = folder / "report.md"
    done = run_to_its_end(name, folder, *options, "--report", report)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), report.read_text()
