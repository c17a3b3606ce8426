"""The backbone looks once at an image that comes again as it was, and training does not notice."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine
from torchvision.transforms.v2 import Compose, RandomHorizontalFlip, Resize

from anomalib_ckaad.data.known.known_anomalies import KnownAnomalies
from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.features.cache import FeatureCache
from anomalib_ckaad.features.transforms import is_fixed
from anomalib_ckaad.lightning_model import Ckaad
from tests.conftest import make_folder_data
from tests.models import make_ckaad


def stages(images: torch.Tensor) -> list[torch.Tensor]:
    return [images.mean(dim=1), images[:, :, ::2, ::2]]


def test_same_as_computed_in_any_mixture() -> None:
    images = torch.rand(6, 3, 8, 8)
    cache = FeatureCache(limit=2**20)
    for names in (["a", "b", None], ["b", "a", "c"], ["c", None, "d"], ["d", "a", "c"]):
        chosen = images[[5 if name is None else "abcd".index(name) for name in names]]
        for found, expected in zip(cache.get(chosen, names, stages), stages(chosen), strict=True):
            assert torch.equal(found, expected)
    assert cache.computed == 3 + 1 + 2 + 0


def test_full() -> None:
    images = torch.rand(3, 3, 8, 8)
    each = sum(stage[0].nbytes for stage in stages(images))
    cache = FeatureCache(limit=2 * each)
    for _ in range(3):
        for found, expected in zip(cache.get(images, ["a", "b", "c"], stages), stages(images), strict=True):
            assert torch.equal(found, expected)
    assert cache.computed == 3 + 1 + 1
    cache.clear()
    cache.get(images, ["a", "b", "c"], stages)
    assert cache.computed == 3 + 1 + 1 + 3


def fit(
    root: Path, folder: Path, *, known: bool, augmentations: Any = None, **arguments: Any
) -> tuple[Ckaad, list[int]]:
    """The model after three epochs, and how many images its backbone saw."""
    data: Any = make_folder_data(root, train_augmentations=augmentations)
    data = KnownAnomalies(data, count=2) if known else data
    defaults = {"backbone": "resnet18", "layers": (2, 3), "pre_trained": False, "image_size": 64, "seed": 0}
    model = make_ckaad(visualizer=False, evaluator=False, **{**defaults, **arguments})
    seen: list[int] = []
    model.model.backbone.register_forward_hook(lambda _module, args, _out: seen.append(len(args[0])))
    Engine(default_root_dir=folder, accelerator="cpu", enable_progress_bar=False, max_epochs=3).fit(
        model, datamodule=data
    )
    return model, seen


@pytest.mark.parametrize("known", [False, True])
def test_trains_to_the_same_weights(known: bool, folder_root: Path, tmp_path: Path) -> None:
    """Four normal images to train on, two to validate on; two known anomalies, or a synthetic one for each image."""
    cached, few = fit(folder_root, tmp_path / "a", known=known)
    computed, many = fit(folder_root, tmp_path / "b", known=known, cache={"memory": 0})
    for (name, value), expected in zip(cached.state_dict().items(), computed.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5, equal_nan=True, msg=name)
    assert sum(many) == 3 * (4 + 2 + 4)
    assert sum(few) == (4 + 2 + 2 if known else 4 + 2 + 3 * 4)
    assert cached.frozen_features.cache._features == {}


def test_off_where_images_change(folder_root: Path, tmp_path: Path) -> None:
    _, seen = fit(folder_root, tmp_path, known=True, augmentations=RandomHorizontalFlip())
    assert sum(seen) == 3 * (4 + 4) + 2  # known ones come twice an epoch; validation images stay as they are


def test_another_image_under_a_known_name_is_computed(caplog: pytest.LogCaptureFixture) -> None:
    cache = FeatureCache(limit=2**20)
    with caplog.at_level(logging.INFO):
        for seed in range(3):  # as data sets give them that draw something of their own
            images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
            for found, expected in zip(cache.get(images, ["a", "b"], stages), stages(images), strict=True):
                assert torch.equal(found, expected)
    assert cache.computed == 3 * 2
    assert caplog.text.count("Some images change from epoch to epoch") == 1


def test_a_subclass_may_do_anything() -> None:
    class Shaken(Resize):
        pass

    assert is_fixed(Compose([Resize(8)]))
    assert not is_fixed(Compose([Shaken(8)]))


def test_draws_of_a_data_sets_own_are_seen(folder_root: Path, tmp_path: Path) -> None:
    """Noise that the data set adds itself, of which no transform says anything."""
    data: Any = make_folder_data(folder_root)
    data.setup()
    kind = type(data.train_data)

    class Noisy(kind):  # type: ignore[misc, valid-type]
        def __getitem__(self, index: int) -> Any:
            item = super().__getitem__(index)
            return item.update(image=item.image + 0.1 * torch.rand(item.image.shape))

    data.train_data.__class__ = Noisy
    data.setup = lambda stage=None: None
    model = make_ckaad("resnet18", (2, 3), pre_trained=False, image_size=64, seed=0, strategy="recon", visualizer=False)
    seen: list[int] = []
    model.model.backbone.register_forward_hook(lambda _module, args, _out: seen.append(len(args[0])))
    Engine(default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False, max_epochs=3).fit(
        model, datamodule=data
    )
    assert sum(seen) == 3 * 4 + 2  # validation images stay as they are


@pytest.mark.parametrize("value", [-1, "much"])
def test_bad_limit(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"`memory` in `cache` must be .* at least 0, not {value!r}"):
        make_ckaad(backbone="resnet18", pre_trained=False, cache={"memory": value})
