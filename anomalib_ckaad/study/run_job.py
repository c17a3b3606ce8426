"""One job of a study, in a process of its own: seed, data, model, training, test.

python -m anomalib_ckaad.study.run_job JOB.json RESULT.json
"""

import inspect
import json
import os
import platform
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule

from anomalib_ckaad.data.known.known_anomalies import KnownAnomalies
from anomalib_ckaad.data.reading.anomaly_types import types_of
from anomalib_ckaad.data.reading.image_files import check_image_files
from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.files import write_whole, written_whole
from anomalib_ckaad.metrics.per_type import ALL_TYPES
from anomalib_ckaad.study.checks import recipes
from anomalib_ckaad.study.collect import Collector
from anomalib_ckaad.study.failures import failure_of
from anomalib_ckaad.study.jobs import Job
from anomalib_ckaad.study.memory import peak_memory
from anomalib_ckaad.study.process import end_with_study
from anomalib_ckaad.study.store import SCORES

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}


def build(job: Job) -> tuple[AnomalibModule, AnomalibDataModule]:
    """Make model and data of a job; known anomalies are dropped for models that cannot learn from them.

    Raises:
        StudyError: If there is no such class, or it does not take the arguments.
    """
    model_recipe, data_recipe = recipes(job)
    data = data_recipe.make()
    given = dict(job.settings["model"]["init_args"])
    for name, value in (("visualizer", False), ("seed", job.seed)):
        if name not in given and name in _arguments_of(model_recipe.class_path):
            setattr(model_recipe.arguments, name, value)
    model = model_recipe.make()
    if isinstance(data, KnownAnomalies):
        learns = getattr(model, "learns_from_known_anomalies", False)
        data.use = job.settings["use"] or ("train" if learns and data.use == "train" else "drop")
    return model, data


def _arguments_of(class_path: str) -> set[str]:
    module, _, name = class_path.rpartition(".")
    return set(inspect.signature(getattr(import_module(module), name)).parameters)


def run(job: Job, output: Path) -> dict[str, Any]:
    """Train and test.

    Args:
        job: The model, the data and how to train.
        output: Folder for the scores of every image and for files of the training.

    Returns:
        The result as plain data.

    Raises:
        StudyError: If model or data cannot be made, or the length of the training is not set.
    """
    begin = time.perf_counter()
    # Before the model is built: its weights are drawn then.
    pl.seed_everything(job.seed, workers=True, verbose=False)
    model, data = build(job)
    data.prepare_data()
    data.setup()
    samples = data.test_data.samples
    check_image_files([*data.train_data.samples.image_path, *samples.image_path])
    collector = Collector(dict(zip(samples.image_path, types_of(samples), strict=True)))
    trainer = {**QUIET, **job.settings["trainer"]}
    given = trainer.keys() | model.trainer_arguments.keys()
    if not {"max_epochs", "max_steps", "max_time"} & given and not getattr(model, "knows_when_to_stop", False):
        msg = (
            f"{job.method} has no `max_epochs`, so Lightning would train it for 1000 epochs. Add "
            "`trainer: {max_epochs: 20}` to the method."
        )
        raise StudyError(msg)
    engine = Engine(**trainer, default_root_dir=output, callbacks=[collector])
    fit_begin = time.perf_counter()
    engine.fit(model, datamodule=data)
    seconds = time.perf_counter() - fit_begin
    engine.predict(model, datamodule=data, return_predictions=False)
    threshold = _threshold(model)
    rows = collector.rows(threshold)
    _save_scores(output / SCORES, collector, samples, threshold, getattr(data, "group_of", None))
    drawn = getattr(data, "drawn_types", {})
    return {
        "scores": rows,
        "seen": sorted(drawn),
        "known": drawn if getattr(data, "known_types", {}) else {},
        "images": {"train": len(data.train_data), "validation": len(data.val_data), "test": len(samples)},
        "parameters": sum(one.numel() for one in model.parameters()),
        "errors": {name: error for name, (_, error) in _threshold_range(collector).items()},
        "seconds": time.perf_counter() - begin,
        "seconds_fit": seconds,
        # The first batches warm up.
        "seconds_image": float(np.median(collector.seconds[len(collector.seconds) // 4 :])),
        "memory_MiB": peak_memory(),
        "gpu_memory_MiB": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("anomalib", "anomalib-ckaad", "torch")},
    }


def _threshold(model: AnomalibModule) -> float:
    """Threshold of raw image scores, from validation images; NaN if there is none."""
    found = getattr(model.post_processor, "image_threshold", None)
    return float("nan") if found is None else float(found)


def _threshold_range(collector: Collector) -> dict[str, tuple[float, float]]:
    """mF1, mAcc, mIoU and mIoU_max of all images, each with a bound on its error; empty without masks."""
    curves = collector.curves()
    return curves[ALL_TYPES].threshold_range() if curves else {}


def _save_scores(
    path: Path,
    collector: Collector,
    samples: Any,  # noqa: ANN401
    threshold: float,
    group_of: Callable[[str], str] | None,
) -> None:
    """Write scores, small maps and groups of all images, and curves by type, for the report."""
    masks = samples.set_index("image_path").get("mask_path")
    curves: dict[str, Any] = {}
    for name, counts in collector.curves().items():
        if counts.anomalous.any():
            rate, overlap = counts.pro_curve()
            # A curve is drawn with a few hundred points.
            kept = torch.unique(torch.linspace(0, len(rate) - 1, 400).round().long())
            near = torch.searchsorted(rate, torch.linspace(0, 0.3, 200, dtype=rate.dtype)).clamp(max=len(rate) - 1)
            kept = torch.unique(torch.cat([kept, near]))
            curves[f"pro_rate/{name}"], curves[f"pro_overlap/{name}"] = rate[kept].numpy(), overlap[kept].numpy()
    if group_of is not None:
        curves["groups"] = np.array(list(map(group_of, collector.paths)))
    with written_whole(path) as temporary:
        np.savez_compressed(
            temporary,
            paths=np.array(collector.paths),
            masks=np.array([str(masks.get(one) or "") if masks is not None else "" for one in collector.paths]),
            types=np.array([collector.types.get(one, "") for one in collector.paths]),
            scores=np.array(collector.scores),
            labels=np.array(collector.labels),
            threshold=np.array(threshold),
            maps=torch.stack(collector.maps).numpy() if collector.maps else np.zeros((0, 1, 1), np.float16),
            **curves,
        )


def main(arguments: list[str]) -> None:
    """Read a job, run it, and write its result, or as ``Failure`` why there is none.

    Args:
        arguments: Paths of the job and of its result, both JSON.
    """
    source, target = map(Path, arguments)
    warnings.filterwarnings("ignore")
    given: Mapping[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    try:
        write_whole(target, json.dumps(run(Job(**given), target.parent)))
    except Exception as error:  # noqa: BLE001 - any error is a result of the study; the log has its traceback
        failure = failure_of(error, target.parent)
        with suppress(OSError):
            write_whole(target, json.dumps(failure._asdict()))
        traceback.print_exc()
        sys.exit(failure.error)  # becomes the last line of the log


if __name__ == "__main__":
    threading.Thread(target=end_with_study, daemon=True).start()
    main(sys.argv[1:])
