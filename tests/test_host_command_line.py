"""host/command_line.py: what anomalib's command line and jsonargparse make of this package's errors."""

from pathlib import Path

import pytest

from anomalib_ckaad.data import Textures
from anomalib_ckaad.errors import CkaadError, ConfigurationError, DataError
from anomalib_ckaad.host.command_line import HostCLI
from anomalib_ckaad.lightning_model import Ckaad

TINY = ["--model", "Ckaad", "--model.backbone", "resnet18", "--model.pre_trained", "false"]


class Refused(Textures):
    def __init__(self, reason: str = "No textures.") -> None:
        raise DataError(reason)


class Broken(Textures):
    def __init__(self, reason: str = "too many values") -> None:
        raise ValueError(reason)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_error_of_a_class_that_is_built_is_raised_as_it_is() -> None:
    """jsonargparse alone raises a ValueError with the texts of all types that it tried."""
    words = ["train", "--model", "Ckaad", "--model.backbone", "resnet99", "--model.pre_trained", "false"]
    with pytest.raises(ConfigurationError, match="resnet99") as caught:
        HostCLI([*words, "--data", "Textures"], run=False)
    assert type(caught.value.__cause__) is ValueError


def test_so_is_one_of_a_class_inside_another() -> None:
    inner = f"{__name__}.Refused"
    with pytest.raises(DataError, match=r"^No textures\.$"):
        HostCLI(["train", *TINY, "--data", "KnownAnomalies", "--data.data", inner], run=False)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ValueError, match="too many values") as caught:
        HostCLI(["train", *TINY, "--data", f"{__name__}.Broken"], run=False)
    assert not isinstance(caught.value, CkaadError)


def test_arguments_of_the_command_that_runs() -> None:
    cli = HostCLI(["export", *TINY, "--export_type", "onnx", "--ckpt_path", "a.ckpt"], run=False)
    assert cli.argument("ckpt_path") == "a.ckpt"
    assert "ONNX" in str(cli.argument("export_type")).upper()
    assert cli.argument("compression_type") is None
    assert cli.argument("no_such_argument") is None
    assert type(cli.model) is Ckaad
