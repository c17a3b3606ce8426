"""Directions of known anomalies weigh more in the calibrated map, all others as before, and nothing else changes."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from anomalib.data import AnomalibDataModule, Folder
from anomalib.data.utils import LabelName
from anomalib.engine import Engine

from anomalib_ckaad.data.known.known_anomalies import KnownAnomalies
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.scoring import calibration as calibration_module
from anomalib_ckaad.scoring.calibration import ResidualCalibration, ResidualMoments
from anomalib_ckaad.scoring.known_directions import PRIOR, StandingOut, emphasis_of, emphasis_weight
from anomalib_ckaad.scoring.residuals import reconstruction_share
from anomalib_ckaad.training import calibrate_map, training_images
from tests.conftest import make_folder_data
from tests.models import make_ckaad

SIZE, POSITIONS = 6, 100


def whitened(images: int, seed: int, scale: float = 1.0, places: int = 5) -> torch.Tensor:
    """White residuals; in so many places of each image the first direction is larger."""
    drawn = torch.randn(images, POSITIONS, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn[:, :places, 0] *= scale
    return drawn


def standing_out(*residuals: torch.Tensor) -> StandingOut:
    found = StandingOut([one.shape[-1] for one in residuals], like=residuals[0])
    found.add(residuals)
    return found


def test_only_the_longest_residuals_of_an_image_count() -> None:
    residuals = whitened(3, seed=0, scale=20.0)
    found = standing_out(residuals)
    longest = torch.cat([one[one.norm(dim=-1).argsort()[-5:]] for one in residuals])
    torch.testing.assert_close(found.sums[0], longest.mT @ longest)
    assert (found.images, found.positions) == (3, [15])


def test_parts_add_up() -> None:
    residuals = whitened(10, seed=0)
    whole, parts = standing_out(residuals), StandingOut([SIZE], like=residuals)
    for part in (residuals[:3], residuals[3:3], residuals[3:]):
        parts.add([part])
    torch.testing.assert_close(parts.sums, whole.sums)
    assert (parts.images, parts.positions) == (whole.images, whole.positions)


def test_the_direction_of_known_anomalies_weighs_most() -> None:
    normal, known = standing_out(whitened(200, seed=0)), standing_out(whitened(32, seed=1, scale=9.0))
    (found,) = emphasis_of(normal, known, 0.5, most=math.inf)
    weights = (found.mT @ found) * 1.5  # (I + A) / 1.5
    excess = weights - torch.eye(SIZE, dtype=torch.float64)
    # Nearly all of the excess, whose trace is half the number of directions, is in the first one.
    assert float(excess.diagonal().sum()) == pytest.approx(SIZE / 2, rel=1e-6)
    assert float(excess[0, 0]) > 0.95 * SIZE / 2
    assert float(excess.diagonal()[1:].abs().max()) < 0.05


def test_it_is_the_excess_over_normal_images_written_plainly() -> None:
    normal, known = standing_out(whitened(50, seed=0)), standing_out(whitened(8, seed=1, scale=3.0))
    identity = torch.eye(SIZE, dtype=torch.float64)
    usual = normal.sums[0].trace() / SIZE / normal.positions[0]
    reference = (normal.sums[0] + SIZE * usual * identity) / (normal.positions[0] + SIZE)
    found = (known.sums[0] + SIZE * reference) / (known.positions[0] + SIZE)
    values, vectors = torch.linalg.eig(torch.linalg.solve(reference, found))  # not symmetric: another way
    inverse = torch.linalg.inv(vectors)
    excess = usual * ((vectors * (values.real - 1).clamp(min=0)) @ inverse).real @ torch.linalg.inv(reference)
    weight = 0.2
    assert excess.trace() > weight * SIZE
    expected = (identity + excess * weight * SIZE / excess.trace()) / (1 + weight)
    (matrix,) = emphasis_of(normal, known, weight, most=math.inf)
    torch.testing.assert_close(matrix.mT @ matrix, expected)
    (matrix,) = emphasis_of(normal, known, 1.0, most=math.inf)  # as much as all else, but never more than was found
    expected = (identity + excess) / (1 + excess.trace() / SIZE)
    assert excess.trace() < SIZE
    torch.testing.assert_close(matrix.mT @ matrix, expected)


def test_no_direction_counts_more_than_thrice_as_much() -> None:
    normal, known = standing_out(whitened(200, seed=0)), standing_out(whitened(32, seed=1, scale=9.0))
    (bound,) = emphasis_of(normal, known, 0.5)
    (free,) = emphasis_of(normal, known, 0.5, most=math.inf)
    weights, more = (torch.linalg.eigvalsh(one.mT @ one) for one in (bound, free))
    assert float(more[-1] / more[0]) > 3.5  # nearly all of an excess of a half is in one of six directions
    assert float(weights[-1] / weights[0]) == pytest.approx(3, abs=0.05)
    assert float(weights.sum()) == pytest.approx(SIZE)
    vectors = [torch.linalg.eigh(one.mT @ one).eigenvectors[:, -1] for one in (bound, free)]
    assert abs(float(vectors[0] @ vectors[1])) == pytest.approx(1)  # the same one


def test_normal_images_among_the_known_say_little() -> None:
    """What many images find by chance is not blown up to what as many known anomalies may say."""
    weight = emphasis_weight(500)
    assert 1 - weight < 0.1  # 500 known anomalies may weigh as much as all else
    (found,) = emphasis_of(standing_out(whitened(500, seed=0)), standing_out(whitened(500, seed=1)), weight)
    weights = found.mT @ found
    assert float((weights - torch.eye(SIZE, dtype=torch.float64)).abs().max()) < 0.1


def test_units_do_not_matter() -> None:
    normal, known = whitened(50, seed=0), whitened(8, seed=1, scale=3.0)
    found = emphasis_of(standing_out(normal), standing_out(known), 0.2)
    torch.testing.assert_close(emphasis_of(standing_out(7 * normal), standing_out(7 * known), 0.2), found)


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param([(1, 10**6), (8, 10**6), (100, 10**6)], id="few known"),
        pytest.param([(100, 16), (100, 80), (100, 2000)], id="few normal"),
    ],
)
def test_few_images_say_little(counts: list[tuple[int, int]]) -> None:
    normal = standing_out(whitened(200, seed=0))
    identity = torch.eye(SIZE, dtype=torch.float64)
    changes = []
    for known, trained_on in counts:
        weight = emphasis_weight(known, reconstruction_share(trained_on))
        (found,) = emphasis_of(normal, standing_out(whitened(known, seed=1, scale=5.0)), weight)
        changes.append(float((found - identity).norm()))
    assert changes[0] < 0.2 < changes[2]
    assert changes[0] < changes[1] < changes[2]


def test_the_weight_of_known_anomalies() -> None:
    assert emphasis_weight(PRIOR) == 0.5  # as when the whole reconstruction is taken away
    assert emphasis_weight(8, share=0.5) == pytest.approx(0.2 / 8)
    assert emphasis_weight(8, share=0.5, prior=0, power=1) == 0.5
    assert emphasis_weight(0) == 0


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_nothing_stands_out(value: float, caplog: pytest.LogCaptureFixture) -> None:
    normal = standing_out(whitened(10, seed=0))
    (found,) = emphasis_of(normal, standing_out(torch.full((4, POSITIONS, SIZE), value, dtype=torch.float64)), 0.5)
    torch.testing.assert_close(found, torch.eye(SIZE, dtype=torch.float64))
    assert ("residuals are not finite" in caplog.text) == (value != 0)


@pytest.mark.parametrize("shape", [(4, 6), (7, 5)])
def test_whitened_residuals_have_the_lengths_of_the_map(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, *shape), (3, 2, 3)]
    features = [torch.rand(20, *size, generator=generator, dtype=torch.float64) for size in sizes]
    others = [one + 0.1 * torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in features]
    moments = ResidualMoments()
    moments.add(features, others)
    calibration = ResidualCalibration(2)
    calibration.set(moments)
    for _ in range(2):
        for residuals, lengths in zip(
            calibration.whitened(features, others), calibration(features, others), strict=True
        ):
            torch.testing.assert_close(residuals.norm(dim=-1).view_as(lengths[:, 0]), lengths[:, 0])
        rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
        before = calibration(features, others)
        calibration.emphasize([rotation, 2 * torch.eye(3)])
        torch.testing.assert_close(calibration(features, others), [before[0], 2 * before[1]])
    empty = calibration.whitened([one[:0] for one in features], [one[:0] for one in others])
    assert [one.shape for one in empty] == [(0, shape[0] * shape[1], 4), (0, 6, 3)]


def test_projected_stages_are_emphasized_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_module, "LARGEST", 2 * 3 * 4 * 4)
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(20, 6, 2, 3, generator=generator)
    others = features + 0.1 * torch.randn(features.shape, generator=generator)
    moments = ResidualMoments()
    moments.add([features], [others])
    calibration = ResidualCalibration(1)
    calibration.set(moments)
    (residuals,) = calibration.whitened([features], [others])
    assert residuals.shape == (20, 6, 4)
    calibration.emphasize(emphasis_of(standing_out(residuals), standing_out(3 * residuals[:4]), 0.5))
    assert torch.isfinite(calibration([features], [others])[0]).all()


# In a training


def make_model(**arguments: Any) -> Ckaad:
    defaults = {"backbone": "resnet18", "layers": (2, 3), "image_size": 64, "pre_trained": False, "visualizer": False}
    return make_ckaad(**{**defaults, "seed": 0, "calibrate": True, "synthesis": False, **arguments})


def train(model: Ckaad, data: AnomalibDataModule, output: Path) -> None:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 2}
    Engine(default_root_dir=output, **quiet).fit(model, datamodule=data)


def fit(root: Path, output: Path, *, count: int | None = 4, use: str = "train", **arguments: Any) -> Ckaad:
    model, data = make_model(**arguments), make_folder_data(root)
    train(model, data if count is None else KnownAnomalies(data, count=count, use=use), output)
    return model


def whitening(model: Ckaad) -> torch.Tensor:
    return model.model.calibration.get_buffer("whitening_1")


def test_known_anomalies_change_the_calibration_and_no_weight(folder_root: Path, tmp_path: Path) -> None:
    with_it, without = (fit(folder_root, tmp_path / str(wanted), emphasize_known=wanted) for wanted in (True, False))
    assert not torch.allclose(whitening(with_it), whitening(without))
    weights, others = (dict(one.model.auto_encoder.state_dict()) for one in (with_it, without))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    "arguments",
    [
        {"strategy": "recon"},
        {"strategy": "gan"},
        {"count": None},
        {"use": "drop"},
        {"count": 0},
        {"calibrate": False},
    ],
)
def test_nothing_is_emphasized(arguments: dict[str, Any], folder_root: Path, tmp_path: Path) -> None:
    with_it, without = (
        fit(folder_root, tmp_path / str(wanted), emphasize_known=wanted, **arguments) for wanted in (True, False)
    )
    assert with_it.model.calibration.is_set == without.model.calibration.is_set == arguments.get("calibrate", True)
    torch.testing.assert_close(whitening(with_it), whitening(without), rtol=0, atol=0)


class OwnAnomalies(Folder):
    """Data whose own training images are partly anomalous, sorted by label: some batches are of one kind alone."""

    def _setup(self, _stage: str | None = None) -> None:
        super()._setup(_stage)
        samples, test = self.train_data.samples, self.test_data.samples
        taken = test[test.label_index == LabelName.ABNORMAL].iloc[:3]
        attributes = samples.attrs
        self.train_data.samples = pd.concat([samples, taken.assign(mask_path="")], ignore_index=True)
        self.train_data.samples.attrs = attributes


@pytest.mark.parametrize("at_most", [256, 1])
def test_anomalies_among_the_training_images_count_too(
    at_most: int, folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate_map, "COMPARED", at_most)
    monkeypatch.setattr(training_images, "BATCH_SIZE", 2)
    seen: list[tuple[int, int, float]] = []
    original = emphasis_of
    monkeypatch.setattr(
        calibrate_map,
        "emphasis_of",
        lambda normal, known, weight: (
            seen.append((normal.images, known.images, weight)),
            original(normal, known, weight),
        )[1],
    )
    plain = make_folder_data(folder_root)
    data = OwnAnomalies(
        "tiny", root=folder_root, normal_dir=plain.normal_dir, abnormal_dir=plain.abnormal_dir, seed=0,
        normal_test_dir=plain.normal_test_dir, val_split_mode="from_train", train_batch_size=16, num_workers=0,
    )  # fmt: skip
    model = make_model()
    train(model, data, tmp_path)
    counts = data.train_data.samples.label_index.value_counts()
    normal, known = (int(counts[one]) for one in (LabelName.NORMAL, LabelName.ABNORMAL))
    share = normal / (normal + 64)  # normal images alone count for it, too
    assert float(model.model.calibration.get_buffer("share")) == pytest.approx(share)
    ((seen_normal, seen_known, weight),) = seen
    assert seen_normal == (0 if at_most == 1 else normal)  # the first training image is anomalous
    assert seen_known == min(known, at_most)
    assert weight == pytest.approx(emphasis_weight(seen_known, share))
    assert 2 <= known < normal  # a batch of their own
