"""RatePostProcessor under anomalib's engine, in checkpoints and in exported models."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.metrics.threshold import Threshold
from anomalib.models import Padim
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torchvision.transforms.v2 import Compose, Normalize

from anomalib_ckaad.errors import ConfigurationError, MetricError
from anomalib_ckaad.host.post_processor import set_threshold_metric
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.thresholds import RatePostProcessor, rate_threshold, recall_threshold
from anomalib_ckaad.thresholds.metrics import ImageThreshold, PixelThreshold
from anomalib_ckaad.thresholds.score_histogram import RELATIVE_ERROR
from tests.conftest import make_folder_data, write_images

RATES = {"image_false_positive_rate": 0.3, "pixel_false_positive_rate": 0.05}


class Trained(NamedTuple):
    """A trained model, its data, and its checkpoint."""

    model: Ckaad
    data: Folder
    checkpoint: Path


def make_engine(root: Path, **arguments: Any) -> Engine:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    return Engine(default_root_dir=root, **{**quiet, **arguments})


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the model's size, so that no resizing differs between a checkpoint and what is exported from it."""
    root = tmp_path_factory.mktemp("data")
    for name, count in (("good", 24), ("test_good", 6), ("bad", 6)):
        write_images(root / name, count, size=64)
    return root


def make_model(**arguments: Any) -> Ckaad:
    own = PreProcessor(Compose([Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])]))
    tiny = {"backbone": "resnet18", "layers": (1, 2), "image_size": 64, "pre_trained": False, "visualizer": False}
    return Ckaad(**{**tiny, "pre_processor": own, **arguments})


def make_batch(
    scores: list[float], labels: list[int], maps: torch.Tensor | None = None, masks: torch.Tensor | None = None
) -> ImageBatch:
    maps = torch.zeros(len(scores), 2, 2) if maps is None else maps
    batch = ImageBatch(image=torch.zeros(len(scores), 3, 2, 2), gt_label=torch.tensor(labels), gt_mask=masks)
    return batch.update(pred_score=torch.tensor(scores), anomaly_map=maps)


def validate(processor: PostProcessor, *batches: ImageBatch) -> None:
    for batch in batches:
        processor.on_validation_batch_end(None, None, batch)
    processor.on_validation_epoch_end(None, None)


def test_thresholds_of_normal_images_and_their_pixels() -> None:
    maps = torch.rand(10, 2, 2, generator=torch.Generator().manual_seed(0))
    processor = RatePostProcessor(image_false_positive_rate=0.25, pixel_false_positive_rate=0.1)
    scores = [float(n) for n in range(1, 10)] + [100.0]
    labels = [0] * 9 + [1]
    first, second = make_batch(scores[:4], labels[:4], maps[:4]), make_batch(scores[4:], labels[4:], maps[4:])
    for _ in range(2):  # an epoch forgets the one before
        validate(processor, first, second)
        assert processor.image_threshold.item() == rate_threshold(torch.arange(1.0, 10.0), 0.25)
        pixels = maps[:9].flatten().sort().values
        exact = pixels[-int(0.1 * 36) - 1].item()
        assert exact <= processor.pixel_threshold.item() <= exact * (1 + RELATIVE_ERROR)


def test_recall_of_anomalous_images() -> None:
    processor = RatePostProcessor(image_recall=0.8)
    validate(processor, make_batch([0.5, 5.0, 6.0, 7.0, 8.0, 1.0], [0, 1, 1, 1, 1, 0]))
    expected = recall_threshold(torch.tensor([5.0, 6.0, 7.0, 8.0]), 0.8, others=torch.tensor([0.5, 1.0]))
    assert processor.image_threshold.item() == expected
    assert 1 < expected < 5


