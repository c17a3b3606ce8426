"""Checkpoints: loaded without running code of theirs, and checked before a model takes them."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import anomalib
import lightning.pytorch as pl
from torch import Tensor

from anomalib_ckaad import __version__
from anomalib_ckaad.errors import CheckpointError, ConfigurationError
from anomalib_ckaad.host.checkpoint_io import ONLY_PLAIN, SafeCheckpointIO, not_of_ckaad, read_tensors
from anomalib_ckaad.thresholds.post_processor import post_processor_of
from anomalib_ckaad.training.arguments import flat, plain
from anomalib_ckaad.training.old_checkpoints import GONE, hyper_parameters_of, todays

logger = logging.getLogger(__name__)

OWN_PARTS = ("model.", "discriminator.")
MEASURED = "model.calibration."
"""Set by calibration, in the size of its maps. Not part of a warm start."""
# The tensors must fit these arguments; those that follow change scores without any tensor noticing.
SHAPING = ("backbone", "layers", "norm", "strategy")
SCORING = ("score_top_k", "output_relu", "image_size")
CALIBRATING = ("emphasize_known", "reconstruction_prior")
GROUPS = ("research", "cache")


def read_checkpoint(path: str | Path | IO[bytes]) -> dict[str, Any]:
    """Content of a checkpoint on the CPU, without running code of it.

    Args:
        path: A path, an address, or an open file, which is left where it was.

    Raises:
        CheckpointError: If it is missing, unreadable, unsafe, or not of a Ckaad.
    """
    if isinstance(path, str | Path):
        content = SafeCheckpointIO().load_checkpoint(path, "cpu")
    else:
        begin = path.tell()
        content = read_tensors(path)
        path.seek(begin)
    check_kind(content, path)
    return content


def loading_arguments(path: Any, *arguments: Any, **named: Any) -> dict[str, Any]:  # noqa: ANN401 - Lightning's
    """Named arguments for Lightning's ``load_from_checkpoint``, of a checkpoint that was looked at.

    Args:
        path: The checkpoint: a path, an address or an open file.
        *arguments: Lightning's arguments in order: ``map_location``, ``hparams_file``, ``strict``, ``weights_only``.
        **named: Its arguments and the model's by name.

    Returns:
        Those by name, with no pre-trained weights to look for, the post-processor that the checkpoint was written with,
        and its hyper-parameters whose names have changed, unless they say otherwise.

    Raises:
        CheckpointError: If the file is missing, unreadable, unsafe or of another model, or code is allowed to run.
        ConfigurationError: If an argument is given that ``Ckaad`` no longer has.
    """
    if False in (named.get("weights_only", True), *arguments[3:]):
        raise CheckpointError(ONLY_PLAIN)
    gone = sorted(GONE & named.keys())
    if gone:
        msg = f"Ckaad has no argument {', '.join(gone)} any more. Leave it out; epochs are the trainer's `max_epochs`."
        raise ConfigurationError(msg)
    content = read_checkpoint(path)
    named = todays({"pre_trained": False, "warm_start": None, **named})
    named.setdefault("post_processor", post_processor_of(content.get("anomalib_post_processor_config")))
    # Lightning leaves names out that the constructor does not have, and replaces a group as a whole.
    written, today = content.get("hyper_parameters") or {}, hyper_parameters_of(content)
    renamed = {name: value for name, value in today.items() if written.get(name) != value}
    groups = {name: {**(today.get(name) or {}), **plain(named[name])} for name in GROUPS if name in named}
    return {**renamed, **named, **groups}


def check(model: pl.LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Check a checkpoint that a model is about to load, and warn of one that is newer than this package.

    Raises:
        CheckpointError: If it is of another model or architecture.
    """
    check_kind(checkpoint)
    check_fit(model, checkpoint)
    warn_of_newer(checkpoint)


def check_kind(checkpoint: Mapping[str, Any], path: object = None) -> None:
    """Check that a checkpoint is of a Ckaad.

    Raises:
        CheckpointError: If it is of another model, or no checkpoint.
    """
    tensors = checkpoint.get("state_dict")
    if not isinstance(tensors, Mapping) or not any(name.startswith("model.auto_encoder.") for name in tensors):
        raise CheckpointError(not_of_ckaad(path))


