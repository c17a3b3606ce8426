"""Features that stay in a folder: the same for whoever asks the same, and never in the way."""

import errno
import logging
import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine
from torch import Tensor
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.features import folder as feature_folder
from anomalib_ckaad.features.cache import FeatureCache
from anomalib_ckaad.features.folder import FeatureFolder, hash_image, open_folder
from anomalib_ckaad.features.transforms import describe_transform
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.network.backbone import FrozenBackbone
from tests.conftest import make_folder_data
from tests.models import make_ckaad

KEY = "ab" * 32
CONFIGURATION = {"backbone": "tiny"}


def stages(images: Tensor) -> list[Tensor]:
    return [images[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last), images.bfloat16()[:, :2]]


def open_cache(root: Path, limit: float = 2**20, memory: float = 2**20, **configuration: str) -> FeatureCache:
    cache = FeatureCache(memory)
    cache.folder = FeatureFolder(root, limit, {**CONFIGURATION, **configuration})
    return cache


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("[!.]*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_round_trip(dtype: torch.dtype, tmp_path: Path) -> None:
    features = [torch.randn(3, 4, 5).to(dtype), torch.randn(2, 1).to(dtype)]
    FeatureFolder(tmp_path, 2**20, CONFIGURATION).write(KEY, features)
    found = FeatureFolder(tmp_path, 2**20, CONFIGURATION).read(KEY)
    assert found is not None
    for one, other in zip(found, features, strict=True):
        assert one.dtype == dtype
        assert torch.equal(one, other)
    assert not list(tmp_path.rglob(".part-*"))


@pytest.mark.parametrize("memory", [0, 2**20])
def test_another_run_computes_nothing(memory: float, tmp_path: Path) -> None:
    images = torch.rand(3, 3, 8, 8)
    first = open_cache(tmp_path, memory=memory)
    first.get(images, ["a", "b", "c"], stages)
    second = open_cache(tmp_path, memory=memory)
    for names in (["a", "b", "c"], ["x", "y", None]):  # names are no part of the key
        for found, expected in zip(second.get(images, names, stages), stages(images), strict=True):
            assert torch.equal(found, expected)
    assert second.computed == 1
    assert len(files(tmp_path)) == 3


def test_another_image_precision_or_configuration_is_another(tmp_path: Path) -> None:
    images = torch.rand(1, 3, 8, 8)
    open_cache(tmp_path).get(images, ["a"], stages, "float32")
    for changed, precision, configuration in (
        (images + 1e-6, "float32", {}),
        (images.double(), "float32", {}),
        (images, "bfloat16", {}),
        (images, "float32", {"weights": "others"}),
    ):
        cache = open_cache(tmp_path, **configuration)
        cache.get(changed, ["a"], stages, precision)
        assert cache.computed == 1
    again = open_cache(tmp_path)
    again.get(images, ["a"], stages, "float32")
    assert again.computed == 0


def transform(size: int = 8, mean: float = 0.5) -> Compose:
    return Compose([Resize((size, size), antialias=True), Normalize([mean] * 3, [0.5] * 3)])


def test_each_part_of_the_key(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = FrozenBackbone("resnet18", (1, 2))

    def folder(backbone: FrozenBackbone, transform: object) -> Path:
        return open_folder(tmp_path, 1, backbone, transform).folder

    own = folder(backbone, transform())
    assert folder(backbone, transform()) == own
    others = [
        folder(backbone, transform(9)),
        folder(backbone, transform(mean=0.4)),
        folder(backbone, None),
        folder(FrozenBackbone("resnet18", (1,)), transform()),
        folder(FrozenBackbone("resnet34", (1, 2)), transform()),
    ]
    with torch.no_grad():
        next(backbone.parameters())[0, 0, 0, 0] += 1e-3
    others.append(folder(backbone, transform()))
    assert len({own, *others}) == 1 + len(others)


def test_transform_is_described_whole() -> None:
    assert describe_transform(Resize(8)) != describe_transform(Resize(8, antialias=False))
    assert describe_transform(transform()) == describe_transform(transform())


def test_damaged_files_are_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = torch.rand(6, 3, 8, 8)
    names = list("abcdef")
    open_cache(tmp_path).get(images, names, stages)
    whole = files(tmp_path)
    content = whole[0].read_bytes()
    whole[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    whole[1].write_bytes(content[: len(content) // 2])
    whole[2].write_bytes(b"")
    for path, right, wrong in (
        (whole[3], b'"F32"', b'"I32"'),
        (whole[4], b"[8,8,2]", b"[8,2,8]"),
        (whole[5], b"8", b"x"),
    ):
        content = path.read_bytes()
        assert right in content
        path.write_bytes(content.replace(right, wrong, 1))
    cache = open_cache(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = cache.get(images, names, stages)
    for one, other in zip(found, stages(images), strict=True):
        assert torch.equal(one, other)
    assert cache.computed == 6
    assert len(caplog.records) == 1
    assert "are damaged" in caplog.text
    mended = open_cache(tmp_path)
    mended.get(images, names, stages)
    assert mended.computed == 0


def test_what_killed_processes_left_is_cleared_away(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 8, 8)
    open_cache(tmp_path).get(images[:1], ["a"], stages)
    left = files(tmp_path)[0].with_name(".part-0.safetensors")
    left.write_bytes(b"half")
    of_others = tmp_path / "downloads" / ".part-linux.iso"  # the folder may hold more than features
    of_others.parent.mkdir()
    of_others.write_bytes(b"half")
    open_cache(tmp_path).get(images[1:], ["b"], stages)
    assert not left.exists()
    assert of_others.exists()
    assert len(files(tmp_path)) == 2


def test_what_is_written_again_counts_once(tmp_path: Path) -> None:
    """As by two processes that have computed the same image."""
    images = torch.rand(1, 3, 8, 8)
    first, second = open_cache(tmp_path), open_cache(tmp_path)
    for cache in (first, second):
        assert cache.folder is not None
        cache.folder.write("0" * 64, stages(images))
        cache.folder.write("0" * 64, stages(images))
    held = (tmp_path / ".features-size").read_text()
    assert int(held) == files(tmp_path)[0].stat().st_size


def test_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = torch.rand(5, 3, 8, 8)
    names: list[str | None] = list("abcde")
    open_cache(tmp_path).get(images[:1], names[:1], stages)
    each = files(tmp_path)[0].stat().st_size
    cache = open_cache(tmp_path, limit=3.5 * each, memory=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for found, expected in zip(cache.get(images, names, stages), stages(images), strict=True):
                assert torch.equal(found, expected)
    assert len(files(tmp_path)) == 3
    assert cache.computed == 4 + 2
    assert len(caplog.records) == 1
    assert re.search(r"has reached its limit of .* GiB\. .* Raise `folder_limit`", caplog.text)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_disk_that_takes_nothing(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(feature_folder, "write_whole", refuse)
    images = torch.rand(2, 3, 8, 8)
    cache = open_cache(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for found, expected in zip(cache.get(images, ["a", "b"], stages), stages(images), strict=True):
                assert torch.equal(found, expected)
    assert cache.computed == 2  # memory still holds them
    assert len(caplog.records) == 1


def test_no_half_file_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", half)
    FeatureFolder(tmp_path, 2**20, CONFIGURATION).write(KEY, [torch.ones(3)])
    assert not files(tmp_path)
    assert not list(tmp_path.rglob(".part-*"))


def fill(root: Path, limit: int, images: Tensor, order: list[int], results: Any) -> None:
    torch.set_num_threads(1)
    cache = open_cache(root, limit=limit, memory=0)
    for index in order:
        found = cache.get(images[index : index + 1], [str(index)], stages)
        expected = stages(images[index : index + 1])
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    results.put(cache.computed)


def test_two_processes(tmp_path: Path) -> None:
    """Both write and read the same files at once, and keep the limit together."""
    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    open_cache(tmp_path).get(images[:1], ["0"], stages)
    limit = 11 * files(tmp_path)[0].stat().st_size
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    orders = [[*range(16)] * 3, [*reversed(range(16))] * 3]
    processes = [context.Process(target=fill, args=(tmp_path, limit, images, order, results)) for order in orders]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert 10 <= len(files(tmp_path)) <= 11
    assert 15 + 2 * 5 <= sum(results.get() for _ in processes) <= 2 * 16 + 2 * 3 * 6  # what is kept, once each at most
    again, kept = open_cache(tmp_path, memory=0), len(files(tmp_path))
    again.get(images, [str(index) for index in range(16)], stages)
    assert again.computed == 16 - kept


def test_training_from_a_folder(folder_root: Path, tmp_path: Path) -> None:
    """A second training looks at no image again, and ends in the same weights."""

    def fit(name: str, **arguments: Any) -> tuple[Ckaad, int]:
        model = make_ckaad(
            "resnet18", (2, 3), pre_trained=False, image_size=64, seed=0, visualizer=False,
            evaluator=False, strategy="recon", **arguments,
        )  # fmt: skip
        engine = Engine(default_root_dir=tmp_path / name, accelerator="cpu", enable_progress_bar=False, max_epochs=2)
        engine.fit(model, datamodule=make_folder_data(folder_root))
        return model, model.frozen_features.cache.computed

    first, many = fit("a", cache={"folder": tmp_path / "cache"})
    second, none = fit("b", cache={"folder": tmp_path / "cache", "memory": 0})
    assert (many, none) == (6, 0)
    assert first.frozen_features.cache.folder is None
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("value", [-1, "much"])
def test_bad_limit(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"`folder_limit` in `cache` must be .* at least 0, not {value!r}"):
        make_ckaad(backbone="resnet18", pre_trained=False, cache={"folder_limit": value})


def test_image_hash() -> None:
    image = torch.rand(3, 4, 4)
    assert (
        hash_image(image) == hash_image(image.clone()) == hash_image(image.transpose(0, 1).contiguous().transpose(0, 1))
    )
    assert hash_image(image) != hash_image(image.flip(0))
