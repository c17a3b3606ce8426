"""``anomalib-ckaad``: the commands that anomalib's own command line does not have.

Training, testing, prediction and export stay with ``anomalib``. Each command is a function in a module of this folder;
none of these modules imports torch before its command runs.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from anomalib_ckaad import __version__
from anomalib_ckaad.cli.config import list_configs, print_config_path, show_config
from anomalib_ckaad.cli.convert import convert
from anomalib_ckaad.cli.curve import curve
from anomalib_ckaad.cli.demo import demo
from anomalib_ckaad.cli.doctor import doctor
from anomalib_ckaad.cli.mistakes import BAD_INPUT, message_for_user
from anomalib_ckaad.cli.parser import Command, Group, build_parser, run
from anomalib_ckaad.cli.report import report
from anomalib_ckaad.cli.study import study
from anomalib_ckaad.cli.validate import validate
from anomalib_ckaad.cli.weights import fetch, list_weights, print_weights_path

PROGRAM: Final = "anomalib-ckaad"
DESCRIPTION: Final = "Commands for CKAAD that anomalib's own command line does not have."
COMMANDS: Final[Mapping[str, Command | Group]] = {
    "config": Group(
        "Configs of the paper and others, for anomalib's --config.",
        {"list": list_configs, "show": show_config, "path": print_config_path},
    ),
    "demo": demo,
    "curve": curve,
    "study": study,
    "report": report,
    "convert": convert,
    "weights": Group(
        "Weights of backbones in folders, for machines without a network.",
        {"fetch": fetch, "list": list_weights, "path": print_weights_path},
    ),
    "doctor": doctor,
    "validate": validate,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user's ends in one message on standard error and exit status 2.

    Args:
        arguments: Words of the command line. Default: those that this program was started with.

    Returns:
        The exit status.
    """
    parser = build_parser(PROGRAM, __version__, DESCRIPTION, COMMANDS)
    try:
        return run(parser, arguments)
    except Exception as error:
        message = message_for_user(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
