"""The calibrated anomaly map: residuals compared with what the auto-encoder usually misses at their position.

The paper's map sees the direction of a feature alone, every direction and every position alike. But an auto-encoder
misses some directions in every normal image, and misses more at an edge than on a plain. With u the residual of a
stage at position p (see ``residuals``), and M_p its second moment over normal training images, the calibrated map of
the stage is the Mahalanobis length sqrt(u' M_p^-1 u). As in equation (14) the stages' maps are added up. There are as
many M_p as the deepest map has positions: neighbors in a shallower one share theirs.
"""

import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalib_ckaad.distributed import sum_counts, sum_over_processes
from anomalib_ckaad.errors import TrainingError
from anomalib_ckaad.scoring.residuals import residual_of

logger = logging.getLogger(__name__)

LARGEST = 6_000_000
"""Numbers that a stage's whitening may have (24 MB). Where all channels take more, fewer are kept."""
FLOOR = 0.01
"""Share of the mean variance added to every direction: some hold nothing but rounding."""
PRIOR = 0.25
"""Images that the mean of all positions counts as, for each channel."""


def whitening_of(moments: Tensor, images: int) -> Tensor:
    """Matrices W with W'W = M^-1 of second moments M that few images were seen for.

    Each position's moments are shrunk to the mean of all positions, which counts as a quarter as many images as there
    are channels. So a hundred images do with a hundred channels, and many leave it behind.

    Args:
        moments: Mean outer product of residuals (H, W, d, d).
        images: Number of images that they are the mean of.

    Returns:
        Lower triangular (H, W, d, d).

    Raises:
        TrainingError: If a moment is not finite.

    Example:
        >>> moments = torch.diag(torch.tensor([4.0, 1.0])).expand(1, 1, 2, 2)
        >>> (whitening_of(moments, images=10**6)[0, 0] * 10).round()
        tensor([[ 5.,  0.],
                [ 0., 10.]])
    """
    if not torch.isfinite(moments).all():
        msg = "The second moments of the residuals are not finite. Leave images out whose residuals are not finite."
        raise TrainingError(msg)
    channels = moments.shape[-1]
    shared = moments.mean(dim=(0, 1))
    share = PRIOR * channels / (PRIOR * channels + images)
    # Also where all residuals are 0, a matrix that float32 holds.
    variance = (shared.diagonal().mean() * FLOOR).clamp(min=torch.finfo(torch.float32).tiny ** 0.5)
    identity = torch.eye(channels, dtype=moments.dtype, device=moments.device)
    shrunk = (1 - share) * moments + share * shared + variance * identity
    factor, failed = torch.linalg.cholesky_ex(shrunk)
    while failed.any():  # rounding has made a direction's variance negative
        variance = 10 * variance
        factor, failed = torch.linalg.cholesky_ex(shrunk + variance * identity)
    whitening: Tensor = torch.linalg.solve_triangular(factor, identity.expand_as(shrunk), upper=False)
    return whitening


