"""The package as users get it: a wheel and an editable install, anomalib's real console script, another folder.

Each environment is new and holds this package only. The heavy packages come from the test environment by a line in a
.pth file: that adds their folder to the path and does not read the .pth files in it, so no hook of the test
environment reaches over.
"""

import csv
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.mvtec_folder import write_mvtec_folder

ROOT = Path(__file__).resolve().parent.parent.parent
PIP_OPTIONS = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
MODEL = {"backbone": "resnet18", "layers": [1, 2], "pre_trained": False, "image_size": 64}
HOOK_FILES = ("anomalib_ckaad_startup.pth", "anomalib_ckaad_startup.start")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Environment:
    """A virtual environment with this package in it."""

    kind: str
    folder: Path
    package: Path  # where the package has to be imported from

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def run(self, *command: str | Path, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run one of the environment's programs with no network and nothing of the test environment's settings."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ANOMALIB", "VIRTUAL"))
        }
        return subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=cwd,
            env={
                **kept,
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",  # tiny images: more threads only wait for each other
                "PYTHONWARNINGS": "ignore::FutureWarning",
                "COLUMNS": "200",
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def pip(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.python, *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def make_environment(kind: str, folder: Path, package: Path) -> Environment:
    """Make an environment without this package that sees the test environment's packages and anomalib's script."""
    environment = Environment(kind, folder, package)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    shared = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (environment.site_packages / "shared.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
    script = Path(sysconfig.get_path("scripts"), "anomalib").read_text(encoding="utf-8").splitlines(keepends=True)
    target = folder / "bin" / "anomalib"
    target.write_text(f"#!{environment.python}\n" + "".join(script[1:]), encoding="utf-8")
    target.chmod(0o755)
    return environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", *PIP_OPTIONS, "--wheel-dir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("anomalib_ckaad-*.whl")
    return built


def install(kind: str, wheel: Path, folder: Path) -> Environment:
    """Make an environment with this package in it."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    installed = folder / "lib" / version / "site-packages" / "anomalib_ckaad"
    environment = make_environment(kind, folder, installed if kind == "wheel" else ROOT / "anomalib_ckaad")
    # The test environment's own install is visible through the shared path: it must not count as this one.
    what = (wheel,) if kind == "wheel" else ("--editable", ROOT)
    environment.pip("install", *PIP_OPTIONS, "--ignore-installed", *what)
    return environment


@pytest.fixture(scope="module")
def from_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return install("wheel", wheel, tmp_path_factory.mktemp("wheel") / "environment")


@pytest.fixture(scope="module", params=["wheel", "editable"])
def environment(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Both kinds, for what depends on where files lie: the hook, the names it brings, and the configs."""
    if request.param == "wheel":
        return request.getfixturevalue("from_wheel")
    return install("editable", wheel, tmp_path_factory.mktemp("editable") / "environment")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_folder(tmp_path_factory.mktemp("data") / "bottle")


def folder_data(category: Path) -> dict[str, object]:
    """Return the arguments of anomalib's ``Folder`` for a category in MVTec AD's layout."""
    return {
        "name": "tiny",
        "root": str(category),
        "normal_dir": "train/good",
        "normal_test_dir": "test/good",
        "abnormal_dir": "test/bad",
        "mask_dir": "ground_truth/bad",
        "train_batch_size": 4,
        "num_workers": 0,
        "val_split_mode": "from_train",
        "val_split_ratio": 0.25,
        "seed": 0,
    }


def options(prefix: str, values: dict[str, object]) -> list[str]:
    return [
        f"--{prefix}.{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in values.items()
    ]


def train_arguments(category: Path) -> list[str]:
    data = ["--data", "anomalib.data.Folder", *options("data", folder_data(category))]
    return [*options("model", MODEL), *data, "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]


def assert_trained(done: "subprocess.CompletedProcess[str]", folder: Path, data_name: str) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    (checkpoint,) = folder.glob(f"results/Ckaad/{data_name}/v0/weights/lightning/model.ckpt")
    assert checkpoint.stat().st_size > 1_000_000
    assert "image_AUROC" in done.stdout


def test_anomalib_train_takes_the_bare_name(environment: Environment, data: Path, tmp_path: Path) -> None:
    done = environment.run("anomalib", "train", "--model", "Ckaad", *train_arguments(data), cwd=tmp_path)
    assert_trained(done, tmp_path, "tiny")


def test_anomalib_train_takes_the_dotted_name_without_the_hook(
    from_wheel: Environment, data: Path, tmp_path: Path
) -> None:
    command = ("anomalib", "train", "--model", "anomalib_ckaad.Ckaad", *train_arguments(data))
    assert_trained(from_wheel.run(*command, cwd=tmp_path, ANOMALIB_CKAAD_AUTOLOAD="0"), tmp_path, "tiny")


def test_bare_name_is_unknown_with_the_hook_turned_off(from_wheel: Environment, data: Path, tmp_path: Path) -> None:
    command = ("anomalib", "train", "--model", "Ckaad", *train_arguments(data))
    done = from_wheel.run(*command, cwd=tmp_path, ANOMALIB_CKAAD_AUTOLOAD="0")
    assert done.returncode != 0
    assert "Ckaad" in done.stderr
    assert not (tmp_path / "results" / "Ckaad").exists()


def test_python_m_needs_no_hook(from_wheel: Environment, data: Path, tmp_path: Path) -> None:
    command = ("python", "-m", "anomalib_ckaad", "train", "--model", "Ckaad", *train_arguments(data))
    assert_trained(from_wheel.run(*command, cwd=tmp_path, ANOMALIB_CKAAD_AUTOLOAD="0"), tmp_path, "tiny")


def packaged_config(environment: Environment, folder: Path) -> Path:
    return Path(environment.run("anomalib-ckaad", "config", "path", "mvtec_ad", cwd=folder).stdout.strip())


def test_configs_lie_in_the_package_or_in_the_checkout(environment: Environment, tmp_path: Path) -> None:
    expected = environment.package if environment.kind == "wheel" else ROOT
    assert packaged_config(environment, tmp_path) == expected / "configs" / "mvtec_ad.yaml"
    assert (expected / "configs" / "mvtec_ad.yaml").is_file()


def test_packaged_config_trains(from_wheel: Environment, data: Path, tmp_path: Path) -> None:
    path = packaged_config(from_wheel, tmp_path)
    done = from_wheel.run(
        *("anomalib", "train", "--config", path, *options("model", MODEL)),
        *("--data.root", str(data.parent), "--data.train_batch_size=4", "--data.val_split_ratio=0.25"),
        *("--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
        cwd=tmp_path,
    )
    assert_trained(done, tmp_path, "MVTecAD/bottle")


def test_config_with_the_bare_name_trains(from_wheel: Environment, data: Path, tmp_path: Path) -> None:
    config = {
        "model": {"class_path": "Ckaad", "init_args": MODEL},
        "data": {"class_path": "anomalib.data.Folder", "init_args": folder_data(data)},
        "trainer": {"max_epochs": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert_trained(from_wheel.run("anomalib", "train", "--config", "config.yaml", cwd=tmp_path), tmp_path, "tiny")


def test_names_in_python(environment: Environment, tmp_path: Path) -> None:
    code = f"""
import sys
assert not {{"torch", "anomalib", "anomalib_ckaad"}} & set(sys.modules)
from anomalib.models import get_model, list_models
from anomalib.data import get_datamodule
assert "ckaad" in list_models()
made = [get_model(name, **{MODEL!r}) for name in ("ckaad", "Ckaad")]
made += [get_model({{"class_path": name, "init_args": {MODEL!r}}}) for name in ("Ckaad", "anomalib_ckaad.Ckaad")]
made.append(get_datamodule({{"class_path": "Textures", "init_args": {{"root": "textures"}}}}))
print(*(type(one).__name__ for one in made))
import anomalib_ckaad
print(anomalib_ckaad.__file__)
"""
    done = environment.run("python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names, origin = done.stdout.splitlines()[-2:]
    assert names == "Ckaad Ckaad Ckaad Ckaad Textures"
    assert Path(origin) == environment.package / "__init__.py"


def test_benchmark_writes_a_row_a_name(from_wheel: Environment, data: Path, tmp_path: Path) -> None:
    config = {
        "accelerator": "cpu",
        "benchmark": {
            "seed": 42,
            "model": {
                "class_path": {"grid": ["Ckaad", "anomalib_ckaad.Ckaad"]},
                "init_args": MODEL,
            },
            "data": {"class_path": "Folder", "init_args": folder_data(data)},
        },
    }
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    # anomalib's benchmark has no limit of epochs; a trainer with one is all that this adds to its command.
    code = """
import sys
from functools import wraps
from lightning.pytorch import Trainer
usual = Trainer.__init__
@wraps(usual)
def limited(self, *args, **kwargs):
    usual(self, *args, **{**kwargs, "max_epochs": 1})
Trainer.__init__ = limited
from anomalib.cli.cli import main
sys.argv = ["anomalib", "benchmark", "--config", "benchmark.yaml"]
main()
"""
    done = from_wheel.run("python", "-c", code, cwd=tmp_path)
    results = list(tmp_path.glob("runs/benchmark/*/results.csv"))
    assert len(results) == 1, done.stdout + done.stderr  # its exit status is 0 when jobs fail, too
    with results[0].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["model.class_path"] for row in rows] == ["Ckaad", "anomalib_ckaad.Ckaad"]
    assert all(0 <= float(row["image_AUROC"]) <= 1 for row in rows)


def test_start_up_files_lie_at_the_root_and_leave_with_the_package(
    environment: Environment, wheel: Path, tmp_path: Path
) -> None:
    assert all((environment.site_packages / name).is_file() for name in HOOK_FILES)
    copy = make_environment("wheel", tmp_path / "copy", environment.package)
    copy.pip(
        "install",
        *PIP_OPTIONS,
        "--ignore-installed",
        wheel if environment.kind == "wheel" else "--editable=" + str(ROOT),
    )
    before = copy.run("python", "-c", "import sys; print(type(sys.meta_path[0]).__name__)", cwd=tmp_path)
    assert (before.stdout.strip(), before.stderr) == ("PluginFinder", "")
    copy.pip("uninstall", "--yes", "anomalib-ckaad")
    assert {path.name for path in copy.site_packages.iterdir()} == {"shared.pth"}
    after = copy.run(
        "python", "-c", "import sys; print([type(finder).__name__ for finder in sys.meta_path])", cwd=tmp_path
    )
    assert "PluginFinder" not in after.stdout
    assert (after.returncode, after.stderr) == (0, "")


def test_hook_line_left_behind_is_silent(tmp_path: Path) -> None:
    bare = make_environment("bare", tmp_path / "bare", ROOT)
    shutil.copy(ROOT / HOOK_FILES[0], bare.site_packages)
    done = bare.run("python", "-c", "print('started')", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("started\n", "")


def test_wheel_holds_what_it_should_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.partition("/")[0] for name in names}
    (metadata,) = (root for root in roots if root.endswith(".dist-info"))
    assert roots == {"anomalib_ckaad", "anomalib_ckaad_startup.py", *HOOK_FILES, metadata}
    assert {f"anomalib_ckaad/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")} <= set(names)
    assert {"anomalib_ckaad/py.typed", f"{metadata}/licenses/LICENSE"} <= set(names)
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "anomalib_ckaad").rglob("*.py")}
    assert sources == {name for name in names if name.startswith("anomalib_ckaad/") and name.endswith(".py")}
