"""anomalib's command line, with a check of its arguments before an engine creates folders for results."""

from pathlib import Path

from anomalib_ckaad.data.reading.dicom import DICOM_SUFFIXES
from anomalib_ckaad.data.reading.image_files import check_image_files
from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.host.command_line import HostCLI
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.training.checkpoints import check_fit, read_checkpoint


class CheckedCLI(HostCLI):
    """anomalib's command line; what a Ckaad cannot take is refused before anything is written."""

    def instantiate_classes(self) -> None:
        """Build the model, then check the arguments and the checkpoint that it is to be used with.

        Raises:
            ImageFileError: If images to predict are DICOM, which anomalib would not find.
            ConfigurationError: If a compression is asked for that only exports to OpenVINO have.
            CheckpointError: If the checkpoint is missing, unreadable, unsafe or of another model.
        """
        super().instantiate_classes()
        self._check_compression()
        if isinstance(self.model, Ckaad):
            self._check_images()
            self._check_checkpoint(self.model)

    def _check_compression(self) -> None:
        compression, kind = self.argument("compression_type"), self.argument("export_type")
        if compression is not None and "openvino" not in str(kind).lower():
            msg = (
                f"--compression_type {compression.name} needs --export_type openvino, not {kind}. Export to OpenVINO, "
                "or without compression."
            )
            raise ConfigurationError(msg)

    def _check_images(self) -> None:
        data = self.argument("data")
        if self.config["subcommand"] == "predict" and isinstance(data, str | Path):
            found = (path for path in sorted(Path(data).rglob("*")) if path.suffix.lower() in DICOM_SUFFIXES)
            check_image_files(found, may_be_empty=True)

    def _check_checkpoint(self, model: Ckaad) -> None:
        path = self.argument("ckpt_path")
        if path:
            checkpoint = read_checkpoint(path)
            if self.config["subcommand"] != "export":  # which builds the model anew, from the checkpoint's arguments
                check_fit(model, checkpoint)
