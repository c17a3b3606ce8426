"""The command `anomalib-ckaad`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

import anomalib_ckaad
from anomalib_ckaad.__main__ import find_sentence
from anomalib_ckaad.cli import configs as config_files
from anomalib_ckaad.cli import main as cli


def call(*arguments: str) -> int:
    """Run the command line in this process and return its exit status."""
    try:
        return cli.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def replace_demo(monkeypatch: pytest.MonkeyPatch, run: Callable[[Path | None, Path], int]) -> None:
    demo = ModuleType("anomalib_ckaad.cli.demo")
    vars(demo)["run"] = run
    monkeypatch.setitem(sys.modules, "anomalib_ckaad.cli.demo", demo)


def raise_(error: Exception) -> NoReturn:
    raise error


def test_help_and_version_need_no_torch() -> None:
    code = """import sys
from anomalib_ckaad.cli.main import main
helps = [[name, "--help"] for name in ("demo", "convert", "weights", "doctor", "validate")]
for arguments in (["--help"], ["--version"], ["config", "list"], ["weights", "list"], *helps):
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code
print(sorted({"torch", "anomalib", "numpy"} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert f"anomalib-ckaad {anomalib_ckaad.__version__}" in done.stdout.splitlines()


def test_config_list_names_every_file_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("config", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(p.stem for p in config_files.config_folder().glob("*.yaml"))
    assert all(len(line.split()) > 2 for line in lines)


COMMANDS = "config,demo,curve,study,report,convert,weights,doctor,validate"
USAGE = f"Expected `anomalib-ckaad [-h] [--version] {{{COMMANDS}}} ...`"


@pytest.mark.parametrize("name", ["mvtec_ad", "visa.yaml"])
def test_config_show_prints_the_file_and_path_says_where_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("config", "path", name) == 0
    path = Path(capsys.readouterr().out.rstrip("\n"))
    assert path.is_absolute()
    assert call("config", "show", name) == 0
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected", "got"),
    [
        (["config", "show", "nothing"], "Expected a config among ", "got 'nothing'"),
        (["config", "path", "../pyproject"], "Expected a config among ", "got '../pyproject'"),
        (["config", "show"], "Expected `anomalib-ckaad config show [-h] NAME`", "required: NAME"),
        (["config", "print"], "Expected `anomalib-ckaad config [-h] {list,show,path} ...`", "invalid choice: 'print'"),
        (
            ["train"],
            USAGE,
            "invalid choice: 'train'",
        ),
        (
            [],
            USAGE,
            "required: command",
        ),
        (["config", "list", "more"], "Expected `anomalib-ckaad [-h]", "unrecognized arguments: more"),
        (["demo", "--data", "no/folder"], "Expected --data to be a folder of images", "got 'no/folder'"),
    ],
)
def test_bad_input_is_one_sentence_on_stderr(
    arguments: list[str], expected: str, got: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(expected)
    assert got in err
    assert " Do " in err
    assert err.count("\n") == 1


def test_missing_configs_are_bad_input_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config_files, "PACKAGE", tmp_path / "anomalib_ckaad")
    assert call("config", "list") == 2
    assert capsys.readouterr().err.startswith("Expected a folder of configs beside ")


def test_packaged_configs_come_before_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_files, "PACKAGE", tmp_path / "anomalib_ckaad")
    (tmp_path / "configs").mkdir()
    assert config_files.config_folder() == tmp_path / "configs"
    (tmp_path / "anomalib_ckaad" / "configs").mkdir(parents=True)
    assert config_files.config_folder() == tmp_path / "anomalib_ckaad" / "configs"


def test_demo_gets_its_arguments_and_returns_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path | None, Path]] = []

    def run(data: Path | None, output: Path) -> int:
        calls.append((data, output))
        return 7

    replace_demo(monkeypatch, run)
    assert call("demo") == 7
    assert call("demo", "--data", str(tmp_path), "--output", str(tmp_path / "out")) == 7
    assert calls == [(None, Path("results/demo")), (tmp_path, tmp_path / "out")]


@pytest.mark.parametrize("error", [ValueError("Expected this, got that. Do so."), FileExistsError("Expected no file.")])
def test_sentence_of_the_demo_is_bad_input(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_demo(monkeypatch, lambda *_: raise_(error))
    assert call("demo") == 2
    assert capsys.readouterr().err == f"{error}\n"


def test_any_other_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_demo(monkeypatch, lambda *_: raise_(ValueError("too many values to unpack")))
    with pytest.raises(ValueError, match="too many values to unpack"):
        call("demo")


JSONARGPARSE = """Does not validate against any of the Union subtypes
Errors:
  - Expected a <class 'NoneType'>
  - Expected each layer once, got 2 twice in [2, 2]. Do remove one.
Given value type: <class 'jsonargparse._namespace.Namespace'>"""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("Expected a, got b. Do c."), "Expected a, got b. Do c."),
        (ValueError(JSONARGPARSE), "Expected each layer once, got 2 twice in [2, 2]. Do remove one."),
        (ValueError("Step 3, epoch 1: Expected a finite loss, got nan. Do lower it; all is well."), None),
        (ValueError("Expected 2 channels, got 3"), None),
        (KeyError("x"), None),
    ],
)
def test_own_sentences_are_found_in_what_others_wrap_around_them(error: Exception, sentence: str | None) -> None:
    expected = str(error) if str(error).startswith("Step") else sentence
    assert find_sentence(error) == expected
    outer = RuntimeError("outer")
    outer.__cause__ = error
    assert find_sentence(outer) == expected


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "Expected to write to study.jsonl, got No space left on device. Do make room.")

    monkeypatch.setattr(cli, "run_study", fail)
    assert cli.main(["study", "--config", "any.yaml"]) == 2
    assert capsys.readouterr().err.startswith("Expected to write to study.jsonl, got No space left")
