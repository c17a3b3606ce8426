"""Resizing in exported graphs."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from anomalib_ckaad.host.exact_resize import ExactResize, exact_resizes, resize_matrix
from anomalib_ckaad.host.pre_processor import make_pre_processor, resize_exactly
from anomalib_ckaad.lightning_model import Ckaad

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (1, 1), (100, 81)])
@pytest.mark.parametrize("pixels", [(64, 48), (512, 384), (101, 77), (31, 500), (20, 20), (1, 3)])
def test_equals_torchs_antialiased_resize(pixels: tuple[int, int], size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *pixels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    assert torch.allclose(ExactResize(size)(images), expected, atol=1e-12)


@pytest.mark.parametrize("pixels", [3, 64, 4096, 9999])
def test_large_images_keep_their_mean_and_white_stays_white(pixels: int) -> None:
    matrix = resize_matrix(pixels, 64, torch.zeros(1))
    assert torch.allclose(matrix @ torch.ones(pixels), torch.ones(64), atol=1e-6)


def test_the_pre_processor_gives_the_pixels_of_training_where_anomalibs_does_not() -> None:
    pre_processor = make_pre_processor((64, 64), IMAGENET)
    checkered = (torch.arange(300)[:, None] + torch.arange(300)) % 2
    images = checkered.float().expand(1, 3, 300, 300)
    trained = pre_processor.transform(images)
    assert (pre_processor(images) - trained).abs().max() > 0.5
    resize_exactly(pre_processor)
    assert (pre_processor(images) - trained).abs().max() < 1e-5


def test_the_model_does_so_and_its_checkpoint_keeps_the_transform() -> None:
    model = Ckaad("resnet18", layers=(2, 3), image_size=64, pre_trained=False)
    checkpoint: dict[str, object] = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    model.on_load_checkpoint(checkpoint)
    assert isinstance(model.pre_processor.export_transform[0], ExactResize)
    assert isinstance(model.pre_processor.transform.transforms[0], Resize)


@pytest.mark.parametrize(
    "resize",
    [
        Resize((64, 64), antialias=False),
        Resize((64, 64), interpolation=InterpolationMode.BICUBIC),
        Resize(64),  # the shorter side
    ],
)
def test_other_resizes_stay_as_anomalib_exports_them(resize: Resize) -> None:
    transform = Compose([resize, Normalize([0.5] * 3, [0.5] * 3)])
    exact = exact_resizes(transform, transform)
    assert isinstance(exact, nn.Sequential)
    assert exact[0] is resize


def test_nothing_to_resize() -> None:
    assert exact_resizes(None, None) is None
    resize_exactly(None)
