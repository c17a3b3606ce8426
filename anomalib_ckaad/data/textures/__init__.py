"""The ``Textures`` data set: photographs of surfaces with painted defects, which needs no download."""
