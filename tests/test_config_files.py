"""Every config is what `anomalib train --config` takes, and none validates on test images."""

from pathlib import Path

import pytest
from anomalib.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule, MVTecAD

from anomalib_ckaad import Ckaad
from anomalib_ckaad.config_files import config_names, config_path, config_summary
from tests.mvtec_folder import SUBSETS, write_mvtec_folder

PAPER = {"backbone": "wide_resnet50_2.tv_in1k", "layers": (1, 2, 3)}


def parse(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> AnomalibCLI:
    """Read a config and make its model, datamodule and engine as ``anomalib train`` does, in an empty folder."""
    monkeypatch.chdir(folder)
    return AnomalibCLI(["train", "--config", str(config_path(name)), *arguments], run=False)


@pytest.mark.parametrize("name", config_names())
def test_config_parses_and_instantiates(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = parse(name, tmp_path, monkeypatch)
    assert type(cli.model) is Ckaad
    assert isinstance(cli.datamodule, AnomalibDataModule)
    assert cli.datamodule.val_split_mode not in {"same_as_test", "from_test"}
    assert cli.datamodule.seed is not None  # else the held-out images change with every run
    assert cli.config["train"]["trainer"]["max_epochs"] > 0
    assert config_summary(name)


@pytest.mark.parametrize(("name", "data"), [("mvtec_ad", "MVTecAD"), ("visa", "Visa")])
def test_industrial_configs_are_the_papers(
    name: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = parse(name, tmp_path, monkeypatch)
    chosen = {key: cli.model.hparams[key] for key in PAPER}
    assert chosen == PAPER
    assert (cli.model.learning_rate, cli.model.discriminator_learning_rate) == (5e-3, 1e-4)
    assert type(cli.datamodule).__name__ == data
    assert cli.datamodule.train_batch_size == 16
    assert cli.config["train"]["trainer"]["max_epochs"] == 400


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
