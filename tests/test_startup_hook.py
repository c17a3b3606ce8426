"""The start-up hook, in bare interpreters with stand-ins for anomalib and the plugin: milliseconds instead of torch."""

import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOOK = ROOT / "anomalib_ckaad_startup.py"
PTH = ROOT / "anomalib_ckaad_startup.pth"
START = ROOT / "anomalib_ckaad_startup.start"

INSTALLED = "import sys, anomalib_ckaad_startup as hook; hook.install();"
PLUGIN = """import sys
registrations = []
def register():
    registrations.append(sys.modules["anomalib.models"].get_model())
"""
COUNT = "[type(finder).__name__ for finder in sys.meta_path].count('PluginFinder')"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Make a folder with the hook, an anomalib and a plugin that counts its registrations."""
    folder = tmp_path / "site"
    write(
        folder,
        {
            "anomalib/__init__.py": "",
            "anomalib/models/__init__.py": "def get_model():\n    return 'the model'\n",
            "anomalib_ckaad/__init__.py": "",
            "anomalib_ckaad/host/registration.py": PLUGIN,
        },
    )
    shutil.copy(HOOK, folder)
    return folder


def run(site: Path, code: str, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run ``code`` in an interpreter that sees the standard library and the folder ``site``, and nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ANOMALIB"))}
    return subprocess.run(
        [sys.executable, "-S", *options, "-c", code],
        cwd=site,  # -c looks here first
        env={**kept, "PYTHONPATH": str(site), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def output(site: Path, code: str, *options: str, **environment: str) -> str:
    done = run(site, code, *options, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_plugin_registers_once_after_anomalib_models_has_run_and_the_finder_leaves(site: Path) -> None:
    code = f"{INSTALLED} import anomalib.models, anomalib_ckaad.host.registration as p; print(p.registrations, {COUNT})"
    assert output(site, code) == "['the model'] 0"


def test_nothing_is_imported_before_anomalib_models_is(site: Path) -> None:
    code = f"{INSTALLED} import anomalib, json; print('anomalib_ckaad' in sys.modules, {COUNT})"
    assert output(site, code) == "False 1"


def test_installing_twice_installs_once(site: Path) -> None:
    assert output(site, f"{INSTALLED} hook.install(); print({COUNT})") == "1"


def test_installing_after_anomalib_models_does_nothing(site: Path) -> None:
    assert output(site, f"import anomalib.models; {INSTALLED} print({COUNT})") == "0"


@pytest.mark.parametrize("value", ["0", "false", " NO ", "Off"])
def test_environment_variable_turns_it_off(site: Path, value: str) -> None:
    assert output(site, f"{INSTALLED} print({COUNT})", ANOMALIB_CKAAD_AUTOLOAD=value) == "0"


@pytest.mark.parametrize("value", ["", "1", "yes"])
def test_other_values_leave_it_on(site: Path, value: str) -> None:
    assert output(site, f"{INSTALLED} print({COUNT})", ANOMALIB_CKAAD_AUTOLOAD=value) == "1"


def test_program_can_still_turn_it_off_before_importing_anomalib(site: Path) -> None:
    code = f"""{INSTALLED} import os; os.environ[hook.SWITCH] = "0"; import anomalib.models
print("anomalib_ckaad" in sys.modules, {COUNT})"""
    assert output(site, code) == "False 0"


def test_spec_and_loader_are_as_without_the_hook(site: Path) -> None:
    code = f"""{INSTALLED}
import anomalib.models as models, inspect, importlib.machinery, pickle
spec = models.__spec__
print(type(spec.loader) is importlib.machinery.SourceFileLoader, spec.loader is models.__loader__,
      vars(spec.loader) == {{"name": spec.name, "path": spec.origin}},
      inspect.getsource(models.get_model).startswith("def get_model"),
      pickle.loads(pickle.dumps(models.get_model)) is models.get_model)"""
    assert output(site, code) == "True True True True True"


def test_looking_for_anomalib_without_importing_it_does_not_use_the_hook_up(site: Path) -> None:
    code = f"""{INSTALLED} from importlib.util import find_spec
first, second = find_spec("anomalib.models"), find_spec("anomalib.models")
import anomalib.models, anomalib_ckaad.host.registration as p
print(first.origin == second.origin == anomalib.models.__file__, p.registrations)"""
    assert output(site, code) == "True ['the model']"


def test_module_can_be_reloaded(site: Path) -> None:
    code = f"""{INSTALLED} import importlib, anomalib.models
print(importlib.reload(anomalib.models).get_model(), {COUNT})"""
    assert output(site, code) == "the model 0"


def test_anomalib_that_fails_fails_as_it_would_and_gets_a_second_chance(site: Path) -> None:
    fails_once = "import builtins\nbuiltins.attempts.pop()\ndef get_model(): return 'late'\n"
    write(site, {"anomalib/models/__init__.py": fails_once})
    code = f"""{INSTALLED} import builtins; builtins.attempts = []
try:
    import anomalib.models
except IndexError as error:
    print(error, {COUNT})
