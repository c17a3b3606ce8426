"""Checks of Ckaad's arguments, before anything is built."""

import math
from collections.abc import Callable
from typing import Any, get_args

from anomalib_ckaad.network.auto_encoder import NormName
from anomalib_ckaad.network.objective import STRATEGIES
from anomalib_ckaad.scoring.anomaly_map import TopKName
from anomalib_ckaad.training.presets import PRESETS


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "strategy": (lambda v: v in STRATEGIES, f"one of {', '.join(STRATEGIES)}"),
    "norm": (lambda v: v in get_args(NormName), " or ".join(get_args(NormName))),
    "adversarial_weight": (lambda v: _is_number(v) and v >= 0, "a number of at least 0"),
    "margin": (lambda v: _is_number(v) and v > 0, "a number above 0"),
    "balance": (lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]"),
    "subtraction_weight": (lambda v: _is_number(v) and v >= 0, "a number of at least 0"),
    "preset": (lambda v: v is None or v in PRESETS, f"one of {', '.join(PRESETS)}, or None"),
    "learning_rate": (lambda v: v is None or (_is_number(v) and v > 0), "a number above 0"),
    "discriminator_learning_rate": (lambda v: v is None or (_is_number(v) and v > 0), "a number above 0"),
    "calibrate": (lambda v: v is None or isinstance(v, bool), "True, False or None"),
    "emphasize_known": (lambda v: isinstance(v, bool), "True or False"),
    "reconstruction_prior": (lambda v: _is_number(v) and v >= 0, "a number of images of at least 0"),
    "score_top_k": (
        lambda v: v is None or v in get_args(TopKName) or _is_count(v),
        "a number of pixels of at least 1, all, power_mean, or None",
    ),
    "image_size": (
        lambda v: len(v) == len(("height", "width")) and all(map(_is_count, v)),
        "one or two numbers of pixels",
    ),
    "max_epochs": (lambda v: v is None or v == -1 or _is_count(v), "a number of epochs of at least 1, or None"),
    "feature_cache": (lambda v: _is_number(v) and v >= 0, "a number of GiB of at least 0"),
    "cache_limit": (lambda v: _is_number(v) and v >= 0, "a number of GiB of at least 0"),
    "autocast": (lambda v: v is None or isinstance(v, bool), "True, False or None"),
    "compile": (lambda v: isinstance(v, bool), "True or False"),
    "synthetic": (lambda v: v is None or isinstance(v, bool), "True, False or None"),
    "synthesis": (lambda v: v is None or callable(v), "a maker of anomalies, such as ElasticAnomalies(), or None"),
    "save_memory": (lambda v: isinstance(v, bool), "True or False"),
    "seed": (lambda v: v is None or (_is_count(v, least=0) and v < 2**32), "a whole number in [0, 2^32), or None"),
}


def check_arguments(**arguments: Any) -> None:  # noqa: ANN401 - each rule knows its own type
    """Check arguments of ``Ckaad`` by name.

    Raises:
        ValueError: If one is out of range; the message says what was expected.

    Example:
        >>> check_arguments(balance=2.0)
        Traceback (most recent call last):
        ValueError: Expected balance to be a number in [0, 1], got 2.0. Do change balance.
    """
    for name, value in arguments.items():
        holds, expected = RULES[name]
        if not holds(value):
            msg = f"Expected {name} to be {expected}, got {value!r}. Do change {name}."
            raise ValueError(msg)
    if arguments.get("compile") and arguments.get("save_memory"):
        msg = "Expected compile or save_memory, got both. Do leave one out: a compiled module decides what it keeps."
        raise ValueError(msg)
