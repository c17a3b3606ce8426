"""``python -m anomalib_ckaad train …``: anomalib's own command line with the plugin in it, with or without the hook."""

import sys

from anomalib_ckaad.plugin import register


def main() -> None:
    """Register the plugin, then run anomalib's command line on this program's arguments."""
    register()
    from anomalib.cli.cli import main as anomalib_main  # noqa: PLC0415  # its imports shall find the plugin there

    sys.argv[0] = "python -m anomalib_ckaad"  # what the help shows; Lightning restarts processes by module name
    anomalib_main()


if __name__ == "__main__":
    main()
