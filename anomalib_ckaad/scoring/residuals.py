"""What the calibrated map measures: a feature, less a share of its reconstruction.

The paper's map compares both as they are. An auto-encoder that has seen few images is less sure to give back what is
normal, and that alone: what is left of a feature then says less than the feature does. With N normal training images,
N / (N + 64) of the reconstruction is taken away: most of it with hundreds.
"""

import torch
from torch import Tensor

STRENGTH = 3.0
"""What is added to a feature's own strength, as a multiple of the root mean square of its map."""
RECONSTRUCTION_PRIOR = 64
"""Number of normal training images with which half of a reconstruction is subtracted."""


def reconstruction_share(images: int, prior: float = RECONSTRUCTION_PRIOR) -> float:
    """Share of a reconstruction that is taken away from the feature.

    Args:
        images: Number of normal training images.
        prior: Number of them at which the share is a half; 0 takes all away, however few they are.

    Example:
        >>> reconstruction_share(64), reconstruction_share(576), reconstruction_share(8, prior=0)
        (0.5, 0.9, 1.0)
    """
    return images / (images + prior) if prior else 1.0


def residual_of(features: Tensor, reconstruction: Tensor, share: Tensor | float = 1.0) -> Tensor:
    """Feature less a share of its reconstruction, each divided by its strength.

    Equation (2) compares maps as a whole: their strength is one number each. Equation (14) compares positions, of which
    each has a strength of its own. This lies between: a weak position is not blown up, a strong one does not outweigh
    all others. For a feature with mean square s, in units of the mean square of its map, it is sqrt(s + 9).

    Args:
        features: (N, C, H, W).
        reconstruction: (N, C, H, W).
        share: In [0, 1]; a tensor has one number.

    Returns:
        (N, C, H, W) in float32 or more, the same for features, or reconstructions, of another scale.

    Example:
        >>> f, g = torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2)
        >>> torch.allclose(residual_of(f, g), residual_of(5 * f, 3 * g), atol=1e-5)
        True
    """
    return _by_strength(features) - share * _by_strength(reconstruction)


def _by_strength(maps: Tensor) -> Tensor:
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    at_position = maps.square().mean(dim=1, keepdim=True)
    of_map = at_position.mean(dim=(2, 3), keepdim=True)
    return maps / (at_position + STRENGTH**2 * of_map).clamp(min=torch.finfo(maps.dtype).tiny).sqrt()
