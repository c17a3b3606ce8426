"""The calibrated map is the Mahalanobis length of residuals, is in the checkpoint, and leaves training as it is."""

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader, IterableDataset

from anomalib_ckaad.data import KnownAnomalies
from anomalib_ckaad.errors import DataError, TrainingError
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.scoring import calibration
from anomalib_ckaad.scoring.anomaly_map import TopK, stage_map
from anomalib_ckaad.scoring.calibration import (
    ResidualCalibration,
    ResidualMoments,
    place_of,
    whitening_of,
)
from anomalib_ckaad.scoring.residuals import reconstruction_share, residual_of
from anomalib_ckaad.training import training_images
from tests.conftest import make_folder_data
from tests.models import make_ckaad

SHAPE = (400, 6, 3, 5)


def pair(
    count: int, *shape: int, seed: int = 0, scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, and what an auto-encoder might make of them."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return features, features + noise * (1 if scale is None else scale)


def calibrated(*stages: tuple[torch.Tensor, torch.Tensor], share: float = 1.0) -> ResidualCalibration:
    moments = ResidualMoments(share)
    half = len(stages[0][0]) // 2
    for part in (slice(0, half), slice(half, None)):
        moments.add([f[part] for f, _ in stages], [g[part] for _, g in stages])
    found = ResidualCalibration(len(stages))
    found.set(moments)
    return found


def test_whitening_inverts_moments_of_many_images() -> None:
    f, g = pair(*SHAPE)
    residual = residual_of(f, g)
    moments = torch.einsum("nchw,ndhw->hwcd", residual, residual) / len(f)
    whitening = whitening_of(moments, images=10**9)
    floor = calibration.FLOOR * moments.mean(dim=(0, 1)).diagonal().mean() * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(whitening.mT @ whitening, torch.linalg.inv(moments + floor))


def test_few_images_share_their_positions() -> None:
    f, g = pair(*SHAPE)
    residual = residual_of(f, g)
    moments = torch.einsum("nchw,ndhw->hwcd", residual, residual) / len(f)
    spread = [whitening_of(moments, images).std(dim=(0, 1)).mean() for images in (0, 6, 10**6)]
    assert spread[0] == pytest.approx(0, abs=1e-9)
    assert spread[0] < spread[1] < spread[2]


def test_residuals_lie_between_those_of_whole_maps_and_of_positions() -> None:
    f, g = pair(*SHAPE)
    strength = (f.square().mean(dim=1, keepdim=True) + 9 * f.square().mean(dim=(1, 2, 3), keepdim=True)).sqrt()
    of_g = (g.square().mean(dim=1, keepdim=True) + 9 * g.square().mean(dim=(1, 2, 3), keepdim=True)).sqrt()
    torch.testing.assert_close(residual_of(f, g), f / strength - g / of_g)
    assert torch.equal(residual_of(f, f), torch.zeros_like(f))
    assert torch.isfinite(residual_of(0 * f, g)).all()
    assert residual_of(f.bfloat16(), g.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("share", [1.0, 0.75, 0.0])
def test_a_share_of_the_reconstruction_is_taken_away(share: float) -> None:
    f, g = pair(*SHAPE)
    nothing = torch.zeros_like(f)
    expected = residual_of(f, nothing) - share * residual_of(g, nothing)
    torch.testing.assert_close(residual_of(f, g, share), expected)
    found = calibrated((f, g), share=share)
    others = pair(*SHAPE, seed=1)
    residual = residual_of(*others, share).permute(0, 2, 3, 1)[..., None]
    lengths = (found.get_buffer("whitening_0") @ residual).square().sum(dim=(-1, -2)).sqrt()
    torch.testing.assert_close(found(others[:1], others[1:])[0][:, 0], lengths)
    again = ResidualCalibration(1)
    again.load_state_dict(found.state_dict())
    torch.testing.assert_close(again(others[:1], others[1:]), found(others[:1], others[1:]))
    found.clear()
    assert float(found.get_buffer("share")) == 1


def test_a_share_keeps_all_digits_and_whitened_residuals_have_the_maps_lengths() -> None:
    f, g = pair(*SHAPE)
    share = 400 / 464
    found = calibrated((f, g), share=share)
    assert float(found.get_buffer("share")) == share
    (whitened,) = found.whitened([f], [g])
    lengths = whitened.square().sum(dim=-1).sqrt()
    torch.testing.assert_close(lengths.sort(dim=1).values, found([f], [g])[0].flatten(1).sort(dim=1).values)


def test_a_checkpoint_of_before_shares_takes_all_of_the_reconstruction_away() -> None:
    f, g = pair(*SHAPE)
    state = calibrated((f, g)).state_dict()
    del state["share"]
    again = calibrated((f, g), share=0.5)
    again.load_state_dict(state)
    torch.testing.assert_close(again([f], [g]), calibrated((f, g))([f], [g]))


def test_the_more_images_the_more_is_taken_away() -> None:
    assert reconstruction_share(64) == 0.5
    shares = [reconstruction_share(images) for images in (0, 10, 100, 1000, 10**6)]
    assert shares == sorted(shares)
    assert (shares[0], round(shares[-1], 3)) == (0, 1)
    assert all(reconstruction_share(images, prior=0) == 1 for images in (0, 10, 100))


def shrunk(moments: torch.Tensor, images: int) -> torch.Tensor:
    """Second moments as they are shrunk and floored, written plainly."""
    channels = moments.shape[-1]
    share = channels / 4 / (channels / 4 + images)
    shared = moments.mean(dim=(0, 1))
    return (1 - share) * moments + share * shared + 0.01 * shared.diagonal().mean() * torch.eye(channels)


def test_map_is_the_mahalanobis_length_at_every_position() -> None:
    f, g = pair(*SHAPE)
    residual = residual_of(f, g)
    moments = torch.einsum("nchw,ndhw->hwcd", residual, residual) / len(f)
    inverse = torch.linalg.inv(shrunk(moments, images=len(f)))
    expected = torch.einsum("nchw,hwcd,ndhw->nhw", residual, inverse, residual).sqrt()
    torch.testing.assert_close(calibrated((f, g))([f], [g])[0][:, 0], expected / 6**0.5)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (7, 8), (2, 3)])
