"""``anomalib-ckaad doctor``: the checks of an installation as a table or as JSON."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from anomalib_ckaad.cli.doctor_checks import Check

STYLES: Final = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def doctor(*, online: bool = False, json_: bool = False) -> int:
    """Check this installation, and say how to fix what is wrong.

    The exit status is 1 if something is wrong that training or inference needs.

    Args:
        online: Also check whether timm's hub can be reached.
        json_: Print JSON, for scripts.
    """
    from rich.console import Console

    from anomalib_ckaad.cli import doctor_checks

    checks = doctor_checks.examine(online=online)
    wrong = any(check.state == "error" for check in checks)
    if json_:
        print(json.dumps({"ok": not wrong, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        show(checks, Console())
    return int(wrong)


def show(checks: "Sequence[Check]", console: "Console") -> None:
    """Print a table, then the advice of each check that has one."""
    from rich.table import Table
    from rich.text import Text

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
