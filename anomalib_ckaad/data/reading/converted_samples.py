"""Samples whose images anomalib would misread are pointed to upright 8-bit PNG files in a cache instead."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName
from PIL import Image

from anomalib_ckaad.data.reading.conversion import find_dataset_limits, write_converted, write_png
from anomalib_ckaad.data.reading.conversion_report import count_reasons, describe_rule, how_to_convert_more
from anomalib_ckaad.data.reading.decoding import SIDEWAYS, TURNED, UPRIGHT, needs_conversion, orientation_of, upright
from anomalib_ckaad.data.reading.image_paths import base_name
from anomalib_ckaad.data.reading.intensities import IntensityRule
from anomalib_ckaad.errors import ImageFileError
from anomalib_ckaad.files import cache_root, write_whole

RULE_VERSION: Final = 1  # files that an older version wrote are not used


def cache_folder() -> Path:
    """Folder of the converted images: in ``$ANOMALIB_CKAAD_CACHE``, else in ``~/.cache/anomalib-ckaad``."""
    return cache_root() / "converted"


def convert_samples(subsets: Mapping[str, AnomalibDataset], rule: IntensityRule) -> str | None:
    """Convert the images that anomalib would misread, and let the samples name the converted ones.

    Args:
        subsets: Data sets by name, whose samples are changed; the rule's percentiles come from the normal images of
            ``train``.
        rule: How to convert.

    Returns:
        What was done, in words; None if there was nothing to do.

    Raises:
        ImageFileError: If an image cannot be read, or it is unclear whether its mask is upright.
        IntensityError: If low and high cannot be found.
    """
    paths = dict.fromkeys(path for subset in subsets.values() for path in subset.samples.image_path)
    reasons = {path: reason for path in paths if (reason := needs_conversion(path)) is not None}
    if not reasons:
        return None
    normal = [Path(path) for path in subsets["train"].samples.image_path if reasons.get(path, TURNED) != TURNED]
    rule = _with_limits(rule, normal)
    converted = {path: _cached_image(Path(path), rule) for path in reasons}
    for subset in subsets.values():
        _replace(subset, converted)
    kinds = list(reasons.values())
    return (
        f"Images read as upright 8-bit PNG files: {len(reasons)} ({count_reasons(kinds)}), with "
        f"{describe_rule(rule, kinds)}. {how_to_convert_more(rule, kinds)}"
    )


def _replace(subset: AnomalibDataset, converted: Mapping[str, Path]) -> None:
    """Change paths in place, as anomalib's setter would sort the samples by their names in the cache."""
    samples = subset.samples
    if "mask_path" in samples and samples.attrs.get("task") == "segmentation":
        samples["mask_path"] = [
            str(_upright_mask(Path(image), converted[image], Path(mask)))
            if image in converted and label == LabelName.ABNORMAL and isinstance(mask, str) and mask
            else mask
            for image, label, mask in zip(samples.image_path, samples.label_index, samples.mask_path, strict=True)
        ]
    samples["image_path"] = [str(converted.get(path, path)) for path in samples.image_path]


def _with_limits(rule: IntensityRule, paths: Sequence[Path]) -> IntensityRule:
    """``find_dataset_limits``, which reads every image, but only once for the same files."""
    if not rule.needs_dataset or not paths:
        return rule
    file = cache_folder() / f"limits-{_key(rule.percentiles, sorted(map(_identity, paths)))}.json"
    try:
        limits = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = find_dataset_limits(rule, paths)
        write_whole(file, json.dumps(found.dataset))
        return found
    return rule if limits is None else replace(rule, dataset=(limits[0], limits[1]))


def _cached_image(path: Path, rule: IntensityRule) -> Path:
    target = _place(path, _key(_identity(path), rule.identity))
    if not target.exists():
        write_converted(path, target, rule)
    return target


def _upright_mask(image: Path, converted: Path, mask: Path) -> Path:
    """Path of a mask that fits the upright image: the mask itself, or a turned copy in the cache."""
    orientation, own = orientation_of(image), orientation_of(mask)
    if own == UPRIGHT:
        if orientation == UPRIGHT:
            return mask
        with Image.open(converted) as opened, Image.open(mask) as opened_mask:
            (width, height), mask_size = opened.size, opened_mask.size
        if orientation not in SIDEWAYS or width == height:
            msg = (
                f"It is unclear whether the mask {mask} is upright: its image {image} is turned by EXIF, and its size "
                "fits both ways. If it is upright, convert the images with `anomalib-ckaad convert`; otherwise remove "
                "their EXIF."
            )
            raise ImageFileError(msg)
        if mask_size != (height, width):
            return mask
    turn = orientation if own == UPRIGHT else own
    target = _place(mask, _key("mask", _identity(mask), turn))
    if not target.exists():
        with Image.open(mask) as opened:
            write_png(upright(np.asarray(opened.convert("L")), turn), target)
    return target


def _place(path: Path, key: str) -> Path:
    """Where a converted file lies: in a folder of the same name as before, as that is the type of an anomaly."""
    return cache_folder() / key / path.absolute().parent.name / f"{base_name(path)}.png"


def _identity(path: Path) -> str:
    """A text that changes when the file does."""
    status = path.stat()
    return repr((str(path.resolve()), status.st_size, status.st_mtime_ns))


def _key(*parts: object) -> str:
    return hashlib.sha256(repr((RULE_VERSION, *parts)).encode()).hexdigest()[:32]