@pytest.mark.parametrize("recall", [0.5, 0.9, 0.99])
def test_recall_of_the_pixels_inside_masks(recall: float) -> None:
    maps = torch.randn(6, 10, 10, generator=torch.Generator().manual_seed(0))
    labels = [0, 1, 1, 0, 1, 1]
    masks = (maps > -0.5) & torch.tensor(labels).bool()[:, None, None]
    processor = RatePostProcessor(pixel_recall=recall)
    batches = [make_batch([0.0] * 3, labels[part], maps[part], masks[part]) for part in (slice(3), slice(3, 6))]
    validate(processor, *batches)
    threshold, inside = processor.pixel_threshold.item(), maps[masks]
    assert (inside > threshold).float().mean() >= recall
    just_above = inside.sort().values[int((1 - recall) * len(inside) + 1e-9)].item()  # the highest that keeps it
    assert just_above - RELATIVE_ERROR * abs(just_above) <= threshold < just_above


def test_recall_of_pixels_that_are_all_the_same() -> None:
    processor = RatePostProcessor(pixel_recall=0.5)
    validate(processor, make_batch([0.0], [1], torch.ones(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)))
    assert 1 - RELATIVE_ERROR <= processor.pixel_threshold.item() < 1


def test_what_no_argument_is_about_is_anomalibs() -> None:
    batch = make_batch([1.0, 2.0, 5.0, 6.0], [0, 0, 1, 1])
    ours, theirs = RatePostProcessor(pixel_false_positive_rate=0.1), PostProcessor()
    validate(ours, batch)
    validate(theirs, batch)
    assert ours.image_threshold == theirs.image_threshold
    assert ours.image_max == theirs.image_max


def test_normalization_puts_the_threshold_at_one_half() -> None:
    processor = RatePostProcessor(image_false_positive_rate=0.25)
    validate(processor, make_batch([float(n) for n in range(1, 10)], [0] * 9))
    threshold = processor.image_threshold.item()
    batch = make_batch([7.0, threshold, 8.0, 9.0], [0] * 4)
    batch.pred_label = None
    processor.post_process_batch(batch)
    assert batch.pred_label.tolist() == [False, False, False, True]
    assert batch.pred_score[1].item() == pytest.approx(0.5)


def test_too_few_images_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    processor = RatePostProcessor(image_false_positive_rate=0.01)
    for _ in range(3):
        validate(processor, make_batch([1.0, 2.0, 3.0], [0, 0, 0]))
    assert caplog.text.count("`image_false_positive_rate` of 0.01 needs at least 99 normal validation images") == 1
    assert "there are 3. The threshold is above all their scores" in caplog.text
    assert "false positives may be up to 0.63 (95 % confidence)" in caplog.text  # 1 - 0.05^(1/3)
    assert processor.image_threshold.item() == pytest.approx(3.02)
    validate(RatePostProcessor(image_recall=0.9), make_batch([1.0, 2.0, 3.0], [0, 1, 1]))
    assert "`image_recall` of 0.9 needs at least 9 anomalous validation images, and there are 2." in caplog.text
    assert "anomalies missed may be up to 0.78" in caplog.text  # 1 - 0.05^(1/2)
    validate(RatePostProcessor(pixel_false_positive_rate=0.1), make_batch([1.0, 2.0], [0, 0]))
    assert (
        "`pixel_false_positive_rate` of 0.1 needs at least 9 normal validation images, and there are 2." in caplog.text
    )


