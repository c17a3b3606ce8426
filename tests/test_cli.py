"""The command `anomalib-ckaad`, and how mistakes end."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import pytest
from PIL import Image

import anomalib_ckaad
from anomalib_ckaad.__main__ import main as anomalibs_main
from anomalib_ckaad.cli import config as config_files
from anomalib_ckaad.cli import main as cli
from anomalib_ckaad.cli.mistakes import message_for_user
from anomalib_ckaad.cli.parser import Parser, build_parser
from anomalib_ckaad.errors import CkaadError, ConfigurationError, FileError, StudyError
from anomalib_ckaad.training.check_images import CheckImages
from tests.conftest import write_images

FACTS = json.loads((Path(__file__).parent / "compatibility" / "facts.json").read_text())
HELPS: dict[str, str] = {words: text for words, text in FACTS["help"].items() if words}


def call(*arguments: str) -> int:
    """Run the command line in this process and return its exit status."""
    try:
        return cli.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def replace_demo(monkeypatch: pytest.MonkeyPatch, run: Callable[[Path | None, Path], int]) -> None:
    replace_module(monkeypatch, "anomalib_ckaad.cli.demo_run", run=run)


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Callable[..., object]) -> None:
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def raise_(error: Exception) -> NoReturn:
    raise error


def test_help_and_version_need_no_torch() -> None:
    code = """import sys
