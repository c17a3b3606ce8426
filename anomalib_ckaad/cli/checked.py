"""anomalib's command line, with a look at what it is given before an engine makes folders for results."""

from pathlib import Path

from anomalib.cli import AnomalibCLI

from anomalib_ckaad.data.reading.dicom import DICOM_SUFFIXES
from anomalib_ckaad.data.reading.image_files import check_image_files
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.training.checkpoints import check_fit, read_checkpoint


class CheckedCLI(AnomalibCLI):
    """anomalib's command line; what a Ckaad cannot take is refused before anything is written."""

    def instantiate_classes(self) -> None:
        """Build the model, then read the checkpoint that it is to be used with.

        Raises:
            ImageFileError: If images to predict are DICOM, of which anomalib says that there are none.
            ValueError: If a compression is asked for that only OpenVINO's exports have.
            CheckpointError: If the checkpoint is missing, unreadable, unsafe or of another model.
        """
        super().instantiate_classes()
        command = self.config["subcommand"]
        compression, kind = (self.config[command].get(name) for name in ("compression_type", "export_type"))
        if compression is not None and "openvino" not in str(kind).lower():
            msg = (
                f"Expected --export_type openvino for --compression_type {compression.name}, got {kind}. Do export to "
                "OpenVINO, or without compression."
            )
            raise ValueError(msg)
        data = self.config[command].get("data")
        if command == "predict" and isinstance(data, str | Path) and isinstance(self.model, Ckaad):
            found = (path for path in sorted(Path(data).rglob("*")) if path.suffix.lower() in DICOM_SUFFIXES)
            check_image_files(found, may_be_empty=True)
        path = self.config[command].get("ckpt_path")
        if path and isinstance(self.model, Ckaad):
            checkpoint = read_checkpoint(path)
            if command != "export":  # which builds the model anew, with the checkpoint's own arguments
                check_fit(self.model, checkpoint)
