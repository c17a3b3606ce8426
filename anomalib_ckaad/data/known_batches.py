"""Which images share a training batch: normal ones, and a few of the known anomalies."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class KnownAnomalyBatches(Sampler[list[int]]):
    """Indices of batches of ``batch_size`` normal images and min(``batch_size``, known) anomalous ones.

    For a data set that has the normal images first and the known anomalies behind them. The normal images are shuffled
    every epoch and the last partial batch is dropped, as in the paper, unless it is the only one. The known anomalies
    are gone through in a shuffled order that is drawn anew each time all have been seen. Randomness comes from torch's
    global generator.

    Args:
        normal: Number of normal images, at least 1.
        known: Number of known anomalies; 0 gives batches of normal images only.
        batch_size: Number of normal images in a batch.

    Raises:
        ValueError: If a number is too small.

    Example:
        >>> batches = list(KnownAnomalyBatches(normal=5, known=3, batch_size=2))
        >>> [len(batch) for batch in batches], {i for batch in batches for i in batch if i >= 5}
        ([4, 4], {5, 6, 7})
    """

    def __init__(self, normal: int, known: int, batch_size: int) -> None:
        if normal < 1 or known < 0 or batch_size < 1:
            msg = (
                "Expected at least one normal image, no negative number of known anomalies and a batch size of at "
                f"least 1, got {normal}, {known} and {batch_size}. Do check the data's folders and train_batch_size."
            )
            raise ValueError(msg)
        self.normal, self.known, self.batch_size = normal, known, batch_size

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return max(1, self.normal // self.batch_size)

    def _known_indices(self) -> Iterator[int]:
        while True:
            yield from (torch.randperm(self.known) + self.normal).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        """One epoch."""
        order = torch.randperm(self.normal).tolist()
        known = self._known_indices()
        each = min(self.batch_size, self.known)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size] + [next(known) for _ in range(each)]
