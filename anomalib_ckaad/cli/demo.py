"""``anomalib-ckaad demo``: trains Ckaad as a user would, and shows what it found.

Training runs as its own program, ``python -m anomalib_ckaad train --config ...``: the command a user types.
"""

import os
import shutil
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

from anomalib_ckaad.cli.configs import config_path
from anomalib_ckaad.cli.gallery import draw_gallery
from anomalib_ckaad.data.reading.user_folder import find_images
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.metrics.per_type import ALL_TYPES, Scored, score_types

TRAINING_STEPS: Final = 50
"""For a user's folder: as many as the demo on the textures takes, however many images there are."""
FOUND: Final = 0.9
PARTLY: Final = 0.7
CONFIG: Final = "config.yaml"
GALLERY: Final = "gallery.png"


def run(data: Path | None, output: Path) -> int:
    """Train and test on the embedded textures or on a user's folder, print a table and draw a gallery.

    Args:
        data: A folder of images, arranged as ``anomalib_ckaad.data.reading.user_folder`` says; None for the textures.
        output: Where the config, the gallery and anomalib's results go.

    Returns:
        The exit status: 0, or that of the training if it failed.

    Raises:
        ValueError: If ``data`` is not arranged as it should be.
        NotADirectoryError: If ``data`` is no folder.
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
        console.print(f"Expected the training to end well, got exit status {status}. Do read its last lines above.")
        return status
    checkpoint = find_checkpoint(output, started)
    scored = score_test_images(config, checkpoint, output)
    draw_gallery(scored, output / GALLERY)
    console.print(make_table(scored))
    for line in summary(config, checkpoint, output / GALLERY, time.perf_counter() - start):
        console.print(line, soft_wrap=True, highlight=False, markup=False)  # brackets are brackets here
    return 0


def write_config(data: Path | None, file: Path) -> Path:
    """Write the config to train with: the packaged one, on a user's folder with its data and as many steps.

    Raises:
        ValueError: If ``data`` is not arranged as it should be.
        NotADirectoryError: If ``data`` is no folder.
    """
    packaged = config_path("demo")
    if data is None:
        shutil.copyfile(packaged, file)
        return file
    config = OmegaConf.load(packaged)
    folder = find_images(data)
    batch_size = int(config.data.init_args.train_batch_size)
    config.data = folder.datamodule_config(batch_size)
    batches = -(-folder.train_images // batch_size)
    config.trainer.max_epochs = max(1, round(TRAINING_STEPS / batches))
    config.trainer.limit_train_batches = min(batches, TRAINING_STEPS)
    OmegaConf.save(config, file)
    return file


def find_checkpoint(output: Path, since: float) -> Path:
    """Return the newest checkpoint below ``output``.

    Args:
        output: The folder anomalib was told to write to.
        since: Seconds since the epoch; an older checkpoint is another run's.

    Raises:
        FileNotFoundError: If there is none.
    """
    # A second's grace: file systems round times. `latest` is a link to one of the others.
    found = [
        path
        for path in output.glob("**/weights/lightning/*.ckpt")
        if path.stat().st_mtime >= since - 1 and "latest" not in path.parts
    ]
    if not found:
        msg = f"Expected a checkpoint of this run below {output}, got none. Do see what the training printed."
        raise FileNotFoundError(msg)
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
        msg = f"Expected a model with anomalib's PostProcessor, got {type(post_processor).__name__}. Do leave it on."
        raise TypeError(msg)
    return replace(scored, predicted=scored.scores > post_processor.image_threshold.cpu())


def make_table(scored: Scored) -> Table:
    """Make a table with a row a type of defect, one for all of them and one for the normal images.

    Raises:
        ValueError: If the scores were not compared with a threshold.
    """
    flagged, has_masks = scored.predicted, scored.masks is not None
    if flagged is None:
        msg = "Expected scores that were compared with a threshold, got none. Do set predicted."
        raise ValueError(msg)
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
    """Say in words whether a type of defect was found.

    >>> verdict(0.95), verdict(0.8), verdict(0.5)
    ('found', 'partly found', 'not found')
    """
    if image_auroc >= FOUND:
        return "found"
    return "partly found" if image_auroc >= PARTLY else "not found"


def summary(config: Path, checkpoint: Path, gallery: Path, seconds: float) -> list[str]:
    """Say where everything is and how to go on."""
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
    """Keeps scores, maps and masks of every batch, but not the images, which would fill the memory."""

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
    """Return the environment for the training: the user's, where it says nothing else."""
    return {
        "PYTHONWARNINGS": "ignore::FutureWarning",  # anomalib's own imports cause them
        # Threads that wait by spinning take the cores from those with work: four times slower where others run too.
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
