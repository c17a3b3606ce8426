"""What Lightning calls to validate, test and predict: every image is scored, raw scores are kept."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from anomalib_ckaad.data.reading.image_files import check_image_files, warn_of_turned
from anomalib_ckaad.metrics import add_predictions, write_test_metrics
from anomalib_ckaad.network.objective import reconstruction_error
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.labeled_batches import images_and_labels, paths_of


class EvaluationMethods:
    """Validation, test and prediction of a model that reconstructs features.

    Comes before ``AnomalibModule`` among the bases.
    """

    model: CkaadModel
    trainer: pl.Trainer
    dtype: torch.dtype
    log: Any
    _features: Any

    def validation_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: ANN401 - Lightning's type has no batches
        """Score a batch, and log the error of its normal images."""
        del batch_idx
        images, labels = images_and_labels(batch, self.dtype)
        features = self._features(images, paths_of(batch), "val_data")
        reconstructions = self.model.auto_encoder(features)
        error = reconstruction_error(features, reconstructions)[~labels]
        if len(error):
            self.log("val_reconstruction", error.mean(), on_epoch=True, prog_bar=True, batch_size=len(error))
        return add_predictions(batch, self.model.score(features, reconstructions, (images.shape[-2], images.shape[-1])))

    def on_predict_start(self) -> None:
        """Refuse unusable images of a folder; those of a datamodule are looked at in ``setup``."""
        loaders = self.trainer.predict_dataloaders
        for loader in loaders if isinstance(loaders, Sequence) else [loaders]:
            names = getattr(getattr(loader, "dataset", None), "image_filenames", ())
            warn_of_turned(check_image_files(names, may_be_empty=True))

    def test_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - anomalib's
        """Score a batch; raw scores stay beside the ones that the post-processor normalizes."""
        del batch_idx, args, kwargs
        images, _ = images_and_labels(batch, self.dtype)
        return add_predictions(batch, self.model.forward(images))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # noqa: ANN401
        """Score a batch; raw scores stay beside the ones that the post-processor normalizes."""
        del dataloader_idx
        return self.test_step(batch, batch_idx)

    def on_test_end(self) -> None:
        """Write the test metrics beside the checkpoint that was tested."""
        write_test_metrics(self.trainer, type(self).__name__)
