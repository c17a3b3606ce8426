"""A user's folder: which layouts are understood, what they become, and what is said of the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.data import Folder
from PIL import Image

from anomalib_ckaad.data.reading.image_paths import images_below
from anomalib_ckaad.data.reading.user_folder import find_images
from anomalib_ckaad.errors import DataError, MissingDataError


def write_images(folder: Path, count: int, suffix: str = ".png", name: str = "{:03d}") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.full((24, 32, 3), 10 * (index % 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name.format(index)}{suffix}")


def write_masks(folder: Path, count: int, name: str = "{:03d}_mask") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        mask = np.zeros((24, 32), dtype=np.uint8)
        mask[4:8, 4:8] = 255
        Image.fromarray(mask).save(folder / f"{name.format(index)}.png")


def write_mvtec(root: Path, *, normal_test: int = 4, masks: bool = True) -> None:
    write_images(root / "train" / "good", 20)
    if normal_test:
        write_images(root / "test" / "good", normal_test)
    for kind, count in (("crack", 3), ("stain", 2)):
        write_images(root / "test" / kind, count)
        if masks:
            write_masks(root / "ground_truth" / kind, count)


def make_folder(config: dict[str, Any]) -> Folder:
    assert config["class_path"] == "anomalib.data.Folder"
    data = Folder(**config["init_args"])
    data.setup()
    return data


def check_splits(data: Folder, root: Path, *, train: int, val: int, test_normal: int, test_abnormal: int) -> None:
    assert (len(data.train_data), len(data.val_data)) == (train, val)
    assert (data.train_data.samples.label_index == 0).all()
    assert (data.val_data.samples.label_index == 0).all()
    assert (data.test_data.samples.label_index == 0).sum() == test_normal
    assert (data.test_data.samples.label_index == 1).sum() == test_abnormal
    parts = [set(part.samples.image_path) for part in (data.train_data, data.val_data, data.test_data)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert all(Path(path).is_relative_to(root) for part in parts for path in part)


@pytest.mark.parametrize("masks", [True, False])
def test_mvtec_arrangement(tmp_path: Path, *, masks: bool) -> None:
    write_mvtec(tmp_path, masks=masks)
    found = find_images(tmp_path)
    data = make_folder(found.datamodule_config())
    check_splits(data, tmp_path, train=18, val=2, test_normal=4, test_abnormal=5)
    assert found.train_images == 18
    assert data.task.value == ("segmentation" if masks else "classification")
    kinds = {Path(path).parent.name for path in data.test_data.samples.image_path}
    assert kinds == {"good", "crack", "stain"}
    if masks:
        item = data.test_data[len(data.test_data) - 1]
        assert item.gt_mask is not None
    assert all("/train/good/" in path for path in data.val_data.samples.image_path)


def test_mvtec_arrangement_without_normal_test_images_takes_some_from_train(tmp_path: Path) -> None:
    write_mvtec(tmp_path, normal_test=0)
    found = find_images(tmp_path)
    assert found.normal_test is None
    check_splits(make_folder(found.datamodule_config()), tmp_path, train=15, val=1, test_normal=4, test_abnormal=5)
    assert found.train_images == 15


def test_simple_arrangement_with_types_of_defects_and_other_suffixes(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 30, suffix=".JPG")
    write_images(tmp_path / "bad" / "dent", 2, suffix=".bmp")
    write_images(tmp_path / "bad" / "rust", 3, suffix=".jpeg")
    (tmp_path / "good" / "notes.txt").write_text("no image")
    found = find_images(tmp_path)
    data = make_folder(found.datamodule_config(batch_size=8))
    check_splits(data, tmp_path, train=22, val=2, test_normal=6, test_abnormal=5)
    assert found.train_images == 22
    assert data.train_batch_size == 8
    kinds = {Path(path).parent.name for path in data.test_data.samples.image_path}
    assert kinds == {"good", "dent", "rust"}


@pytest.mark.parametrize("count", range(10, 60, 7))
def test_validation_and_test_are_never_empty(tmp_path: Path, count: int) -> None:
    write_images(tmp_path / "good", count)
    write_images(tmp_path / "bad", 1)
    found = find_images(tmp_path)
    data = make_folder(found.datamodule_config())
    assert len(data.val_data) >= 1
    assert (data.test_data.samples.label_index == 0).sum() >= 2
    assert len(data.train_data) == found.train_images >= 7


def test_same_seed_gives_the_same_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 20)
    write_images(tmp_path / "bad", 3)
    first, again, other = (
        make_folder(find_images(tmp_path).datamodule_config(seed=seed)).val_data.samples.image_path.tolist()
        + make_folder(find_images(tmp_path).datamodule_config(seed=seed)).train_data.samples.image_path.tolist()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_relative_folder_works_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mvtec(tmp_path / "parts")
    monkeypatch.chdir(tmp_path)
    config = find_images(Path("parts")).datamodule_config()
    monkeypatch.chdir("/")
    assert len(make_folder(config).train_data) == 18


def test_images_below_takes_images_only(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 2)
    (tmp_path / "a" / "x.csv").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in images_below(tmp_path)] == ["000.png", "001.png"]


def test_other_arrangements_are_refused_naming_both(tmp_path: Path) -> None:
    write_images(tmp_path / "NORMAL", 12)
    write_images(tmp_path / "DEFECT", 2)
    with pytest.raises(
        DataError, match=r"train/good and test/<type> as in MVTec AD, or good and bad.*\.png.*holds DEFECT, NORMAL"
    ):
        find_images(tmp_path)


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds nothing"):
        find_images(tmp_path)
    with pytest.raises(MissingDataError, match=r"/missing does not exist"):
        find_images(tmp_path / "missing")
    write_images(tmp_path, 1)
    with pytest.raises(MissingDataError, match=r"/000\.png is a file\. Pass the folder"):
        find_images(tmp_path / "000.png")


def test_no_anomalous_image_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 12)
    (tmp_path / "bad").mkdir()
    with pytest.raises(DataError, match=r"good and bad, each with images"):
        find_images(tmp_path)
    write_images(tmp_path / "train" / "good", 12)
    write_images(tmp_path / "test" / "good", 2)
    with pytest.raises(DataError, match=r"test/<type>"):
        find_images(tmp_path)


def test_too_few_normal_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 9)
    write_images(tmp_path / "bad", 2)
    with pytest.raises(DataError, match=r"/good: 9\. At least 10"):
        find_images(tmp_path)


def test_a_missing_mask_is_refused(tmp_path: Path) -> None:
    write_mvtec(tmp_path)
    (tmp_path / "ground_truth" / "crack" / "002_mask.png").unlink()
    with pytest.raises(DataError, match=r"ground_truth/crack has 2 masks for the 3 images in .*test/crack"):
        find_images(tmp_path)


def test_masks_that_sort_differently_are_refused_since_anomalib_would_swap_them(tmp_path: Path) -> None:
    write_mvtec(tmp_path)
    write_images(tmp_path / "test" / "dent", 11, name="{}")
    write_masks(tmp_path / "ground_truth" / "dent", 11, name="{}_mask")
    with pytest.raises(DataError, match=r"10_mask\.png .* 1\.png .*\(001 instead of 1\)"):
        find_images(tmp_path)
