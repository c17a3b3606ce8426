"""Image files of every kind, with known values."""

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

ORIENTATION = 0x0112
GREY = np.array([[0, 1000, 65535], [256, 40000, 7]], np.uint16)
COLOR = np.stack([GREY, GREY[::-1], GREY // 2], axis=-1)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[ORIENTATION] = orientation
    return made


def write_png(path: Path, values: np.ndarray, orientation: int | None = None) -> Path:
    """16 bits of grey (H, W), LA (H, W, 2), RGB (H, W, 3) or RGBA (H, W, 4)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[-1]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0))]
    if orientation is not None:
        chunks.append((b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    made = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + made)
    return path


def write_tiff(path: Path, values: np.ndarray, **arguments: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, **{"photometric": "rgb" if values.ndim == 3 else "minisblack", **arguments})
    return path


def write_pnm(path: Path, values: np.ndarray) -> Path:
    cv2.imwrite(str(path), values if values.ndim == 2 else values[..., ::-1])
    return path


def write_turned(path: Path, values: np.ndarray, orientation: int) -> Path:
    """An 8-bit file that holds ``values`` and says that they are to be turned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, exif=exif(orientation), **({"quality": 100} if path.suffix == ".jpg" else {}))
    return path


def write_dicom(path: Path, values: np.ndarray, **elements: Any) -> Path:
    """DICOM of ``values`` (H, W) or (H, W, 3), without slope, intercept and window unless they are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = values.shape[:2]
    data.BitsAllocated = values.dtype.itemsize * 8
    data.BitsStored, data.HighBit = data.BitsAllocated, data.BitsAllocated - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.SamplesPerPixel = 1 if values.ndim == 2 else 3
    data.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    if values.ndim == 3:
        data.PlanarConfiguration = 0
    for name, value in elements.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes()
    data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"
    data.save_as(path, enforce_file_format=True)
    return path