from anomalib_ckaad.cli.main import main
helps = [[name, "--help"] for name in ("demo", "convert", "curve", "study", "report", "weights", "doctor", "validate")]
for arguments in (["--help"], ["--version"], ["config", "list"], ["weights", "list"], *helps):
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code
print(sorted({"torch", "anomalib", "numpy", "pandas", "rich"} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert f"anomalib-ckaad {anomalib_ckaad.__version__}" in done.stdout.splitlines()


def help_of(words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "400")
    assert call(*words.split(), "--help") == 0
    return capsys.readouterr().out


def arguments_of(help_text: str) -> set[str]:
    """Options and positionals that a help lists: the first words of its indented lines."""
    return set(re.findall(r"^  (--?[\w-]+|[A-Z]+)\b", help_text, re.MULTILINE)) | set(
        re.findall(r"^  -h, (--help)", help_text, re.MULTILINE)
    )


def test_every_command_of_the_first_release_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    help_text = help_of("", capsys, monkeypatch)
    (listed,) = re.findall(r"^  \{([\w,]+)\}$", FACTS["help"][""], re.MULTILINE)
    for name in listed.split(","):
        assert re.search(rf"^    {name} ", help_text, re.MULTILINE)
    assert "--version" in help_text


@pytest.mark.parametrize("words", HELPS)
def test_arguments_of_the_first_release_are_there_with_their_defaults(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    help_text = help_of(words, capsys, monkeypatch)
    assert arguments_of(HELPS[words])
    assert arguments_of(help_text) == arguments_of(HELPS[words])
    actions = re.findall(r"^  \{([\w,]+)\}$", HELPS[words], re.MULTILINE)
    for name in actions[0].split(",") if actions else ():
        assert re.search(rf"^    {name} ", help_text, re.MULTILINE)
    # The text of a default may go on in the next line of today's help, but a value has no space in it.
    told = re.split(r"^  (?=-)", re.sub(r"\s*\n {3,}", " ", HELPS[words]), flags=re.MULTILINE)[1:]
    for argument in told:
        value = re.search(r"default: (\S*[\d/,]\S*|dataset|image_AUROC|cpu|f32|hub)$", argument.strip())
        if value is not None:
            name = argument.split()[0]
            own = re.search(rf"^  {name} .*?default: ([^\s)]+)", re.sub(r"\n {3,}", " ", help_text), re.MULTILINE)
            assert own is not None, name
            assert own[1].rstrip(".") == value[1]


def test_every_argument_has_help() -> None:
    def walk(parser: Parser) -> list[Parser]:
        return [parser, *(inner for one in parser.choices.values() for inner in walk(one))]

    parsers = walk(build_parser("p", "1", "", cli.COMMANDS))
    assert sum(parser.command is not None for parser in parsers) == 13
    for parser in parsers[1:]:
        assert parser.description
        assert all(action.help for action in parser._actions if action.dest != "command")


def test_config_list_names_every_file_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("config", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(p.stem for p in config_files.config_folder().glob("*.yaml"))
    assert all(len(line.split()) > 2 for line in lines)


@pytest.mark.parametrize("name", ["mvtec_ad", "visa.yaml"])
def test_config_show_prints_the_file_and_path_says_where_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("config", "path", name) == 0
    path = Path(capsys.readouterr().out.rstrip("\n"))
    assert path.is_absolute()
    assert call("config", "show", name) == 0
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["config", "show", "nothing"], ["'nothing'", "mvtec_ad"]),
        (["config", "path", "../pyproject"], ["'../pyproject'", "mvtec_ad"]),
        (["config", "show"], ["anomalib-ckaad config show: NAME is missing", "`anomalib-ckaad config show --help`"]),
        (["config", "print"], ["anomalib-ckaad config: ", "'print'", "list", "show", "path"]),
        (["config"], ["anomalib-ckaad config: ", "list", "show", "path"]),
        (["train"], ["anomalib-ckaad: ", "'train'", "demo", "`anomalib-ckaad --help`"]),
        ([], ["anomalib-ckaad: ", "demo", "`anomalib-ckaad --help`"]),
        (["config", "list", "more"], ["anomalib-ckaad config list: ", "more"]),
        (["demo", "--data", "no/folder"], ["--data no/folder"]),
        (["demo", "--epochs", "3"], ["anomalib-ckaad demo: ", "--epochs"]),
        (["curve"], ["anomalib-ckaad curve: --config is missing"]),
        (["curve", "--config", "no.yaml"], ["--config no.yaml"]),
        (["curve", "--config", "no.yaml", "--counts", "1,b"], ["--counts", "'1,b'"]),
        (["curve", "--config", "no.yaml", "--seeds", "1.5"], ["anomalib-ckaad curve: ", "seeds", "1.5"]),
        (["study", "--config", "no.yaml"], ["--config no.yaml"]),
        (["convert", "a"], ["anomalib-ckaad convert: TARGET is missing"]),
        (["convert", "a", "b", "--intensities", "bright"], ["--intensities", "dataset", "LOW,HIGH", "'bright'"]),
        (["convert", "a", "b", "--percentiles", "1,2,3"], ["--percentiles", "'1,2,3'"]),
        (["validate", "--ckpt", "a", "--exported", "b"], ["anomalib-ckaad validate: --data is missing"]),
        (["validate", *["--ckpt", "a", "--exported", "b", "--data", "c", "--tolerance", "-1"]], ["--tolerance", "-1"]),
        (["validate", *["--ckpt", "a", "--exported", "b", "--data", "c", "--tolerance", "nan"]], ["tolerance", "nan"]),
        (
            ["validate", *["--ckpt", "a", "--exported", "b", "--data", "c", "--precision", "f64"]],
            ["--precision", "'f64'", "'bf16'"],
        ),
    ],
)
def test_bad_input_is_one_line_on_stderr(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [word for word in words if word not in err] == []
    assert err.count("\n") == 1
    assert err.endswith(".\n")


@pytest.mark.parametrize(
    ("module", "function", "words", "expected"),
    [
        (
            "data.reading.convert_folder",
            "convert_folder",
            "convert from to",
            (Path("from"), Path("to"), "dataset", (0.5, 99.5), [], []),
        ),
        (
            "data.reading.convert_folder",
            "convert_folder",
            "convert from to --intensities=-100,400 --percentiles 1,99 --normal a b --masks c",
            (Path("from"), Path("to"), (-100.0, 400.0), (1.0, 99.0), ["a", "b"], ["c"]),
        ),
        (
            "study.curve",
            "run_curve",
            "curve --config FILE",
            (Path(__file__), [0, 1, 2, 5, 10, 20], 3, Path("results/curve"), None),
        ),
        (
            "study.curve",
            "run_curve",
            "curve --config FILE --counts 0,3 --seeds 1 --output o --report r.md",
            (Path(__file__), [0, 3], 1, Path("o"), Path("r.md")),
        ),
        ("study.report", "write_report", "report 123", (Path("123"), Path("123"), "image_AUROC", None)),
        (
            "study.report",
            "write_report",
            "report s --output o --metric m --section x.md",
            (Path("s"), Path("o"), "m", Path("x.md")),
        ),
        (
            "cli.validation",
            "run_validate",
            "validate --ckpt a --exported b --data c",
            (Path("a"), Path("b"), Path("c"), 1e-4, "f32"),
        ),
        (
            "cli.validation",
            "run_validate",
            "validate --ckpt a --exported b --data c --tolerance 0 --precision bf16",
            (Path("a"), Path("b"), Path("c"), 0.0, "bf16"),
        ),
        ("weights.fetch", "fetch_weights", "weights fetch resnet18", ("resnet18", "hub", None, ("force", False))),
        (
            "weights.fetch",
            "fetch_weights",
            "weights fetch resnet18 --from w.pth --output o --force",
            ("resnet18", "w.pth", Path("o"), ("force", True)),
        ),
    ],
)
def test_what_was_typed_reaches_the_function_that_does_the_work(
    module: str, function: str, words: str, expected: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []

    def keep(*arguments: object, **named: object) -> list[str]:
        calls.append((*arguments, *named.items()))
        return []

    replace_module(monkeypatch, f"anomalib_ckaad.{module}", **{function: keep})
    call(*[__file__ if word == "FILE" else word for word in words.split()])
    assert calls == [expected]


def test_study_prints_what_failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[object, ...]] = []
    done = {"status": "done"}
    failed = {"status": "failed", "method": "PaDiM", "data": "tiles", "seed": 3, "folder": "f"}

    def run(*arguments: object) -> list[dict[str, object]]:
        calls.append(arguments)
        return [done] if len(calls) == 1 else [done, failed]

    replace_module(monkeypatch, "anomalib_ckaad.study.runner", run_study=run)
    assert call("study", "--config", __file__) == 0
    assert calls[-1] == (Path(__file__), Path("results/study/test_cli"), None, ["cpu"])
    assert "1 of 1 jobs are done" in capsys.readouterr().out
    assert call("study", "--config", __file__, *["--output", "o", "--jobs", "2", "--devices", "0,1"]) == 1
    assert calls[-1] == (Path(__file__), Path("o"), 2, ["0", "1"])
    out = capsys.readouterr().out
    assert "1 of 2 jobs are done" in out
    assert "anomalib-ckaad report o\n" in out
    assert f"failed: PaDiM on tiles, seed 3: {Path('o') / 'f' / 'log.txt'}" in out


def test_missing_configs_are_bad_input_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config_files, "PACKAGE", tmp_path / "anomalib_ckaad")
    with pytest.raises(FileError):
        config_files.config_folder()
    assert call("config", "list") == 2
    assert str(tmp_path / "anomalib_ckaad" / "configs") in capsys.readouterr().err


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


@pytest.mark.parametrize("error", [ConfigurationError("`margin` must be more."), FileError("a.png exists.")])
def test_an_error_of_a_command_is_bad_input(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_demo(monkeypatch, lambda *_: raise_(error))
    assert call("demo") == 2
    assert capsys.readouterr().err == f"{error}\n"


def test_any_other_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_demo(monkeypatch, lambda *_: raise_(ValueError("too many values to unpack")))
    with pytest.raises(ValueError, match="too many values to unpack"):
        call("demo")


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(28, "No space left on device", "results/study.sqlite")
    replace_module(monkeypatch, "anomalib_ckaad.study.runner", run_study=lambda *_: raise_(full))
    assert call("study", "--config", __file__) == 2
    assert capsys.readouterr().err == "results/study.sqlite: No space left on device.\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (StudyError("No jobs."), "No jobs."),
        (FileError(28, "No space left on device", "x.csv"), "x.csv: No space left on device."),
        (PermissionError(13, "Permission denied", "x.csv"), "x.csv: Permission denied."),
        (OSError(5, "Input/output error"), "Input/output error."),
        (OSError("cannot identify image file"), None),  # of a library, which may be anything
        (ValueError("Expected 2 channels, got 3"), None),
        (KeyError("x"), None),
    ],
)
def test_messages_for_users(error: Exception, message: str | None) -> None:
    assert message_for_user(error) == message


