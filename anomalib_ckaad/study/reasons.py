"""What went wrong, in one line: of messages that jsonargparse spreads over many, and of full disks."""

import re
import shutil
from pathlib import Path

KEY = re.compile(r'Parser key "([\w.]+)":')
KIND = re.compile(r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[(.+?)\])")
VALUE = re.compile(r"(?:Given|Got) value: (.{1,80})")
OUTERMOST = ("", "model", "data")
"""Keys of what is a mistake as a whole, if no argument of it is."""
ROOM = 2**20
"""Bytes; a disk with less is full."""


def reason_of(error: BaseException) -> str:
    r"""What went wrong; the project's own sentence where jsonargparse has wrapped it.

    >>> reason_of(ValueError("Does not validate\n  - Expected a None\n  - Expected a, got b. Do change it."))
    'Expected a, got b. Do change it.'
    """
    lines = [line.strip(" -") for line in str(error).splitlines()]
    own = [line for line in lines if line.startswith("Expected ") and " Do " in line]
    words = " ".join(str(error).split())
    return own[0] if own else last_problem(str(error)) if "Given value" in words else words


def last_problem(message: str) -> str:
    r"""What jsonargparse found wrong, without the values around it.

    >>> last_problem("Problem with class_path 'a.B': No key 'x' Given value type: <class 'dict'> Given value: {}")
    "No key 'x'"
    >>> last_problem('Parser key "model":\n Parser key "n":\n Expected a <class \'int\'>\n Given value: many')
    'n has to be int, got many'
    """
    if "Expected a dot import path string" in message:
        return "there is no such class"
    name, rest = [("", message), *((found[1], message[found.end() :]) for found in KEY.finditer(message))][-1]
    value = VALUE.search(rest)
    if name not in OUTERMOST and "Problem with" not in rest and "Option '" not in rest and value:
        kinds = [(one or other).replace("NoneType", "null") for one, other in KIND.findall(rest)]
        allowed = " or ".join(dict.fromkeys(kinds[1:] + kinds[:1] if kinds[:1] == ["null"] else kinds))
        return f"{name.removeprefix('trainer.')} has to be {allowed or 'something else'}, got {value[1].strip()}"
    others = [line for line in re.findall(r"^\s*- (.+)$", message, re.MULTILINE) if "Expected a <class" not in line]
    if len(others) == 1 and "Problem with" not in others[0]:
        return str(others[0]).rstrip(" .")
    words = " ".join(message.split())
    found = words.split(" Given value")[0].rpartition("': ")[2].split(" - Expected a <class")[0][:300].rstrip(" .")
    return "it is none of anomalib's kind" if "Does not validate against any" in found else found


def is_full(folder: Path) -> bool:
    """Whether next to nothing more can be written there."""
    return shutil.disk_usage(folder).free < ROOM


def no_room(folder: Path, reason: str) -> str:
    """The sentence for a job that a full disk has ended."""
    return f"Expected room on the disk of {folder}, got none left ({reason}). Do make room, and start again."
