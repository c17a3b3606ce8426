"""Painters of defects: five kinds of damage on a gray texture, each with the mask of the pixels it changed.

Lengths are given for an image of 256 pixels and scale with the image. They follow what inspection data sets show:
scratches of a pixel or two across and a third of the image long, holes, stains and patches of 0.5 to 7 % of the area.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from anomalib_ckaad.errors import ConfigurationError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Painter = Callable[[FloatArray, np.random.Generator, FloatArray], tuple[FloatArray, FloatArray]]
"""From image, random generator and foreign texture to damage and its coverage, all (H, W) in [0, 1]."""

VISIBLE: Final = 0.2
"""Coverage from which a pixel counts as damaged; what lies below stays untouched, so that the mask is exact."""


def paint(kind: str, image: FloatArray, rng: np.random.Generator, foreign: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Damage an image.

    Args:
        kind: One of ``PAINTERS``.
        image: Gray image of shape (H, W), in [0, 1].
        rng: Decides where, how large and how strong the defect is.
        foreign: Another texture of shape (H, W), in [0, 1], for the kinds that need one.

    Returns:
        The damaged image in [0, 1] and its mask, both (H, W). Pixels outside the mask are those of ``image``.

    Raises:
        ConfigurationError: If ``kind`` is unknown.
    """
    if kind not in PAINTERS:
        msg = f"`kind` must be one of {', '.join(PAINTERS)}, not {kind!r}."
        raise ConfigurationError(msg)
    damage, coverage = PAINTERS[kind](image, rng, foreign)
    mask = coverage >= VISIBLE
    painted = np.clip(image + coverage * (damage - image), 0, 1)
    return np.where(mask, painted, image), mask


