"""What jsonargparse found wrong with arguments: its errors hold nothing but their text."""

import re

NAME = re.compile(r'Parser key "([\w.]+)":')
KIND = re.compile(r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[(.+?)\])")
VALUE = re.compile(r"(?:Given|Got) value: (.{1,80})")
WRAPPING = re.compile(
    r"\s*(- )?(Parser key|Does not validate|Subtypes:|Errors:|Problem with|Expected an? (<class|typing))"
)
LONGEST = 300
"""Characters of a message of jsonargparse that are shown."""


def shorten(message: str) -> str:
    r"""Bring what jsonargparse found wrong, which it spreads over many lines, into one.

    Its errors hold nothing but their text. Nothing depends on what is found in it but what is shown.

    Example:
        >>> shorten("Errors:\n - Problem with class_path 'a.B':\n No key 'x'\n Given value: {}")
        "No key 'x'"
        >>> shorten('Parser key "model":\n Parser key "n":\n Expected a <class \'int\'>\n Given value: many')
        '`n` must be int, not many'
    """
    head, *nested = NAME.split(message)
    name, text = (nested[-2], nested[-1]) if nested else ("", head)
    kinds = [(one or other).replace("NoneType", "null") for one, other in KIND.findall(text)]
    value = VALUE.search(text)
    lines = [
        line.strip(" -.") for line in re.split(r"\n *Given value", text)[0].splitlines() if not WRAPPING.match(line)
    ]
    reasons = [line for line in lines if line]
    if reasons:
        return "; ".join(reasons)[:LONGEST].replace("Expected a dot import path string:", "there is no class")
    if kinds and value:
        last = kinds[1:] + kinds[:1] if kinds[0] == "null" else kinds
        return f"`{name.removeprefix('trainer.')}` must be {' or '.join(dict.fromkeys(last))}, not {value[1].strip()}"
    return " ".join(message.split())[:LONGEST]
