"""Ckaad's arguments: the group for research, and checks before anything is built."""

import math
from collections.abc import Callable, Iterable, Mapping
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
    "strategy": (lambda v: isinstance(v, str) and v in STRATEGIES, f"one of {', '.join(STRATEGIES)}"),
    "preset": (lambda v: v is None or (isinstance(v, str) and v in PRESETS), f"one of {', '.join(PRESETS)}, or None"),
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


def plain(options: object) -> dict[str, Any]:
    """A group of arguments as plain data, which checkpoints hold: no omegaconf, no paths.

    Raises:
        ConfigurationError: If it is no mapping.

    Example:
        >>> from pathlib import Path
        >>> plain({"folder": Path("features")}), plain(None)
        ({'folder': 'features'}, {})
    """
    given = {} if options is None else options
    if not isinstance(given, Mapping):
        msg = f"`research` and `cache` must be mappings from names to values, not {options!r}."
        raise ConfigurationError(msg)
    plain_types = int | float | str | None
    return {str(name): value if isinstance(value, plain_types) else str(value) for name, value in given.items()}


def as_sequence(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - checked later
    """One value or several, as a tuple of them.

    Example:
        >>> as_sequence(3), as_sequence([2, "layer3"])
        ((3,), (2, 'layer3'))
    """
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def as_sides(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - checked later
    """Height and width, or one number for both.

    Example:
        >>> as_sides(64), as_sides([64, 96])
        ((64, 64), (64, 96))
    """
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value, value)


def flat(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters with those for research beside the others, each with its default where it was not given."""
    research = {**RESEARCH_DEFAULTS, **(hyper_parameters.get("research") or {})}
    return {
        **{name: value for name, value in hyper_parameters.items() if name not in {"research", "cache"}},
        **research,
    }
