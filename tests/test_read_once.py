"""Images that come again as they were are read once, where the training's own process reads them and there is room."""

import copy
import functools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import ImageItem
from anomalib.data.datasets.base import image as anomalib_reads
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_ckaad.data.read_once import ReadOnce, Room, keep_what_is_read, read_anew
from anomalib_ckaad.feature_folder import GIB
from anomalib_ckaad.torch_model import CkaadModel
from tests.conftest import make_folder_data
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
    data = ReadOnce(counted, Room(2 * ITEM))
    for _ in range(3):
        assert [int(data[index].image.max()) for index in range(len(data))] == [0, 1, 2]
    assert counted.asked == [0, 1, 2, 2, 2]


def test_data_sets_share_the_room() -> None:
    first, second, room = Counted(), Counted(), Room(ITEM)
    for data in (ReadOnce(first, room), ReadOnce(second, room)):
        _ = data[0], data[0]
    assert (first.asked, second.asked) == ([0], [0, 0])


def test_is_the_data_set_in_everything_else() -> None:
    data = ReadOnce(Counted(), Room(0))
    assert data.augmentations is None
    assert not hasattr(data, "samples")
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):  # noqa: S301 - our own bytes
        assert int(other[1].image.max()) == 1


def test_is_undone(folder_root: Path) -> None:
    data = make_folder_data(folder_root)
    data.setup()
    before = data.train_data, data.val_data
    keep_what_is_read(data, 1.0)
    keep_what_is_read(data, 1.0)
    assert isinstance(data.train_data, ReadOnce)
    read_anew(data)
    read_anew(None)
    assert (data.train_data, data.val_data) == before


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
    fit(folder_root, tmp_path, known=False, augmentations=augmentations, feature_cache=limits.get(why, 2.0))
    assert len(reads) == 3 * (4 + 2)


def test_leaves_workers_alone(folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker keeps is lost with it."""
    kept: list[float] = []
    monkeypatch.setattr("anomalib_ckaad.fitting_methods.keep_what_is_read", lambda _, size: kept.append(size))
    with_worker = functools.partial(make_folder_data, num_workers=1)
    monkeypatch.setattr("tests.test_feature_cache.make_folder_data", with_worker)
    fit(folder_root, tmp_path, known=False)
    assert kept == []


def test_counts_what_features_take() -> None:
    model = CkaadModel("resnet18", (2, 3))
    features = model.backbone(torch.rand(1, 3, 72, 40))
    assert model.feature_bytes(72, 40) == sum(stage.nbytes for stage in features)
