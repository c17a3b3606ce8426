"""Folded batch norms give the same features, and follow every change of the weights."""

import copy
import io

import pytest
import torch
from torch import nn

from anomalib_ckaad.network.backbone import FrozenBackbone
from anomalib_ckaad.network.folding import fold_batch_norms


def trained(name: str, layers: tuple[int, ...]) -> FrozenBackbone:
    """A backbone whose batch norms do something."""
    backbone = FrozenBackbone(name, layers)
    generator = torch.Generator().manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return backbone


@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet18", (2, 3)), ("resnet50", (1, 2)), ("tf_efficientnet_lite0", (2, 3)), ("convnext_atto", (1,))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_are_the_same(name: str, layers: tuple[int, ...], dtype: torch.dtype) -> None:
    backbone = trained(name, layers).to(dtype)
    images = torch.randn(2, 3, 128, 96, dtype=dtype)
    with torch.no_grad():
        expected = backbone.network(images)
        folded = fold_batch_norms(backbone.network, images[:1])
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert (folded is not None) == bool(norms)  # ConvNeXt has none
    if folded is not None:
        assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    for one, other in zip(backbone(images), expected, strict=True):
        scale = float(other.abs().max())
        assert float((one - other).abs().max()) < scale * (1e-12 if dtype == torch.float64 else 1e-5)


def test_a_network_that_uses_a_convolution_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.other.running_mean += 1  # type: ignore[operator]

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [self.other(self.conv(self.one(self.conv(images))))]

    assert fold_batch_norms(Twice().eval(), torch.randn(1, 3, 8, 8)) is None


def test_a_convolution_whose_output_goes_elsewhere_too_is_left_alone() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.norm.running_mean += 1  # type: ignore[operator]

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            features = self.conv(images)
            return [features, self.norm(features)]

    assert fold_batch_norms(Both().eval(), torch.randn(1, 3, 8, 8)) is None


def test_new_weights_are_followed() -> None:
    backbone, other = trained("resnet18", (2,)), FrozenBackbone("resnet18", (2,))
    images = torch.randn(1, 3, 64, 64)
    (before,) = backbone(images)
    backbone.load_state_dict(other.state_dict())
    torch.testing.assert_close(backbone(images), other(images))
    assert not torch.equal(backbone(images)[0], before)
    with torch.no_grad():
        next(backbone.network.parameters()).mul_(2)
    torch.testing.assert_close(backbone(images), list(backbone.network(images)), rtol=1e-4, atol=1e-4)
    assert backbone.double()(images.double())[0].dtype == torch.float64


def test_the_copy_is_in_no_state_and_no_file() -> None:
    backbone = trained("resnet18", (2,))
    names, parameters = list(backbone.state_dict()), len(list(backbone.parameters()))
    images = torch.randn(1, 3, 64, 64)
    expected = backbone(images)
    assert backbone._folded[1] is not None
    assert (list(backbone.state_dict()), len(list(backbone.parameters()))) == (names, parameters)
    assert copy.deepcopy(backbone)._folded == (None, None)
    buffer = io.BytesIO()
    torch.save(backbone, buffer)
    assert buffer.tell() < 1.2 * 4 * sum(one.numel() for one in backbone.state_dict().values()) + 100_000
    buffer.seek(0)
    torch.testing.assert_close(torch.load(buffer, weights_only=False)(images), expected)
