"""Commands from typed functions: the signature gives the arguments, and the docstring the help."""

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from docstring_parser import DocstringStyle, parse
from jsonargparse import ArgumentParser

from anomalib_ckaad.cli.mistakes import BAD_INPUT

Command = Callable[..., int]
"""Returns the exit status. Parameters before ``*`` are positional on the command line, those after it are options."""


@dataclass(frozen=True)
class Group:
    """Commands that belong together, such as ``config list`` and ``config show``."""

    help: str
    commands: Mapping[str, Command]


class Parser(ArgumentParser):
    """A parser of one command, or of the words that choose one; its errors are one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - argparse's
        super().__init__(*args, **kwargs)
        self.command: Command | None = None
        self.choices: dict[str, Parser] = {}
        # jsonargparse's own formatter adds Python's types.
        self.formatter_class = argparse.HelpFormatter  # type: ignore[assignment]  # jsonargparse declares its own

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the mistake on standard error, and exit with status 2."""
        del ex
        self.exit(BAD_INPUT, f"{self.prog}: {' '.join(message.split()).rstrip('.')}. See `{self.prog} --help`.\n")


def build_parser(program: str, version: str, description: str, commands: Mapping[str, Command | Group]) -> Parser:
    """A parser with a subcommand for each function, and two levels of them for a group."""
    parser = Parser(prog=program, description=description, version=version)
    _add_commands(parser, commands)
    return parser


def run(parser: Parser, arguments: Sequence[str] | None) -> int:
    """Parse a command line, call the function that it names, and return its exit status."""
    given = parser.parse_args(arguments)
    while parser.command is None:
        word = given["command"]
        parser, given = parser.choices[word], given[word]
    parameters = inspect.signature(parser.command).parameters.values()
    for one in parameters:
        if one.default is one.empty and given[one.name] is None:
            parser.error(f"{_shown(one)} is missing")
    positional = [given[one.name] for one in parameters if one.kind is not one.KEYWORD_ONLY]
    options = {one.name: given[one.name] for one in parameters if one.kind is one.KEYWORD_ONLY}
    return parser.command(*positional, **options)


def _add_commands(parser: Parser, commands: Mapping[str, Command | Group]) -> None:
    subcommands = parser.add_subcommands(required=True, dest="command", title="commands")
    for name, command in commands.items():
        if isinstance(command, Group):
            own, told = Parser(description=command.help), command.help
        else:
            own, told = _parser_of(command)
        subcommands.add_subcommand(name, own, help=told)  # type: ignore[no-untyped-call]  # jsonargparse's
        own.prog = f"{parser.prog} {name}"
        parser.choices[name] = own
        if isinstance(command, Group):
            _add_commands(own, command.commands)


def _parser_of(command: Command) -> tuple[Parser, str]:
    """A parser of a function's parameters, and the first sentence of its help."""
    docstring = parse((command.__doc__ or "").replace("``", "`"), DocstringStyle.GOOGLE)
    helps = {one.arg_name: " ".join((one.description or "").split()) for one in docstring.params}
    summary = docstring.short_description or ""
    parser = Parser(description=f"{summary} {docstring.long_description or ''}".strip())
    parser.command = command
    for one in inspect.signature(command).parameters.values():
        if one.kind is one.KEYWORD_ONLY:
            parser.add_argument(_shown(one), dest=one.name, **_option(one, helps[one.name]))
        else:
            parser.add_argument(one.name, type=one.annotation, metavar=_shown(one), help=helps[one.name])
    parser.required_args.clear()  # `run` says in fewer words what is missing
    return parser, summary


def _shown(parameter: inspect.Parameter) -> str:
    """How a parameter is written on the command line: ``from_`` is ``--from``, which is a keyword of Python."""
    word = parameter.name.rstrip("_")
    return f"--{word}" if parameter.kind is parameter.KEYWORD_ONLY else word.upper()


def _option(parameter: inspect.Parameter, told: str) -> dict[str, Any]:
    """What argparse has to know of an option: a flag, a choice, several words or one value."""
    kind, default = parameter.annotation, parameter.default
    if kind is bool:
        return {"action": "store_true", "help": told}
    if type(None) in get_args(kind):
        kind = next(one for one in get_args(kind) if one is not type(None))
    metavar = "PATH" if kind is Path else parameter.name.rstrip("_").upper()
    if default is parameter.empty:
        return {"type": kind, "metavar": metavar, "help": f"{told} (required)"}
    if get_origin(kind) is Sequence:
        return {"nargs": "+", "type": get_args(kind)[0], "default": list(default), "metavar": metavar, "help": told}
    told = told if default is None else f"{told} (default: {default})"
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind), "default": default, "help": told}
    return {"type": kind, "default": default, "metavar": metavar, "help": told}
