"""Rules of the house that ruff and import-linter cannot hold: where things lie, and what no code may look at.

These tests read the source and import nothing of it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "anomalib_ckaad"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"
OUTSIDE_HOST = [path for path in SOURCES if PACKAGE / "host" not in path.parents]

MODULES_AT_THE_ROOT = 8
LINES = 320
LONGER = {"anomalib_ckaad/lightning_model.py": 450}
"""Half of it are the imports of what it wires, and the description of its arguments."""

OWN = {"self", "cls", "mcs"}
PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace"}
"""Documented for everybody in spite of their names: of named tuples, and of ``os``."""
BY_NAME = {"delattr", "getattr", "hasattr", "setattr"}

OLD_BEGINNINGS = {"Expected", "Expected "}
"""How all messages of this package once began, which code then asked for."""
CAUGHT = {"BaseException", "Exception", "ExceptionGroup"}
WORDS = {"count", "endswith", "find", "index", "partition", "rpartition", "startswith"}
PATTERNS = {"findall", "finditer", "fullmatch", "match", "search"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def is_own(node: ast.expr) -> bool:
    """Whether an object is what the code is a method of: ``self``, ``cls`` or ``super()``."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in OWN


def private_uses(tree: ast.AST) -> Iterator[str]:
    """Private names of other objects and modules that the code touches, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value, attr) if is_private(attr) and attr not in PUBLIC and not is_own(value):
                yield f"{node.lineno}: {ast.unparse(node)}"
            case ast.Call(ast.Name(function), [value, ast.Constant(str() as attr), *_]) if (
                function in BY_NAME and is_private(attr) and attr not in PUBLIC and not is_own(value)
            ):
                yield f"{node.lineno}: {ast.unparse(node)}"
            case ast.Import() | ast.ImportFrom():
                module = getattr(node, "module", None) or ""
                names = [*module.split("."), *(part for alias in node.names for part in alias.name.split("."))]
                if any(map(is_private, names)):
                    yield f"{node.lineno}: {ast.unparse(node)}"


def names_of_errors(tree: ast.AST) -> set[str]:
    """What caught exceptions, and arguments that are exceptions, are called."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.arg) and node.annotation is not None:
            types = {part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)}
            if any(one in CAUGHT or one.endswith("Error") for one in types):
                names.add(node.arg)
    return names


def is_message(node: ast.expr, errors: set[str]) -> bool:
    """Whether an expression is the text of an exception: ``str(error)``, ``f"{error}"``, ``error.args[0]``, ..."""
    match node:
        case ast.Call(ast.Name("str" | "repr"), [ast.Name(name)]):
            return name in errors
        case ast.Subscript(ast.Attribute(ast.Name(name), "args")) | ast.Attribute(ast.Name(name), "msg" | "message"):
            return name in errors
        case ast.JoinedStr([ast.FormattedValue(ast.Name(name))]):
            return name in errors
        case ast.Call(ast.Attribute(inner, "lower" | "upper" | "casefold" | "strip" | "splitlines")):
            return is_message(inner, errors)
    return False


def words_asked(tree: ast.AST) -> Iterator[str]:
    """Where the code decides by an exception's words instead of its class, with lines."""
    errors = names_of_errors(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Attribute(value, method), arguments):
                old_style = [one for one in arguments if isinstance(one, ast.Constant) and one.value in OLD_BEGINNINGS]
                found = (
                    (method in WORDS and is_message(value, errors))
                    or (method in PATTERNS and any(is_message(one, errors) for one in arguments))
                    or (method == "startswith" and bool(old_style))
                )
            case ast.Compare(left, _, others):
                found = any(is_message(one, errors) for one in (left, *others))
            case _:
                found = False
        if found:
            yield f"{node.lineno}: {ast.unparse(node)}"


def from_package(tree: ast.AST, package: str) -> set[str]:
    """Full names that the code imports from a package."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == package}


def test_few_modules_lie_at_the_root() -> None:
    names = [path.name for path in PACKAGE.glob("*.py")]
    assert "__init__.py" in names
    assert len(names) <= MODULES_AT_THE_ROOT, f"Move one of them into a room: {sorted(names)}"


def test_every_room_says_what_is_in_it() -> None:
    rooms = {path.parent for path in SOURCES}
    assert PACKAGE / "data" / "reading" in rooms
    for room in sorted(rooms):
        init = room / "__init__.py"
        assert init.is_file(), f"{name_of(room)} has no __init__.py"
        assert ast.get_docstring(tree_of(init)), f"{name_of(init)} has no docstring"


def test_files_are_short() -> None:
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > LONGER.get(name, LINES)} == {}


def test_only_host_touches_what_is_private() -> None:
    found = {name_of(path): list(private_uses(tree_of(path))) for path in OUTSIDE_HOST}
    assert {name: uses for name, uses in found.items() if uses} == {}
    assert [name_of(path) for path in OUTSIDE_HOST if "noqa: SLF001" in path.read_text(encoding="utf-8")] == []


def test_errors_are_asked_for_their_class() -> None:
    """Only ``host`` reads words: some of torch's errors have no class that says what they are."""
    found = {name_of(path): list(words_asked(tree_of(path))) for path in OUTSIDE_HOST}
    assert {name: words for name, words in found.items() if words} == {}


def test_the_exported_model_takes_its_output_type_from_anomalib_and_nothing_else() -> None:
    assert from_package(tree_of(PACKAGE / "torch_model.py"), "anomalib") == {"anomalib.data.InferenceBatch"}


def test_what_contributors_are_sent_to_exists() -> None:
    text = re.sub(r"```.*?```", "", CONTRIBUTING.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = {name for name in re.findall(r"`([\w./-]+)`", text) if "/" in name or name.endswith((".md", ".py"))}
    roots = (PACKAGE.parent, PACKAGE, PACKAGE / "data")
    assert [name for name in sorted(named) if not any((root / name).exists() for root in roots)] == []
    rooms = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(rooms - named) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("model._engine", True),
        ("self.trainer._engine", True),
        ("setattr(trainer, '_engine', None)", True),
        ("from torch._utils import _flatten", True),
        ("from anomalib_ckaad.files import _helper", True),
        ("import torch._inductor", True),
        ("self._engine", False),
        ("super()._setup()", False),
        ("outputs._asdict()", False),
        ("torch.__version__", False),
        ("from __future__ import annotations", False),
    ],
)
def test_private_uses_are_found(code: str, found: bool) -> None:
    assert bool(list(private_uses(ast.parse(code)))) is found


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("str(error).startswith('no kernel')", True),
        ("text.startswith('Expected ')", True),
        ("'shape' in str(error).lower()", True),
        ("str(error) == 'no kernel'", True),
        ("error.args[0] != 'no kernel'", True),
        ("re.search('shape', str(error))", True),
        ("PATTERN.fullmatch(f'{error}')", True),
        ("isinstance(error, OSError)", False),
        ("error.errno == 2", False),
        ("' '.join(str(error).split())", False),
        ("str(path).startswith('a')", False),
        ("print(f'Cannot read: {error}')", False),
    ],
)
def test_decisions_by_words_are_found(code: str, found: bool) -> None:
    caught = f"try:\n    pass\nexcept OSError as error:\n    {code}\n"
    given = f"def explain(error: OSError) -> None:\n    {code}\n"
    assert bool(list(words_asked(ast.parse(caught)))) is found
    assert bool(list(words_asked(ast.parse(given)))) is found
