"""``python -m anomalib_ckaad train …``: anomalib's own command line with the plugin in it, with or without the hook.

A mistake of the user's ends in one message; anomalib's own command shows the whole traceback around it.
"""

import sys

from anomalib_ckaad.cli.mistakes import BAD_INPUT, message_for_user
from anomalib_ckaad.host.registration import register


def main() -> None:
    """Register the plugin, then run anomalib's command line on this program's arguments."""
    register()
    from anomalib.loggers import configure_logger  # noqa: PLC0415  # importing anomalib must find the plugin there

    from anomalib_ckaad.cli.checked import CheckedCLI  # noqa: PLC0415  # imports anomalib

    sys.argv[0] = "python -m anomalib_ckaad"  # for the help; Lightning restarts processes by module name
    try:
        configure_logger()
        CheckedCLI()
    except Exception as error:
        message = message_for_user(error)
        if message is None:
            raise
        sys.stderr.write(f"{message}\n")
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
