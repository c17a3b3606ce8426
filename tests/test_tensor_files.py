"""host/tensor_files.py: what torch's, pickle's and safetensors' own errors are read as."""

import collections
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from anomalib_ckaad.host.tensor_files import loading_error


class Asks:
    """Asks for a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.function, self.arguments


def error_of(load: Callable[[Path], object], path: Path) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - many types, one meaning
        load(path)
    return caught.value


def load(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Asks(os.mkdir, "trace"), "mkdir"),
        (Asks(eval, "1"), "eval"),
        (Asks(Path, "trace"), "Path"),
        (pytest, "pytest"),
        (collections.UserDict({"a": 1}), "UserDict"),
    ],
)
def test_code_is_named(
    content: object, name: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is pytest:
        content = Asks(pytest.importorskip, "os")
    path = tmp_path / "w.pth"
    torch.save({"a": content}, path, _use_new_zipfile_serialization=zipped)
    error = error_of(load, path)
    assert isinstance(error, pickle.UnpicklingError)
    message = loading_error(path, error)
    assert message.startswith(f"{path} was not loaded: it asks for ")
    assert name in message.split(", ")[0]
    assert not (tmp_path / "trace").exists()


def test_damage_is_named_by_its_error(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    for content, load_, kind in (
        (whole[:300], load, "RuntimeError"),
        (b"", load, "EOFError"),
        (b"no pickle", load, "UnpicklingError"),
        (b"no tensors", load_file, "SafetensorError"),
    ):
        path.write_bytes(content)
        message = loading_error(path, error_of(load_, path))
        assert message.startswith(f"{path} cannot be read as a file of tensors ({kind})")
