"""The demo: train Ckaad as a user would, and show what it finds.

Training runs as its own program, ``python -m anomalib_ckaad train --config ...``: the command that a user types.
"""

import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.engine import Engine
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from anomalib_ckaad.cli.config import config_path
from anomalib_ckaad.cli.gallery import draw_gallery
from anomalib_ckaad.data.reading.user_folder import find_images
from anomalib_ckaad.errors import CheckpointError, ConfigurationError, FileError
from anomalib_ckaad.files import write_whole
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.metrics.per_type import ALL_TYPES, Scored, score_types

TRAINING_STEPS: Final = 50
"""As many for a user's folder as for the textures, however many images it has."""
FOUND: Final = 0.9
PARTLY: Final = 0.7
CONFIG: Final = "config.yaml"
GALLERY: Final = "gallery.png"


def run(data: Path | None, output: Path) -> int:
    """Train and test on the built-in textures or on a user's folder, print a table and draw a gallery.

    Args:
        data: A folder of images, arranged as ``anomalib_ckaad.data.reading.folders`` describes; None for the textures.
        output: Folder of the config, the gallery and anomalib's results.

    Returns:
        The exit status: 0, or that of the training if it failed.

    Raises:
        DataError: If ``data`` is not a folder that is arranged like that.
    """
    console = Console()
    start = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    config = write_config(data, output / CONFIG)
    command = [sys.executable, "-m", "anomalib_ckaad", "train", "--config", str(config)]
    command += ["--default_root_dir", str(output)]
    console.print(f"Training: python {' '.join(command[1:])}", soft_wrap=True, highlight=False, markup=False)
    started = time.time()
    status = subprocess.run(command, check=False, env=_environment()).returncode  # noqa: S603 - our own command
    if status:
        console.print(f"The training failed with exit status {status}. Its last lines above say why.")
        return status
    checkpoint = find_checkpoint(output, started)
    scored = score_test_images(config, checkpoint, output)
    draw_gallery(scored, output / GALLERY)
    console.print(make_table(scored))
    for line in summary(config, checkpoint, output / GALLERY, time.perf_counter() - start):
        console.print(line, soft_wrap=True, highlight=False, markup=False)  # brackets are brackets here
    return 0


