"""The worst mistakes of a study's methods, side by side."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from PIL import Image

from anomalib_ckaad.study.results import Results

SIDE = 128
"""Height and width in pixels of the pictures."""
SHOWN = 8
"""How many of the worst misses and of the worst false alarms of each method are shown."""


class Card(NamedTuple):
    """An image with the maps and mistakes of each method.

    Attributes:
        data: Name of the data set.
        name: File name with its folder.
        kind: ``miss`` for an anomalous image, ``false alarm`` for a normal one.
        image: Data URL.
        mask: Data URL; empty if there is no mask.
        maps: Data URL by method; all maps of a method have the same color scale.
        badness: By method, the share of test images of the other kind that are ranked on the wrong side of this image,
            in [0, 1].
    """

    data: str
    name: str
    kind: str
    image: str
    mask: str
    maps: Mapping[str, str]
    badness: Mapping[str, float]


def badness_of(scores: Sequence[float], labels: Sequence[bool]) -> np.ndarray[Any, Any]:
    """Compute for each image the share of the images of the other kind that are ranked on the wrong side of it.

    >>> badness_of([0.1, 0.4, 0.3, 0.9], [False, False, True, True]).tolist()
    [0.0, 0.5, 0.5, 0.0]
    """
    values, anomalous = np.asarray(scores), np.asarray(labels, dtype=bool)
    normal, bad = np.sort(values[~anomalous]), np.sort(values[anomalous])
    missed = 1 - np.searchsorted(normal, values, side="left") / max(len(normal), 1)
    alarmed = np.searchsorted(bad, values, side="right") / max(len(bad), 1)
    return np.where(anomalous, missed, alarmed)


def make_cards(results: Results, data: str) -> list[Card]:
    """Make cards of the worst misses and false alarms of every method with the first seed, each image once."""
    found = {method: results.scores(rows[0]) for method in results.methods if (rows := results.rows(data, method))}
    found = {method: scores for method, scores in found.items() if scores}
    if not found:
        return []
    first = next(iter(found.values()))
    # Only methods that were tested on the same images in the same order can share a card.
    found = {name: one for name, one in found.items() if np.array_equal(one["paths"], first["paths"])}
    labels = first["labels"].astype(bool)
    badness = {name: badness_of(one["scores"], labels) for name, one in found.items()}
    chosen: set[int] = set()
    for values in badness.values():
        for kind in (labels, ~labels):
            of_kind = np.flatnonzero(kind & (values > 0))
            chosen |= set(of_kind[np.argsort(-values[of_kind], kind="stable")][:SHOWN].tolist())
    scales = {name: _scale(one["maps"]) for name, one in found.items()}
    return [
        Card(
            data=data,
            name="/".join(Path(first["paths"][index]).parts[-2:]),
            kind="miss" if labels[index] else "false alarm",
            image=_picture(str(first["paths"][index])),
            mask=_picture(str(first["masks"][index])) if first["masks"][index] else "",
            maps={name: _map(one["maps"][index], scales[name]) for name, one in found.items() if len(one["maps"])},
            badness={name: float(values[index]) for name, values in badness.items()},
        )
        for index in sorted(chosen)
    ]


def _scale(maps: np.ndarray[Any, Any]) -> tuple[float, float]:
    if not maps.size:
        return 0.0, 1.0
    low, high = np.quantile(maps.astype(np.float32), [0.01, 0.999])
    return float(low), float(max(high, low + 1e-6))


def _map(values: np.ndarray[Any, Any], scale: tuple[float, float]) -> str:
    low, high = scale
    unit = ((values.astype(np.float32) - low) / (high - low)).clip(0, 1)
    colored = (255 * colormaps["turbo"](unit)[..., :3]).astype(np.uint8)
    return _data_url(Image.fromarray(colored).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _picture(path: str) -> str:
    """A small copy; empty if the file is missing or not an image."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":  # 16 bits or more, which Pillow would clip
                values = np.asarray(image, dtype=np.float64)
                low, high = values.min(), values.max()
                shown: Image.Image = Image.fromarray((255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8))
            else:
                shown = image
            return _data_url(shown.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
    except OSError:
        return ""


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
