"""Check the jobs of a study before the first one is run."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import Trainer

from anomalib_ckaad.errors import CkaadError, StudyError
from anomalib_ckaad.host.argument_errors import shorten
from anomalib_ckaad.host.registration import register
from anomalib_ckaad.study.classes import Recipe
from anomalib_ckaad.study.jobs import Job

SET_BY_A_STUDY = {"self", "callbacks", "default_root_dir"}
"""Arguments of Lightning's trainer that a config cannot give."""


def recipes(job: Job) -> tuple[Recipe[AnomalibModule], Recipe[AnomalibDataModule]]:
    """Model and data of a job, with checked arguments.

    Raises:
        StudyError: If there is no such class, or it does not take the arguments.
    """
    register()
    import_bare_names()
    return (
        Recipe(AnomalibModule, job.settings["model"], job.method),
        Recipe(AnomalibDataModule, job.settings["data"], job.data),
    )


def import_bare_names() -> None:
    """Import the classes whose bare names a config may use, as anomalib's own configs do."""
    import anomalib.data  # noqa: PLC0415
    import anomalib.models  # noqa: F401, PLC0415

    import anomalib_ckaad.study.baselines  # noqa: F401, PLC0415


def check_jobs(jobs: Sequence[Job]) -> None:
    """Refuse unknown methods, wrong arguments and missing data.

    Raises:
        StudyError: If something is wrong with a job.
    """
    seen: set[str] = set()
    for job in jobs:
        check_trainer(job)
        kind = json.dumps([job.settings["model"], job.data], default=str)
        if kind in seen:
            continue
        seen.add(kind)
        _, data = recipes(job)
        if job.data not in seen:
            seen.add(job.data)
            check_data(data, job.data)


def check_data(recipe: Recipe[AnomalibDataModule], name: str) -> None:
    """Make a data set, and look for its folder unless it may download itself in its job.

    Raises:
        StudyError: If the data set cannot be made, or its folder is missing.
    """
    try:
        data = recipe.make()
    except CkaadError as error:
        msg = f"Data set {name!r}: {error}"
        raise StudyError(msg) from error
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        msg = f"Data set {name!r} cannot be made: {reason}. Correct its arguments."
        raise StudyError(msg) from error
    inner = getattr(data, "data", data)
    root = getattr(inner, "root", None)
    downloads = type(inner).prepare_data is not AnomalibDataModule.prepare_data
    if root and not downloads and not Path(root).exists():
        msg = f"Data set {name!r}: there is no folder {str(root)!r}. Correct `root`."
        raise StudyError(msg)


def check_trainer(job: Job) -> None:
    """Refuse arguments that Lightning's trainer does not have, or values that it does not take.

    Raises:
        StudyError: If something is wrong with them.
    """
    given = job.settings["trainer"]
    unknown = sorted(given.keys() - (set(inspect.signature(Trainer.__init__).parameters) - SET_BY_A_STUDY))
    if unknown:
        msg = (
            f"`trainer` of {job.method} has {', '.join(unknown)}, which Lightning's trainer does not have or a study "
            "sets itself. Remove or correct it."
        )
        raise StudyError(msg)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, skip={*SET_BY_A_STUDY})
    try:
        parser.parse_object({"trainer": given})
    except (ArgumentError, TypeError, ValueError) as error:
        msg = f"`trainer` of {job.method} has a wrong argument: {shorten(str(error))}."
        raise StudyError(msg) from error
