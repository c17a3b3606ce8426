"""KnownAnomalies over images of any kind, and what anomalib's own data sets are warned of."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from jsonargparse import ArgumentParser
from PIL import Image

from anomalib_ckaad.data.known.known_anomalies import KnownAnomalies
from anomalib_ckaad.data.reading import converted_samples
from anomalib_ckaad.data.reading.conversion import write_converted
from anomalib_ckaad.data.reading.intensities import IntensityRule
from anomalib_ckaad.errors import ImageFileError, IntensityError, KnownAnomaliesError
from anomalib_ckaad.lightning_model import Ckaad
from tests.conftest import make_folder_data, write_images
from tests.image_files import GREY, write_dicom, write_png, write_tiff, write_turned

SIZE = 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANOMALIB_CKAAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "converted"


def ramp(low: float, high: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).permutation(SIZE * SIZE).reshape(SIZE, SIZE)
    return (low + noise / (SIZE * SIZE - 1) * (high - low)).astype(np.uint16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """16-bit images of 1000 to 5000, test images that reach 9000, and DICOM of known anomalies with a slope of 2."""
    root = tmp_path / "data"
    for index in range(6):
        write_png(root / "good" / f"{index:03}.png", ramp(1000, 5000, index))
    for index in range(2):
        write_tiff(root / "test_good" / f"{index:03}.tif", ramp(1000, 5000, 10 + index))
        write_png(root / "bad" / f"{index:03}.png", ramp(1000, 9000, 20 + index))
        write_dicom(
            root / "known" / "crack" / f"{index:03}.dcm",
            ramp(500, 2500, 30 + index),
            RescaleSlope=2,
            RescaleIntercept=0,
        )
    return root


def ready(root: Path, inner: dict[str, Any] | None = None, **arguments: Any) -> KnownAnomalies:
    data = KnownAnomalies(make_folder_data(root, **(inner or {})), known_anomaly_dir=root / "known", **arguments)
    data.setup()
    return data


def values_of(dataset: Any) -> dict[str, np.ndarray]:
    return {Path(path).stem: np.asarray(Image.open(path)) for path in dataset.samples.image_path}


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)


def test_all_subsets_by_one_range(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = ready(root, intensities=[1000, 5000])
    assert data.known_types == {"crack": 2}
    np.testing.assert_array_equal(values_of(data.test_data)["000"].shape, (SIZE, SIZE))
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape == (4, 3, SIZE, SIZE)
    assert batch.gt_label.tolist() == [False, False, True, True]
    for path, image in zip(batch.image_path, batch.image, strict=True):
        number = int(Path(path).stem)
        if Path(path).parent.name == "crack":
            values = ramp(500, 2500, 30 + number).astype(float) * 2
        else:
            values = ramp(1000, 5000, number)
        for channel in image:
            np.testing.assert_array_equal(np.rint(channel.numpy() * 255), expected(values, 1000, 5000))
    sentence = "Images read as upright 8-bit PNG files: 12 (2 DICOM, 10 more than 8 bits per channel), with "
    assert sentence + "low 1000 and high 5000, as given. To convert new images in the same way, run " in caplog.text
    assert "`anomalib-ckaad convert FOLDER TARGET --intensities=1000,5000`." in caplog.text


def test_percentiles_are_the_normal_training_images(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = ready(root)
    train = np.concatenate([ramp(1000, 5000, int(Path(p).stem)) for p in data.train_data.samples.image_path])
    low, high = np.percentile(train, (0.5, 99.5))
    test = {Path(p).parent.name + Path(p).stem: p for p in data.test_data.samples.image_path}
    np.testing.assert_array_equal(np.asarray(Image.open(test["bad000"])), expected(ramp(1000, 9000, 20), low, high))
    np.testing.assert_array_equal(
        np.asarray(Image.open(test["test_good001"])), expected(ramp(1000, 5000, 11), low, high)
    )
    assert f"low {low:g}" in caplog.text
    assert "(for DICOM files with a window: `--intensities image`)" in caplog.text


def test_percentiles_of_each_image(root: Path) -> None:
    data = ready(root, intensities="image", percentiles=(0, 100))
    bad = next(p for p in data.test_data.samples.image_path if "/bad/000" in p)
    np.testing.assert_array_equal(np.asarray(Image.open(bad)), expected(ramp(1000, 9000, 20), 1000, 9000))


def test_same_value_in_two_files_is_the_same(root: Path) -> None:
    values = ramp(1000, 5000, 99)
    write_tiff(root / "bad" / "100.tif", values)
    write_dicom(root / "bad" / "101.dcm", values)
    write_tiff(root / "bad" / "102.tif", values.astype(np.float32))
    data = ready(root, {"extensions": (".png", ".tif", ".dcm")})
    found = values_of(data.test_data)
    np.testing.assert_array_equal(found["100"], found["101"])
    np.testing.assert_array_equal(found["100"], found["102"])


def test_order_of_samples_and_originals_stay(root: Path) -> None:
    data = ready(root)
    assert [Path(path).stem for path in data.train_data.samples.image_path] == [
        Path(path).stem for path in data.data.train_data.samples.image_path
    ]
    assert all(str(root) in path for path in data.data.train_data.samples.image_path)
    names = [(Path(path).parent.name, Path(path).stem) for path in data.test_data.samples.image_path]
    assert names == [("bad", "000"), ("bad", "001"), ("test_good", "000"), ("test_good", "001")]


def test_cache_is_used_again_and_never_stale(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready(root)
    written = sorted(cache.rglob("*.png"))
    assert len(written) == 12
    assert not list(cache.rglob(".*"))
    with monkeypatch.context() as patch:
        patch.setattr("anomalib_ckaad.data.reading.conversion.decode", lambda path: pytest.fail(f"read {path}"))
        ready(root)
    changed = root / "bad" / "000.png"
    write_png(changed, ramp(2000, 3000))
    ready(root)
    assert len(set(cache.rglob("*.png")) - set(written)) == 1
    write_png(root / "good" / "000.png", ramp(0, 60000))
    write_png(root / "good" / "001.png", ramp(0, 60000))
    write_png(root / "good" / "002.png", ramp(0, 60000))
    write_png(root / "good" / "003.png", ramp(0, 60000))
    ready(root)
    assert len(set(cache.rglob("*.png")) - set(written)) == 13


def test_cache_lies_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANOMALIB_CKAAD_CACHE")
    assert converted_samples.cache_folder() == Path.home() / ".cache" / "anomalib-ckaad" / "converted"


def test_links_keep_the_name_of_their_folder(root: Path) -> None:
    (root / "known" / "crack" / "000.dcm").rename(root / "elsewhere.dcm")
    (root / "known" / "hole").mkdir()
    (root / "known" / "hole" / "1.dcm").symlink_to(root / "elsewhere.dcm")
    data = ready(root)
    assert data.known_types == {"crack": 1, "hole": 1}
    assert {Path(path).parent.name for path in data.known_data.samples.image_path} == {"crack", "hole"}


def test_engine_trains_tests_and_draws(root: Path, tmp_path: Path) -> None:
    model = Ckaad(backbone="resnet18", layers=(2, 3), image_size=64, pre_trained=False)
    engine = Engine(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    data = KnownAnomalies(make_folder_data(root), known_anomaly_dir=root / "known")
    engine.fit(model, datamodule=data)
    (results,) = engine.test(model, datamodule=data)
    assert "image_AUROC" in results
    drawn = {path.parent.name for path in tmp_path.rglob("images/**/*.png")}
    assert drawn == {"bad", "test_good"}


def test_overlap_is_looked_for_in_the_originals(root: Path) -> None:
    shutil.copy(root / "bad" / "000.png", root / "known" / "crack" / "copy.png")
    with pytest.raises(KnownAnomaliesError, match=r"also among the test images: 1 \(.*copy\.png = .*bad/000\.png\)"):
        ready(root)


def test_eight_bit_data_are_left_alone(tmp_path: Path, cache: Path) -> None:
    for name in ("good", "test_good", "bad", "known"):
        write_images(tmp_path / name, 4)
    data = ready(tmp_path)
    assert all(str(tmp_path) in path for path in data.train_data.samples.image_path)
    assert not cache.exists()


def test_no_normal_image_to_take_the_range_from(tmp_path: Path) -> None:
    for name in ("good", "test_good", "bad"):
        write_images(tmp_path / name, 4)
    write_png(tmp_path / "known" / "a.png", GREY)
    with pytest.raises(IntensityError, match=r"none of them has more than 8 bits .*`intensities`"):
        ready(tmp_path)
    assert values_of(ready(tmp_path, intensities="image").known_data)["a"].max() == 255


def test_windows_of_dicom_need_no_percentiles(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for name in ("good", "test_good", "bad", "known"):
        for index in range(4):
            values = ramp(0, 4000, len(name) * 10 + index)
            write_dicom(tmp_path / name / f"{index}.dcm", values, WindowCenter=1000.5, WindowWidth=1001)
    data = ready(tmp_path, {"extensions": (".dcm",)})
    values = ramp(0, 4000, 30)
    np.testing.assert_array_equal(values_of(data.test_data.subsample([0]))["0"], expected(values, 500, 1500))
    assert "the window stored in DICOM files as low and high" in caplog.text
    assert "convert FOLDER TARGET --intensities image`" in caplog.text


# Masks of images that EXIF turns


def turned_data(root: Path, orientation: int, mask: np.ndarray, shape: tuple[int, int] = (32, 48)) -> Path:
    for name in ("good", "test_good", "known"):
        for index in range(3):
            noise = np.random.default_rng([index, len(name)]).integers(0, 255, (48, 32, 3), dtype=np.uint8)
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(root / name / f"{index}.png")
    write_turned(root / "bad" / "0.jpg", np.zeros((*shape, 3), np.uint8), orientation)
    (root / "masks").mkdir()
    Image.fromarray(mask).save(root / "masks" / "0.png")
    return root


def upright_mask() -> np.ndarray:
    mask = np.zeros((48, 32), np.uint8)
    mask[:5, :9] = 255
    return mask


@pytest.mark.parametrize("is_upright", [True, False])
def test_mask_fits_the_upright_image(is_upright: bool, tmp_path: Path) -> None:
    mask = upright_mask()
    root = turned_data(tmp_path / "data", 6, mask if is_upright else np.rot90(mask))
    data = ready(root, {"masks": True})
    batch = next(iter(data.test_dataloader()))
    index = batch.gt_label.tolist().index(True)
    assert tuple(batch.image.shape[-2:]) == (48, 32)
    np.testing.assert_array_equal(batch.gt_mask[index].squeeze().numpy(), mask > 0)


def test_mask_with_exif_of_its_own(tmp_path: Path) -> None:
    root = turned_data(tmp_path / "data", 3, upright_mask(), (48, 32))
    write_turned(root / "masks" / "0.png", np.rot90(upright_mask(), 2), 3)
    batch = next(iter(ready(root, {"masks": True}).test_dataloader()))
    index = batch.gt_label.tolist().index(True)
    np.testing.assert_array_equal(batch.gt_mask[index].squeeze().numpy(), upright_mask() > 0)


@pytest.mark.parametrize(("orientation", "shape"), [(3, (48, 32)), (6, (48, 48))])
def test_mask_that_could_be_either_way_round(orientation: int, shape: tuple[int, int], tmp_path: Path) -> None:
    root = turned_data(tmp_path / "data", orientation, np.zeros(shape, np.uint8), shape)
    with pytest.raises(ImageFileError, match=r"masks/0\.png is upright: its image .*bad/0\.jpg"):
        ready(root, {"masks": True})
    assert len(ready(root).test_data) == 4  # no masks, nothing to ask


# Files and settings


def test_nothing_half_written(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", np.random.default_rng(0).integers(0, 65535, (50, 50), dtype=np.uint16))
    source.write_bytes(source.read_bytes()[:2000])
    with pytest.raises(ImageFileError, match=r"a\.png"):
        write_converted(source, tmp_path / "out" / "a.png", IntensityRule("image"))
    assert not list((tmp_path / "out").rglob("*.*"))


def test_several_at_once_write_the_same_file(tmp_path: Path) -> None:
    source, target = write_png(tmp_path / "a.png", ramp(0, 4000)), tmp_path / "out" / "a.png"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write_converted(source, target, IntensityRule((0, 4000))), range(16)))
    np.testing.assert_array_equal(np.asarray(Image.open(target)), expected(ramp(0, 4000), 0, 4000))
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("words", "intensities", "percentiles"),
    [
        ([], "dataset", (0.5, 99.5)),
        (["--data.intensities", "image", "--data.percentiles", "[1, 99]"], "image", (1, 99)),
        (["--data.intensities", "[-100, 4000]"], (-100, 4000), (0.5, 99.5)),
    ],
)
def test_command_line(words: list[str], intensities: Any, percentiles: Any, root: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    given = ["--data", "KnownAnomalies", *words, "--data.data", "Folder", "--data.data.name", "x"]
    given += ["--data.data.root", str(root), "--data.data.normal_dir", "good"]
    data = parser.instantiate_classes(parser.parse_args(given)).data
    assert data.rule == IntensityRule(intensities, percentiles)


def test_bad_settings_are_refused_at_once(root: Path) -> None:
    with pytest.raises(IntensityError, match=r"`intensities` .*, not 5 and 1"):
        KnownAnomalies(make_folder_data(root), count=1, intensities=(5, 1))