def test_shallower_stages_share_the_positions_of_the_deepest(size: tuple[int, int]) -> None:
    shallow, deep = pair(100, 6, *size), pair(100, 5, 2, 3, seed=1)
    residual = residual_of(*shallow)
    rows, columns = (place_of(positions, own) for positions, own in zip(size, (2, 3), strict=True))
    moments = torch.zeros(2, 3, 6, 6, dtype=torch.float64)
    at_positions = torch.einsum("nchw,ndhw->hwcd", residual, residual) / 100
    for row in range(2):
        for column in range(3):
            moments[row, column] = at_positions[rows == row][:, columns == column].mean(dim=(0, 1))
    inverse = torch.linalg.inv(shrunk(moments, images=100))[rows][:, columns]
    expected = torch.einsum("nchw,hwcd,ndhw->nhw", residual, inverse, residual).sqrt() / 5**0.5
    maps = calibrated(shallow, deep)(*zip(shallow, deep, strict=True))
    torch.testing.assert_close(maps[0][:, 0], expected)
    torch.testing.assert_close(maps[1], calibrated(deep)(*zip(deep, strict=True))[0])


def test_each_position_has_a_matrix_whatever_their_number() -> None:
    for positions in range(1, 30):
        for own in range(1, positions + 1):
            places = place_of(positions, own).tolist()
            assert sorted(set(places)) == list(range(own))
            assert places == sorted(places)


