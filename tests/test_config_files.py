"""Every config is what `anomalib train --config` takes, and none validates on test images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from anomalib.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule, MVTecAD

from anomalib_ckaad import Ckaad, KnownAnomalies
from anomalib_ckaad.cli.config import config_names, config_path, config_summary
from anomalib_ckaad.study.checks import recipes
from anomalib_ckaad.study.jobs import read_study
from tests import paper_data
from tests.mvtec_folder import SUBSETS, write_mvtec_folder

ROOT = Path(__file__).parents[1]
TRAINED = [name for name in config_names() if name != "benchmark"]  # which `anomalib benchmark` takes
PAPER = {"backbone": "wide_resnet50_2.tv_in1k", "layers": (1, 2, 3)}
# data, batch size, epochs, pixels of the score, types, of the paper's set-ups with known anomalies
KNOWN = {
    "isic2018": ("ISIC2018", 64, 200, "all", ("MEL",)),
    "chest_xray": ("ChestXray", 32, 200, 100, None),
    "oct2017": ("OCT2017", 32, 10, 100, ("CNV",)),
    "br35h": ("Br35H", 64, 200, 100, None),
    "cifar10": ("CIFAR10OneClass", 64, 200, 100, ("automobile",)),
}


@dataclass(frozen=True)
class Made:
    """What a config makes, without the model, which is large."""

    model: type
    hparams: dict[str, Any]
    learning_rates: tuple[float, float]
    datamodule: Any
    config: Any


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Makes what a config describes, each once."""
    folder = tmp_path_factory.mktemp("configs")

    @cache
    def read(name: str) -> Made:
        with pytest.MonkeyPatch.context() as patch:
            cli = parse(name, folder, patch)
        rates = (cli.model.learning_rate, cli.model.discriminator_learning_rate)
        return Made(type(cli.model), dict(cli.model.hparams), rates, cli.datamodule, cli.config["train"])

    return read


