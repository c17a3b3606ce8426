"""Groups of images that show the same part, patient or object: knowing one of them would give the others away."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

from anomalib_ckaad.errors import KnownAnomaliesError

COLUMNS = ("image", "group")


def make_grouping(groups: str | None) -> Callable[[str], str]:
    r"""Make a function from an image's path to the name of its group.

    Args:
        groups: A regular expression that finds the group in the path (its parentheses, otherwise all it matches), or
            a ``.csv`` file with columns ``image`` (path, or its last parts) and ``group``. An image without a match is
            a group of its own; with None, all are.

    Raises:
        KnownAnomaliesError: If the file is missing or has other columns, or the expression is invalid.

    Example:
        >>> group_of = make_grouping(r"(person\d+)_")
        >>> group_of("train/person258_bacteria_1209.jpeg"), group_of("test/IM-0001.jpeg")
        ('person258', 'test/IM-0001.jpeg')
    """
    if groups is None:
        return str
    if groups.lower().endswith(".csv"):
        return _from_table(Path(groups))
    try:
        pattern = re.compile(groups)
    except re.error as error:
        msg = f"`groups` must be a regular expression or a .csv file; {groups!r} is neither ({error})."
        raise KnownAnomaliesError(msg) from error

    def group_of(path: str) -> str:
        found = pattern.search(Path(path).as_posix())
        if found is None:
            return path
        return "/".join(filter(None, found.groups())) or found.group()

    return group_of


def _from_table(table: Path) -> Callable[[str], str]:
    if not table.is_file():
        msg = f"The file of `groups` does not exist: {table}. Correct the path."
        raise KnownAnomaliesError(msg)
    with table.open(newline="", encoding="utf-8-sig") as file:  # Excel marks its byte order
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            msg = f"The first line of {table} must name the columns image and group, not {reader.fieldnames}."
            raise KnownAnomaliesError(msg)
        names = {Path(row["image"]).as_posix(): row["group"] for row in reader}

    def group_of(path: str) -> str:
        parts = Path(path).parts
        ends = ("/".join(parts[start:]).replace("//", "/") for start in range(len(parts)))
        return next((names[end] for end in ends if end in names), path)

    return group_of
