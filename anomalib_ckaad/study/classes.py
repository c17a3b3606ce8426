"""From a class path and arguments in a config to an object, by jsonargparse; mistakes become one sentence."""

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.host.argument_errors import shorten

T = TypeVar("T")
KEY = "made"


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
