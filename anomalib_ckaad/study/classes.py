"""From a class path and arguments in a config to an object, by jsonargparse; mistakes become one sentence."""

import copy
import re
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from anomalib_ckaad.errors import StudyError

T = TypeVar("T")
KEY = "made"
NAME = re.compile(r'Parser key "([\w.]+)":')
KIND = re.compile(r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[(.+?)\])")
VALUE = re.compile(r"(?:Given|Got) value: (.{1,80})")
WRAPPING = re.compile(
    r"\s*(- )?(Parser key|Does not validate|Subtypes:|Errors:|Problem with|Expected an? (<class|typing))"
)
LONGEST = 300
"""Characters of a message of jsonargparse that are shown."""


class Recipe(Generic[T]):
    """A class with checked arguments, from which an object can be made.

    Args:
        base: What the object must be an instance of.
        given: ``class_path`` and ``init_args``.
        owner: Name of the method or data set that it belongs to, for messages.

    Raises:
        StudyError: If there is no such class, or it does not take these arguments.
    """

    def __init__(self, base: type[Any], given: Mapping[str, Any], owner: str) -> None:
        inner = (given.get("init_args") or {}).get("data")
        if isinstance(inner, Mapping) and "class_path" in inner:  # first, as the outer class would hide its mistakes
            Recipe(base, inner, owner)
        self._parser = ArgumentParser(exit_on_error=False)
        self._parser.add_subclass_arguments(base, KEY)
        self._parser.add_instantiator(self._make_one, object)
        self._errors: list[Exception] = []
        try:
            # jsonargparse writes into what it is given.
            self._parsed: Namespace = self._parser.parse_object({KEY: copy.deepcopy(dict(given))})
        except (ArgumentError, TypeError, ValueError) as error:
            msg = f"{given['class_path']} of {owner!r} cannot be made: {shorten(str(error))}. Correct the config."
            raise StudyError(msg) from error

    @property
    def class_path(self) -> str:
        """Import path of the class."""
        return str(self._parsed[KEY].class_path)

    @property
    def arguments(self) -> Namespace:
        """Arguments of the class, which may be changed before the object is made."""
        found: Namespace = self._parsed[KEY].init_args
        return found

    def make(self) -> T:
        """Make the object; an error that its class raises comes as it is.

        jsonargparse reports such an error as a text about unions of types, so it is kept where it is raised.
        """
        self._errors.clear()
        try:
            made: T = self._parser.instantiate_classes(self._parsed)[KEY]
        except (ArgumentError, TypeError, ValueError):
            if self._errors:
                raise self._errors[-1] from None
            raise
        return made

    def _make_one(self, class_type: type[Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any class
        try:
            return class_type(*args, **kwargs)
        except Exception as error:
            self._errors.append(error)
            raise


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
