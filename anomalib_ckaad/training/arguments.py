"""Ckaad's arguments: checks before anything is built, the group for research, and the names they had before."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, get_args

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.network.auto_encoder import NormName
from anomalib_ckaad.network.objective import STRATEGIES
from anomalib_ckaad.scoring.anomaly_map import TopKName
from anomalib_ckaad.scoring.residuals import RECONSTRUCTION_PRIOR
from anomalib_ckaad.training.presets import PRESETS


class ResearchOptions(TypedDict, total=False):
    """What only a researcher changes: parts of the method, for ablations.

    Attributes:
        norm: Normalization in the auto-encoder: ``instance`` (the method, default) or ``batch``.
        output_relu: Whether reconstructions end in a ReLU. Default None: as the backbone's stages do.
        adversarial_weight: lambda of equation (13). Default 0.02.
        margin: m of equations (8) and (11). Default 5.
        balance: gamma of equations (8) and (11), in [0, 1]. Default 0.5.
        subtraction_weight: beta of equation (4), for the strategy ``recon_sub``. Default 0.1.
        discriminator_learning_rate: Adam's, of the discriminator. Default None: the preset's, 1e-4 in the paper and
            1e-3 measured.
        calibrate: Whether the map is calibrated on the normal training images before training ends, see
            ``ResidualCalibration``. Default None: the preset's, False in the paper and True measured.
        emphasize_known: Whether directions in which known anomalies stand out count more in a calibrated map, see
            ``emphasis_weight``. Default True.
        reconstruction_prior: Number of normal training images with which a calibrated map subtracts half of the
            reconstruction from the features, see ``reconstruction_share``. 0 subtracts all of it. Default 64.
    """

    norm: NormName
    output_relu: bool | None
    adversarial_weight: float
    margin: float
    balance: float
    subtraction_weight: float
    discriminator_learning_rate: float | None
    calibrate: bool | None
    emphasize_known: bool
    reconstruction_prior: float


RESEARCH_DEFAULTS: ResearchOptions = {
    "norm": "instance",
    "output_relu": None,
    "adversarial_weight": 0.02,
    "margin": 5.0,
    "balance": 0.5,
    "subtraction_weight": 0.1,
    "discriminator_learning_rate": None,
    "calibrate": None,
    "emphasize_known": True,
    "reconstruction_prior": RECONSTRUCTION_PRIOR,
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "strategy": (lambda v: v in STRATEGIES, f"one of {', '.join(STRATEGIES)}"),
    "preset": (lambda v: v is None or v in PRESETS, f"one of {', '.join(PRESETS)}, or None"),
    "learning_rate": (lambda v: v is None or (_is_number(v) and v > 0), "a number greater than 0"),
    "score_top_k": (
        lambda v: v is None or v in get_args(TopKName) or _is_count(v),
        "a number of pixels of at least 1, all, power_mean, or None",
    ),
    "synthesis": (
        lambda v: v is None or isinstance(v, bool) or callable(v),
        "True, False, a maker of anomalies such as ElasticAnomalies(), or None",
    ),
    "image_size": (
        lambda v: len(v) == len(("height", "width")) and all(map(_is_count, v)),
        "one or two numbers of pixels",
    ),
    "autocast": (lambda v: v is None or isinstance(v, bool), "True, False or None"),
    "grad_checkpointing": (lambda v: isinstance(v, bool), "True or False"),
    "seed": (lambda v: v is None or (_is_count(v, least=0) and v < 2**32), "a whole number in [0, 2^32), or None"),
}
RESEARCH_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "norm": (lambda v: v in get_args(NormName), " or ".join(get_args(NormName))),
    "output_relu": (lambda v: v is None or isinstance(v, bool), "True, False or None"),
    "adversarial_weight": (lambda v: _is_number(v) and v >= 0, "a number of at least 0"),
    "margin": (lambda v: _is_number(v) and v > 0, "a number greater than 0"),
    "balance": (lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]"),
    "subtraction_weight": (lambda v: _is_number(v) and v >= 0, "a number of at least 0"),
    "discriminator_learning_rate": (lambda v: v is None or (_is_number(v) and v > 0), "a number greater than 0"),
    "calibrate": (lambda v: v is None or isinstance(v, bool), "True, False or None"),
    "emphasize_known": (lambda v: isinstance(v, bool), "True or False"),
    "reconstruction_prior": (lambda v: _is_number(v) and v >= 0, "a number of images of at least 0"),
}
CACHE_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "memory": (lambda v: _is_number(v) and v >= 0, "a number of GiB of at least 0"),
    "folder": (lambda v: v is None or isinstance(v, str), "a path, or None"),
    "folder_limit": (lambda v: _is_number(v) and v >= 0, "a number of GiB of at least 0"),
}


def check_arguments(research: Mapping[str, Any], cache: Mapping[str, Any], **arguments: Any) -> None:  # noqa: ANN401 - each rule knows its own type
    """Check arguments of ``Ckaad`` by name.

    Raises:
        ConfigurationError: If one is out of range, or unknown; the message says which values there are.

    Example:
        >>> check_arguments(research={"balance": 2.0}, cache={})
        Traceback (most recent call last):
        anomalib_ckaad.errors.ConfigurationError: `balance` in `research` must be a number in [0, 1], not 2.0.
    """
    for group, values, rules in (
        ("", arguments, RULES),
        (" in `research`", research, RESEARCH_RULES),
        (" in `cache`", cache, CACHE_RULES),
    ):
        for name, value in values.items():
            if name not in rules:
                msg = f"There is no `{name}`{group}. Choose from {', '.join(rules)}."
                raise ConfigurationError(msg)
            holds, expected = rules[name]
            if not holds(value):
                msg = f"`{name}`{group} must be {expected}, not {value!r}."
                raise ConfigurationError(msg)


def plain(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """A group of arguments as plain data, which checkpoints hold: no omegaconf, no paths.

    Example:
        >>> from pathlib import Path
        >>> plain({"folder": Path("features")}), plain(None)
        ({'folder': 'features'}, {})
    """
    given = options.items() if isinstance(options, Mapping) else ()
    return {str(name): value if isinstance(value, int | float | str | None) else str(value) for name, value in given}


CACHE_NAMES_BEFORE = {"feature_cache": "memory", "cache_dir": "folder", "cache_limit": "folder_limit"}
"""Arguments of 0.1.0's first checkpoints, which became entries of ``cache``."""