def test_anomalibs_own_commands_say_mistakes_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model", "Ckaad", "--model.pre_trained", "false", "--data", "Textures", "--model.backbone", "resnet99"]
    monkeypatch.setattr(sys, "argv", ["anomalib", "train", *words])
    with pytest.raises(SystemExit) as stop:
        anomalibs_main()
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "'resnet99'" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_anomalibs_own_commands_keep_other_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["anomalib"])
    monkeypatch.setattr("anomalib_ckaad.cli.checked.CheckedCLI", lambda: raise_(ValueError("too many values")))
    with pytest.raises(ValueError, match="too many values"):
        anomalibs_main()


def test_a_truncated_image_that_ends_a_training_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 2)
    path = tmp_path / "good" / "001.png"
    path.write_bytes(path.read_bytes()[:2000])
    samples = SimpleNamespace(image_path=[str(one) for one in sorted(path.parent.iterdir())])
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(train_data=SimpleNamespace(samples=samples)))
    with pytest.raises(OSError, match="truncated") as caught, Image.open(path) as image:
        image.load()
    model: Any = None
    CheckImages().on_exception(trainer, model, caught.value)
    assert str(path) in str(message_for_user(caught.value))


def test_an_error_that_others_wrap_is_found() -> None:
    for wrap in ("__cause__", "__context__"):
        outer = RuntimeError("outer")
        setattr(outer, wrap, StudyError("No jobs."))
        assert message_for_user(outer) == "No jobs."
        setattr(outer, wrap, OSError(5, "Input/output error"))
        assert message_for_user(outer) is None
    first, second = CkaadError("first"), CkaadError("second")
    second.__cause__, first.__cause__ = first, second  # a circle
    assert message_for_user(second) == "second"
