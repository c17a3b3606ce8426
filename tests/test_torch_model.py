"""One contract for every backbone: shapes, gradients, any size, frozen, saved and loaded."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.network.auto_encoder import FeatureAutoEncoder
from anomalib_ckaad.network.backbone import FrozenBackbone, build_on_meta, describe, list_stages, resolve_layers
from anomalib_ckaad.network.discriminator import ImageDiscriminator, PatchDiscriminator
from anomalib_ckaad.torch_model import CkaadModel

BACKBONES = [
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "resnext50_32x4d",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "convnext_atto",
    "regnety_002",
    "resnest14d",
]
ODD_SIZES = [(48, 48), (64, 96), (61, 75), (50, 49)]


@pytest.fixture(params=BACKBONES, scope="module")
def model(request: pytest.FixtureRequest) -> CkaadModel:
    torch.manual_seed(0)
    return CkaadModel(request.param, layers=(1, 2, 3)).eval()


@pytest.mark.parametrize("size", ODD_SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_reconstructions_have_the_features_shapes_at_any_size(model: CkaadModel, size: tuple[int, int]) -> None:
    features, reconstructions = model.reconstruct(torch.rand(2, 3, *size))
    assert [f.shape for f in features] == [g.shape for g in reconstructions]
    prediction = model(torch.rand(2, 3, *size))
    assert prediction.anomaly_map.shape == (2, 1, *size)
    assert prediction.pred_score.shape == (2,)
    assert torch.isfinite(prediction.anomaly_map).all()


def test_channels_and_strides_are_what_timm_reports(model: CkaadModel) -> None:
    features = model.backbone(torch.rand(1, 3, 64, 64))
    for stage, feature in zip(model.backbone.stages, features, strict=True):
        assert feature.shape == (1, stage.channels, 64 // stage.stride, 64 // stage.stride)


def test_gradients_reach_all_of_the_auto_encoder_and_none_of_the_backbone(model: CkaadModel) -> None:
    features, reconstructions = model.reconstruct(torch.rand(2, 3, 64, 64))
    loss = sum(nn.functional.mse_loss(g, f) for f, g in zip(features, reconstructions, strict=True))
    loss.backward()
    missing = [name for name, p in model.auto_encoder.named_parameters() if p.grad is None]
    assert missing == []
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
    model.zero_grad(set_to_none=True)


def test_backbone_stays_in_evaluation_mode_and_its_statistics_untouched(model: CkaadModel) -> None:
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model.train()
    assert not any(module.training for module in model.backbone.modules())
    assert model.auto_encoder.training
    model(torch.rand(2, 3, 64, 64))
    model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_scores_do_not_depend_on_the_batch(model: CkaadModel) -> None:
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        together = model(images).pred_score
        alone = torch.cat([model(image[None]).pred_score for image in images])
    assert together == pytest.approx(alone, rel=1e-4)


def test_autocast_does_not_round_scores_together(model: CkaadModel) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        prediction = model(torch.rand(1, 3, 64, 64))
    assert prediction.anomaly_map.dtype == prediction.pred_score.dtype == torch.float32
    in_half = prediction.anomaly_map.bfloat16().unique()
    assert len(prediction.anomaly_map.unique()) > 4 * len(in_half)


def test_features_of_many_images_are_those_of_each() -> None:
    backbone = FrozenBackbone("resnet18", (2, 3)).double()
    images = torch.rand(19, 3, 64, 64, dtype=torch.float64)
    together = backbone(images)
    for index in (0, 7, 8, 18):
        for one, other in zip(together, backbone(images[index : index + 1]), strict=True):
            torch.testing.assert_close(one[index], other[0], rtol=1e-10, atol=1e-12)
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in together)


def test_saved_and_loaded(model: CkaadModel) -> None:
    other = CkaadModel(model.backbone.name, layers=(1, 2, 3)).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(other(images).anomaly_map, model(images).anomaly_map)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images).anomaly_map, model(images).anomaly_map)


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050", "convnext_atto"])
def test_nothing_is_computed_behind_the_deepest_stage(backbone: str) -> None:
    frozen = FrozenBackbone(backbone, (1, 2))
    called: list[str] = []
    for name, module in frozen.network.named_modules():
        module.register_forward_hook(lambda _m, _i, _o, name=name: called.append(name))
    frozen(torch.rand(1, 3, 64, 64))
    deepest = frozen.stages[-1].name.replace(".", "_" if backbone.startswith("convnext") else ".")
    assert called[-2] == deepest  # the last call is the network itself
    parameters = {name for name, _ in frozen.network.named_parameters()}
    used = {name.rpartition(".")[0] for name in parameters}
    assert used <= set(called)


@pytest.mark.parametrize("layers", [(1,), (4,), (3, 1), (1, 2, 3, 4), ("layer3", 2), (2, 4), (0, 2)])
def test_any_subset_of_stages_in_any_order_gaps_included(layers: tuple[str | int, ...]) -> None:
    model = CkaadModel("resnet18", layers)
    images = torch.rand(1, 3, 100, 131)
    features, reconstructions = model.reconstruct(images)
    assert [f.shape for f in features] == [g.shape for g in reconstructions]
    strides = [stage.stride for stage in model.backbone.stages]
    assert strides == sorted(strides)


def test_order_of_layers_does_not_matter() -> None:
    torch.manual_seed(0)
    one = CkaadModel("resnet18", (1, 3))
    torch.manual_seed(0)
    other = CkaadModel("resnet18", ("layer3", "layer1"))
    assert [s.name for s in one.backbone.stages] == ["layer1", "layer3"]
    for (name, a), (other_name, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(a, b)


def test_gap_takes_one_level_per_factor_of_two() -> None:
    auto_encoder = FeatureAutoEncoder(describe("resnet18", (1, 3)))
    assert auto_encoder.stage_of_level == [1, None, 0]
    assert len(auto_encoder.fusion[0]) == 2
    assert len(auto_encoder.fusion[1]) == 0


def test_resnets_are_the_references() -> None:
    """Numbers of blocks and widths of section 2 of the design, asked from timm."""
    expected = {
        "resnet18": ("basic", 2, (2, 2, 2, 2), 512),
        "resnet34": ("basic", 3, (3, 4, 6, 3), 512),
        "resnet50": ("bottleneck", 3, (3, 4, 6, 3), 2048),
        "wide_resnet50_2": ("bottleneck", 3, (3, 4, 6, 3), 2048),
        "resnet101": ("bottleneck", 3, (3, 4, 23, 3), 2048),
        "resnet152": ("bottleneck", 3, (3, 8, 36, 3), 2048),
    }
    for backbone, (block, encoder_depth, decoder_depths, width) in expected.items():
        architecture = describe(backbone, (1, 2, 3))
        assert architecture.block == block
        assert architecture.encoder_depth == encoder_depth
        assert architecture.decoder_depths == decoder_depths
        assert architecture.widths[32] == width
        assert architecture.output_relu
    assert describe("wide_resnet50_2", (1,)).width_ratio == 0.5
    assert describe("resnet50", (1,)).width_ratio == 0.25


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("resnet18", True),
        ("regnety_002", True),
        ("resnest14d", True),
        ("tf_efficientnet_lite0", False),
        ("convnext_atto", False),
    ],
)
def test_reconstructions_end_in_a_relu_where_features_do(backbone: str, expected: bool) -> None:
    model = CkaadModel(backbone, (1, 2, 3))
    features, reconstructions = model.reconstruct(torch.randn(1, 3, 64, 64))
    assert all(bool((f >= 0).all()) is expected for f in features)
    assert all(bool((g >= 0).all()) is expected for g in reconstructions)
    assert CkaadModel(backbone, (1, 2), output_relu=not expected).auto_encoder.architecture.output_relu is not expected


def test_no_convolution_has_a_bias_and_every_norm_has_parameters() -> None:
    auto_encoder = FeatureAutoEncoder(describe("resnet50", (2, 3)))
    for module in auto_encoder.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is None
        if isinstance(module, nn.InstanceNorm2d):
            assert module.affine
            assert module.eps == 1e-5


def test_batch_norm_on_request() -> None:
    auto_encoder = FeatureAutoEncoder(describe("resnet18", (2, 3)), norm="batch")
    assert any(isinstance(m, nn.BatchNorm2d) for m in auto_encoder.modules())
    assert not any(isinstance(m, nn.InstanceNorm2d) for m in auto_encoder.modules())


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (75, 130)])
def test_image_discriminator_gives_one_score_an_image(size: tuple[int, int]) -> None:
    architecture = describe("resnet18", (1, 2, 3))
    features = FrozenBackbone("resnet18", (1, 2, 3))(torch.rand(2, 3, *size))
    deepest = features[-1].shape[-2:]
    discriminator = ImageDiscriminator(architecture.channels, architecture.strides, (deepest[0], deepest[1]))
    (scores,) = discriminator(features)
    assert scores.shape == (2,)
    scores.sum().backward()
    assert all(p.grad is not None for p in discriminator.parameters())


def test_patch_discriminator_sees_directions_only() -> None:
    discriminator = PatchDiscriminator((4, 8))
    features = [torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3)]
    scores = discriminator(features)
    assert [score.shape for score in scores] == [(2, 6, 6), (2, 3, 3)]
    scaled = discriminator([7 * f for f in features])
    for score, same in zip(scores, scaled, strict=True):
        assert score.detach().numpy() == pytest.approx(same.detach().numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("backbone", "layers", "message"),
    [
        ("resnet1800", (1,), r"timm has no model 'resnet1800'\. Pass another `backbone`, such as resnet"),
        ("resnet18", (), r"`layers` is empty\. Choose at least one of act1"),
        ("resnet18", (7,), r"resnet18 has no layer 7\. Choose `layers` from act1"),
        ("resnet18", ("layer9",), r"no layer 'layer9'"),
        ("resnet18", (2, "layer2"), r"`layers` names 'layer2' twice: \[2, 'layer2'\]"),
        ("tf_efficientnet_lite0", ("layer1",), r"Choose `layers` from blocks\.0 \(stage 0, stride 2\)"),
    ],
)
def test_unknown_backbones_and_layers(backbone: str, layers: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve_layers(backbone, layers)


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_smallest_image_works_and_a_smaller_one_names_it(backbone: str) -> None:
    model = CkaadModel(backbone, (2, 3)).train()
    smallest = model.auto_encoder.architecture.smallest_side
    model(torch.rand(1, 3, smallest, smallest))
    with pytest.raises(ValueError, match=rf"{smallest}x{smallest - 1} pixels .* at least {smallest}x{smallest} "):
        model(torch.rand(1, 3, smallest, smallest - 1))


def test_stage_numbers_follow_the_stride() -> None:
    for backbone in BACKBONES:
        for stage in list_stages(backbone):
            assert stage.stride == 2 ** (stage.number + 1)


def test_a_backbone_that_is_not_built_on_the_meta_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As timm 1.0.29 has some: torch has no such operation there."""
    create = timm.create_model

    def refuse(*args: Any, **options: Any) -> Any:
        if torch.empty(0).device.type == "meta":
            raise NotImplementedError
        return create(*args, **options)

    monkeypatch.setattr(timm, "create_model", refuse)
    state = torch.get_rng_state()
    network = build_on_meta("resnet10t", features_only=True)
    assert network.feature_info.channels()[-1] == 512
    assert torch.equal(torch.get_rng_state(), state)
