"""The frozen backbone: any timm CNN that gives feature maps, asked for its names, channels and strides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from typing import Any

import timm
import torch
from timm.models import FeatureListNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.host.torch_state import is_traced, version_of
from anomalib_ckaad.network.auto_encoder import Architecture
from anomalib_ckaad.network.folding import fold_batch_norms


@dataclass(frozen=True)
class Stage:
    """A feature map that a backbone offers: timm's index and module name, its channels and its stride."""

    index: int
    name: str
    channels: int
    stride: int

    @property
    def number(self) -> int | None:
        """Stage k has stride 2^(k+1); None where the stride is 1."""
        return self.stride.bit_length() - 2 if self.stride > 1 else None


@cache
def list_stages(backbone: str) -> tuple[Stage, ...]:
    """All feature maps that timm offers for a backbone, shallow to deep.

    Args:
        backbone: timm's name of the backbone, or ``local-dir:PATH``.

    Raises:
        ConfigurationError: If timm does not know the backbone, or it gives no feature maps.

    Example:
        >>> [(stage.number, stage.name, stage.stride) for stage in list_stages("resnet18")][1:4]
        [(1, 'layer1', 4), (2, 'layer2', 8), (3, 'layer3', 16)]
    """
    info = build_on_meta(backbone, features_only=True).feature_info
    return tuple(
        Stage(index, name, channels, stride)
        for index, (name, channels, stride) in enumerate(
            zip(info.module_name(), info.channels(), info.reduction(), strict=True)
        )
    )


def build_on_meta(backbone: str, **options: Any) -> Any:  # noqa: ANN401 - timm's models share no type
    """Build a timm model without memory or weights where timm can, just to ask it things; draws no random numbers."""
    name = backbone if ":" in backbone else backbone.split(".", maxsplit=1)[0]
    if ":" not in backbone and not timm.is_model(name):
        similar = ", ".join(get_close_matches(name, timm.list_models(), n=5)) or "resnet18, wide_resnet50_2"
        msg = f"timm has no model {backbone!r}. Pass another `backbone`, such as {similar}."
        raise ConfigurationError(msg)
    try:
        try:
            with torch.device("meta"):
                return timm.create_model(backbone, pretrained=False, **options)
        except NotImplementedError:  # some versions of timm compute with numbers that such tensors do not have
            with torch.random.fork_rng(devices=[]):
                return timm.create_model(backbone, pretrained=False, **options)
    except (RuntimeError, AttributeError, NotImplementedError, FileNotFoundError) as error:
        msg = (
            f"timm cannot build {backbone!r} as a backbone ({error}). "
            "Pass the name of a CNN that timm builds with features_only=True."
        )
        raise ConfigurationError(msg) from error


def resolve_layers(backbone: str, layers: Sequence[str | int]) -> tuple[Stage, ...]:
    """Find the chosen stages, in order of depth.

    Args:
        backbone: timm's name of the backbone.
        layers: Names of timm's feature modules, or stage numbers (stage k has stride 2^(k+1)), in any order.

    Raises:
        ConfigurationError: If none is given, one is unknown, given twice, or shares its number with another.

    Example:
        >>> [stage.name for stage in resolve_layers("resnet18", (3, "layer2"))]
        ['layer2', 'layer3']
    """
    stages = list_stages(backbone)
    offered = ", ".join(f"{s.name} (stage {s.number}, stride {s.stride})" for s in stages)
    if not layers:
        msg = f"`layers` is empty. Choose at least one of {offered}."
        raise ConfigurationError(msg)
    chosen: list[Stage] = []
    for layer in layers:
        is_number = (isinstance(layer, int) and not isinstance(layer, bool)) or str(layer).isdecimal()
        found = [s for s in stages if (s.number == int(layer) if is_number else s.name == layer)]
        if len(found) != 1:
            problem = f"more than one stage {layer!r}" if found else f"no layer {layer!r}"
            msg = f"{backbone} has {problem}. Choose `layers` from {offered}."
            raise ConfigurationError(msg)
        if found[0] in chosen:
            msg = f"`layers` names {layer!r} twice: {list(layers)}. Remove one of them."
            raise ConfigurationError(msg)
        chosen.append(found[0])
    return tuple(sorted(chosen, key=lambda stage: stage.index))