def test_what_is_missed_in_every_normal_image_is_no_anomaly() -> None:
    """The first channel and the first row are reconstructed badly, in normal images as well."""
    scale = torch.ones(6, 3, 5, dtype=torch.float64)
    scale[0], scale[:, 0] = 5, 5
    found = calibrated(pair(*SHAPE, scale=scale))
    normal, anomalous = pair(50, *SHAPE[1:], seed=1, scale=scale), pair(50, *SHAPE[1:], seed=1, scale=scale)
    anomalous[1][:, 3, 2, 2] += 0.3
    for_paper = stage_map(*anomalous)[:, 0].mean(dim=0)
    ours, usual = (found([f], [g])[0][:, 0].mean(dim=0) for f, g in (anomalous, normal))
    assert for_paper.argmax() // 5 == 0  # the paper's map is largest in the first row
    assert divmod(int(ours.argmax()), 5) == (2, 2)
    assert float(usual.std() / usual.mean()) < 0.15


def test_maps_of_another_size_take_the_nearest_positions() -> None:
    f, g = pair(*SHAPE)
    found = calibrated((f, g))
    larger = [one.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for one in (f, g)]
    expected = found([f], [g])[0].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(found(larger[:1], larger[1:])[0], expected)
    assert found([f[..., :2, :4]], [g[..., :2, :4]])[0].shape == (400, 1, 2, 4)


def test_wide_stages_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LARGEST", 3 * 5 * 4 * 4)
    f, g = pair(*SHAPE)
    found = calibrated((f, g))
    assert found.get_buffer("whitening_0").shape == (3, 5, 4, 4)
    rows = found.get_buffer("projection_0")
    torch.testing.assert_close(rows @ rows.mT, torch.eye(4, dtype=torch.float64))
    again = ResidualCalibration(1)
    again.load_state_dict(found.state_dict())
    assert float(again([f], [g])[0].square().mean()) == pytest.approx(1, rel=0.1)


def test_a_checkpoint_brings_its_sizes_and_an_older_one_none() -> None:
    stages = pair(*SHAPE), pair(400, 4, 2, 2)
    features, reconstructions = zip(*stages, strict=True)
    found = calibrated(*stages)
    again = ResidualCalibration(2)
    again.load_state_dict(found.state_dict())
    torch.testing.assert_close(again(features, reconstructions), found(features, reconstructions))
    again.load_state_dict({})
    assert not again.is_set


def test_moments_that_are_not_finite_are_not_taken() -> None:
    f, g = pair(*SHAPE)
    g[0] = float("nan")
    assert not calibrated((f, g)).is_set


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_perfect_reconstructions_do_not_divide_by_zero(dtype: torch.dtype) -> None:
    f, g = (one.to(dtype) for one in pair(*SHAPE))
    perfect = calibrated((f, f))
    assert torch.isfinite(perfect.get_buffer("whitening_0")).all()
    assert perfect([f], [f])[0].abs().max() == 0
    assert torch.isfinite(perfect([f], [g])[0]).all()


# In a training


def make_model(**arguments: Any) -> Ckaad:
    defaults = {"backbone": "resnet18", "layers": (2, 3), "image_size": 64, "pre_trained": False, "visualizer": False}
    return make_ckaad(**{**defaults, "seed": 0, "calibrate": True, **arguments})


def fit(model: Ckaad, root: Path, output: Path, **arguments: Any) -> Engine:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 2}
    engine = Engine(default_root_dir=output, **{**quiet, **arguments})
    engine.fit(model, datamodule=make_folder_data(root))
    return engine


def test_normal_training_images_have_the_length_of_their_directions(folder_root: Path, tmp_path: Path) -> None:
    model = make_model()
    engine = fit(model, folder_root, tmp_path)
    data = make_folder_data(folder_root)
    data.setup("fit")
    images = torch.stack([item.image for item in data.train_data])
    assert model.pre_processor is not None
    features, reconstructions = model.eval().model.reconstruct(model.pre_processor.transform(images))
    deepest = model.model.calibration(features, reconstructions)[-1].detach()
    # More directions than so few images can fill; never longer in the mean than there are.
    assert 0.1 < float(deepest.square().mean()) < 1.1
    loaded = Ckaad.load_from_checkpoint(engine.best_model_path)
    assert loaded.model.calibration.is_set
    torch.testing.assert_close(loaded.eval()(images).pred_score, model(images).pred_score)


