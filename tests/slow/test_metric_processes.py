"""Thresholds, metrics and calibration are those of all processes' images together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch
from torch import distributed, multiprocessing

from anomalib_ckaad import metrics
from anomalib_ckaad.metrics.threshold_range import NAMES
from anomalib_ckaad.scoring.calibration import ResidualMoments
from anomalib_ckaad.scoring.known_directions import StandingOut
from anomalib_ckaad.thresholds.metrics import ImageThreshold, PixelThreshold

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
RATES = ("image_false_positive_rate", "image_recall", "pixel_false_positive_rate", "pixel_recall")
GROUPED = ("StreamingAUPRO", "AccuracyAtF1Max", "AUROC")
STREAMING = ("StreamingAP", "StreamingAUPRO", "StreamingAUROC", "StreamingF1Max", *GROUPED[1:], "mAD", *NAMES)


def batch_of(part: slice) -> ImageBatch:
    """A share of twenty images; types of defects by index, one of them in the first share only."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 3 == 0
    masks = (torch.rand(20, 8, 8, generator=generator) > 0.5) & labels[:, None, None]
    maps = torch.rand(20, 8, 8, generator=generator) + 0.3 * masks
    types = ["good" if not bad else "crack" if index < 8 else "hole" for index, bad in enumerate(labels)]
    batch = ImageBatch(
        image=torch.zeros(20, 3, 8, 8)[part],
        image_path=[f"t/{name}/{index}" for index, name in enumerate(types)][part],
        gt_label=labels[part].long(),
        gt_mask=masks[part],
    )
    batch = batch.update(pred_score=maps.mean(dim=(1, 2))[part], anomaly_map=maps[part])
    batch.raw_pred_score, batch.raw_anomaly_map = batch.pred_score, batch.anomaly_map
    return batch


def found_in(part: slice) -> list[float]:
    made: list[Any] = [
        (ImageThreshold if name.startswith("image") else PixelThreshold)(name, 0.8 if "recall" in name else 0.2)
        for name in RATES
    ]
    made += [getattr(metrics, name)() for name in STREAMING]
    made += [metrics.PerGroup(getattr(metrics, name)()) for name in GROUPED]
    for metric in made:
        metric.update(batch_of(part))
    return [float(metric.compute()) for metric in made]


def with_nothing(rank: int, folder: str) -> None:
    """One process has all images, the other none."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    made: list[Any] = [getattr(metrics, name)() for name in STREAMING]
    for metric in made:
        if rank == 0:
            metric.update(batch_of(slice(0, 20)))
    torch.save([float(metric.compute()) for metric in made], Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_a_process_without_images(tmp_path: Path) -> None:
    multiprocessing.spawn(with_nothing, (str(tmp_path),), nprocs=2)
    expected = found_in(slice(0, 20))[len(RATES) : -len(GROUPED)]
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected, abs=1e-7)


def process(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(found_in(slice(0, 11) if rank == 0 else slice(11, 20)), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    multiprocessing.spawn(process, (str(tmp_path),), nprocs=2)
    together = found_in(slice(0, 20))
    alone = found_in(slice(0, 11))
    differ = sum(one != other for one, other in zip(alone, together, strict=True))
    assert differ >= len(together) - 4  # some are at their best in either
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(together, abs=1e-7)


def moments_in(part: slice) -> ResidualMoments:
    generator = torch.Generator().manual_seed(0)
    features = [torch.rand(20, channels, side, side, generator=generator) for channels, side in ((4, 6), (6, 3))]
    reconstructions = [f + 0.1 * torch.randn(f.shape, generator=generator) for f in features]
    found = ResidualMoments(0.5)
    found.add([f[part] for f in features], [g[part] for g in reconstructions])
    found.reduce()
    return found


def standing_out_in(part: slice) -> StandingOut:
    residuals = torch.randn(20, 40, 5, generator=torch.Generator().manual_seed(0))
    found = StandingOut([5], like=residuals)
    found.add([residuals[part]])
    found.reduce()
    return found


def calibrating_process(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = moments_in(slice(0, 7) if rank == 0 else slice(7, 20))
    known = standing_out_in(slice(0, 20) if rank == 0 else slice(20, 20))  # one process has none
    result = {"images": found.images, "sums": found.sums, "known": [known.images, known.positions, known.sums]}
    torch.save(result, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_calibrate_by_the_images_of_both(tmp_path: Path) -> None:
    multiprocessing.spawn(calibrating_process, (str(tmp_path),), nprocs=2)
    together = moments_in(slice(0, 20))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["images"] == together.images == 20
        torch.testing.assert_close(found["sums"], together.sums)
        known = standing_out_in(slice(0, 20))
        assert found["known"][:2] == [known.images, known.positions]
        torch.testing.assert_close(found["known"][2], known.sums)
