"""Textures that need no download."""
