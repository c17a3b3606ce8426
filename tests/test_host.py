"""What this package touches of the insides of torch, Lightning and anomalib: a new version that breaks one names it."""

from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from anomalib.data import AnomalibDataset
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from anomalib_ckaad.host import torch_state
from anomalib_ckaad.host.checkpoint_io import SafeCheckpointIO, load_safely
from anomalib_ckaad.host.data_sets import reads_as_anomalib
from anomalib_ckaad.host.torch_state import has_fast_bfloat16, is_traced, version_of
from anomalib_ckaad.host.trainer import attached_datamodule, find_unused_parameters, saves_after_every_epoch


class Notes(nn.Module):
    """Remembers whether it was traced."""

    seen: list[bool]

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(is_traced())
        return x + 1


def test_torch_tells_that_it_traces() -> None:
    """``torch._C._get_tracing_state``, and ``torch.compiler.is_compiling``."""
    module = Notes()
    module.seen = []
    module(torch.ones(1))
    torch.jit.trace(module, (torch.ones(1),), check_trace=False)
    assert module.seen == [False, True]
    assert not is_traced()


def test_torch_counts_changes_of_a_tensor() -> None:
    """``Tensor._version``."""
    tensor = torch.zeros(2)
    before = version_of(tensor)
    tensor += 1
    assert version_of(tensor) > before


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, False),
        ({"neon": True, "bf16": True}, False),
    ],
)
def test_torch_tells_what_the_processor_can_do(
    found: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``torch.cpu.get_capabilities``, or the private names that were there before it."""
    assert has_fast_bfloat16() in {True, False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert has_fast_bfloat16() is expected
    assert callable(torch.cpu._is_amx_tile_supported)
    assert callable(torch.cpu._is_avx512_bf16_supported)
    monkeypatch.setattr(torch_state.torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_fast_bfloat16()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({}, True), ({"every_n_epochs": 2}, False), ({"every_n_train_steps": 5}, False), ({"every_n_epochs": 1}, True)],
)
def test_lightning_tells_when_checkpoints_are_written(arguments: dict[str, Any], expected: bool) -> None:
    """``ModelCheckpoint._every_n_epochs``."""
    assert saves_after_every_epoch(ModelCheckpoint(**arguments)) is expected
    assert not saves_after_every_epoch(ModelCheckpoint(train_time_interval=timedelta(minutes=1)))


def test_lightnings_ddp_waits_for_parameters_without_a_gradient() -> None:
    """``DDPStrategy._ddp_kwargs``."""
    trainer = pl.Trainer(strategy="ddp", accelerator="cpu", devices=2, logger=False, enable_checkpointing=False)
    find_unused_parameters(trainer)
    assert isinstance(trainer.strategy, DDPStrategy)
    assert trainer.strategy._ddp_kwargs["find_unused_parameters"] is True
    own = pl.Trainer(
        strategy=DDPStrategy(find_unused_parameters=False), accelerator="cpu", devices=2, logger=False,
        enable_checkpointing=False,
    )  # fmt: skip
    find_unused_parameters(own)
    assert own.strategy._ddp_kwargs["find_unused_parameters"] is False  # type: ignore[attr-defined]


def test_anomalibs_data_sets_read_by_one_method() -> None:
    """``AnomalibDataset.__getitem__``."""

    class Own(AnomalibDataset):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)

    class Plain(AnomalibDataset):
        pass

    assert reads_as_anomalib(Plain())
    assert not reads_as_anomalib(Own())
    assert not reads_as_anomalib([])


def test_lightning_tells_whether_a_model_has_a_trainer() -> None:
    """``LightningModule._trainer``: its property ``trainer`` raises an error without one."""
    module = pl.LightningModule()
    assert attached_datamodule(module) is None
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.trainer.datamodule = (data := pl.LightningDataModule())  # type: ignore[attr-defined]
    assert attached_datamodule(module) is data


def test_a_trainer_reads_checkpoints_by_the_reader_of_its_strategy() -> None:
    """``Strategy.checkpoint_io``, and anomalib's reader with its ``extra_safe_globals``."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    load_safely(trainer)
    assert isinstance(trainer.strategy.checkpoint_io, SafeCheckpointIO)
    trainer.strategy.checkpoint_io = AnomalibCheckpointIO()
    assert hasattr(trainer.strategy.checkpoint_io, "extra_safe_globals")
    load_safely(trainer)
    assert isinstance(trainer.strategy.checkpoint_io, SafeCheckpointIO)
