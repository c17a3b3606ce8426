"""``anomalib-ckaad demo``: a first training, on built-in textures or on the user's own images."""

from pathlib import Path

from anomalib_ckaad.errors import MissingDataError


def demo(*, data: Path | None = None, output: Path = Path("results/demo")) -> int:
    """Train and test on built-in textures, or on your own images.

    Args:
        data: A folder of images to use instead of the built-in textures, arranged as train/good and test/TYPE, or as
            good and bad.
        output: Folder of the results.
    """
    if data is not None and not data.is_dir():
        msg = f"--data {data} is not a folder. Pass a folder of images."
        raise MissingDataError(msg)
    from anomalib_ckaad.cli.demo_run import run

    return run(data, output)
