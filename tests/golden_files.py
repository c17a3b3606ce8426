"""Reads golden files: what the reference computed, with set-up and names recognized from the arrays alone."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anomalib_ckaad.network.auto_encoder import Architecture

FOLDER = Path(os.environ.get("CKAAD_GOLDEN_DIR") or Path(__file__).parent / "golden")


@dataclass(frozen=True)
class GoldenFile:
    """The arrays of one file by name, and what they say about the set-up."""

    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: Path) -> "GoldenFile":
        with np.load(path) as archive:
            return cls({name: archive[name] for name in archive.files})

    def tensor(self, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.from_numpy(self.arrays[name]).to(dtype)

    def stages(self, prefix: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        return [self.tensor(f"{prefix}/{stage}", dtype) for stage in range(self.stage_count)]

    @property
    def stage_count(self) -> int:
        return sum(name.startswith("input/normal/") for name in self.arrays)

    @property
    def map_size(self) -> tuple[int, int]:
        height, width = self.arrays["output/anomaly_map"].shape[-2:]
        return height, width

    def _count(self, pattern: str) -> int:
        return len({match.group(1) for name in self.arrays if (match := re.match(pattern, name))})

    @property
    def architecture(self) -> Architecture:
        inputs = [self.arrays[f"input/normal/{stage}"].shape for stage in range(self.stage_count)]
        deepest = inputs[-1][-1]
        strides = tuple(4 * round(inputs[0][-1] / shape[-1]) for shape in inputs)
        encoder = "auto_encoder/encoder.fusion_layer.encode_layer1"
        decoder = "auto_encoder/decoder.backbone.layers"
        bottleneck = f"{encoder}.0.conv3.weight" in self.arrays
        last = self.arrays[f"{encoder}.0.conv{3 if bottleneck else 2}.weight"].shape
        middle = self.arrays[f"{encoder}.1.conv2.weight"].shape
        levels = self._count(rf"{re.escape(decoder)}\.(\d+)\.")
        assert deepest >= 2, "a deepest map of one pixel cannot be normalized"
        return Architecture(
            channels=tuple(shape[1] for shape in inputs),
            strides=strides,
            widths=dict(zip(strides, (shape[1] for shape in inputs), strict=True)) | {2 * strides[-1]: last[0]},
            block="bottleneck" if bottleneck else "basic",
            width_ratio=last[1] / last[0] if bottleneck else 1.0,
            groups=middle[0] // middle[1] if bottleneck else 1,
            encoder_depth=self._count(rf"{re.escape(encoder)}\.(\d+)\."),
            decoder_depths=tuple(self._count(rf"{re.escape(decoder)}\.{level}\.(\d+)\.") for level in range(levels)),
        )

    def auto_encoder_weights(self) -> dict[str, Tensor]:
        """The reference's names -> ours."""
        rules = [
            (r"encoder\.fusion_layer\.conv_layers\.", "fusion."),
            (r"encoder\.fusion_layer\.encode_layer1\.", "bottleneck."),
            (r"decoder\.backbone\.layers\.", "decoder."),
            (r"\.conv(\d)\.", lambda match: f".convolutions.{int(match.group(1)) - 1}."),
            (r"\.(?:ln|bn)(\d)\.", lambda match: f".norms.{int(match.group(1)) - 1}."),
            (r"\.(?:downsample|upsample)\.", ".shortcut."),
        ]
        weights = {}
        for name in self.arrays:
            if name.startswith("auto_encoder/"):
                ours = name.removeprefix("auto_encoder/")
                for pattern, replacement in rules:
                    ours = re.sub(pattern, replacement, ours)
                weights[ours] = self.tensor(name)
        return weights

    def discriminator_weights(self) -> dict[str, Tensor]:
        prefix = "discriminator/layers."
        return {f"stages.{n.removeprefix(prefix)}": self.tensor(n) for n in self.arrays if n.startswith(prefix)}


def golden_paths() -> list[Path]:
    paths = sorted(FOLDER.glob("*.npz"))
    if not paths:
        msg = f"Expected golden .npz files in {FOLDER}, got none. Do set CKAAD_GOLDEN_DIR to their folder."
        raise FileNotFoundError(msg)
    return paths