def test_thresholds_are_of_calibrated_scores(folder_root: Path, tmp_path: Path) -> None:
    model = make_model()
    engine = fit(model, folder_root, tmp_path)
    before = model.post_processor.image_threshold.clone()
    engine.validate(model, datamodule=make_folder_data(folder_root))
    torch.testing.assert_close(model.post_processor.image_threshold, before, rtol=1e-3, atol=1e-3)
    model.model.calibration.clear()
    engine.validate(model, datamodule=make_folder_data(folder_root))
    assert not torch.allclose(model.post_processor.image_threshold, before, rtol=0.05)


def test_training_is_as_without_it(folder_root: Path, tmp_path: Path) -> None:
    stops = {"callbacks": [EarlyStopping("val_reconstruction", patience=9)]}  # each epoch may be the one that is kept
    runs = []
    for number, wanted in enumerate((True, False)):
        model = make_model(calibrate=wanted)
        fit(model, folder_root, tmp_path / str(number), **stops)
        runs.append(model)
    assert [model.model.calibration.is_set for model in runs] == [True, False]
    weights, others = (dict(model.model.auto_encoder.state_dict()) for model in runs)
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    ("watched", "between", "expected"), [(False, 1, 1), (True, 1, 3), (False, 2, 2), (False, 3, 1)]
)
def test_only_what_may_be_kept_is_calibrated(
    watched: bool, between: int, expected: int, folder_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    original = ResidualCalibration.set
    monkeypatch.setattr(ResidualCalibration, "set", lambda self, moments: (counted.append(1), original(self, moments)))
    callbacks = [EarlyStopping("val_reconstruction", patience=9)] if watched else []
    arguments = {"max_epochs": 3, "check_val_every_n_epoch": between}
    fit(make_model(), folder_root, tmp_path, callbacks=callbacks, **arguments)
    assert len(counted) == expected


def test_a_training_without_validation_is_calibrated(folder_root: Path, tmp_path: Path) -> None:
    model = make_model()
    fit(model, folder_root, tmp_path, limit_val_batches=0)
    assert model.model.calibration.is_set


def test_a_warm_start_begins_without(folder_root: Path, tmp_path: Path) -> None:
    engine = fit(make_model(), folder_root, tmp_path / "first")
    later = make_model(warm_start=engine.best_model_path, calibrate=False)
    fit(later, folder_root, tmp_path / "later")
    assert not later.model.calibration.is_set


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"backbone": "resnet18"}, (5e-3, 1e-4, False, 100)),
        ({"backbone": "tf_efficientnet_lite0"}, (1e-3, 1e-3, True, "power_mean")),
        ({"backbone": "tf_efficientnet_lite0", "preset": "paper"}, (5e-3, 1e-4, False, 100)),
        ({"backbone": "resnet18", "preset": "measured", "learning_rate": 0.1}, (0.1, 1e-3, True, "power_mean")),
        ({"backbone": "tf_efficientnet_lite0", "calibrate": False, "score_top_k": "all"}, (1e-3, 1e-3, False, "all")),
    ],
)
def test_presets(arguments: dict[str, Any], expected: tuple[float, float, bool, TopK]) -> None:
    model = make_model(**{"calibrate": None, **arguments})
    found = (model.learning_rate, model.discriminator_learning_rate, model.calibrate, model.model.score_top_k)
    assert found == expected
    assert model.hparams["score_top_k"] == expected[-1]  # for a checkpoint that another version's presets load


@pytest.mark.parametrize(("backbone", "expected"), [("resnet18", (1, 2, 3)), ("tf_efficientnet_lite0", (2, 3))])
def test_stages_of_presets(backbone: str, expected: tuple[int, ...]) -> None:
    model = make_model(backbone=backbone, layers=None)
    assert tuple(stage.number for stage in model.model.backbone.stages) == expected


