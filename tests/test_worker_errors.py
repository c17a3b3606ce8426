"""host/worker_errors.py: torch's data loaders, whose workers' errors come with a traceback as their message."""

import pytest
from torch.utils.data import DataLoader, Dataset

from anomalib_ckaad.cli.mistakes import message_for_user
from anomalib_ckaad.errors import ImageFileError, WeightsError
from anomalib_ckaad.host.worker_errors import original_message

MESSAGE = "Cannot read the image a.png.\nReplace it: or remove it."


class Unreadable(Dataset[int]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        raise ImageFileError(MESSAGE) from WeightsError("Another one.")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_has_its_own_message(workers: int) -> None:
    with pytest.raises(ImageFileError) as caught:
        next(iter(DataLoader(Unreadable(), num_workers=workers)))
    assert (str(caught.value) == MESSAGE) == (workers == 0)  # else this module is needed no more
    assert original_message(caught.value) == MESSAGE
    assert message_for_user(caught.value) == MESSAGE