builtins.attempts.append(1)
import anomalib.models, anomalib_ckaad.host.registration as p
print(p.registrations, {COUNT})"""
    assert output(site, code).splitlines() == ["pop from empty list 1", "['late'] 0"]


def test_missing_anomalib_is_reported_as_ever(site: Path) -> None:
    shutil.rmtree(site / "anomalib" / "models")
    done = run(site, f"{INSTALLED} import anomalib.models")
    assert done.stderr.strip().endswith("ModuleNotFoundError: No module named 'anomalib.models'")


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        ("raise RuntimeError('broken')", "(RuntimeError: broken)."),
        ("import torch_that_is_not_there", "(ModuleNotFoundError: No module named 'torch_that_is_not_there')."),
        ("this is no Python", "(SyntaxError: "),
        ("", "(AttributeError: "),
    ],
)
def test_broken_plugin_warns_and_leaves_anomalib_alone(site: Path, plugin: str, reason: str) -> None:
    write(site, {"anomalib_ckaad/host/registration.py": plugin})
    done = run(site, f"{INSTALLED} import anomalib.models; print(anomalib.models.get_model())")
    assert (done.returncode, done.stdout) == (0, "the model\n")
    assert f"RuntimeWarning: anomalib-ckaad could not register its model {reason}" in done.stderr
    assert "set ANOMALIB_CKAAD_AUTOLOAD=0." in done.stderr


def test_broken_plugin_does_not_raise_where_warnings_are_errors(site: Path) -> None:
    write(site, {"anomalib_ckaad/host/registration.py": "raise RuntimeError('broken')"})
    done = run(site, f"{INSTALLED} import anomalib.models; print(anomalib.models.get_model())", "-W", "error")
    assert (done.returncode, done.stdout) == (0, "the model\n")
    assert done.stderr.startswith("anomalib-ckaad could not register its model (RuntimeError: broken).")


def test_plugin_that_is_gone_is_no_news(site: Path) -> None:
    shutil.rmtree(site / "anomalib_ckaad")
    assert output(site, f"{INSTALLED} import anomalib.models; print(anomalib.models.get_model())") == "the model"


def test_threads_importing_at_once_all_get_their_modules(site: Path) -> None:
    slow = "import time\ntime.sleep(0.1)\ndef get_model(): return 'the model'\n"
    write(site, {"anomalib/models/__init__.py": slow, "anomalib_ckaad/model.py": "import anomalib.models\n"})
    code = f"""{INSTALLED} from importlib import import_module
from threading import Thread
names = ["anomalib.models", "anomalib_ckaad.model", "anomalib_ckaad.host.registration"] * 4
threads = [Thread(target=import_module, args=[name]) for name in names]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(sys.modules["anomalib_ckaad.host.registration"].registrations, {COUNT})"""
    assert output(site, code) == "['the model'] 0"


@pytest.mark.parametrize("position", [0, 99])
def test_another_hook_that_asks_all_finders_does_not_recur(site: Path, position: int) -> None:
    code = f"""{INSTALLED}
class Nosy:
    def find_spec(self, name, path=None, target=None):
        if name == "anomalib.models":
            found = [finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self]
            return next(spec for spec in found if spec)
sys.meta_path.insert({position}, Nosy())
import anomalib.models, anomalib_ckaad.host.registration as p
print(p.registrations, {COUNT})"""
    assert output(site, code) == "['the model'] 0"


def test_loader_that_takes_no_attribute_is_left_alone(site: Path) -> None:
    code = f"""{INSTALLED}
from importlib.machinery import ModuleSpec
class Loader:
    __slots__ = ()
    def create_module(self, spec): return None
    def exec_module(self, module): module.origin = "slots"
class Finder:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, Loader()) if name == "anomalib.models" else None
sys.meta_path.insert(1, Finder())
import anomalib.models; print(anomalib.models.origin)"""
    assert output(site, code) == "slots"


def test_loader_shared_by_modules_registers_for_anomalib_models_only(site: Path) -> None:
    code = f"""{INSTALLED}
from importlib.machinery import ModuleSpec
class Loader:
    def create_module(self, spec): return None
    def exec_module(self, module): module.get_model = lambda: module.__name__
loader = Loader()
class Finder:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, loader) if name in ("anomalib.models", "other") else None
sys.meta_path.insert(1, Finder())
from importlib.util import find_spec
find_spec("anomalib.models"); import other; print("anomalib_ckaad.host.registration" in sys.modules, {COUNT})
import anomalib.models, anomalib_ckaad.host.registration as p; print(p.registrations, vars(loader))"""
    assert output(site, code).splitlines() == ["False 1", "['anomalib.models'] {}"]


def test_hook_loads_nothing_the_interpreter_has_not_loaded_already() -> None:
    code = f"""import sys; before = set(sys.modules); sys.path.insert(0, {str(ROOT)!r})
import anomalib_ckaad_startup; anomalib_ckaad_startup.install(); print(*sorted(set(sys.modules) - before))"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() in (["anomalib_ckaad_startup"], [])  # nothing new at all where the .pth was there first


def test_pth_line_installs_the_hook(site: Path) -> None:
    shutil.copy(PTH, site)
    assert output(site, f"import site, sys; site.addsitedir({str(site)!r}); print({COUNT})") == "1"


@pytest.mark.parametrize("hook", [None, "raise RuntimeError('broken')", "install = None"])
def test_pth_line_is_silent_when_the_hook_module_is_gone_or_broken(site: Path, hook: str | None) -> None:
    shutil.copy(PTH, site)
    (site / HOOK.name).unlink()
    if hook is not None:
        write(site, {HOOK.name: hook})
    assert output(site, f"import site; site.addsitedir({str(site)!r}); print('on')") == "on"


def test_start_file_names_the_function_of_the_pth_line(site: Path) -> None:
    entry = START.read_text(encoding="utf-8").strip()
    assert entry == "anomalib_ckaad_startup:install"
    assert callable(pkgutil.resolve_name(entry))
    shutil.copy(START, site)  # read from Python 3.15 on; before that it must do no harm
    expected = "1" if sys.version_info >= (3, 15) else "0"
    assert output(site, f"import site, sys; site.addsitedir({str(site)!r}); print({COUNT})") == expected