def check_fit(model: pl.LightningModule, checkpoint: Mapping[str, Any], *, warm_start: bool = False) -> None:
    """Check that a checkpoint's tensors are those of a model, and warn of arguments that change scores.

    Args:
        model: The Ckaad that is to take them.
        checkpoint: What ``read_checkpoint`` gives.
        warm_start: Whether training is to begin with them: a discriminator of another strategy is then left out.

    Raises:
        CheckpointError: If a tensor is missing, too many, or of another shape.
    """
    own, theirs = _own_parts(model.state_dict()), _own_parts(_state(checkpoint))
    surplus = [name for name in theirs if name not in own and not (warm_start and name.startswith("discriminator."))]
    unfit = [name for name, value in own.items() if name not in theirs or theirs[name].shape != value.shape]
    if unfit or surplus:
        name = (unfit or surplus)[0]
        raise CheckpointError(_misfit(model, checkpoint, name, own.get(name), theirs.get(name)))
    if not warm_start:
        differing = _differences(model, checkpoint, SCORING)
        if differing:
            told = ", ".join(f"{name} {theirs!r}, not {own!r}" for name, (own, theirs) in differing.items())
            logger.warning("The checkpoint was trained with %s: its thresholds do not fit the scores.", told)
        _warn_of_calibration(model, checkpoint)


def _warn_of_calibration(model: pl.LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Tell what a calibrated checkpoint does not follow."""
    if not any(value.numel() for name, value in _state(checkpoint).items() if "calibration.whitening" in name):
        return
    asked = {name: own for name, (own, _) in _differences(model, checkpoint, CALIBRATING).items()}
    if not getattr(model, "calibrate", True):
        asked["calibrate"] = False
    for name, value in asked.items():
        logger.warning("The checkpoint's map is calibrated: %s=%r has an effect on a new training only.", name, value)


def read_warm_start(model: pl.LightningModule, path: str) -> dict[str, Tensor]:
    """Trained weights of a model's auto-encoder, backbone and discriminator from another training's checkpoint.

    The thresholds stay out: they come from the new training's validation.

    Args:
        model: The Ckaad that is to begin with them.
        path: A checkpoint that anomalib wrote for Ckaad.

    Returns:
        Tensors by name, all that the model has under ``model.`` and ``discriminator.``.

    Raises:
        CheckpointError: If the file is missing, unreadable, unsafe or of another backbone, stages or strategy.
    """
    checkpoint = read_checkpoint(Path(path).expanduser())
    check_fit(model, checkpoint, warm_start=True)
    return {name: _state(checkpoint)[name] for name in _own_parts(model.state_dict())}


def note_versions(checkpoint: dict[str, Any]) -> None:
    """Write the versions of plugin and host into a checkpoint that is about to be saved."""
    checkpoint["anomalib_ckaad_version"] = __version__
    checkpoint["anomalib_version"] = anomalib.__version__


def warn_of_newer(checkpoint: Mapping[str, Any]) -> None:
    """Warn of a checkpoint that a newer plugin or host has written.

    Example:
        >>> warn_of_newer({"anomalib_ckaad_version": __version__})
    """
    for package, key, own in (
        ("anomalib-ckaad", "anomalib_ckaad_version", __version__),
        ("anomalib", "anomalib_version", anomalib.__version__),
    ):
        theirs = str(checkpoint.get(key, own))
        if _numbers(theirs) > _numbers(own):
            logger.warning(
                "The checkpoint was written by %s %s, which is newer than the installed %s. Upgrade it if anything "
                "fails.",
                package,
                theirs,
                own,
            )


def _state(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    state: Mapping[str, Tensor] = checkpoint["state_dict"]
    return state


def _own_parts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out pre- and post-processor, evaluator and what was measured, which are not part of the architecture."""
    return {
        name: value for name, value in state.items() if name.startswith(OWN_PARTS) and not name.startswith(MEASURED)
    }


def _differences(
    model: pl.LightningModule, checkpoint: Mapping[str, Any], names: tuple[str, ...]
) -> dict[str, tuple[object, object]]:
    """Arguments that a model and a checkpoint's model have with other values: the model's, the checkpoint's."""
    if not checkpoint.get("hyper_parameters"):
        return {}
    theirs, own = flat(hyper_parameters_of(checkpoint)), flat(model.hparams)
    return {n: (own[n], theirs[n]) for n in names if n in own and n in theirs and own[n] != theirs[n]}


def _misfit(
    model: pl.LightningModule, checkpoint: Mapping[str, Any], name: str, own: Tensor | None, found: Tensor | None
) -> str:
    differing = _differences(model, checkpoint, SHAPING)
    if differing:
        wanted, got = (", ".join(f"{n} {pair[side]!r}" for n, pair in differing.items()) for side in (0, 1))
        names = " and ".join(differing)
        return f"The checkpoint was trained with {got}, but the model has {wanted}. Pass the checkpoint's {names}."
    shapes = ["no such tensor" if value is None else f"shape {tuple(value.shape)}" for value in (own, found)]
    return (
        f"The checkpoint does not fit the model: tensor {name!r} has {shapes[1]} in the checkpoint and {shapes[0]} in "
        "the model. Pass the checkpoint's backbone, layers, norm and strategy."
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``2.7.0.dev1`` -> (2, 7, 0)."""
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))
