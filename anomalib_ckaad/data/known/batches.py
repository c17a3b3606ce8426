"""Which images share a training batch: normal ones, and a few of the known anomalies."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import distributed
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler


class NormalAndKnown(Dataset[list[Any]]):
    """Two data sets as one whose items are asked for a batch at a time: normal images first, known anomalies behind.

    Args:
        normal: Data set of normal images.
        known: Data set of known anomalies.
    """

    def __init__(self, normal: Any, known: Any) -> None:  # noqa: ANN401 - anomalib's data sets are sequences in fact
        self.normal, self.known = normal, known

    def __len__(self) -> int:
        """Number of images of both kinds."""
        return len(self.normal) + len(self.known)

    def __getitem__(self, indices: Sequence[int]) -> list[Any]:
        """Items of a batch."""
        first = len(self.normal)
        return [self.normal[i] if i < first else self.known[i - first] for i in indices]


class KnownAnomalyBatches(DistributedSampler[list[int]]):
    """Indices of batches of ``batch_size`` normal images and min(``batch_size``, known) anomalous ones.

    For a data set that has the normal images first and the known anomalies behind them. The normal images are shuffled
    every epoch and the last partial batch is dropped, as in the paper, unless it is the only one. The known anomalies
    are gone through in a shuffled order that is drawn anew each time all have been seen.

    One process draws from torch's global generator. Several share the batches' normal images out among them and draw
    from the seed and the epoch, so that all agree; being a ``DistributedSampler`` already, Lightning puts none in its
    place.

    Args:
        normal: Number of normal images, at least 1.
        known: Number of known anomalies; 0 gives batches of normal images only.
        batch_size: Number of normal images in a batch of one process.
        seed: Of the order, where several processes train.

    Raises:
        ValueError: If a number is too small.

    Example:
        >>> batches = list(KnownAnomalyBatches(normal=5, known=3, batch_size=2))
        >>> [len(batch) for batch in batches], {i for batch in batches for i in batch if i >= 5} <= {5, 6, 7}
        ([4, 4], True)
    """

    def __init__(self, normal: int, known: int, batch_size: int, seed: int = 0) -> None:
        if normal < 1 or known < 0 or batch_size < 1:
            msg = (
                "Expected at least one normal image, no negative number of known anomalies and a batch size of at "
                f"least 1, got {normal}, {known} and {batch_size}. Do check the data's folders and train_batch_size."
            )
            raise ValueError(msg)
        is_one_of_many = distributed.is_available() and distributed.is_initialized()
        super().__init__(
            range(normal),  # type: ignore[arg-type]  # only its length is asked
            num_replicas=distributed.get_world_size() if is_one_of_many else 1,
            rank=distributed.get_rank() if is_one_of_many else 0,
            seed=seed,
        )
        self.normal, self.known, self.batch_size = normal, known, batch_size

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return max(1, self.normal // (self.batch_size * self.num_replicas))

    def _known_indices(self, generator: torch.Generator | None) -> Iterator[int]:
        while True:
            yield from (torch.randperm(self.known, generator=generator) + self.normal).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        """One epoch."""
        generator = None
        if self.num_replicas > 1:
            generator = torch.Generator()
            generator.manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.normal, generator=generator).tolist()[self.rank :: self.num_replicas]
        known = self._known_indices(generator)
        each = min(self.batch_size, self.known)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            for _ in range(each * self.rank):  # the other processes' share
                next(known)
            yield order[start : start + self.batch_size] + [next(known) for _ in range(each)]
            for _ in range(each * (self.num_replicas - 1 - self.rank)):
                next(known)
