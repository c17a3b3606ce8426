"""What is in an image file, and how it becomes 8 bits."""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from pydicom import dcmread, encaps
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import JPEGLSLossless

from anomalib_ckaad.data.reading.decoding import decode, needs_conversion, orientation_of, upright
from anomalib_ckaad.data.reading.intensities import (
    Decoded,
    IntensityRule,
    percentile_limits,
    sample_pixels,
    to_eight_bits,
)
from anomalib_ckaad.errors import ImageFileError, IntensityError, MissingPackageError
from tests.image_files import COLOR, GREY, write_dicom, write_png, write_pnm, write_tiff, write_turned

DEEP = "more than 8 bits per channel"
ALPHA = np.full((2, 3, 1), 9, np.uint16)
FLOATS = GREY.astype(np.float32) / 7


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("grey.png", lambda p: write_png(p, GREY), GREY),
        ("la.png", lambda p: write_png(p, np.dstack([GREY, ALPHA])), np.dstack([GREY] * 3)),
        ("rgb.png", lambda p: write_png(p, COLOR), COLOR),
        ("rgba.png", lambda p: write_png(p, np.dstack([COLOR, ALPHA])), COLOR),
        ("turned.png", lambda p: write_png(p, GREY, 6), np.rot90(GREY, -1)),
        ("grey.pgm", lambda p: write_pnm(p, GREY), GREY),
        ("rgb.ppm", lambda p: write_pnm(p, COLOR), COLOR),
        ("grey.tif", lambda p: write_tiff(p, GREY), GREY),
        ("grey_big.tif", lambda p: write_tiff(p, GREY, byteorder=">"), GREY),
        ("bigtiff.tif", lambda p: write_tiff(p, GREY, bigtiff=True), GREY),
        ("rgb.tif", lambda p: write_tiff(p, COLOR), COLOR),
        ("rgb_big.tif", lambda p: write_tiff(p, COLOR, byteorder=">"), COLOR),
        ("lzw.tif", lambda p: write_tiff(p, COLOR, compression="lzw"), COLOR),
        ("planes.tif", lambda p: write_tiff(p, np.moveaxis(COLOR, 2, 0), planarconfig="separate"), COLOR),
        ("rgba.tif", lambda p: write_tiff(p, np.dstack([COLOR, ALPHA]), extrasamples=["unassalpha"]), COLOR),
        ("signed.tif", lambda p: write_tiff(p, GREY.astype(np.int32) - 500), GREY.astype(int) - 500),
        ("float.tif", lambda p: write_tiff(p, FLOATS), FLOATS),
        ("float_rgb.tif", lambda p: write_tiff(p, COLOR.astype(np.float32)), COLOR),
        ("double.tif", lambda p: write_tiff(p, FLOATS.astype(np.float64)), FLOATS),
        ("white.tif", lambda p: write_tiff(p, GREY, photometric="miniswhite"), 65535 - GREY),
        ("white_float.tif", lambda p: write_tiff(p, FLOATS, photometric="miniswhite"), -FLOATS),
        ("turned.tif", lambda p: write_tiff(p, GREY, extratags=[(274, 3, 1, 8, True)]), np.rot90(GREY)),
    ],
)
def test_more_than_eight_bits_are_read_whole(
    name: str, write: Callable[[Path], Path], expected: np.ndarray, tmp_path: Path
) -> None:
    path = write(tmp_path / name)
    assert needs_conversion(path) == DEEP
    decoded = decode(path)
    np.testing.assert_array_equal(decoded.values, expected)
    assert not decoded.has_eight_bits
    assert decoded.window is None


def test_grey_and_alpha_of_sixteen_bits_in_tiff(tmp_path: Path) -> None:
    values = np.dstack([GREY, ALPHA])
    path = write_tiff(
        tmp_path / "la.tif", values, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]
    )
    assert needs_conversion(path) == DEEP
    np.testing.assert_array_equal(decode(path).values, GREY)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_eight_bits_need_nothing_and_keep_their_values(mode: str, tmp_path: Path) -> None:
    made = Image.effect_noise((6, 4), 50).convert("RGB").convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    made.save(path, **({"transparency": 0} if mode == "P" else {}))
    assert needs_conversion(path) is None
    decoded = decode(path)
    assert decoded.has_eight_bits
    values = to_eight_bits(decoded.values, IntensityRule().limits(decoded))
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(Image.fromarray(values).convert("RGB")), expected)