def scratch(image: FloatArray, rng: np.random.Generator, foreign: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Draw a thin, slightly bent, tapering line, lighter or darker than the surface."""
    del foreign
    scale = len(image) / 256
    points = _path(rng, _center(rng, image), rng.uniform(0, np.pi), scale * rng.uniform(60, 150), bend=0.6, wobble=0.15)
    distance, along = _distance_to_path(points, image.shape, reach=6 * scale)
    half_width = scale * rng.uniform(0.9, 1.6) * (1 - np.abs(2 * along - 1) ** 4)
    pressure = 0.75 + 0.25 * _smooth_noise_1d(rng, len(points), 25 * scale)[(along * (len(points) - 1)).astype(int)]
    coverage = pressure * _ramp(half_width - distance, 0.8 * scale)
    contrast = rng.uniform(0.22, 0.38) * rng.choice([-1, 1], p=[0.35, 0.65])
    return gaussian_filter(image, 2 * scale) + contrast, coverage


def stain(image: FloatArray, rng: np.random.Generator, foreign: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Pour something on the surface: it darkens or whitens it, most at the rim, and the texture shows through."""
    del foreign
    scale = len(image) / 256
    cloud = gaussian_filter(rng.standard_normal(image.shape), 6 * scale)
    cloud /= cloud.std()
    inside = _blob(image, rng, scale * rng.uniform(18, 36), roughness=0.3) + 1.2 * scale * cloud
    coverage = _ramp(inside, 5 * scale)
    rim = np.exp(-((inside / (5 * scale)) ** 2))
    strength = rng.uniform(0.28, 0.45) * np.clip(0.9 + 0.25 * rim + 0.12 * cloud, 0.6, 1.3)
    target = rng.choice([0.08, 0.92], p=[0.7, 0.3])
    return image + strength * (target - image), coverage


def hole(image: FloatArray, rng: np.random.Generator, foreign: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Break a piece out: a dark pit with an irregular outline, shaded from one side, its far lip catching the light."""
    del foreign
    scale = len(image) / 256
    inside = _blob(image, rng, scale * rng.uniform(8, 18), roughness=0.22)
    coverage = _ramp(inside + 1.5 * scale, 1.5 * scale)
    light = rng.uniform(0, 2 * np.pi)
    down, across = np.gradient(gaussian_filter(inside, scale))
    facing = -(
        np.sin(light) * down + np.cos(light) * across
    )  # -1 to 1: how far the wall of the pit looks into the light
    depth = np.clip(inside / (6 * scale), 0, 1)
    floor = 0.35 * gaussian_filter(image, 4 * scale) + 0.25 * (image - gaussian_filter(image, 4 * scale))
    wall = gaussian_filter(image, 2 * scale) * (0.75 + 0.45 * facing)
    return depth * floor + (1 - depth) * wall, coverage


def patch(image: FloatArray, rng: np.random.Generator, foreign: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Let in a patch of another material, at nearly the brightness of its surroundings, with a thin dark outline."""
    scale = len(image) / 256
    inside = _blob(image, rng, scale * rng.uniform(16, 32), roughness=0.25)
    coverage = _ramp(inside + scale, 1.5 * scale)
    level = rng.uniform(0.55, 0.85) * (foreign - foreign.mean()) + rng.uniform(0.8, 1.1) * image.mean()
    outline = np.exp(-((inside / (1.5 * scale)) ** 2))
    return level * (1 - 0.35 * outline), coverage


def seam(image: FloatArray, rng: np.random.Generator, foreign: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Open a seam: the material is pulled apart along a jagged line and the gap lies in the shadow.

    Of many lines it takes the brightest: that follows the mortar where there is some.
    """
    del foreign
    scale = len(image) / 256
    length = scale * rng.uniform(50, 110)
    lines = [
        _path(rng, _center(rng, image), rng.normal(rng.choice([0, np.pi / 2]), 0.12), length, bend=0.1, wobble=0.08)
        for _ in range(48)
    ]
    points = max(lines, key=lambda line: float(map_coordinates(image, line.T, order=1, mode="nearest").mean()))
    distance, along = _distance_to_path(points, image.shape, reach=16 * scale)
    taper = np.sqrt(np.clip(1 - (2 * along - 1) ** 2, 0, 1))
    jag = 1 + 0.35 * _smooth_noise_1d(rng, len(points), 4 * scale)[(along * (len(points) - 1)).astype(int)]
    gap = scale * rng.uniform(1.8, 3.2) * taper * jag
    zone = scale * rng.uniform(5, 8) * taper
    # What lay in the gap is pushed outward: each pixel beside it shows what was nearer to the line.
    down, across = np.gradient(gaussian_filter(distance, scale))
    pull = np.clip(1 - distance / np.maximum(zone, 1e-6), 0, 1) * gap
    rows, columns = np.indices(image.shape)
    pulled = map_coordinates(image, [rows - pull * down, columns - pull * across], order=1, mode="nearest")
    shadow = _ramp(gap - distance, 1.5 * scale)
    dark = rng.uniform(0.25, 0.4) * gaussian_filter(image, 3 * scale)
    return pulled + shadow * (dark - pulled), _ramp(gap + 1.5 * scale * taper - distance, 1.5 * scale)


PAINTERS: Final[dict[str, Painter]] = {
    "scratch": scratch,
    "stain": stain,
    "hole": hole,
    "patch": patch,
    "seam": seam,
}
"""The kinds of defects, in the order in which they are written and reported."""


def _ramp(inside: FloatArray, width: float) -> FloatArray:
    """Return 0 outside and 1 inside of an edge of ``width`` pixels, ``inside`` being the signed distance to it."""
    ramp: FloatArray = np.clip(0.5 + inside / width, 0, 1)
    return ramp


def _center(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """Draw a row and a column of the image's middle, so that most of a defect lies within the image."""
    return rng.uniform(0.2, 0.8, size=2) * image.shape


def _smooth_noise_1d(rng: np.random.Generator, length: int, sigma: float) -> FloatArray:
    """Draw noise in about [-1, 1] that changes over ``sigma`` samples."""
    noise: FloatArray = gaussian_filter(rng.standard_normal(length), sigma, mode="wrap")
    noise /= 2 * noise.std() + 1e-12
    return noise.clip(-1, 1)


def _path(
    rng: np.random.Generator, center: FloatArray, angle: float, length: float, *, bend: float, wobble: float
) -> FloatArray:
    """Draw a line of points half a pixel apart, (n, 2) as row and column, that turns by ``bend`` and ``wobble`` rad."""
    count = max(int(2 * length), 8)
    turn = rng.uniform(-bend, bend) * np.linspace(-1, 1, count) + wobble * _smooth_noise_1d(rng, count, count / 24)
    steps = 0.5 * np.stack((np.sin(angle + turn), np.cos(angle + turn)), axis=1)
    points = np.cumsum(steps, axis=0)
    centered: FloatArray = points - points[count // 2] + center
    return centered


def _distance_to_path(points: FloatArray, shape: tuple[int, ...], reach: float) -> tuple[FloatArray, FloatArray]:
    """Return for each pixel the distance to the nearest point, ``reach`` at most, and that point's place in [0, 1]."""
    pixels = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 2)
    distance, index = cKDTree(points).query(pixels, distance_upper_bound=reach)
    distance = np.minimum(distance, reach).reshape(shape)
    along = np.minimum(index, len(points) - 1).reshape(shape) / (len(points) - 1)
    return distance, along


def _blob(image: FloatArray, rng: np.random.Generator, radius: float, *, roughness: float) -> FloatArray:
    """Return about the signed distance in pixels, positive inside, to the outline of an irregular roundish shape."""
    center, stretch, angle = _center(rng, image), rng.uniform(1.0, 1.5), rng.uniform(0, np.pi)
    down, across = np.indices(image.shape) - center[:, None, None]
    u = (np.cos(angle) * across + np.sin(angle) * down) / stretch
    v = (np.cos(angle) * down - np.sin(angle) * across) * stretch
    theta = np.arctan2(v, u)
    outline = np.ones_like(theta)
    for order in range(2, 8):
        outline += roughness / order * rng.standard_normal() * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
    inside: FloatArray = radius * np.maximum(outline, 0.4) - np.hypot(u, v)
    return inside
