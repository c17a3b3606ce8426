"""Data sets: textures that need no download."""

from anomalib_ckaad.data.textures import Textures

__all__ = ["Textures"]
