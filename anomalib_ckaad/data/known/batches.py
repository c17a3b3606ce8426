"""Training batches of normal images and a few known anomalies."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from anomalib_ckaad.distributed import rank_and_count
from anomalib_ckaad.errors import ConfigurationError


class NormalAndKnown(Dataset[list[Any]]):
    """Joins two data sets, normal images first and known anomalies behind them, and returns a batch at a time.

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
    """Indices of batches of ``batch_size`` normal images and min(``batch_size``, ``known``) known anomalies.

    For a data set that has the normal images first and the known anomalies behind them. The normal images are shuffled
    in every epoch. The last partial batch is dropped, as in the paper, unless it is the only one. The known anomalies
    are used in a random order; once all were used, a new order is drawn.

    A single process draws from torch's global generator. Several processes draw from the seed and the epoch, so that
    all draw the same, and share the normal images of an epoch among them. Lightning leaves this sampler in place, as it
    is a ``DistributedSampler`` already.

    Args:
        normal: Number of normal images, at least 1.
        known: Number of known anomalies; 0 gives batches of normal images only.
        batch_size: Number of normal images in a batch of one process, at least 1.
        seed: Of the order, if several processes train.

    Raises:
        ConfigurationError: If a number is too small.

    Example:
        >>> batches = list(KnownAnomalyBatches(normal=5, known=3, batch_size=2))
        >>> [len(batch) for batch in batches], {i for batch in batches for i in batch if i >= 5} <= {5, 6, 7}
        ([4, 4], True)
    """

    def __init__(self, normal: int, known: int, batch_size: int, seed: int = 0) -> None:
        for name, value, least in (
            ("number of normal images", normal, 1),
            ("number of known anomalies", known, 0),
            ("batch size", batch_size, 1),
        ):
            if value < least:
                msg = f"The {name} must be at least {least}, not {value}. Check the data and `train_batch_size`."
                raise ConfigurationError(msg)
        rank, processes = rank_and_count()
        super().__init__(
            range(normal),  # type: ignore[arg-type]  # only its length is asked
            num_replicas=processes,
            rank=rank,
            seed=seed,
        )
        self.normal, self.known, self.batch_size = normal, known, batch_size

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return max(1, self.normal // (self.batch_size * self.num_replicas))

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

    def _known_indices(self, generator: torch.Generator | None) -> Iterator[int]:
        while True:
            yield from (torch.randperm(self.known, generator=generator) + self.normal).tolist()
