"""``anomalib-ckaad doctor``: the checks of an installation as a table or as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomalib_ckaad.cli.doctor_checks import (
    Check,
    check_devices,
    check_extras,
    check_opencv,
    check_openvino,
    check_registration,
    check_versions,
    check_weights,
    start_fresh_interpreter,
)

STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def run(*, online: bool = False, as_json: bool = False) -> int:
    """Print what was found.

    Args:
        online: Whether to try the hub as well.
        as_json: JSON instead of a table: ``ok`` and ``checks``.

    Returns:
        The exit status: 1 if something is wrong that training or inference needs, else 0.
    """
    checks = examine(online=online)
    wrong = any(check.state == "error" for check in checks)
    if as_json:
        sys.stdout.write(json.dumps({"ok": not wrong, "checks": [asdict(check) for check in checks]}, indent=2) + "\n")
    else:
        show(checks, Console())
    return int(wrong)


def examine(*, online: bool = False) -> list[Check]:
    """Make all checks; the slowest one, anomalib in a new interpreter, goes on beside the others."""
    fresh = start_fresh_interpreter()
    try:
        return [
            *check_versions(),
            *check_extras(),
            *check_opencv(),
            *check_devices(),
            *check_openvino(),
            *check_weights(online=online),
            *check_registration(fresh),
        ]
    finally:
        fresh.kill()  # nothing where it has ended


def show(checks: Sequence[Check], console: Console) -> None:
    """Print a table, then a sentence of advice for each check that has one."""
    table = Table("what", "found", "state", title="anomalib-ckaad", title_justify="left")
    subject = checks[0].subject
    for check in checks:
        if check.subject != subject:
            table.add_section()
        subject = check.subject
        table.add_row(
            f"{subject}: {check.name}", Text(check.value, overflow="fold"), f"[{STYLES[check.state]}]{check.state}"
        )
    console.print(table)
    for check in checks:
        if check.advice:
            console.print(f"[{STYLES[check.state]}]{check.state}[/] {check.name}: ", end="")
            console.print(check.advice, markup=False, highlight=False, soft_wrap=True)
