"""The command `anomalib-ckaad convert`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomalib_ckaad.cli import main as cli
from anomalib_ckaad.data.reading.convert_folder import converted_names
from tests.conftest import write_images
from tests.image_files import write_dicom, write_png, write_tiff, write_turned

VALUES = np.linspace(1000, 5000, 1200).astype(np.uint16).reshape(30, 40)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two normal images, a bad one that is brighter, and files of all other kinds."""
    source = tmp_path / "source"
    write_png(source / "good" / "0.png", VALUES)
    write_tiff(source / "good" / "1.tif", VALUES)
    write_png(source / "bad" / "crack" / "2.png", VALUES + 3000)
    write_dicom(source / "bad" / "crack" / "3.dcm", VALUES)
    write_turned(source / "bad" / "4.jpg", np.zeros((10, 20), np.uint8), 6)
    write_images(source / "eight", 2)
    write_png(source / "masks" / "2.png", VALUES)
    (source / "masks" / "notes.txt").write_text("of masks")
    (source / "readme.txt").write_text("no image")
    (source / "good" / "._0.png").write_bytes(b"of macOS")
    return source


def call(*words: Any) -> int:
    return cli.main(["convert", *map(str, words)])


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)


def test_whole_tree(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out" / "target"
    assert call(source, target, "--normal", "good", "--masks", "masks") == 0
    assert files(target) == {
        *("good/0.png", "good/1.png", "bad/crack/2.png", "bad/crack/3.png", "bad/4.png"),
        *("eight/000.png", "eight/001.png", "masks/2.png", "masks/notes.txt"),
    }
    low, high = np.percentile(VALUES, (0.5, 99.5))
    for name, values in (
        ("good/0", VALUES),
        ("good/1", VALUES),
        ("bad/crack/2", VALUES + 3000),
        ("bad/crack/3", VALUES),
    ):
        np.testing.assert_array_equal(read(target / f"{name}.png"), expected(values, low, high))
    assert read(target / "bad" / "4.png").shape == (20, 10)
    for name in ("eight/000.png", "masks/2.png"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    said = capsys.readouterr().out
    assert said.startswith("Converted 5 images (1 DICOM, 3 more than 8 bits per channel, 1 turned by EXIF), with ")
    assert "; copied 2 images and 2 masks; skipped 2 other files." in said
    assert said.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["target"]


def test_new_images_by_the_numbers_that_it_prints(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(source, tmp_path / "first", "--masks", "masks") == 0
    said = capsys.readouterr().out
    option = said.split("TARGET ")[1].split("`")[0]
    assert option.startswith("--intensities=")
    assert "of all images" in said
    assert call(source / "bad", tmp_path / "second", option) == 0
    np.testing.assert_array_equal(read(tmp_path / "first/bad/crack/2.png"), read(tmp_path / "second/crack/2.png"))


def test_each_image_by_percentiles_of_its_own(source: Path, tmp_path: Path) -> None:
    assert call(source, tmp_path / "out", "--intensities", "image", "--percentiles", "0,100") == 0
    np.testing.assert_array_equal(read(tmp_path / "out/bad/crack/2.png"), expected(VALUES, 1000, 5000))


def test_low_may_be_negative(source: Path, tmp_path: Path) -> None:
    assert call(source, tmp_path / "out", "--intensities=-1000,5000") == 0
    np.testing.assert_array_equal(read(tmp_path / "out/good/0.png"), expected(VALUES, -1000, 5000))


def test_names_that_would_be_the_same(tmp_path: Path) -> None:
    for name, values in (("a.tif", VALUES), ("1.2.3", VALUES), ("1.2.4", VALUES + 10)):
        (write_tiff if name == "a.tif" else write_dicom)(tmp_path / "in" / name, values)
    write_dicom(tmp_path / "in" / "a.dcm", VALUES)
    Image.new("L", (4, 4)).save(tmp_path / "in" / "b.png")
    write_png(tmp_path / "in" / "B.PNG", VALUES)
    write_dicom(tmp_path / "in" / "DICOMDIR", VALUES)
    assert call(tmp_path / "in", tmp_path / "out") == 0
    assert len(files(tmp_path / "out")) == 6
    assert files(tmp_path / "out") >= {"a.dcm.png", "a.tif.png", "1.2.3.png", "1.2.4.png", "b.png"}
    names = converted_names([Path("a.dcm.png"), Path("a.png")], [Path("a.dcm"), Path("a.tif")])
    assert len({*map(str, names.values()), "a.dcm.png", "a.png"}) == 4


def test_nothing_to_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    assert call(tmp_path / "in", tmp_path / "out") == 0
    assert capsys.readouterr().out == "Copied 1 image and 0 masks; skipped 0 other files.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing", "out"], "SOURCE is not a folder: missing. Pass the folder"),
        (["source", "source/out"], "TARGET source/out is inside of SOURCE source. Choose a folder outside"),
        (["source", "full"], "TARGET exists and is not an empty folder: full. Choose another"),
        (["source", "full/000.png"], "TARGET exists and is not an empty folder: full/000.png. Choose another"),
        (["empty", "out"], "There are no images in empty. Check the path."),
        (["source", "out", "--normal", "none"], "--normal and --masks must be folders inside of source, not none."),
        (["source", "out", "--normal", "/"], "--normal and --masks must be folders inside of source, not /."),
        (["source", "out", "--masks", ".."], "--normal and --masks must be folders inside of source, not ..."),
        (["source", "out", "--normal", "eight"], "Low and high cannot be taken from the normal images: none of them "),
        (["source", "out", "--intensities", "9,1"], "`intensities` must be two finite numbers, low before high, not 9"),
        (["source", "out", "--percentiles", "9,101"], "`percentiles` must be in [0, 100], "),
    ],
)
def test_refusals(
    words: list[str],
    message: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_images(tmp_path / "full", 1)
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    monkeypatch.chdir(source.parent)
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize("words", [["--intensities", "each"], ["--intensities", "1"], ["--percentiles", "a,b"]])
def test_words_that_are_no_numbers(words: list[str], source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(source, "out", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{words[0]} must be ")
    assert error.endswith(f", not {words[1]!r}.\n")


def test_cut_off_file_is_named_and_nothing_is_left(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = source / "bad" / "crack" / "2.png"
    path.write_bytes(path.read_bytes()[:-100])
    before = files(tmp_path)
    assert call(source, tmp_path / "out", "--normal", "good") == 2
    assert str(path) in capsys.readouterr().err
    assert files(tmp_path) == before
    assert not (tmp_path / "out").exists()
