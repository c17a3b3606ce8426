"""Which anomalous images are known: how many, of which types, and never one that is also tested on."""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pandas import DataFrame

from anomalib_ckaad.errors import KnownAnomaliesError

UNTYPED_LABELS = frozenset({"abnormal", "anomalous", "anomaly", "bad", "defect", "defective", "test", "train", "ng"})
NORMAL_FOLDERS = frozenset({"good", "normal", "ok"})
UNTYPED_FOLDERS = frozenset({"anomalies", "defects", "known", "known_anomalies", "known_bad"})
UNTYPED = "untyped"
"""Type of known anomalies that lie in no folder named after one."""


def count_for_ratio(normal: int, ratio: float) -> int:
    """Number of known anomalies that make up ``ratio`` of all training images, as the paper counts them.

    Args:
        normal: Number of normal training images.
        ratio: Share of known anomalies, in (0, 1).

    Example:
        >>> count_for_ratio(1281, 0.05)
        67
    """
    return round(normal / (1 - ratio) - normal)


def check_request(*, ratio: float | None, count: object, types: object, reserve: object, use: object) -> None:
    """Refuse arguments of ``KnownAnomalies`` that make no sense, before any image is looked at.

    Raises:
        KnownAnomaliesError: If one is out of its range, of another kind, or at odds with another.
    """
    for name, value in (("count", count), ("reserve", reserve)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            msg = f"Expected {name} to be a whole number, got {value!r}. Do change {name}."
            raise KnownAnomaliesError(msg)
    if isinstance(types, bool) or (isinstance(types, Sequence) and not types):
        msg = f"Expected types to be names or how many to draw, got {types!r}. Do leave it out for all types."
        raise KnownAnomaliesError(msg)
    if ratio is not None and not 0 < ratio < 1:
        msg = f"Expected ratio in (0, 1), got {ratio}. Do name the share of known anomalies, such as 0.05."
        raise KnownAnomaliesError(msg)
    if isinstance(count, int) and (ratio is not None or count < 0):
        msg = f"Expected either ratio or a count of at least 0, got ratio {ratio} and count {count}. Do give one."
        raise KnownAnomaliesError(msg)
    if isinstance(reserve, int) and (not isinstance(count, int) or reserve < count):
        msg = f"Expected reserve of at least count, got reserve {reserve} and count {count}. Do give both."
        raise KnownAnomaliesError(msg)
    if use not in {"train", "drop"}:
        msg = f"Expected use to be train or drop, got {use!r}. Do change use."
        raise KnownAnomaliesError(msg)


def type_of(row: Mapping[str, object]) -> str:
    """Type of an anomalous image: the data set's name for it where it has one, else the image's parent folder.

    Example:
        >>> type_of({"image_path": "test/crack/1.png", "label": "abnormal"})
        'crack'
    """
    own = row.get("type") or row.get("label")
    if isinstance(own, str) and own and own.lower() not in UNTYPED_LABELS:
        return own
    return Path(str(row["image_path"])).parent.name


def types_of(samples: DataFrame) -> list[str]:
    """``type_of`` each row."""
    return [type_of(row) for row in samples.to_dict("records")]


def choose(
    samples: DataFrame,
    normal: int,
    *,
    ratio: float | None,
    count: int | None,
    types: Sequence[str] | int | None,
    seed: int,
    group_of: Callable[[str], str] | None = None,
) -> DataFrame:
    """Choose the known ones among anomalous samples.

    Args:
        samples: Anomalous samples, with ``image_path``.
        normal: Number of normal training images, which ``ratio`` refers to.
        ratio: Share of known anomalies among the training images, in (0, 1); at most what there is.
        count: Number of known anomalies; without ``ratio`` and ``count``, all.
        types: Types to choose from by name, or how many types to draw; None for all.
        seed: Of what is drawn.
        group_of: From a path to the part or patient it shows: as few of them as will do are drawn. None draws images.

    Returns:
        The chosen rows, with their type in a column ``type``.

    Raises:
        KnownAnomaliesError: If there is no anomaly, a type is unknown, or more are asked for than there are.
    """
    samples = samples.assign(type=types_of(samples)).sort_values("image_path", ignore_index=True)
    offered = sorted(set(samples["type"]))
    draw = random.Random(seed)
    if types is None:
        chosen = offered
    elif isinstance(types, int):
        if not 1 <= types <= len(offered):
            msg = f"Expected types to be at most {len(offered)} ({', '.join(offered)}), got {types}. Do lower it."
            raise KnownAnomaliesError(msg)
        chosen = sorted(draw.sample(offered, types))
    else:
        unknown = sorted(set(types) - set(offered))
        if unknown:
            msg = f"Expected types among {', '.join(offered) or 'none'}, got {', '.join(unknown)}. Do correct types."
            raise KnownAnomaliesError(msg)
        chosen = list(types)
    samples = samples[samples["type"].isin(chosen)].reset_index(drop=True)
    wanted = len(samples)
    if ratio is not None:
        wanted = min(wanted, count_for_ratio(normal, ratio))
        if not wanted:
            msg = (
                f"Expected ratio to be at least one known anomaly, got {ratio} with {normal} normal images, which is "
                "none. Do raise ratio, or give a count."
            )
            raise KnownAnomaliesError(msg)
    elif count is not None:
        if count > len(samples):
            msg = f"Expected count of at most {len(samples)}, the anomalies there are, got {count}. Do lower it."
            raise KnownAnomaliesError(msg)
        wanted = count
    if group_of is None:
        return samples.iloc[sorted(draw.sample(range(len(samples)), wanted))].reset_index(drop=True)
    groups = samples["image_path"].map(group_of)
    order = sorted(set(groups))
    draw.shuffle(order)
    rank = groups.map({name: position for position, name in enumerate(order)})
    return samples.iloc[sorted(rank.sort_values(kind="stable").index[:wanted])].reset_index(drop=True)


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def find_overlap(known: Iterable[str], others: Mapping[str, Iterable[str]]) -> dict[str, list[tuple[str, str]]]:
    """Find known anomalies that are also somewhere else, by path and by content.

    Args:
        known: Paths of the known anomalies.
        others: Paths of the images they must not be among, by what these are.

    Returns:
        Pairs of a known anomaly and the image that it also is, by what the latter is; without the empty ones.
    """
    by_path, by_digest = {}, {}
    for path in known:
        by_path[Path(path).resolve()] = path
        by_digest[_digest(path)] = path
    sizes = {Path(path).stat().st_size for path in by_path.values()}
    found = {}
    for name, paths in others.items():
        pairs = []
        for path in paths:
            same = by_path.get(Path(path).resolve())
            if same is None and Path(path).stat().st_size in sizes:  # reading every file would take long
                same = by_digest.get(_digest(path))
            if same is not None:
                pairs.append((same, path))
        if pairs:
            found[name] = pairs
    return found


def refuse_overlap(known: Iterable[str], others: Mapping[str, Iterable[str]]) -> None:
    """Refuse known anomalies that are also somewhere else, by path and by content.

    Args:
        known: Paths of the known anomalies.
        others: Paths of the images they must not be among, by what these are.

    Raises:
        KnownAnomaliesError: If there is overlap; the message names the files.
    """
    for name, pairs in find_overlap(known, others).items():
        shown = "; ".join(f"{one} = {other}" for one, other in pairs[:3])
        shown += f"; and {len(pairs) - 3} more" if len(pairs) > 3 else ""  # noqa: PLR2004
        msg = (
            f"Expected known anomalies that are not among the {name} images, got {len(pairs)} in both ({shown}). "
            "Do take them out of one of the two."
        )
        raise KnownAnomaliesError(msg)


def read_folder(folder: Path, extensions: Iterable[str]) -> DataFrame:
    """Samples of a user's folder of known anomalies, with or without a folder for each type.

    Args:
        folder: Images in it, or in folders named after their types.
        extensions: Endings of image files, such as ``.png``.

    Raises:
        KnownAnomaliesError: If the folder is missing or empty, or holds a folder named like normal images.
    """
    if not folder.is_dir():
        msg = f"Expected known_anomaly_dir to be a folder, got {folder}. Do correct the path."
        raise KnownAnomaliesError(msg)
    endings = {extension.lower() for extension in extensions}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not paths:
        msg = f"Expected images of known anomalies in {folder}, got none. Do put at least one there."
        raise KnownAnomaliesError(msg)
    below = [path.relative_to(folder).parts[:-1] for path in paths]
    normal = [
        path
        for path, parts in zip(paths, below, strict=True)
        if {part.lower() for part in (folder.name, *parts)} & NORMAL_FOLDERS
    ]
    if normal:
        msg = f"Expected anomalous images only in {folder}, got normal ones by name ({normal[0]}). Do move them away."
        raise KnownAnomaliesError(msg)
    flat = UNTYPED if folder.name.lower() in UNTYPED_LABELS | UNTYPED_FOLDERS else folder.name
    types = [parts[0] if parts else flat for parts in below]
    return DataFrame({"image_path": [str(path) for path in paths], "type": types})