def test_tiff_of_eight_bits_that_is_white_at_zero_needs_nothing(tmp_path: Path) -> None:
    grey = GREY.astype(np.uint8)
    path = write_tiff(tmp_path / "white.tif", grey, photometric="miniswhite")
    assert needs_conversion(path) is None
    np.testing.assert_array_equal(np.asarray(Image.open(path).convert("L")), 255 - grey)


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_of_eight_bits_is_turned_where_pillow_fails(
    orientation: int, byteorder: Any, compression: str | None, tmp_path: Path
) -> None:
    color = COLOR.astype(np.uint8)
    tags = [(274, 3, 1, orientation, True)]
    path = write_tiff(tmp_path / "a.tif", color, extratags=tags, compression=compression, byteorder=byteorder)
    expected = upright(color, orientation)
    if needs_conversion(path) == "turned by EXIF":
        assert orientation_of(path) == orientation
        np.testing.assert_array_equal(decode(path).values, expected)
    else:
        assert orientation_of(path) == 1
        np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), expected)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int, suffix: str, tmp_path: Path) -> None:
    values = np.zeros((16, 24, 3), np.uint8)
    values[:8, :8], values[8:, 16:, 0] = 200, 120
    path = write_turned(tmp_path / f"image{suffix}", values, orientation)
    assert needs_conversion(path) == (None if orientation == 1 else "turned by EXIF")
    assert orientation_of(path) == orientation
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    decoded = decode(path)
    assert decoded.has_eight_bits
    np.testing.assert_array_equal(decoded.values, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_equals_pillow(orientation: int) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    image = Image.fromarray(values)
    image.getexif()[274] = orientation
    np.testing.assert_array_equal(upright(values, orientation), np.asarray(ImageOps.exif_transpose(image)))


def test_orientations_that_do_not_exist_are_none(tmp_path: Path) -> None:
    assert needs_conversion(write_turned(tmp_path / "a.jpg", np.zeros((4, 4), np.uint8), 9)) is None


def test_not_a_number_is_black_and_counts_for_nothing(tmp_path: Path) -> None:
    values = np.linspace(0, 100, 10_000, dtype=np.float32).reshape(100, 100)
    values[0, :3] = np.nan, np.inf, -np.inf
    path = write_tiff(tmp_path / "a.tif", values)
    decoded = decode(path)
    low, high = IntensityRule("image").limits(decoded) or (0, 0)
    assert (low, high) == pytest.approx((0.53, 99.5), abs=0.02)
    assert to_eight_bits(decoded.values, (low, high))[0, :3].tolist() == [0, 255, 0]


def test_nothing_but_not_a_number(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"a\.tif has no finite intensity"):
        decode(write_tiff(tmp_path / "a.tif", np.full((3, 3), np.nan, np.float32)))


# DICOM

STORED = np.array([[0, 1, 1000], [2000, 4095, 24]], np.uint16)
CENTER_AND_WIDTH = {"WindowCenter": 40, "WindowWidth": 401}


@pytest.mark.parametrize(
    ("elements", "values", "window"),
    [
        ({}, STORED, None),
        ({"RescaleSlope": 2, "RescaleIntercept": -1024}, STORED * 2.0 - 1024, None),
        (CENTER_AND_WIDTH, STORED, (-160.5, 239.5)),
        ({**CENTER_AND_WIDTH, "VOILUTFunction": "LINEAR_EXACT"}, STORED, (-160.5, 240.5)),
        ({"WindowCenter": [40, 300], "WindowWidth": [401, 1000]}, STORED, (-160.5, 239.5)),
        ({"WindowCenter": 40, "WindowWidth": 0}, STORED, None),
        ({"PhotometricInterpretation": "MONOCHROME1"}, 4095.0 - STORED, None),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 2, "RescaleIntercept": -10},
            (4095.0 - STORED) * 2 - 10,
            None,
        ),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1000.5, "WindowWidth": 101},
            4095.0 - STORED,
            (3045, 3145),
        ),
    ],
)
def test_dicom_values_and_window(
    elements: dict[str, Any], values: np.ndarray, window: tuple[float, float] | None, tmp_path: Path
) -> None:
    path = write_dicom(tmp_path / "a.dcm", STORED, **{"BitsStored": 12, "HighBit": 11, **elements})
    assert needs_conversion(path) == "DICOM"
    decoded = decode(path)
    np.testing.assert_array_equal(decoded.values, values)
    assert decoded.window == window
    assert not decoded.has_eight_bits


