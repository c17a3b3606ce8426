"""PatchCore that keeps every position of its training images, for accuracy_textures.yaml.

The same memory bank as with ``coreset_sampling_ratio=1``, without the half hour of choosing positions one by one.
"""

import torch
from anomalib.models import Patchcore
from anomalib.models.image.patchcore.torch_model import PatchcoreModel


class WholeBankModel(PatchcoreModel):
    """PatchCore's model without the coreset."""

    def subsample_embedding(self, sampling_ratio: float, embeddings: torch.Tensor | None = None) -> None:
        """Keep all embeddings."""
        del sampling_ratio, embeddings
        self.memory_bank = torch.vstack(self.embedding_store)
        self.embedding_store.clear()


class WholeBankPatchcore(Patchcore):
    """anomalib's PatchCore without a coreset; ``coreset_sampling_ratio`` is ignored."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.model.__class__ = WholeBankModel
