"""Images of ``Textures``: views of real photographs, with and without painted defects.

The photographs are the ones of brick, gravel and grass that scikit-image installs with itself (512x512, gray, without
restrictions on use). Each is cut in three: one part for training images, one for validation, one for testing, and
interpolation happens after the cut, so that no pixel of one part influences another. Validation images that overlap
with training images would score too low, and their threshold would flag half of the normal test images.
"""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from anomalib_ckaad.data.textures.painters import PAINTERS, BoolArray, FloatArray, paint
from anomalib_ckaad.errors import ConfigurationError, DataError, MissingDataError

Category = Literal["brick", "gravel", "grass"]
Part = Literal["train", "validation", "test"]

CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
PARTS: Final[tuple[Part, ...]] = get_args(Part)
DEFECTS: Final = tuple(PAINTERS)
PHOTO_SIZE: Final = 512
REGIONS: Final[dict[Part, tuple[slice, slice]]] = {
    "train": (slice(0, PHOTO_SIZE), slice(0, 320)),
    "validation": (slice(336, PHOTO_SIZE), slice(320, PHOTO_SIZE)),
    "test": (slice(0, 336), slice(320, PHOTO_SIZE)),
}
"""Rows and columns of the photograph that the images of each part may show."""
CROP: Final = 152
"""Side of a crop in pixels of the photograph: it fits every part when turned by 6 degrees."""
MAX_ROTATION: Final[dict[Category, float]] = {"brick": 4.0, "gravel": 6.0, "grass": 6.0}
"""Degrees either way, as a part lies on a conveyor belt. Less for bricks, as they have a direction."""


@dataclass(frozen=True)
class View:
    """Where a crop lies in a part of a photograph, and how it is turned and lit.

    Args:
        center: Row and column of the crop's center, in pixels of the part of the photograph.
        rotation: Counter-clockwise, in degrees.
        mirrored: Left and right exchanged. The brick photograph's joints lean right on the left and left on the right;
            with mirrored images both parts show both.
        gain: Factor on the brightness: the lamp's.
    """

    center: tuple[float, float]
    rotation: float
    mirrored: bool
    gain: float


@cache
def photograph(category: Category) -> FloatArray:
    """Read one of the photographs that scikit-image installs, (512, 512) in [0, 1], without asking the network.

    Raises:
        ConfigurationError: If ``category`` is not brick, gravel or grass.
        MissingDataError: If the installed scikit-image does not have the photograph.
        DataError: If it is another one, of another size.
    """
    if category not in CATEGORIES:
        msg = f"`category` must be one of {', '.join(CATEGORIES)}, not {category!r}."
        raise ConfigurationError(msg)
    # Not skimage.data.brick(): where the file is missing that downloads it.
    file = files("skimage") / "data" / f"{category}.png"
    if not file.is_file():
        msg = (
            f"The installed scikit-image {version('scikit-image')} has no data/{category}.png. "
            "Install scikit-image from PyPI."
        )
        raise MissingDataError(msg)
    with file.open("rb") as stream, Image.open(stream) as image:
        pixels = np.asarray(image.convert("L"), dtype=np.float64) / 255
    if pixels.shape != (PHOTO_SIZE, PHOTO_SIZE):
        msg = (
            f"{category}.png of the installed scikit-image has the shape {pixels.shape} instead of "
            f"({PHOTO_SIZE}, {PHOTO_SIZE}). Install scikit-image from PyPI."
        )
        raise DataError(msg)
    pixels.flags.writeable = False
    return pixels


def draw_view(category: Category, part: Part, rng: np.random.Generator) -> View:
    """Draw a view whose every pixel lies within ``part`` of the photograph."""
    rotation = rng.uniform(-MAX_ROTATION[category], MAX_ROTATION[category])
    angle = abs(np.deg2rad(rotation))
    reach = CROP / 2 * (np.cos(angle) + np.sin(angle))
    height, width = (region.stop - region.start for region in REGIONS[part])
    return View(
        center=(rng.uniform(reach, height - 1 - reach), rng.uniform(reach, width - 1 - reach)),
        rotation=rotation,
        mirrored=bool(rng.integers(2)),
        gain=rng.uniform(0.94, 1.06),
    )


def render(photo: FloatArray, part: Part, view: View, size: int) -> FloatArray:
    """Return the view as an image of shape (size, size) in [0, 1].

    Args:
        photo: Photograph of shape (512, 512), in [0, 1].
        part: Which part of it the view lies in; nothing else of it is read.
        view: Where and how.
        size: Side of the image in pixels.
    """
    place = (np.arange(size) + 0.5) * (CROP / size) - CROP / 2
    down, across = np.meshgrid(place, place, indexing="ij")
    if view.mirrored:
        across = -across
    angle = np.deg2rad(view.rotation)
    rows = view.center[0] + np.cos(angle) * down - np.sin(angle) * across
    columns = view.center[1] + np.sin(angle) * down + np.cos(angle) * across
    image = map_coordinates(photo[REGIONS[part]], [rows, columns], order=3, mode="nearest")
    rendered: FloatArray = np.clip(view.gain * image, 0, 1)
    return rendered


def make_image(
    category: Category, kind: str, part: Part, index: int, size: int, seed: int
) -> tuple[NDArray[np.uint8], BoolArray, NDArray[np.uint8]]:
    """Make one image of the set; it depends on the arguments alone, not on how many others are made.

    Args:
        category: Which photograph.
        kind: ``good`` or one of ``DEFECTS``.
        part: ``train``, ``validation`` or ``test``.
        index: Running number within the kind and part.
        size: Side of the image in pixels.
        seed: Seed of the whole set.

    Returns:
        The image, the mask of its damage (empty for ``good``) and the same view undamaged, all (size, size).
    """
    kinds = ("good", *DEFECTS)
    rng = np.random.default_rng([seed, CATEGORIES.index(category), kinds.index(kind), PARTS.index(part), index])
    clean = render(photograph(category), part, draw_view(category, part, rng), size)
    if kind == "good":
        return _to_bytes(clean), np.zeros(clean.shape, dtype=np.bool_), _to_bytes(clean)
    other = CATEGORIES[(CATEGORIES.index(category) + rng.integers(1, len(CATEGORIES))) % len(CATEGORIES)]
    foreign = render(photograph(other), part, draw_view(other, part, rng), size)
    damaged, mask = paint(kind, clean, rng, foreign)
    return _to_bytes(damaged), mask, _to_bytes(clean)


def _to_bytes(image: FloatArray) -> NDArray[np.uint8]:
    return np.round(255 * image).astype(np.uint8)