def test_dicom_of_signed_values_and_padding(tmp_path: Path) -> None:
    signed = np.array([[-2000, -1000], [0, 3000]], np.int16)
    path = write_dicom(tmp_path / "a.dcm", signed, PixelPaddingValue=-2000, RescaleSlope=1, RescaleIntercept=-24)
    np.testing.assert_array_equal(decode(path).values, [[np.nan, -1024], [-24, 2976]])


def test_dicom_window_is_the_standards(tmp_path: Path) -> None:
    """PS3.3 C.11.2.1.2.1, as pydicom carries it out."""
    values = np.arange(400, dtype=np.uint16).reshape(20, 20)
    path = write_dicom(tmp_path / "a.dcm", values, WindowCenter=200, WindowWidth=100)
    decoded = decode(path)
    expected = np.rint(apply_windowing(values, dcmread(path)) / 65535 * 255)
    np.testing.assert_array_equal(to_eight_bits(decoded.values, IntensityRule().limits(decoded)), expected)


def test_dicom_of_eight_bits_keeps_its_values(tmp_path: Path) -> None:
    color, grey = COLOR.astype(np.uint8), GREY.astype(np.uint8)
    for name, values, elements, expected in (
        ("rgb", color, {}, color),
        ("grey", grey, {}, grey),
        ("inverse", grey, {"PhotometricInterpretation": "MONOCHROME1"}, 255 - grey),
        ("unit", grey, {"RescaleSlope": 1, "RescaleIntercept": 0}, grey),
    ):
        decoded = decode(write_dicom(tmp_path / f"{name}.dcm", values, **elements))
        assert decoded.has_eight_bits
        np.testing.assert_array_equal(decoded.values, expected)
    windowed = decode(write_dicom(tmp_path / "w.dcm", grey, WindowCenter=100.5, WindowWidth=101))
    assert IntensityRule().limits(windowed) == (50, 150)


def test_dicom_in_ybr_becomes_rgb(tmp_path: Path) -> None:
    grey = np.full((2, 2, 3), (90, 128, 128), np.uint8)
    path = write_dicom(tmp_path / "a.dcm", grey, PhotometricInterpretation="YBR_FULL")
    assert decode(path).values.tolist() == [[[90, 90, 90]] * 2] * 2


def test_dicom_is_known_by_its_content(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "IM0001", STORED)
    assert needs_conversion(path) == "DICOM"
    np.testing.assert_array_equal(decode(path).values, STORED)


def test_missing_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", STORED)
    original = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("pydicom"):
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingPackageError, match=r"a\.dcm needs pydicom\. .*`pip install 'anomalib-ckaad\[medical\]'`"
    ):
        decode(path)


# What is refused


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "pages.tif",
            lambda p: write_tiff(p, np.stack([GREY, GREY]), photometric="minisblack"),
            r"2 images.* Write each",
        ),
        (
            "five.tif",
            lambda p: write_tiff(p, np.dstack([GREY] * 5), photometric="minisblack", planarconfig="contig"),
            r"MINISBLACK with 5 channels\. Convert",
        ),
        (
            "cmyk.tif",
            lambda p: write_tiff(p, np.dstack([GREY] * 4), photometric="separated"),
            r"SEPARATED with 4 .*Convert",
        ),
        ("frames.dcm", lambda p: write_dicom(p, STORED, NumberOfFrames=2), r"frames: 2.* Write each"),
        ("text.dcm", lambda p: p.write_text("not DICOM") and p, r"Cannot read the image .*Replace or remove"),
    ],
)
def test_refusals_name_the_file(name: str, write: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    with pytest.raises(ImageFileError, match=message) as caught:
        decode(path)
    assert name in str(caught.value)


def test_compressed_dicom_without_a_decoder(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", STORED)
    data = dcmread(path)
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    data.PixelData = encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    data["PixelData"].is_undefined_length = True
    data.save_as(path)
    with pytest.raises(ImageFileError, match=r"a\.dcm.* (Decompress|Replace) "):
        decode(path)


NOISE = np.random.default_rng(0).integers(0, 65536, (60, 60), dtype=np.uint16)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", lambda p: write_png(p, NOISE)),
        ("rgb.png", lambda p: write_png(p, np.dstack([NOISE] * 3))),
        ("a.ppm", lambda p: write_pnm(p, np.dstack([NOISE] * 3))),
        ("a.tif", lambda p: write_tiff(p, NOISE)),
        ("lzw.tif", lambda p: write_tiff(p, NOISE, compression="lzw")),
        ("a.dcm", lambda p: write_dicom(p, NOISE)),
        ("a.jpg", lambda p: write_turned(p, NOISE.astype(np.uint8), 6)),
    ],
)
@pytest.mark.parametrize("share", [0.05, 0.7])
def test_cut_off_files_are_named(name: str, write: Callable[[Path], Path], share: float, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageFileError, match=rf"{name} .*Replace or remove it"):
        decode(path)