def test_enough_images_are_no_reason_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    processor = RatePostProcessor(image_false_positive_rate=0.1, pixel_false_positive_rate=0.1)
    validate(processor, make_batch([float(n) for n in range(9)], [0] * 9))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("arguments", "batch", "message"),
    [
        (
            {"image_false_positive_rate": 0.1},
            make_batch([1.0], [1]),
            "`image_false_positive_rate` needs normal validation images.* `val_split_mode: from_train`",
        ),
        (
            {"pixel_false_positive_rate": 0.1},
            make_batch([1.0], [1]),
            "`pixel_false_positive_rate` needs normal validation images.* `val_split_mode: from_train`",
        ),
        (
            {"image_recall": 0.9},
            make_batch([1.0], [0]),
            "`image_recall` needs anomalous validation images.* `val_split_mode: from_test`",
        ),
        (
            {"pixel_recall": 0.9},
            make_batch([1.0], [0], masks=torch.zeros(1, 2, 2, dtype=torch.bool)),
            "`pixel_recall` needs anomalous validation images.* `val_split_mode: from_test`",
        ),
        (
            {"pixel_recall": 0.9},
            make_batch([1.0], [1]),
            "`pixel_recall` needs masks of the anomalous validation images.* `mask_dir`, or leave `pixel_recall` out",
        ),
        (
            {"pixel_recall": 0.9},
            make_batch([1.0], [1], masks=torch.zeros(1, 2, 2, dtype=torch.bool)),
            "`pixel_recall` needs anomalous pixels, and all masks are empty.* `mask_dir`",
        ),
        (
            {"image_false_positive_rate": 0.1},
            make_batch([1.0, float("inf")], [0, 0]),
            "`image_false_positive_rate` .*1 of 2 validation scores are not finite.* `learning_rate`",
        ),
        (
            {"pixel_false_positive_rate": 0.1},
            make_batch([1.0], [0], torch.tensor([[[float("nan"), 0.0], [0.0, 1.0]]])),
            "`pixel_false_positive_rate` .*1 of 4 validation scores are not finite.* `learning_rate`",
        ),
        (
            {"image_false_positive_rate": 0.1},
            ImageBatch(image=torch.zeros(1, 3, 2, 2), pred_score=torch.zeros(1)),
            "`image_false_positive_rate` needs labeled validation images.* no labels.* `val_split_mode: from_train`",
        ),
    ],
)
def test_validation_that_gives_no_threshold(arguments: dict[str, float], batch: ImageBatch, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        validate(RatePostProcessor(**arguments), batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {},
            "one of image_false_positive_rate, image_recall, pixel_false_positive_rate, pixel_recall",
        ),
        ({"confidence": 0.9}, "one of image_false_positive_rate"),
        (
            {"image_false_positive_rate": 1},
            r"`image_false_positive_rate` must be a number between 0 and 1, not 1\.",
        ),
        ({"image_recall": "0.9"}, r"`image_recall` must be a number between 0 and 1, not '0\.9'\."),
        ({"pixel_false_positive_rate": 0.0}, r"`pixel_false_positive_rate` must be .* not 0\.0\."),
        (
            {"image_recall": 0.9, "image_false_positive_rate": 0.1},
            "either `image_false_positive_rate` or `image_recall`, not both",
        ),
        (
            {"pixel_recall": 0.9, "pixel_false_positive_rate": 0.1},
            "either `pixel_false_positive_rate` or `pixel_recall`, not both",
        ),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RatePostProcessor(**arguments)


@pytest.mark.parametrize("level", ["image", "pixel"])
def test_host_anomalibs_post_processor_takes_thresholds_from_its_private_metrics(level: str) -> None:
    """Names what a new version of anomalib may drop: ``PostProcessor._image_threshold_metric`` and the pixels'."""
    processor = PostProcessor()
    assert isinstance(getattr(processor, f"_{level}_threshold_metric"), Threshold)
    metric = {"image": ImageThreshold, "pixel": PixelThreshold}[level](f"{level}_false_positive_rate", 0.25)
    set_threshold_metric(processor, level, metric)
    validate(processor, make_batch([1.0, 2.0, 3.0, 4.0], [0] * 4, torch.arange(16.0).reshape(4, 2, 2)))
    assert getattr(processor, f"{level}_threshold").item() == pytest.approx(
        {"image": 4.03, "pixel": 11.0}[level], rel=1e-3
    )
    delattr(processor, f"_{level}_threshold_metric")
    with pytest.raises(AttributeError, match=f"_{level}_threshold_metric"):
        set_threshold_metric(processor, level, metric)


def test_fitting_without_validation_is_warned_of(
    data_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(post_processor=RatePostProcessor(image_false_positive_rate=0.1))
    make_engine(tmp_path, limit_val_batches=0).fit(model, datamodule=make_folder_data(data_root))
    assert "No threshold was set, because there was no validation." in caplog.text
    assert "`val_split_mode: from_train`" in caplog.text


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model trained with ``RATES``, validated on the test images: one of them is next to the threshold."""
    model = make_model(post_processor=RatePostProcessor(**RATES))
    data = make_folder_data(data_root, val_split_mode="same_as_test", test_split_mode="from_dir")
    engine = make_engine(tmp_path_factory.mktemp("trained"))
    engine.fit(model, datamodule=data)
    return Trained(model, data, Path(engine.best_model_path))


def labels_of(engine: Engine, model: Ckaad, root: Path, **arguments: Any) -> list[bool]:
    batches = engine.predict(model, data_path=root, **arguments)
    return [bool(label) for batch in batches for label in batch.pred_label]


def test_labels_of_checkpoint_and_exported_model_are_equal(trained: Trained, data_root: Path, tmp_path: Path) -> None:
    folder = data_root / "test_good"
    expected = labels_of(make_engine(tmp_path), trained.model, folder)
    assert sum(expected) == 1  # of six: floor(7 * 0.3) counts the new image too

    loaded = Ckaad.load_from_checkpoint(trained.checkpoint, pre_processor=trained.model.pre_processor)
    assert loaded.post_processor.image_false_positive_rate == 0.3
    assert loaded.post_processor.image_threshold == trained.model.post_processor.image_threshold
    assert labels_of(make_engine(tmp_path / "a"), loaded, folder) == expected
    # Without the argument the thresholds are the checkpoint's as well: they are tensors in it.
    plain = make_model()
    assert labels_of(make_engine(tmp_path / "b"), plain, folder, ckpt_path=trained.checkpoint) == expected
    assert type(plain.post_processor) is PostProcessor

    exporting = {"export_root": tmp_path, "input_size": (64, 64), "onnx_kwargs": {"opset_version": 18}}
    path = make_engine(tmp_path).export(loaded, ExportType.ONNX, **exporting)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = [
        np.asarray(Image.open(file), np.float32).transpose(2, 0, 1)[None] / 255 for file in sorted(folder.iterdir())
    ]
    for run in (
        lambda image: dict(zip(names, session.run(None, {session.get_inputs()[0].name: image}), strict=True)),
        lambda image: {name: compiled(image)[name] for name in names},
    ):
        outputs = [run(image) for image in images]
        assert [bool(output["pred_label"].item()) for output in outputs] == expected
        assert np.mean([output["pred_mask"].mean() for output in outputs]) == pytest.approx(0.05, abs=0.002)


def test_another_rate_without_training_again(trained: Trained, tmp_path: Path) -> None:
    other = RatePostProcessor(image_false_positive_rate=0.2, confidence=0.5)
    model = Ckaad.load_from_checkpoint(trained.checkpoint, post_processor=other)
    before = model.post_processor.image_threshold.item()
    engine = make_engine(tmp_path)
    engine.validate(model, datamodule=trained.data)
    engine.trainer.save_checkpoint(tmp_path / "other.ckpt")
    again = Ckaad.load_from_checkpoint(tmp_path / "other.ckpt")
    assert again.post_processor.image_threshold == other.image_threshold > before
    assert again.post_processor.confidence == 0.5


def test_other_models_of_anomalib_take_it(data_root: Path, tmp_path: Path) -> None:
    processor = RatePostProcessor(image_false_positive_rate=0.2)
    model = Padim(
        backbone="resnet18",
        layers=["layer1"],
        n_features=8,
        pre_trained=False,
        visualizer=False,
        post_processor=processor,
    )
    make_engine(tmp_path).fit(model, datamodule=make_folder_data(data_root))
    assert processor.image_threshold > 0