def make_projection(channels: int, positions: int) -> Tensor | None:
    """Orthonormal rows (d, C) that a stage's residuals are projected to, drawn the same every time; None for all.

    Example:
        >>> make_projection(channels=40, positions=28 * 28), make_projection(channels=512, positions=64 * 64).shape
        (None, torch.Size([38, 512]))
    """
    kept = math.isqrt(LARGEST // positions)
    if kept >= channels:
        return None
    drawn = torch.randn(channels, kept, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows: Tensor = torch.linalg.qr(drawn).Q.mT.contiguous()
    return rows


class ResidualMoments:
    """Sums of outer products of residuals, by stage and position of the deepest one.

    Several processes share the images out among them and add their sums up.

    Args:
        share: Share of the reconstruction that is subtracted: ``reconstruction_share``.
    """

    def __init__(self, share: float = 1.0) -> None:
        self.share = share
        self.images = 0
        self.sums: list[Tensor] = []
        self.projections: list[Tensor | None] = []

    def add(self, features: Sequence[Tensor], reconstructions: Sequence[Tensor]) -> None:
        """Count normal images: their features, one tensor (N, C_k, H_k, W_k) a stage, and their reconstructions."""
        self.images += len(features[0])
        height, width = features[-1].shape[-2:]
        for stage, pair in enumerate(zip(features, reconstructions, strict=True)):
            residual = residual_of(*pair, self.share)
            if len(self.sums) == stage:
                projection = make_projection(residual.shape[1], height * width)
                self.projections.append(None if projection is None else projection.to(residual))
                side = residual.shape[1] if projection is None else len(projection)
                self.sums.append(residual.new_zeros(height, width, side, side))
                if projection is not None:
                    logger.info("Map %d is calibrated in %d of %d directions.", stage + 1, side, residual.shape[1])
            with torch.autocast(residual.device.type, enabled=False):  # squares need all digits
                _add_products(_project(residual, self.projections[stage]), self.sums[stage])

    def reduce(self) -> None:
        """Add up the sums of all processes."""
        if self.sums:
            (self.images,) = sum_counts(self.images, device=self.sums[0].device)
            sum_over_processes(*self.sums)


def _add_products(residual: Tensor, sums: Tensor) -> None:
    """Add the mean outer product of the positions that share a matrix, for each, to (h, w, d, d)."""
    (height, width), (own_height, own_width) = residual.shape[-2:], sums.shape[:2]
    if not (height % own_height or width % own_width):
        together = _by_own_position(residual, own_height, own_width)
        sums += together.mT @ together / (height // own_height * width // own_width)
        return
    channels = residual.shape[1]
    rows, columns = (
        [-(-place * size // own) for place in range(own + 1)]  # where ``place_of`` moves on
        for size, own in zip(residual.shape[-2:], sums.shape[:2], strict=True)
    )
    for row, (top, bottom) in enumerate(pairwise(rows)):
        for column, (left, right) in enumerate(pairwise(columns)):
            together = residual[..., top:bottom, left:right].transpose(0, 1).reshape(channels, -1)
            sums[row, column] += together @ together.mT / max(1, (bottom - top) * (right - left))


def _by_own_position(residual: Tensor, rows: int, columns: int) -> Tensor:
    """Residuals (N, C, rows * k, columns * l) by the matrix they take: (rows, columns, N * k * l, C)."""
    height, width = residual.shape[-2] // rows, residual.shape[-1] // columns
    # Channels last before all else: it is how they lie in memory.
    apart = residual.permute(0, 2, 3, 1).reshape(-1, rows, height, columns, width, residual.shape[1])
    return apart.permute(1, 3, 0, 2, 4, 5).flatten(2, 4)


def _project(residual: Tensor, projection: Tensor | None) -> Tensor:
    return residual if projection is None else functional.conv2d(residual, projection[:, :, None, None].to(residual))


class ResidualCalibration(nn.Module):
    """Whitening of residuals by stage and position, once moments are set.

    Belongs to the checkpoint and to exported graphs. Maps of another size than it was calibrated for take the matrices
    of the nearest positions.

    Args:
        stages: Number of stages.
    """

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.stages = stages
        self.clear()
        self.register_load_state_dict_pre_hook(_take_sizes)  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        """Forget all moments."""
        device = next((one.device for one in self.buffers()), None)  # processes copy buffers that are not empty
        self.register_buffer("share", torch.ones((), device=device))
        for stage in range(self.stages):
            self.register_buffer(f"whitening_{stage}", torch.zeros(0, 0, 0, 0))
            self.register_buffer(f"projection_{stage}", torch.zeros(0, 0))

    @property
    def is_set(self) -> bool:
        """Whether moments are set."""
        return self.get_buffer("whitening_0").numel() > 0

    def set(self, moments: ResidualMoments) -> None:
        """Calibrate by moments of normal images. If there is none, or any is not finite, stay uncalibrated and warn."""
        if not moments.images or not all(bool(torch.isfinite(one).all()) for one in moments.sums):
            reason = "The residuals of normal images are not finite" if moments.images else "There are no normal images"
            logger.warning("%s. The map stays uncalibrated.", reason)
            self.clear()
            return
        self.register_buffer("share", moments.sums[0].new_tensor(moments.share))
        # Lengths of about 1: anomalib's own metrics take scores for logits, and a sigmoid makes all above 17 the same.
        unit = math.sqrt(moments.sums[-1].shape[-1])
        for stage, (summed, projection) in enumerate(zip(moments.sums, moments.projections, strict=True)):
            mean = (summed / moments.images).cpu().double()  # not all devices have float64
            self.register_buffer(f"whitening_{stage}", (whitening_of(mean, moments.images) / unit).to(summed))
            self.register_buffer(f"projection_{stage}", summed.new_zeros(0, 0) if projection is None else projection)

    def emphasize(self, matrices: Sequence[Tensor]) -> None:
        """Multiply whitened residuals by a matrix (d, d) for each stage: ``known_directions.emphasis_of``."""
        for stage, matrix in enumerate(matrices):
            whitening = self.get_buffer(f"whitening_{stage}")
            product = matrix.cpu().double() @ whitening.cpu().double()  # not all devices have float64
            self.register_buffer(f"whitening_{stage}", product.to(whitening))

    def whitened(self, features: Sequence[Tensor], reconstructions: Sequence[Tensor]) -> list[Tensor]:
        """Residuals whose squares add up to the squared lengths, one tensor (N, H_k * W_k, d) a stage."""
        found = []
        for stage, pair in enumerate(zip(features, reconstructions, strict=True)):
            residual = self._residual(*pair)
            with torch.autocast(residual.device.type, enabled=False):  # squares need all digits
                by_matrix, _ = self._by_matrix(stage, residual)
            (images, _, height, width), (rows, columns) = residual.shape, by_matrix.shape[:2]
            apart = by_matrix.reshape(rows, columns, images, height // rows, width // columns, by_matrix.shape[-1])
            found.append(apart.permute(2, 0, 3, 1, 4, 5).flatten(1, 4))
        return found

    def forward(self, features: Sequence[Tensor], reconstructions: Sequence[Tensor]) -> list[Tensor]:
        """Mahalanobis lengths at all positions.

        Args:
            features: One tensor (N, C_k, H_k, W_k) a stage, shallow to deep.
            reconstructions: The same shapes.

        Returns:
            One tensor (N, 1, H_k, W_k) a stage, about 1 for normal images at the deepest one, and less at shallower
            ones, which have fewer directions; the larger, the more anomalous.
        """
        return [
            self._lengths(stage, self._residual(*pair))
            for stage, pair in enumerate(zip(features, reconstructions, strict=True))
        ]

    def _residual(self, features: Tensor, reconstruction: Tensor) -> Tensor:
        return residual_of(features, reconstruction, self.get_buffer("share"))

    def _lengths(self, stage: int, residual: Tensor) -> Tensor:
        whitened, are_shared = self._by_matrix(stage, residual)
        lengths = whitened.square().sum(dim=-1).sqrt()
        if not are_shared:
            return lengths.permute(2, 0, 1).unsqueeze(1)
        (height, width), (rows, columns) = residual.shape[-2:], lengths.shape[:2]
        lengths = lengths.reshape(rows, columns, -1, height // rows, width // columns)
        return lengths.permute(2, 0, 3, 1, 4).reshape(-1, 1, height, width)

    def _by_matrix(self, stage: int, residual: Tensor) -> tuple[Tensor, bool]:
        """Whitened residuals by the matrix they took (rows, columns, N * k * l, d), or position; whether by matrix."""
        projection = self.get_buffer(f"projection_{stage}")
        residual = _project(residual, projection if projection.numel() else None)
        whitening = self.get_buffer(f"whitening_{stage}").to(residual)
        height: Any = residual.shape[-2]  # numbers, or symbols in a graph for any size
        width: Any = residual.shape[-1]
        rows, columns = whitening.shape[:2]
        if isinstance(height, int) and isinstance(width, int) and not (height % rows or width % columns):
            # Vectors before matrices: the other order takes torch several times as long.
            return _by_own_position(residual, rows, columns) @ whitening.mT, True
        return residual.permute(2, 3, 0, 1) @ _at_size(whitening, height, width).mT, False


def _take_sizes(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:  # noqa: ANN401 - torch's
    """Resize buffers to those of a checkpoint; an older one lacks them, or subtracts all of the reconstruction."""
    for name, own in list(module.named_buffers(recurse=False)):
        missing = own.new_ones(()) if name == "share" else own.new_zeros([0] * own.ndim)
        theirs = state_dict.setdefault(prefix + name, missing)
        module.register_buffer(name, torch.zeros_like(theirs, device=own.device))


def place_of(positions: Any, own: int, device: torch.device | None = None) -> Tensor:  # noqa: ANN401 - number or symbol
    """Which of its own matrices each position of a line takes: all as many neighbors, or as nearly as can be.

    Example:
        >>> place_of(5, own=2), place_of(2, own=3)
        (tensor([0, 0, 0, 1, 1]), tensor([0, 1]))
    """
    places: Tensor = torch.arange(positions, device=device) * own // positions
    return places


def _at_size(whitening: Tensor, height: Any, width: Any) -> Tensor:  # noqa: ANN401 - numbers or symbols
    """A matrix for each position (H, W, d, d) of maps of a size, which is symbolic in a graph for any size."""
    for dimension, size in enumerate((height, width)):
        whitening = whitening.index_select(dimension, place_of(size, whitening.shape[dimension], whitening.device))
    return whitening