def write_config(data: Path | None, file: Path) -> Path:
    """Write the config to train with: the packaged one, or for a user's folder one with its data and as many steps.

    Raises:
        DataError: If ``data`` is not a folder of images that is arranged as it should be.
    """
    packaged = config_path("demo")
    if data is None:
        write_whole(file, packaged.read_bytes())
        return file
    config = OmegaConf.load(packaged)
    folder = find_images(data)
    batch_size = int(config.data.init_args.train_batch_size)
    config.data = folder.datamodule_config(batch_size)
    batches = -(-folder.train_images // batch_size)
    config.trainer.max_epochs = max(1, round(TRAINING_STEPS / batches))
    config.trainer.limit_train_batches = min(batches, TRAINING_STEPS)
    write_whole(file, OmegaConf.to_yaml(config))
    return file


def find_checkpoint(output: Path, since: float) -> Path:
    """The newest checkpoint in ``output``.

    Args:
        output: The folder that anomalib writes to.
        since: Seconds since the epoch; an older checkpoint is another run's.

    Raises:
        FileError: If there is none.
    """
    # A second's grace: file systems round times. `latest` is a link to one of the others.
    found = [
        path
        for path in output.glob("**/weights/lightning/*.ckpt")
        if path.stat().st_mtime >= since - 1 and "latest" not in path.parts
    ]
    if not found:
        msg = f"{output} has no checkpoint of this run. The output of the training above says why."
        raise FileError(msg)
    return max(found, key=lambda path: path.stat().st_mtime)


def score_test_images(config: Path, checkpoint: Path, output: Path) -> Scored:
    """Score the test images of a config with a trained model, and compare the scores with its threshold."""
    model = Ckaad.load_from_checkpoint(checkpoint, visualizer=False)
    collector = _Collector()
    engine = Engine(
        default_root_dir=output,
        logger=False,
        callbacks=[collector],
        enable_progress_bar=False,
        enable_model_summary=False,
        devices=1,
    )
    datamodule = _make_datamodule(OmegaConf.load(config))
    engine.predict(model=model, datamodule=datamodule, return_predictions=False)
    scored, post_processor = Scored.join(collector.parts), model.post_processor
    if not isinstance(post_processor, PostProcessor):
        msg = (
            f"The post-processor in {checkpoint} is a {type(post_processor).__name__}, which has no image threshold. "
            "Train with the default post-processor."
        )
        raise CheckpointError(msg)
    return replace(scored, predicted=scored.scores > post_processor.image_threshold.cpu())


def make_table(scored: Scored) -> Table:
    """A table with a row per type of defect, one for all of them and one for the normal images.

    Raises:
        ConfigurationError: If the scores were not compared with a threshold.
    """
    flagged, has_masks = scored.predicted, scored.masks is not None
    if flagged is None:
        msg = "`scored.predicted` is None. Set it to the images whose score is above the threshold."
        raise ConfigurationError(msg)
    table = Table(
        title="Test images, by type of defect",
        caption=(
            "Each type against all normal test images, on raw scores. Flagged: score above the threshold, the highest "
            f"score of the normal validation images. Found: image AUROC of {100 * FOUND:.0f} % or more; not found: "
            f"below {100 * PARTLY:.0f} %."
        ),
    )
    table.add_column("type")
    for name in ("images", "flagged", "image AUROC", *(("pixel AUROC", "AUPRO") if has_masks else ())):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    types, rows = scored.types, score_types(scored)
    verdicts = {name: verdict(row["image_AUROC"]) for name, row in rows.items()}
    found = sum(verdicts[name] == verdict(1) for name in rows if name != ALL_TYPES)
    verdicts[ALL_TYPES] = f"{found} of {len(rows) - 1} types found"
    for name, row in rows.items():
        own = torch.tensor([kind is not None and name in {kind, ALL_TYPES} for kind in types])
        cells = [f"{int(row['images'])}", f"{int(flagged[own].sum())}", _percent(row["image_AUROC"])]
        cells += [_percent(row["pixel_AUROC"]), _percent(row["pixel_AUPRO"])] if has_masks else []
        if name == ALL_TYPES:
            table.add_section()
        table.add_row(name, *cells, verdicts[name])
    normal = ~scored.labels
    alarms = int(flagged[normal].sum())
    cells = [f"{int(normal.sum())}", f"{alarms}", *["" for _ in range(3 if has_masks else 1)]]
    table.add_row("normal", *cells, "no false alarm" if not alarms else f"{alarms} false alarm{'s' * (alarms > 1)}")
    return table


def verdict(image_auroc: float) -> str:
    """Whether a type of defect was found, in words.

    Example:
        >>> verdict(0.95), verdict(0.8), verdict(0.5)
        ('found', 'partly found', 'not found')
    """
    if image_auroc >= FOUND:
        return "found"
    return "partly found" if image_auroc >= PARTLY else "not found"


def summary(config: Path, checkpoint: Path, gallery: Path, seconds: float) -> list[str]:
    """Where the results are, and how to go on."""
    arguments = f"--config {config} --ckpt_path {checkpoint}"
    return [
        f"Took {seconds:.0f} seconds.",
        f"Gallery:     {gallery}",
        f"Checkpoint:  {checkpoint}",
        f"Metrics:     {checkpoint.parent / 'metrics.json'}",
        "Find defects in your own images:",
        f"  anomalib predict {arguments} --data FOLDER",
        "Export to ONNX or OpenVINO (pip install 'anomalib-ckaad[openvino]'):",
        f"  anomalib export {arguments} --export_type openvino",
        "Train on your own images, train/good and test/<type>, or good and bad:",
        "  anomalib-ckaad demo --data FOLDER",
    ]


class _Collector(Callback):
    """Keeps scores, maps and masks of every batch, but not the images, which would need too much memory."""

    def __init__(self) -> None:
        self.parts: list[Scored] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: Any,  # noqa: ANN401 - Lightning's signature
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        del trainer, pl_module, batch, batch_idx, dataloader_idx
        self.parts.append(Scored.collect([outputs]))


def _make_datamodule(config: Any) -> AnomalibDataModule:  # noqa: ANN401 - a DictConfig or ListConfig
    module, name = config.data.class_path.rsplit(".", 1)
    arguments: Any = OmegaConf.to_container(config.data.init_args)  # plain lists, not ListConfig
    datamodule: AnomalibDataModule = getattr(import_module(module), name)(**arguments)
    return datamodule


def _environment() -> dict[str, str]:
    """Environment of the training; what the user has set takes precedence."""
    return {
        "PYTHONWARNINGS": "ignore::FutureWarning",  # anomalib's own imports cause them
        # Threads that spin while they wait slow the others down fourfold if other programs run too.
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
