"""``anomalib-ckaad convert``: copies a folder of images of any kind as images that anomalib reads correctly."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomalib_ckaad.data.reading.conversion import find_dataset_limits, write_converted
from anomalib_ckaad.data.reading.conversion_report import count_reasons, describe_rule, how_to_convert_more
from anomalib_ckaad.data.reading.decoding import TURNED, Reason, needs_conversion
from anomalib_ckaad.data.reading.dicom import DICOM_HEAD, has_dicom_magic
from anomalib_ckaad.data.reading.image_paths import IMAGE_SUFFIXES, base_name
from anomalib_ckaad.data.reading.intensities import PERCENTILES, Intensities, IntensityRule, Limits
from anomalib_ckaad.errors import ConversionError
from anomalib_ckaad.files import write_folder_whole


@dataclass
class Plan:
    """What happens to each file of a folder, by path inside of it."""

    converted: dict[Path, Reason] = field(default_factory=dict)
    images: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    others: int = 0


def convert_folder(
    source: Path,
    target: Path,
    intensities: Intensities = "dataset",
    percentiles: Limits = PERCENTILES,
    normal: Sequence[str] = (),
    masks: Sequence[str] = (),
) -> str:
    """Copy a folder, with all images upright and of 8 bits.

    Args:
        source: Folder of images, in folders or not.
        target: Folder that does not exist yet, or is empty.
        intensities: As for ``IntensityRule``.
        percentiles: Which, in percent.
        normal: Folders in ``source`` with the normal training images, from which percentiles of the ``dataset`` are
            taken. Default: from all images.
        masks: Folders in ``source`` whose files are copied as they are.

    Returns:
        What was done, in words.

    Raises:
        ConversionError: If a folder is missing, or ``target`` is not empty or lies in ``source``, or there is no image.
        ImageFileError: If an image cannot be read; nothing is written then.
        IntensityError: If low and high cannot be found.
    """
    rule = IntensityRule(intensities, percentiles)
    _check_folders(source, target, [*normal, *masks])
    plan = _plan(source, masks)
    if not plan.converted and not plan.images:
        msg = f"There are no images in {source}. Check the path."
        raise ConversionError(msg)
    deep = [
        source / path for path, reason in plan.converted.items() if reason != TURNED and _is_in(path, normal or ["."])
    ]
    rule = find_dataset_limits(rule, deep)
    names = converted_names([*plan.images, *plan.masks], list(plan.converted))

    def write(folder: Path) -> None:
        for path in (*plan.images, *plan.masks):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / path, folder / path)
        for path, name in names.items():
            write_converted(source / path, folder / name, rule)

    if target.is_dir():
        target.rmdir()  # an empty one, which cannot be renamed over everywhere
    if not write_folder_whole(target, write):
        msg = f"TARGET was created by another program in the meantime: {target}. Choose another one."
        raise ConversionError(msg)
    return _report(plan, rule, over="normal" if normal else "all")


def converted_names(copied: Sequence[Path], converted: Sequence[Path]) -> dict[Path, Path]:
    """Names of the PNG files that images are converted to, all different from each other and from copied files.

    Example:
        >>> names = converted_names([Path("c.png")], [Path("a.dcm"), Path("b.dcm"), Path("b.tif"), Path("c.dcm")])
        >>> [str(name) for name in names.values()]
        ['a.png', 'b.dcm.png', 'b.tif.png', 'c.dcm.png']
    """

    def key(path: Path) -> str:
        return str(path).lower()  # some file systems ignore case

    short = {path: path.with_name(f"{base_name(path)}.png") for path in converted}
    uses = Counter(key(name) for name in (*short.values(), *copied))
    taken = {key(path) for path in copied}
    names = {}
    for path, name in short.items():
        chosen = path.with_name(f"{path.name}.png") if uses[key(name)] > 1 else name
        while key(chosen) in taken:
            chosen = chosen.with_name(f"{chosen.stem}_.png")
        taken.add(key(chosen))
        names[path] = chosen
    return names


def _check_folders(source: Path, target: Path, inner: Sequence[str]) -> None:
    if not source.is_dir():
        msg = f"SOURCE is not a folder: {source}. Pass the folder that contains the images."
        raise ConversionError(msg)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        msg = f"TARGET exists and is not an empty folder: {target}. Choose another one."
        raise ConversionError(msg)
    if target.resolve().is_relative_to(source.resolve()):
        msg = f"TARGET {target} is inside of SOURCE {source}. Choose a folder outside of it."
        raise ConversionError(msg)
    for name in inner:
        if Path(name).is_absolute() or ".." in Path(name).parts or not (source / name).is_dir():
            msg = f"--normal and --masks must be folders inside of {source}, not {name}."
            raise ConversionError(msg)


def _plan(source: Path, masks: Sequence[str]) -> Plan:
    plan = Plan()
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        if not path.is_file():
            continue
        if _is_in(inner, masks):
            plan.masks.append(inner)
        elif any(part.startswith(".") for part in inner.parts) or not _is_image(path):
            plan.others += 1
        elif (reason := needs_conversion(path)) is None:
            plan.images.append(inner)
        else:
            plan.converted[inner] = reason
    return plan


def _is_in(path: Path, folders: Sequence[str]) -> bool:
    return any(path.is_relative_to(Path(folder)) for folder in folders)


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    with path.open("rb") as file:
        return has_dicom_magic(file.read(DICOM_HEAD)) and path.name.upper() != "DICOMDIR"


def _report(plan: Plan, rule: IntensityRule, over: str) -> str:
    kinds = list(plan.converted.values())
    parts = []
    if kinds:
        how = describe_rule(rule, kinds, over)
        parts.append(f"converted {_count(len(kinds), 'image')} ({count_reasons(kinds)}), with {how}")
    parts.append(f"copied {_count(len(plan.images), 'image')} and {_count(len(plan.masks), 'mask')}")
    parts.append(f"skipped {_count(plan.others, 'other file')}")
    sentence = "; ".join(parts)
    more = f" {how_to_convert_more(rule, kinds)}" if kinds else ""
    return f"{sentence[0].upper()}{sentence[1:]}.{more}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
