"""anomalib's command line, with a look at ``--ckpt_path`` before an engine makes folders for results."""

from anomalib.cli import AnomalibCLI

from anomalib_ckaad.checkpoints import check_fit, read_checkpoint
from anomalib_ckaad.lightning_model import Ckaad


class CheckedCLI(AnomalibCLI):
    """anomalib's command line; a checkpoint that a Ckaad cannot take is refused before anything is written."""

    def instantiate_classes(self) -> None:
        """Build the model, then read the checkpoint that it is to be used with.

        Raises:
            CheckpointError: If the checkpoint is missing, unreadable, unsafe or of another model.
        """
        super().instantiate_classes()
        command = self.config["subcommand"]
        path = self.config[command].get("ckpt_path")
        if path and isinstance(self.model, Ckaad):
            checkpoint = read_checkpoint(path)
            if command != "export":  # which builds the model anew, with the checkpoint's own arguments
                check_fit(self.model, checkpoint)