def test_scores_are_small_enough_for_torchmetrics(folder_root: Path, tmp_path: Path) -> None:
    model = make_model()
    engine = fit(model, folder_root, tmp_path)
    (result,) = engine.test(model, datamodule=make_folder_data(folder_root))
    scores = torch.cat(
        [batch.raw_pred_score for batch in engine.predict(model, datamodule=make_folder_data(folder_root))]
    )
    assert scores.min() > 0
    assert scores.max() < 12
    assert 0 <= result["image_AUROC"] <= 1


def test_moments_are_of_full_precision_under_autocast() -> None:
    f, g = (one.float() for one in pair(*SHAPE))
    exact = calibrated((f, g)).get_buffer("whitening_0")
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = calibrated((f, g)).get_buffer("whitening_0")
    torch.testing.assert_close(under_autocast, exact)


def test_moments_that_rounding_made_indefinite_are_mended() -> None:
    moments = torch.diag(torch.tensor([1.0, 1.0, -0.5], dtype=torch.float64)).expand(2, 2, 3, 3)
    assert torch.isfinite(whitening_of(moments, images=10**6)).all()


def test_projected_stages_score_in_other_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LARGEST", 3 * 5 * 4 * 4)
    f, g = (one.float() for one in pair(*SHAPE))
    found = calibrated((f, g))
    halves = found([f.bfloat16()], [g.bfloat16()])[0]
    torch.testing.assert_close(halves, found([f], [g])[0], rtol=0.1, atol=0.1)
    assert found.bfloat16()([f], [g])[0].shape == (400, 1, 3, 5)


def test_a_second_fit_is_calibrated_too(folder_root: Path, tmp_path: Path) -> None:
    model = make_model()
    for number in range(2):
        engine = fit(model, folder_root, tmp_path / str(number))
        assert model.model.calibration.is_set
    again = make_model()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 2}
    Engine(default_root_dir=tmp_path / "resumed", **quiet).fit(
        again, datamodule=make_folder_data(folder_root), ckpt_path=engine.best_model_path
    )
    assert again.model.calibration.is_set  # though nothing was left to train


def test_thresholds_are_calibrated_where_the_last_epoch_is_not_validated(folder_root: Path, tmp_path: Path) -> None:
    model = make_model()
    fit(model, folder_root, tmp_path, max_epochs=3, check_val_every_n_epoch=2)
    kept = float(model.post_processor.image_threshold)
    Engine(default_root_dir=tmp_path / "validated", accelerator="cpu").validate(
        model, datamodule=make_folder_data(folder_root)
    )
    assert float(model.post_processor.image_threshold) == pytest.approx(kept, rel=0.5)