def parse(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> AnomalibCLI:
    """Read a config and make its model, datamodule and engine as ``anomalib train`` does, in an empty folder."""
    monkeypatch.chdir(folder)
    return AnomalibCLI(["train", "--config", str(config_path(name)), *arguments], run=False)


@pytest.mark.parametrize("name", TRAINED)
def test_config_parses_and_instantiates(name: str, read: Callable[[str], Made]) -> None:
    made = read(name)
    assert made.model is Ckaad
    assert isinstance(made.datamodule, AnomalibDataModule)
    data = made.datamodule.data if isinstance(made.datamodule, KnownAnomalies) else made.datamodule
    assert data.val_split_mode not in {"none", "same_as_test", "from_test"}
    assert data.seed is not None
    assert made.datamodule.seed is not None  # else the held-out images change with every run
    assert made.config["trainer"]["max_epochs"] > 0
    assert config_summary(name)


@pytest.mark.parametrize(("name", "data"), [("mvtec_ad", "MVTecAD"), ("visa", "Visa")])
def test_industrial_configs_are_the_papers(name: str, data: str, read: Callable[[str], Made]) -> None:
    made = read(name)
    chosen = {key: made.hparams[key] for key in PAPER}
    assert chosen == PAPER
    assert made.learning_rates == (5e-3, 1e-4)
    assert type(made.datamodule).__name__ == data
    assert made.datamodule.train_batch_size == 16
    assert made.config["trainer"]["max_epochs"] == 400


@pytest.mark.parametrize("name", KNOWN)
def test_configs_with_known_anomalies_are_the_papers(name: str, read: Callable[[str], Made]) -> None:
    data, batch_size, epochs, pixels, types = KNOWN[name]
    made = read(name)
    assert (made.hparams["backbone"], made.hparams["layers"]) == ("resnet18.tv_in1k", (2, 3))
    assert made.learning_rates == (1e-3, 1e-4)
    assert made.hparams["score_top_k"] == pixels
    assert type(made.datamodule) is KnownAnomalies
    assert type(made.datamodule.data).__name__ == made.datamodule.name == data
    selection = made.datamodule.selection
    assert (selection.ratio, selection.types and tuple(selection.types), made.datamodule.use) == (
        0.05,
        types,
        "train",
    )
    assert (made.datamodule.train_batch_size, made.datamodule.data.val_split_ratio) == (batch_size, 0.05)
    assert made.config["trainer"]["max_epochs"] == epochs


@pytest.mark.parametrize(("name", "data"), [("mvtec_ad_known", "MVTecAD"), ("visa_known", "Visa")])
def test_industrial_configs_with_known_anomalies_differ_from_the_others_by_these(
    name: str, data: str, read: Callable[[str], Made]
) -> None:
    made, other = read(name), read(name.removesuffix("_known"))
    assert type(made.datamodule) is KnownAnomalies
    assert type(made.datamodule.data).__name__ == data
    assert made.datamodule.selection.ratio == 0.05
    assert made.hparams == other.hparams
    assert other.config["data"]["init_args"] == made.config["data"]["init_args"]["data"]["init_args"]
    assert other.config["trainer"] == made.config["trainer"]


def test_the_arguments_that_a_config_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper_data.isic2018(tmp_path / "elsewhere")
    words = ["--data.data.root", str(tmp_path / "elsewhere" / "ISIC2018"), "--data.types", "[BCC]"]
    data = parse("isic2018", tmp_path, monkeypatch, *words).datamodule
    data.setup()
    assert data.known_types == {"BCC": 2}
    words = ["--data.data.normal_class", "cat", "--data.types", "[dog]", "--data.data.download", "true"]
    data = parse("cifar10", tmp_path, monkeypatch, *words).datamodule
    assert (data.category, tuple(data.selection.types), data.data.download) == ("cat", ("dog",), True)


def test_real_known_anomalies_leave_the_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mvtec_folder(tmp_path / "data" / "carpet")
    words = ["--data.data.root", str(tmp_path / "data"), "--data.data.category", "carpet"]
    words += ["--data.data.val_split_ratio", "0.25", "--data.ratio", "0.2"]
    data = parse("mvtec_ad_known", tmp_path, monkeypatch, *words).datamodule
    data.setup()
    assert data.known_types == {"bad": 2}
    assert len(data.test_data) == SUBSETS["test/good"] + SUBSETS["test/bad"] - 2
    assert all("train/good" in Path(path).as_posix() for path in data.val_data.samples["image_path"])


def test_held_out_images_are_normal_training_images_and_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mvtec_folder(tmp_path / "data" / "bottle")
    held_out: list[set[str]] = []
    for _ in range(2):
        data = parse(
            "mvtec_ad",
            tmp_path,
            monkeypatch,
            *("--data.root", str(tmp_path / "data"), "--data.val_split_ratio", "0.25"),
            *("--model.backbone", "resnet18", "--model.pre_trained", "false"),
        ).datamodule
        assert isinstance(data, MVTecAD)
        data.setup()
        train, val, test = (
            set(part.samples["image_path"]) for part in (data.train_data, data.val_data, data.test_data)
        )
        assert (len(train), len(val), len(test)) == (9, 3, SUBSETS["test/good"] + SUBSETS["test/bad"])
        assert not train & val
        assert all("train/good" in Path(path).as_posix() for path in train | val)
        assert all("test/" in Path(path).as_posix() for path in test)
        held_out.append(val)
    assert held_out[0] == held_out[1]


@pytest.mark.parametrize(
    ("name", "jobs"),
    [("examples/study", 12), ("benchmarks/accuracy", 120), ("benchmarks/accuracy_textures", 72)],
)
def test_studies_are_made_of_known_classes_and_arguments(name: str, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "nowhere")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # has a class that one of them names
    found = read_study(ROOT / f"{name}.yaml").jobs
    assert len(found) == jobs
    for job in ({job.method: job for job in found} | {job.data: job for job in found}).values():  # each at least once
        recipes(job)


def test_the_size_of_patchcores_coreset_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "nowhere")
    for given, expected in ((None, 0.0025), ("0.06", 0.06)):
        if given:
            monkeypatch.setenv("CORESET", given)
        jobs = read_study(ROOT / "benchmarks" / "accuracy.yaml").jobs
        ratios = {job.settings["model"]["init_args"].get("coreset_sampling_ratio") for job in jobs}
        assert ratios == {None, expected}
