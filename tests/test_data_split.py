"""Datamodules that divide their images themselves: which methods of anomalib they switch off."""

from pathlib import Path
from typing import Any

import pytest
from anomalib.data import AnomalibDataModule, Folder
from anomalib.data.utils import ValSplitMode

from anomalib_ckaad.host.data_modules import SplitData
from tests.conftest import make_folder_data


class SplitFolder(SplitData):
    """The subsets of a ``Folder`` before anomalib splits them."""

    def __init__(self, inner: Folder, **arguments: Any) -> None:
        super().__init__(train_batch_size=2, eval_batch_size=2, num_workers=0, **arguments)
        self.inner = inner

    def _setup(self, _stage: str | None = None) -> None:
        self.inner.setup()
        self.train_data, self.val_data, self.test_data = (
            self.inner.train_data,
            self.inner.val_data,
            self.inner.test_data,
        )


@pytest.mark.parametrize("name", ["_setup", "_create_test_split", "_create_val_split"])
def test_anomalib_still_has_the_methods_that_are_overridden(name: str) -> None:
    assert callable(getattr(AnomalibDataModule, name))


@pytest.mark.parametrize("val_split_mode", ValSplitMode)
@pytest.mark.parametrize("test_split_mode", ["none", "from_dir"])
def test_subsets_stay_as_they_were_made(folder_root: Path, val_split_mode: ValSplitMode, test_split_mode: str) -> None:
    plain = make_folder_data(folder_root)
    plain.setup()
    data = SplitFolder(
        make_folder_data(folder_root),
        val_split_mode=val_split_mode,
        test_split_mode=test_split_mode,
        val_split_ratio=0.5,
        seed=0,
    )
    data.setup()
    for subset in ("train_data", "val_data", "test_data"):
        samples = getattr(data, subset).samples
        assert list(samples.image_path) == list(getattr(plain, subset).samples.image_path)
        assert len(samples) > 1
