"""Three steps by two processes, which ``test_two_processes.py`` starts, or by one with the two's batches as one.

Every process writes what each step saw and computed, and its last weights, to ``OUTPUT/rank<n>.pt``.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback

from anomalib_ckaad.data.known.batches import KnownAnomalyBatches
from anomalib_ckaad.data.known.known_anomalies import KnownAnomalies
from anomalib_ckaad.lightning_model import Ckaad
from tests.conftest import make_folder_data

EACH = 2
"""Normal images in a batch of one of two processes, and known anomalies."""


class Record(Callback):
    """Keeps paths and losses of every step."""

    def __init__(self, output: Path) -> None:
        self.output, self.steps = output, []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append(
            {"paths": list(batch.image_path), "losses": {name: value.item() for name, value in outputs.items()}}
        )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule
        images = len(data.train_data) + len(data.known_data)
        state = {"steps": self.steps, "weights": pl_module.state_dict(), "images": images}
        state["computed"] = pl_module.frozen_features.cache.computed
        torch.save(state, self.output / f"rank{trainer.global_rank}.pt")


class TheSameBatches(KnownAnomalyBatches):
    """One process's batches: at each step the union of those that two processes had."""

    batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches


def results(output: Path, devices: int) -> list[dict[str, Any]]:
    """What every process has written."""
    return [torch.load(output / f"rank{rank}.pt", weights_only=False) for rank in range(devices)]


def train(
    root: Path, output: Path, devices: int = 1, features: Path | None = None, earlier: Path | None = None
) -> None:
    """Train in ``devices`` processes.

    Args:
        root: The data set.
        output: Folder to write to, made here.
        devices: Number of processes.
        features: Folder of features; None keeps none.
        earlier: What two processes have written, whose batches one process joins; None takes the batches as they come.
    """
    output.mkdir(exist_ok=True)
    inner = make_folder_data(
        root,
        abnormal_dir="test_bad",
        train_batch_size=EACH if devices > 1 else 2 * EACH,
        val_split_ratio=0.1,
    )
    data = KnownAnomalies(inner, known_anomaly_dir=root / "known")
    data.setup()
    if earlier is not None:
        ranks = [process["steps"] for process in results(earlier, devices=2)]
        index = {
            path: number
            for number, path in enumerate([*data.train_data.samples.image_path, *data.known_data.samples.image_path])
        }
        TheSameBatches.batches = [
            [index[path] for step in steps for path in step["paths"]] for steps in zip(*ranks, strict=True)
        ]
        loader = data.train_dataloader()
        sampler = TheSameBatches(len(data.train_data), len(data.known_data), 2 * EACH)
        replaced = torch.utils.data.DataLoader(
            loader.dataset, sampler=sampler, batch_size=None, collate_fn=loader.collate_fn
        )
        data.train_dataloader = lambda: replaced  # type: ignore[method-assign]
    model = Ckaad(
        backbone="resnet18",
        layers=(2, 3),
        pre_trained=False,
        image_size=64,
        seed=0,
        visualizer=False,
        evaluator=False,
        cache={"memory": 0, "folder": features},
        research={"calibrate": True},
    ).double()
    engine = Engine(
        default_root_dir=output,
        accelerator="cpu",
        devices=devices,
        precision="64-true",
        limit_train_batches=3,
        limit_val_batches=0,
        max_epochs=1,
        callbacks=[Record(output)],
        enable_progress_bar=False,
    )
    engine.fit(model, datamodule=data)


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    data_set, written_to, shared = (Path(word) for word in sys.argv[1:])
    train(data_set, written_to, devices=2, features=shared)
