"""Images that come again as they were are read once, where the training's own process reads them and there is room."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageItem
from anomalib.data.datasets.base import image as anomalib_reads
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torchvision.transforms.v2 import Normalize, RandomHorizontalFlip

from anomalib_ckaad.features.folder import GIB
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.read_once import MemoryBudget, ReadImagesOnce, ReadOnce
from tests.conftest import make_folder_data
from tests.models import make_ckaad
from tests.test_feature_cache import fit

ITEM = 3 * 8 * 8 * 4
"""Bytes of an image of 8x8."""


class Counted:
    """A data set that counts what is asked of it."""

    augmentations = None

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> ImageItem:
        self.asked.append(index)
        return ImageItem(image=torch.full((3, 8, 8), float(index)))


def test_what_fits_is_asked_for_once() -> None:
    counted = Counted()
    data = ReadOnce(counted, MemoryBudget(2 * ITEM))
    for _ in range(3):
        assert [int(data[index].image.max()) for index in range(len(data))] == [0, 1, 2]
    assert counted.asked == [0, 1, 2, 2, 2]


def test_data_sets_share_the_room() -> None:
    first, second, room = Counted(), Counted(), MemoryBudget(ITEM)
    for data in (ReadOnce(first, room), ReadOnce(second, room)):
        _ = data[0], data[0]
    assert (first.asked, second.asked) == ([0], [0, 0])


def test_is_the_data_set_in_everything_else() -> None:
    counted = Counted()
    data = ReadOnce(counted, MemoryBudget(ITEM))
    assert data.augmentations is None
    assert not hasattr(data, "samples")
    assert type(copy.deepcopy(data)) is Counted
    _ = data[0]
    data.augmentations = "others"
    assert counted.augmentations == "others"
    assert data.room.taken == 0
    _ = data[0], data[0]
    assert counted.asked == [0, 0]


def test_items_may_be_changed() -> None:
    """anomalib stretches the images of a batch to one size, in their items."""
    data = ReadOnce(Counted(), MemoryBudget(ITEM))
    data[0].image = torch.ones(3, 4, 4)
    assert data[0].image.shape == (3, 8, 8)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of images that anomalib's data sets read."""
    paths: list[str] = []
    read = anomalib_reads.read_image

    def noted(path: str, **options: Any) -> Any:
        paths.append(str(path))
        return read(path, **options)

    monkeypatch.setattr(anomalib_reads, "read_image", noted)
    return paths


@pytest.mark.parametrize("known", [False, True])
def test_a_training_reads_each_image_once(known: bool, folder_root: Path, tmp_path: Path, reads: list[str]) -> None:
    """Four normal images to train on, two to validate on, two known anomalies."""
    model, _ = fit(folder_root, tmp_path, known=known)
    assert len(reads) == len(set(reads)) == (8 if known else 6)
    data = model.trainer.datamodule  # type: ignore[attr-defined]  # Lightning's connector sets it
    assert not isinstance(data.train_data, ReadOnce)
    assert not isinstance(getattr(data, "known_data", None), ReadOnce)


@pytest.mark.parametrize("why", ["no cache", "no room", "random"])
def test_reads_anew_where_it_must(why: str, folder_root: Path, tmp_path: Path, reads: list[str]) -> None:
    limits = {"no cache": 0, "no room": 1000 / GIB}
    augmentations = RandomHorizontalFlip() if why == "random" else None
    fit(folder_root, tmp_path, known=False, augmentations=augmentations, cache={"memory": limits.get(why, 2.0)})
    assert len(reads) == 3 * (4 + 2)


def images_of_own(data: Any) -> Any:
    """Data whose items are made by other rules than anomalib's."""

    class Own(type(data)):  # type: ignore[misc]  # whatever it is
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)

    data.__class__ = Own
    return data


@pytest.mark.parametrize("why", ["workers", "own rules", "unknown augmentations", "no input size"])
def test_leaves_alone_what_may_change(why: str, folder_root: Path, tmp_path: Path) -> None:
    data = make_folder_data(folder_root, num_workers=int(why == "workers"))
    data.setup()
    if why == "own rules":
        data.train_data = images_of_own(data.train_data)
    if why == "unknown augmentations":
        data.val_data = list(data.val_data)
    trainer = SimpleNamespace(datamodule=data)
    model = make_ckaad("resnet18", (2, 3), pre_trained=False, pre_processor=why != "no input size", image_size=64)
    ReadImagesOnce().on_fit_start(trainer, model)  # type: ignore[arg-type]  # all it asks of a trainer
    assert not isinstance(data.train_data, ReadOnce)


def test_is_undone_where_a_fit_fails(folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What uses the data next reads them by its own rules."""
    data = make_folder_data(folder_root)
    wrapped: list[Any] = []

    def fail(self: Ckaad, *_: object) -> None:
        wrapped.append(self.trainer.datamodule.train_data)  # type: ignore[attr-defined]
        self.frozen_features.cache.get(torch.rand(1, 3, 64, 64), ["a"], lambda images: [images])
        assert self.frozen_features.cache.bytes_held > 0
        raise RuntimeError("out of paper")

    monkeypatch.setattr(Ckaad, "training_step", fail)
    model = make_ckaad("resnet18", (2, 3), pre_trained=False, image_size=64, visualizer=False)
    with pytest.raises(RuntimeError, match="out of paper"):
        Engine(default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False, max_epochs=1).fit(
            model, datamodule=data
        )
    assert isinstance(wrapped[0], ReadOnce)
    assert wrapped[0].kept == {}
    assert model.frozen_features.cache.bytes_held == 0
    assert not isinstance(data.train_data, ReadOnce)
    assert not isinstance(data.val_data, ReadOnce)


def test_images_of_several_sizes(tmp_path: Path) -> None:
    """anomalib stretches those of a batch to one size, which another epoch's batch may have another of."""
    for folder in ("good", "test_good", "bad"):
        (tmp_path / folder).mkdir()
        for index in range(6):
            image = np.random.default_rng(index).integers(0, 255, (64 + 8 * index, 120 - 8 * index, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / folder / f"{index}.png")
    only_normalized = PreProcessor(Normalize([0.5] * 3, [0.25] * 3))
    model, _ = fit(tmp_path, tmp_path / "out", known=False, pre_processor=only_normalized, synthesis=False)
    assert model.trainer.current_epoch == 3


def test_counts_what_features_take() -> None:
    model = CkaadModel("resnet18", (2, 3))
    features = model.backbone(torch.rand(1, 3, 72, 40))
    assert model.feature_bytes(72, 40) == sum(stage.nbytes for stage in features)
