"""A picture of what a model found: images, masks, anomaly maps and overlays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anomalib_ckaad.files import written_whole
from anomalib_ckaad.metrics.per_type import Scored

NORMAL: Final = "normal"
MOST_TYPES: Final = 12
"""More types would make the picture too long."""
PANELS: Final = ("image", "mask", "anomaly map", "overlay")
COLORS: Final = "inferno"


@dataclass(frozen=True)
class Scale:
    """Range of raw anomaly scores that the colors span; the same for all images, so that they can be compared."""

    low: float
    high: float

    @classmethod
    def of(cls, scored: Scored) -> "Scale":
        """From the median of the normal images to the 99.9th percentile of all pixels."""
        normal = scored.maps[~scored.labels]
        low = float(np.median((normal if len(normal) else scored.maps).numpy()))
        # torch.quantile refuses more than 16 million values.
        high = float(np.quantile(scored.maps.numpy(), 0.999))
        return cls(low, max(high, low + 1e-9))

    def apply(self, scores: Tensor) -> NDArray[np.float32]:
        """Bring scores to [0, 1]."""
        unit: NDArray[np.float32] = ((scores - self.low) / (self.high - self.low)).clamp(0, 1).float().numpy()
        return unit


def choose(scored: Scored) -> list[tuple[str, list[int]]]:
    """Choose the images with the highest and the lowest score of each type of defect and of the normal ones.

    Returns:
        Names of the types in alphabetical order, ``normal`` last, each with the indices of one or two images.
    """
    types = scored.types
    names = sorted({kind for kind in types if kind is not None})[:MOST_TYPES]
    chosen = []
    for name, kind in (*((name, name) for name in names), (NORMAL, None)):
        own = [index for index, other in enumerate(types) if other == kind]
        own.sort(key=lambda index: float(scored.scores[index]), reverse=True)
        if own:
            chosen.append((name, [own[0], own[-1]] if len(own) > 1 else own))
    return chosen


def draw_gallery(scored: Scored, file: Path) -> None:
    """Draw image, mask, map and overlay of the images that ``choose`` gives, and save the picture.

    Args:
        scored: Scores of the test images; the images are read again from their paths.
        file: The PNG file; its folder is created if missing.
    """
    rows, scale = choose(scored), Scale.of(scored)
    columns = 2 * len(PANELS)
    figure = Figure(figsize=(1.6 * columns, 1.85 * len(rows) + 0.4), layout="constrained", dpi=100)
    axes = np.asarray(figure.subplots(len(rows), columns, squeeze=False))
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (name, indices) in enumerate(rows):
        for half, index in enumerate(indices):
            panels: list[Axes] = axes[row, half * len(PANELS) : (half + 1) * len(PANELS)].tolist()
            _draw_image(panels, scored, index, scale)
            verdict = "" if scored.predicted is None else ", flagged" if scored.predicted[index] else ", passed"
            panels[0].set_title(f"{name}: {float(scored.scores[index]):.3g}{verdict}", fontsize=8, loc="left")
            if row == 0:
                for panel, title in zip(panels[1:], PANELS[1:], strict=True):
                    panel.set_title(title, fontsize=8)
    figure.suptitle(
        "Highest (left) and lowest score (right) of each type of defect and of the normal images", fontsize=9
    )
    with written_whole(file) as temporary:
        figure.savefig(temporary)


def _draw_image(axes: Sequence[Axes], scored: Scored, index: int, scale: Scale) -> None:
    height, width = scored.maps.shape[-2:]
    with Image.open(scored.paths[index]) as opened:
        image = np.asarray(opened.convert("RGB").resize((width, height)), dtype=np.float32) / 255
    heat = scale.apply(scored.maps[index])
    axes[0].imshow(image)
    mask = scored.masks[index] if scored.masks is not None else None
    if mask is not None:
        axes[1].imshow(mask.to(torch.uint8).numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        axes[1].text(0.5, 0.5, "no mask", ha="center", va="center", fontsize=8, transform=axes[1].transAxes)
    axes[2].imshow(heat, cmap=COLORS, vmin=0, vmax=1)
    strength = 0.75 * heat[..., None]
    axes[3].imshow((1 - strength) * image + strength * colormaps[COLORS](heat)[..., :3])
    if mask is not None and bool(mask.any()):
        axes[3].contour(mask.to(torch.uint8).numpy(), levels=[0.5], colors="cyan", linewidths=0.6)
