"""A datamodule of anomalib that divides its images itself, without anomalib's random splits."""

from anomalib.data import AnomalibDataModule


class SplitData(AnomalibDataModule):
    """Base of datamodules whose ``_setup`` sets ``train_data``, ``val_data`` and ``test_data`` for good.

    ``AnomalibDataModule.setup`` calls ``_setup``, which it leaves to its subclasses, then ``_create_test_split`` and
    ``_create_val_split``. These move images between the subsets in every mode but one, so they are switched off here.
    """

    def _create_test_split(self) -> None:
        """Leave ``test_data`` as ``_setup`` made it."""

    def _create_val_split(self) -> None:
        """Leave ``val_data`` as ``_setup`` made it."""
