"""What docs/large_images.md says of images larger than a model's."""

from pathlib import Path

import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, RandomCrop, Resize

from anomalib_ckaad import Ckaad
from tests.conftest import make_folder_data
from tests.models import make_ckaad

NORMALIZE = Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def make_engine(root: Path, **arguments: object) -> Engine:
    return Engine(accelerator="cpu", devices=1, logger=False, default_root_dir=root, max_epochs=1, **arguments)


def make_model(**arguments: object) -> Ckaad:
    return make_ckaad("resnet18", (1, 2), pre_trained=False, score_top_k=5, seed=0, **arguments)


def test_anomalibs_tiler_is_refused_with_what_to_do_instead(folder_root: Path, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, callbacks=[TilerConfigurationCallback(enable=True, tile_size=[32, 48], stride=32)])
    with pytest.raises(ValueError, match=r"takes no tiles \(here 32x48\).* Enlarge `image_size`, or"):
        engine.fit(make_model(image_size=80), datamodule=make_folder_data(folder_root))
    off = TilerConfigurationCallback(enable=False)
    off.setup(None, make_model(image_size=80))


def test_trained_on_crops_it_scores_whole_images(folder_root: Path, tmp_path: Path) -> None:
    model = make_model(image_size=48, pre_processor=PreProcessor(NORMALIZE))
    sizes = []
    model.model.backbone.register_forward_pre_hook(lambda _, images: sizes.append(tuple(images[0].shape[-2:])))
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=make_folder_data(folder_root, train_augmentations=RandomCrop(48)))
    assert set(sizes) == {(48, 48), (80, 80)}
    (first, *_) = engine.predict(model, data_path=folder_root / "bad")
    assert first.anomaly_map.shape[-2:] == (80, 80)
    restored = Ckaad.load_from_checkpoint(engine.best_model_path, map_location="cpu").eval()
    model.eval()
    for shape in ((1, 3, 80, 80), (2, 3, 50, 131)):
        images = torch.rand(shape)
        with torch.no_grad():
            assert torch.equal(restored(images).anomaly_map, model(images).anomaly_map)
            assert restored(images).anomaly_map.shape[-2:] == shape[-2:]


def test_a_region_is_kept_by_checkpoints_and_nothing_outside_it_counts(folder_root: Path, tmp_path: Path) -> None:
    transform = Compose([CenterCrop((60, 40)), Resize((96, 64), antialias=True), NORMALIZE])
    model = make_model(pre_processor=PreProcessor(transform))
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=make_folder_data(folder_root))
    restored = Ckaad.load_from_checkpoint(engine.best_model_path, map_location="cpu").eval()
    images = torch.rand(1, 3, 80, 80)
    changed = images.clone()
    changed[:, :, :, :20] = 1  # CenterCrop keeps columns 20 to 59
    inside = images.clone()
    inside[:, :, 30:40, 30:40] = 1
    with torch.no_grad():
        first, second, third = (restored(each).anomaly_map for each in (images, changed, inside))
    assert first.shape[-2:] == (96, 64)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