def test_batch_statistics_stay_as_trained(folder_root: Path, tmp_path: Path) -> None:
    trained = []
    for wanted in (True, False):
        model = make_model(norm="batch", calibrate=wanted)
        fit(model, folder_root, tmp_path / str(wanted), limit_val_batches=0)
        trained.append(model.model.auto_encoder.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.mark.parametrize(("arguments", "expected"), [({}, 4 / 68), ({"reconstruction_prior": 0}, 1.0)])
@pytest.mark.parametrize("known", [False, True])
def test_normal_training_images_alone_count_for_the_share(
    arguments: dict[str, float], expected: float, known: bool, folder_root: Path, tmp_path: Path
) -> None:
    model = make_model(**arguments)
    data = make_folder_data(folder_root)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    engine = Engine(default_root_dir=tmp_path, **quiet)
    engine.fit(model, datamodule=KnownAnomalies(data, count=2) if known else data)
    assert float(model.model.calibration.get_buffer("share")) == pytest.approx(expected)
    loaded = Ckaad.load_from_checkpoint(engine.best_model_path)
    assert float(loaded.model.calibration.get_buffer("share")) == pytest.approx(expected)


def test_images_of_a_loader_without_labels_of_their_own_all_count(folder_root: Path, tmp_path: Path) -> None:
    data = make_folder_data(folder_root)
    data.setup("fit")
    images = [data.train_data[index] for index in range(3)]
    loader = DataLoader(images, batch_size=3, collate_fn=data.train_data.collate_fn)  # type: ignore[arg-type]
    model = make_model()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    Engine(default_root_dir=tmp_path, **quiet).fit(model, train_dataloaders=loader, val_dataloaders=loader)
    assert float(model.model.calibration.get_buffer("share")) == pytest.approx(3 / 67)


def test_at_most_so_many_images_are_looked_at_spread_over_all(folder_root: Path, tmp_path: Path) -> None:
    model = make_model(calibrate=False)
    fit(model, folder_root, tmp_path)
    paths = list(model.trainer.datamodule.train_data.samples.image_path)
    assert len(paths) == 4
    for at_most, expected in ((1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])):
        batches = training_images.normal_batches(model.trainer, at_most)
        assert [path for batch in batches for path in batch.image_path] == [paths[place] for place in expected]
    batches = training_images.normal_batches(model.trainer, 2)
    assert [path for batch in batches for path in batch.image_path] == [paths[0], paths[2]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_moments_that_are_not_finite_are_refused(value: float) -> None:
    moments = torch.eye(3).expand(2, 2, 3, 3).clone()
    moments[0, 0, 0, 0] = value
    with pytest.raises(TrainingError, match=r"second moments of the residuals are not finite"):
        whitening_of(moments, images=5)


class Endless(IterableDataset):  # type: ignore[type-arg]
    """Images one after another, without numbers."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def test_data_that_cannot_be_read_again_are_refused_before_training(folder_root: Path, tmp_path: Path) -> None:
    data = make_folder_data(folder_root)
    data.setup("fit")
    images = Endless([data.train_data[index] for index in range(3)])
    loader = DataLoader(images, batch_size=3, collate_fn=data.train_data.collate_fn)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    engine = Engine(default_root_dir=tmp_path, **quiet)
    with pytest.raises(DataError, match=r"cannot be calibrated on Endless"):
        engine.fit(make_model(), train_dataloaders=loader, val_dataloaders=loader)
    assert not list(tmp_path.rglob("*.ckpt"))
    plain = make_model(calibrate=False)
    Engine(default_root_dir=tmp_path, **quiet).fit(plain, train_dataloaders=loader, val_dataloaders=loader)
    assert plain.trainer.global_step > 0


def test_a_trainer_that_goes_on_with_another_model_calibrates_only_what_asks_for_it(
    folder_root: Path, tmp_path: Path
) -> None:
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, enable_progress_bar=False)
    first, second = make_model(strategy="recon"), make_model(strategy="recon", calibrate=False)
    engine.fit(first, datamodule=make_folder_data(folder_root))
    engine.trainer.fit_loop.max_epochs = 2
    engine.fit(second, datamodule=make_folder_data(folder_root))
    assert first.model.calibration.is_set
    assert not second.model.calibration.is_set


def test_known_anomalies_of_loaders_are_looked_for_among_all_images(folder_root: Path) -> None:
    """Only batches have labels: the known ones may come after as many images as are compared."""
    data = make_folder_data(folder_root)
    data.setup("fit")
    item = data.train_data[0]
    labeled = [copy.copy(item) for _ in range(300)]
    labeled[-1].gt_label = torch.tensor(1)
    loader = DataLoader(labeled, batch_size=4, collate_fn=data.train_data.collate_fn)
    strategy = SimpleNamespace(batch_to_device=lambda batch: batch)
    trainer: Any = SimpleNamespace(train_dataloader=loader, datamodule=None, strategy=strategy)
    found = sum(int(batch.gt_label.sum()) for batch in training_images.batches_of_known(trainer, at_most=256))
    assert found == 1