def hyper_parameters_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's hyper-parameters under today's names.

    Example:
        >>> hyper_parameters_of({"hyper_parameters": {"backbone": "resnet18", "margin": 3.0, "synthetic": False}})
        {'backbone': 'resnet18', 'synthesis': False, 'research': {'margin': 3.0}}
    """
    found = dict(checkpoint.get("hyper_parameters") or {})
    if "synthetic" in found:
        found["synthesis"] = found.pop("synthetic")
    if "save_memory" in found:
        found["grad_checkpointing"] = found.pop("save_memory")
    research = {name: found.pop(name) for name in RESEARCH_DEFAULTS if name in found}
    cache = {now: found.pop(before) for before, now in CACHE_NAMES_BEFORE.items() if before in found}
    for group, entries in (("research", research), ("cache", cache)):
        if entries:
            found[group] = {**entries, **(found.get(group) or {})}
    return {name: value for name, value in found.items() if name not in GONE}


GONE = frozenset({"compile", "fold_batch_norms", "channels_last", "max_epochs"})
"""Arguments of the same checkpoints that have no successor."""


def flat(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters with those for research beside the others, each with its default where it was not given."""
    research = {**RESEARCH_DEFAULTS, **(hyper_parameters.get("research") or {})}
    return {
        **{name: value for name, value in hyper_parameters.items() if name not in {"research", "cache"}},
        **research,
    }