def describe(backbone: str, layers: Sequence[str | int]) -> Architecture:
    """What the auto-encoder has to know about a backbone: see ``Architecture``.

    ResNets (and ResNeXts) get blocks of the kind, width and number they are made of themselves, and widths that double
    below the deepest stage, as in the reference code. Other backbones get basic blocks, two a level, and the widths
    they report, doubling only where they report none.

    Args:
        backbone: timm's name of the backbone.
        layers: Names or numbers of the chosen stages.

    Raises:
        ConfigurationError: As ``resolve_layers`` does.
    """
    chosen = resolve_layers(backbone, layers)
    deepest = chosen[-1]
    widths = {stage.stride: stage.channels for stage in list_stages(backbone)}
    for stage in chosen:  # two stages may share a stride: the chosen one counts
        widths[stage.stride] = stage.channels
    widths.setdefault(2 * deepest.stride, 2 * deepest.channels)
    architecture = Architecture(
        channels=tuple(stage.channels for stage in chosen),
        strides=tuple(stage.stride for stage in chosen),
        widths=widths,
    )
    model = build_on_meta(backbone)
    block = next(model.get_submodule("layer1").children()) if isinstance(model, ResNet) else None
    if not isinstance(block, BasicBlock | Bottleneck):  # some descendants of ResNet have blocks of their own
        return architecture
    for stride in [stride for stride in widths if stride > deepest.stride]:
        widths[stride] = deepest.channels * stride // deepest.stride
    depths = tuple(len(getattr(model, f"layer{number}")) for number in range(1, 5))
    if isinstance(block, Bottleneck):
        width, groups = block.conv2.out_channels, block.conv2.groups
        return replace(
            architecture,
            block="bottleneck",
            width_ratio=width / block.conv3.out_channels,
            groups=groups,
            encoder_depth=depths[0],
            decoder_depths=depths,
        )
    return replace(architecture, encoder_depth=depths[0], decoder_depths=depths)


TOGETHER = 8
"""Images that go through the network at a time on CPUs."""


class FrozenBackbone(nn.Module):
    """Images -> features of the chosen stages; never trained, without the layers behind the last one.

    Starts with random weights; ``weights.loading.load_backbone_weights`` brings trained ones.

    Args:
        backbone: timm's name of the backbone.
        layers: Names or numbers of the chosen stages.

    Raises:
        ConfigurationError: As ``resolve_layers`` does.
    """

    def __init__(self, backbone: str, layers: Sequence[str | int]) -> None:
        super().__init__()
        self.name = backbone
        self.stages = resolve_layers(backbone, layers)
        # timm itself and not anomalib's extractor: importing anomalib.models here would import this plugin in turn.
        self.network = timm.create_model(
            backbone, pretrained=False, features_only=True, out_indices=[stage.index for stage in self.stages]
        )
        _drop_layers_after(self.network, self.stages[-1].name)
        self.network.to(memory_format=torch.channels_last)  # up to twice as fast, depthwise convolutions most
        self.requires_grad_(requires_grad=False)
        self.eval()
        self._folded: tuple[object, nn.Module | None] = (None, None)

    @torch.no_grad()
    def is_never_negative(self) -> bool:
        """Whether all chosen stages end in a ReLU or the like, seen on an image of noise."""
        size = max(96, 3 * self.stages[-1].stride)
        noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        return all(bool((feature >= 0).all()) for feature in self(noise))

    def train(self, mode: bool = True) -> "FrozenBackbone":  # noqa: FBT001, FBT002 - torch's signature
        """Stay in evaluation mode: running statistics belong to the pre-training."""
        del mode
        return super().train(mode=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract features of normalized images (N, 3, H, W), one tensor (N, C_k, H_k, W_k) a stage.

        On CPUs, of a few images at a time: their maps stay in the processor's caches from one operation to the next.
        """
        network, images = self._fastest(), images.contiguous(memory_format=torch.channels_last)
        if is_traced() or images.device.type != "cpu" or len(images) <= TOGETHER:
            return list(network(images))
        parts = [network(part) for part in torch.split(images, TOGETHER)]
        return [torch.cat(stage) for stage in zip(*parts, strict=True)]

    def _fastest(self) -> nn.Module:
        """The network, on CPUs with its batch norms folded into the convolutions, made again when its weights change.

        Exporters and compilers get the network itself: they fold by themselves.
        """
        state = [*self.network.parameters(), *self.network.buffers()]
        if is_traced() or state[0].device.type != "cpu":
            return self.network
        if any(one.is_inference() for one in state):
            return self.network
        key = (state[0].dtype, *((one.data_ptr(), version_of(one)) for one in state))
        if key != self._folded[0]:
            side = max(96, 3 * self.stages[-1].stride)
            noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=state[0].dtype)
            with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast("cpu", enabled=False):
                self._folded = (key, fold_batch_norms(self.network, noise))
        # In a tuple it is no module of this one: neither checkpoints nor optimizers see it.
        return self._folded[1] or self.network

    def __getstate__(self) -> dict[str, object]:
        """All but the folded copy, which is made again."""
        return {**self.__dict__, "_folded": (None, None)}


def _drop_layers_after(network: nn.Module, module_name: str) -> None:
    """Cut what timm would still compute behind the deepest stage: its list networks stop there by themselves."""
    parent, _, index = module_name.rpartition(".")
    blocks = getattr(network, parent, None) if parent else None
    if not isinstance(network, FeatureListNet) and isinstance(blocks, nn.Sequential) and index.isdecimal():
        setattr(network, parent, blocks[: int(index) + 1])
