"""PatchCore that keeps every position, for examples/textures_bank.yaml.

A coreset of all positions is all positions, whatever the order they are chosen in: choosing them one by one takes half
an hour for nothing.
"""

import torch
from anomalib.models import Patchcore
from anomalib.models.image.patchcore.torch_model import PatchcoreModel


class WholeBankModel(PatchcoreModel):
    """Keeps what the coreset is chosen from."""

    def subsample_embedding(self, sampling_ratio: float, embeddings: torch.Tensor | None = None) -> None:
        """Keep all."""
        del sampling_ratio, embeddings
        self.memory_bank = torch.vstack(self.embedding_store)
        self.embedding_store.clear()


class WholeBankPatchcore(Patchcore):
    """anomalib's PatchCore with ``coreset_sampling_ratio=1``; the ratio it is given does not count."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.model.__class__ = WholeBankModel