@pytest.mark.parametrize("read", [needs_conversion, orientation_of, decode])
def test_damaged_headers_are_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    files = [
        write_png(tmp_path / "a.png", NOISE, 6),
        write_tiff(tmp_path / "a.tif", NOISE),
        write_pnm(tmp_path / "a.pgm", NOISE),
    ]
    for path in files:
        content = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(content[: generator.integers(1, len(content))])
            for place in generator.integers(0, min(len(damaged), 300), 3):
                damaged[place] = generator.integers(256)
            path.write_bytes(damaged)
            try:
                read(path)
            except ImageFileError as error:
                assert str(path) in str(error)  # noqa: PT017 - not every damage is found


def test_what_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ImageFileError, match=r"a\.png"):
        needs_conversion(path)
    path.write_text("no image")
    with pytest.raises(ImageFileError, match=r"a\.png"):
        needs_conversion(path)


# The rule


def test_order_of_low_and_high() -> None:
    image = Decoded(np.arange(1001.0).reshape(1, -1), window=(3, 4))
    plain = Decoded(image.values)
    assert IntensityRule((1, 2)).limits(image) == (1, 2)
    assert IntensityRule("image").limits(image) == (3, 4)
    assert IntensityRule("image").limits(plain) == (5, 995)
    assert IntensityRule("image", (0, 100)).limits(plain) == (0, 1000)
    rule = IntensityRule().with_dataset([np.arange(2001)])
    assert rule.limits(image) == (3, 4)
    assert rule.limits(plain) == (10, 1990)
    with pytest.raises(IntensityError, match=r"`intensities`"):
        IntensityRule().with_dataset([]).limits(plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((5, 5),), r"`intensities` .*, not 5 and 5"),
        (((0, float("nan")),), r"`intensities` .*, not 0 and nan"),
        (("each",), r"`intensities` .*, not 'each'"),
        (("image", (50, 50)), r"`percentiles` .*\[0, 100\].*, not 50 and 50"),
        (("image", (-1, 99)), r"`percentiles` .*\[0, 100\].*, not -1 and 99"),
    ],
)
def test_bad_rules(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(IntensityError, match=message):
        IntensityRule(*arguments)


def test_same_percentiles_give_way_to_minimum_and_maximum() -> None:
    mostly_black = np.zeros(10_000)
    mostly_black[7] = 40
    assert percentile_limits([mostly_black]) == (0, 40)
    constant = np.full((4, 4), 1234, np.uint16)
    assert not to_eight_bits(constant, percentile_limits([constant])).any()


def test_extreme_numbers() -> None:
    values = np.array([-3e38, 0, 1, 3e38], np.float32)
    assert to_eight_bits(values, (0, 1)).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("shape", [(1000, 1000), (1, 1_000_000), (997, 1009), (512, 512, 3), (3, 3)])
def test_samples_are_few_and_from_all_columns(shape: tuple[int, ...]) -> None:
    columns = np.broadcast_to(np.arange(shape[1])[None, :, None], (*shape[:2], 1 if len(shape) == 2 else 3))
    sample = sample_pixels(columns.reshape(shape))
    channels = 1 if len(shape) == 2 else 3
    assert len(sample) <= 10_000 * channels
    assert len(sample) >= min(columns.size, 5_000)
    assert len(np.unique(sample)) == min(shape[1], len(sample) // channels)
