"""Textures that a study's seed draws, for examples/textures_draws.yaml: what other pictures would have shown."""

from anomalib_ckaad import Textures


class DrawnTextures(Textures):
    """Textures of which each seed has its own crops and defects, in a folder of its own.

    Args:
        seed: Of the pictures.
        category: As of Textures.
    """

    def __init__(self, seed: int, category: str, **arguments: int) -> None:
        super().__init__(root=f"./datasets/Textures/draw{seed}", category=category, texture_seed=seed, **arguments)
