"""Sections of a Markdown file that a command writes, so that no number is typed by hand."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from anomalib_ckaad.files import write_whole


def write_section(path: Path, name: str, text: str) -> None:
    """Replace the section ``name`` of a Markdown file, or append it; the rest of the file stays as it is.

    A section stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

    Args:
        path: The file; created if missing.
        name: Name of the section: letters, digits, ``-`` and ``_``.
        text: The new content.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    new = pattern.sub(lambda _: section, old) if pattern.search(old) else f"{old.rstrip()}\n\n{section}\n".lstrip()
    write_whole(path, new)


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a Markdown table; columns in the order of the rows' keys, missing cells empty.

    Example:
        >>> print(markdown_table([{"a": "1", "b": "2"}]))
        | a | b |
        |---|---|
        | 1 | 2 |
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name, "").replace("|", "\\|") for name in columns] for row in rows]
    columns = [name.replace("|", "\\|") for name in columns]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join("|" + "|".join(cell if cell == "---" else f" {cell} " for cell in line) + "|" for line in lines)
