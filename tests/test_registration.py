"""Registration with anomalib, and the lazy package."""

import ast
import importlib.util
import re
import subprocess
import sys
import warnings
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType

import anomalib.data
import anomalib.models
import pytest
from anomalib.data import get_datamodule
from anomalib.models import get_model, list_models
from anomalib.models.components import AnomalibModule

import anomalib_ckaad
from anomalib_ckaad.host import benchmark
from anomalib_ckaad.host import registration as plugin

ROOT = Path(__file__).resolve().parent.parent
TINY = {"backbone": "resnet18", "layers": [1, 2], "pre_trained": False, "image_size": 64}


@pytest.fixture(autouse=True)
def registered() -> None:
    plugin.register()


def run(code: str, *options: str) -> str:
    """Run ``code`` in a new interpreter without the start-up hook of the environment."""
    command = [sys.executable, *options, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    done = subprocess.run(
        command, env={"ANOMALIB_CKAAD_AUTOLOAD": "0"}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "could not register" not in done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["ckaad", "Ckaad"])
def test_get_model_finds_it_by_name(name: str) -> None:
    assert type(get_model(name, **TINY)) is anomalib_ckaad.Ckaad


@pytest.mark.parametrize("class_path", ["Ckaad", "anomalib_ckaad.Ckaad", "anomalib.models.Ckaad"])
def test_get_model_finds_it_by_class_path(class_path: str) -> None:
    assert type(get_model({"class_path": class_path, "init_args": TINY})) is anomalib_ckaad.Ckaad


def test_list_models_lists_it() -> None:
    assert "ckaad" in list_models()
    assert anomalib_ckaad.Ckaad in AnomalibModule.__subclasses__()  # anomalib looks no deeper


def test_get_datamodule_finds_the_datamodules(tmp_path: Path) -> None:
    init = {"root": str(tmp_path)}
    for name in plugin.DATAMODULES:
        arguments = {"data": "Textures", "data_args": init} if name == "KnownAnomalies" else init
        made = get_datamodule({"class_path": name, "init_args": arguments})
        assert type(made) is getattr(anomalib_ckaad, name)


def test_further_registrations_change_nothing() -> None:
    hosts = (anomalib.models, anomalib.data)
    before = [dict(vars(host)) for host in hosts], set(anomalib.models.ALLOWED_MODULES), list_models()
    plugin.register()
    assert ([dict(vars(host)) for host in hosts], anomalib.models.ALLOWED_MODULES, list_models()) == before


def test_hosts_still_miss_other_names() -> None:
    with pytest.raises(AttributeError, match=r"module 'anomalib.models' has no attribute 'Nothing'"):
        _ = anomalib.models.Nothing
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        from anomalib.data import Nothing  # noqa: F401, PLC0415


def test_offer_asks_the_hosts_own_getattr_for_the_rest() -> None:
    host = ModuleType("host")
    vars(host)["__getattr__"] = lambda name: f"own {name}"
    plugin.offer(host, {"Path": "pathlib"})
    assert host.Path is Path
    assert vars(host)["Path"] is Path
    assert host.other == "own other"


def test_offer_does_not_stack_up() -> None:
    host = ModuleType("host")
    plugin.offer(host, {"Path": "pathlib"})
    first = vars(host)["__getattr__"]
    plugin.offer(host, {"Path": "pathlib"})
    assert vars(host)["__getattr__"] is first


ROOMS = ("training.checkpoints", "cli.validation", "thresholds.metrics", "study.run_job")
"""Modules that import anomalib, or the model, in another order each."""
HOOK = """import anomalib_ckaad_startup, os, sys; del os.environ["ANOMALIB_CKAAD_AUTOLOAD"]
anomalib_ckaad_startup.install()
"""
PROGRAMS = {
    **{
        room: f"{HOOK}import anomalib_ckaad.{room}; import anomalib.models; print(anomalib.models.Ckaad.__name__)"
        for room in ROOMS
    },
    "the model": f"""{HOOK}from anomalib_ckaad.lightning_model import Ckaad  # its import of anomalib fires the hook
import anomalib.models
print(anomalib.models.Ckaad is Ckaad, "anomalib_ckaad" in anomalib.models.ALLOWED_MODULES)""",
    "the package": """import anomalib_ckaad; Ckaad = anomalib_ckaad.Ckaad
import anomalib.models; print(anomalib.models.Ckaad is Ckaad, "ckaad" in anomalib.models.list_models())""",
}
"""What a new interpreter runs, by what it imports first; only in the last one the start-up hook is off."""


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    """Outputs of ``PROGRAMS``: forks of one process, which has imported the heavy libraries, but neither package."""
    code = f"""import io, os, traceback
import torch, torchvision, lightning.pytorch, timm, torchmetrics, kornia, pandas, cv2, matplotlib.pyplot, scipy.stats
for name, program in {PROGRAMS!r}.items():
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    sys.stdout = kept = io.StringIO()
    try:
        exec(program, {{}})
    except BaseException:
        kept.write(traceback.format_exc())
    os.write(1, repr((name, kept.getvalue())).encode() + b"\\n")
    os._exit(0)"""
    return dict(ast.literal_eval(line) for line in run(code, "-W", "error::RuntimeWarning").splitlines())


def test_registration_survives_being_asked_for_while_the_model_is_half_imported(printed: dict[str, str]) -> None:
    assert printed["the model"] == "True True\n"


def test_using_the_package_registers_it_without_the_hook(printed: dict[str, str]) -> None:
    assert printed["the package"] == "True True\n"


@pytest.mark.parametrize("room", ROOMS)
def test_any_room_may_be_imported_first(room: str, printed: dict[str, str]) -> None:
    assert printed[room] == "Ckaad\n"


def test_importing_the_package_imports_neither_torch_nor_anomalib() -> None:
    code = """before = set(sys.modules); import anomalib_ckaad
print(anomalib_ckaad.__version__, {name.partition(".")[0] for name in set(sys.modules) - before} & {
    "torch", "anomalib", "numpy", "lightning", "timm", "jsonargparse", "pandas", "PIL"})"""
    assert run(code) == f"{anomalib_ckaad.__version__} set()"


def test_package_offers_what_the_plugin_registers() -> None:
    assert set(anomalib_ckaad.__all__) == {*plugin.MODELS, *plugin.DATAMODULES, *plugin.OTHERS, "__version__"}
    assert set(anomalib_ckaad.__all__) <= set(dir(anomalib_ckaad))
    for name in anomalib_ckaad.__all__:
        assert getattr(anomalib_ckaad, name) is getattr(anomalib_ckaad, name)


def test_package_misses_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'anomalib_ckaad' has no attribute 'Nothing'"):
        _ = anomalib_ckaad.Nothing


@pytest.mark.parametrize("version", ["2.6.1", "2.8.0", "2.8.0.dev1", "2.8rc1", "3.0", "1"])
def test_untested_anomalib_is_warned_of(version: str) -> None:
    wanted = rf"anomalib>=2\.7,<2\.8, and {re.escape(version)} is installed.*`pip install 'anomalib>=2\.7,<2\.8'`"
    with pytest.warns(UserWarning, match=wanted):
        plugin.check_version(version)


@pytest.mark.parametrize("version", ["2.7.0", "2.7.13", "2.7.0rc1", "2.7.1.post1", anomalib.__version__])
def test_tested_anomalib_is_not(version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugin.check_version(version)


def test_range_of_anomalib_is_the_one_the_package_requires() -> None:
    (lowest, beyond) = (".".join(map(str, bound)) for bound in plugin.SUPPORTED)
    required = [line.partition(";")[0].strip() for line in requires("anomalib-ckaad") or []]
    assert f"anomalib<{beyond},>={lowest}" in required or f"anomalib>={lowest},<{beyond}" in required


def job_module() -> ModuleType:
    return importlib.import_module(benchmark.JOB)


def columns(job: ModuleType) -> list[str]:
    results = [{"model": "a", "image_AUROC": 0.5}, {"model": "b", "image_AUROC": 0.6, "pixel_AUPRO": 0.25}]
    return job.BenchmarkJob.collect(results).columns.tolist()


def test_host_benchmark_of_anomalib_cannot_collect_results_with_other_columns() -> None:
    """If a new anomalib can, ``host/benchmark.py`` is no longer needed."""
    job = job_module()
    unpatched = importlib.util.module_from_spec(job.__spec__)
    job.__spec__.loader.exec_module(unpatched)
    with pytest.raises(KeyError, match="pixel_AUPRO"):
        columns(unpatched)


def test_host_benchmark_that_was_imported_before_the_plugin_writes_all_columns() -> None:
    job = job_module()
    job.BenchmarkJob.collect = None
    plugin.register()
    assert columns(job) == ["model", "image_AUROC", "pixel_AUPRO"]


def test_host_benchmark_that_is_imported_after_the_plugin_writes_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator of jobs makes its models with the ``get_model`` that it has imported from anomalib.models."""
    for name in [name for name in sys.modules if name.startswith("anomalib.pipelines")]:
        monkeypatch.delitem(sys.modules, name)
    plugin.register()
    job = job_module()
    generator = importlib.import_module("anomalib.pipelines.benchmark.generator").BenchmarkJobGenerator("cpu")
    data = {"class_path": "Textures", "init_args": {"root": "unused"}}
    jobs = generator({"seed": 0, "model": {"class_path": "Ckaad", "init_args": TINY}, "data": data}, None)
    assert type(next(iter(jobs)).model) is anomalib_ckaad.Ckaad
    assert columns(job) == ["model", "image_AUROC", "pixel_AUPRO"]
