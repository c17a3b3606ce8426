"""Golden files of other set-ups are recognized from names and shapes alone."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_ckaad.network.auto_encoder import Architecture, FeatureAutoEncoder
from anomalib_ckaad.network.backbone import describe
from anomalib_ckaad.network.discriminator import PatchDiscriminator
from tests.golden_files import GoldenFile, golden_paths


def reference_name(ours: str) -> str:
    """Our name of a tensor -> the reference's."""
    letter = "ln" if ours.startswith("bottleneck") else "bn"
    sampling = "downsample" if ours.startswith("bottleneck") else "upsample"
    name = re.sub(r"\.convolutions\.(\d)\.", lambda m: f".conv{int(m.group(1)) + 1}.", ours)
    name = re.sub(r"\.norms\.(\d)\.", lambda m: f".{letter}{int(m.group(1)) + 1}.", name)
    name = name.replace(".shortcut.", f".{sampling}.")
    name = re.sub(r"^fusion\.", "encoder.fusion_layer.conv_layers.", name)
    name = re.sub(r"^bottleneck\.", "encoder.fusion_layer.encode_layer1.", name)
    return re.sub(r"^decoder\.", "decoder.backbone.layers.", name)


def narrow(architecture: Architecture, factor: int) -> Architecture:
    """The same architecture with fewer channels."""
    return replace(
        architecture,
        channels=tuple(c // factor for c in architecture.channels),
        widths={stride: c // factor for stride, c in architecture.widths.items()},
    )


@pytest.mark.parametrize(
    ("backbone", "layers", "factor", "size"),
    [
        ("resnet18", (1, 2, 3), 8, (32, 32)),
        ("resnet34", (2, 3), 8, (16, 16)),
        ("resnet50", (2, 3), 32, (16, 16)),
        ("resnet50", (1, 2, 3), 32, (32, 64)),
        ("wide_resnet50_2", (1, 2), 32, (16, 32)),
        ("wide_resnet50_2", (3,), 32, (8, 8)),
    ],
)
def test_other_setups(
    backbone: str, layers: tuple[int, ...], factor: int, size: tuple[int, int], tmp_path: Path
) -> None:
    architecture = narrow(describe(backbone, layers), factor)
    auto_encoder, discriminator = FeatureAutoEncoder(architecture), PatchDiscriminator(architecture.channels)
    arrays = {f"auto_encoder/{reference_name(n)}": v.numpy() for n, v in auto_encoder.state_dict().items()}
    names = ((n.removeprefix("stages."), v) for n, v in discriminator.state_dict().items())
    arrays |= {f"discriminator/layers.{n}": v.numpy() for n, v in names}
    for stage, (channels, stride) in enumerate(zip(architecture.channels, architecture.strides, strict=True)):
        step = stride // architecture.strides[0]
        shape = (2, channels, size[0] // step, size[1] // step)
        arrays[f"input/normal/{stage}"] = np.random.default_rng(0).normal(size=shape)
    arrays["output/anomaly_map"] = np.zeros((2, 64, 48))
    np.savez(tmp_path / "other.npz", **arrays)

    golden = GoldenFile.read(tmp_path / "other.npz")
    assert golden.map_size == (64, 48)
    assert golden.stage_count == len(layers)
    recognized = FeatureAutoEncoder(golden.architecture).double()
    recognized.load_state_dict(golden.auto_encoder_weights())
    PatchDiscriminator(golden.architecture.channels).double().load_state_dict(golden.discriminator_weights())
    with torch.no_grad():
        features = golden.stages("input/normal")
        for ours, other in zip(recognized(features), auto_encoder.double()(features), strict=True):
            assert torch.equal(ours, other)


def test_names_are_the_references() -> None:
    for path in golden_paths():
        golden = GoldenFile.read(path)
        theirs = {name.removeprefix("auto_encoder/") for name in golden.arrays if name.startswith("auto_encoder/")}
        assert {reference_name(name) for name in FeatureAutoEncoder(golden.architecture).state_dict()} == theirs
