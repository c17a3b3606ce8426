"""Thresholds by rate are those of all processes' validation images together."""

import os
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch
from torch import distributed, multiprocessing

from anomalib_ckaad.thresholds.metrics import ImageThreshold, PixelThreshold

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ARGUMENTS = ("image_false_positive_rate", "image_recall", "pixel_false_positive_rate", "pixel_recall")


def thresholds(part: slice) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(20, 8, 8, generator=generator)
    labels = torch.arange(20) % 3 == 0
    masks = (torch.rand(20, 8, 8, generator=generator) > 0.5) & labels[:, None, None]
    batch = ImageBatch(image=torch.zeros(20, 3, 8, 8)[part], gt_label=labels[part].long(), gt_mask=masks[part])
    batch = batch.update(pred_score=maps.amax(dim=(1, 2))[part], anomaly_map=maps[part])
    found = []
    for argument in ARGUMENTS:
        kind = ImageThreshold if argument.startswith("image") else PixelThreshold
        metric = kind(argument, 0.8 if argument.endswith("recall") else 0.2)
        metric.update(batch)
        found.append(float(metric.compute()))
    return found


def process(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    # Shares of different sizes; the first has 4 anomalous images, the second 3.
    torch.save(thresholds(slice(0, 11) if rank == 0 else slice(11, 20)), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_find_the_thresholds_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(process, (str(tmp_path),), nprocs=2)
    together = thresholds(slice(0, 20))
    assert thresholds(slice(0, 11)) != together
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)] == [together, together]
