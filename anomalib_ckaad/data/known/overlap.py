"""Known anomalies that are also validation, test or normal training images, by path or by content."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from anomalib_ckaad.errors import KnownAnomaliesError
from anomalib_ckaad.files import sha256_of

SHOWN_PAIRS: Final = 3


def find_overlap(known: Iterable[str], others: Mapping[str, Iterable[str]]) -> dict[str, list[tuple[str, str]]]:
    """Find known anomalies that are also among other images, by path or by content.

    Args:
        known: Paths of the known anomalies.
        others: Paths of the other images, by the name of their subset.

    Returns:
        Pairs of a known anomaly and the other image that it equals, by subset; subsets without overlap are left out.
    """
    by_path, by_digest = {}, {}
    for path in known:
        by_path[Path(path).resolve()] = path
        by_digest[sha256_of(path)] = path
    sizes = {Path(path).stat().st_size for path in by_path.values()}
    found = {}
    for name, paths in others.items():
        pairs = []
        for path in paths:
            same = by_path.get(Path(path).resolve())
            if same is None and Path(path).stat().st_size in sizes:  # reading every file would take long
                same = by_digest.get(sha256_of(path))
            if same is not None:
                pairs.append((same, path))
        if pairs:
            found[name] = pairs
    return found


def refuse_overlap(known: Iterable[str], others: Mapping[str, Iterable[str]]) -> None:
    """Refuse known anomalies that are also among other images.

    Args:
        known: Paths of the known anomalies.
        others: Paths of the other images, by the name of their subset.

    Raises:
        KnownAnomaliesError: If there is overlap; the message names the files.
    """
    for name, pairs in find_overlap(known, others).items():
        shown = "; ".join(f"{one} = {other}" for one, other in pairs[:SHOWN_PAIRS])
        more = f"; and {len(pairs) - SHOWN_PAIRS} more" if len(pairs) > SHOWN_PAIRS else ""
        msg = (
            f"Known anomalies are also among the {name} images: {len(pairs)} ({shown}{more}). "
            "Remove them from one of the two."
        )
        raise KnownAnomaliesError(msg)
