"""``python -m anomalib_ckaad train …``: anomalib's own command line with the plugin in it, with or without the hook.

Bad input to the plugin ends in its one sentence; anomalib's own command shows the whole traceback around it.
"""

import re
import sys
from collections.abc import Iterator

from anomalib_ckaad.host.registration import register

BAD_INPUT = 2  # the exit status argparse uses
# Alone in a message, or as one line in jsonargparse's list of the types that an argument did not fit.
OWN_SENTENCE = re.compile(
    r"(?:^|\n\s*- )((?:Step \d+, epoch \d+: )?Expected [^\n]+?, got .+? Do .+?)(?=\s*(?:$|\nGiven value|\n\s*- ))",
    re.DOTALL,
)


def main() -> None:
    """Register the plugin, then run anomalib's command line on this program's arguments."""
    register()
    from anomalib.loggers import configure_logger  # noqa: PLC0415  # anomalib's imports shall find the plugin there

    from anomalib_ckaad.cli.checked import CheckedCLI  # noqa: PLC0415

    sys.argv[0] = "python -m anomalib_ckaad"  # what the help shows; Lightning restarts processes by module name
    try:
        configure_logger()
        CheckedCLI()
    except (ValueError, TypeError, OSError, ArithmeticError, ImportError) as error:
        sentence = find_sentence(error)
        if sentence is None:
            raise
        sys.stderr.write(f"{sentence}\n")
        sys.exit(BAD_INPUT)


def find_sentence(error: BaseException) -> str | None:
    """The project's own sentence in an exception, its notes, or one that it was raised from; None if there is none.

    Example:
        >>> find_sentence(ValueError("Expected margin to be a number above 0, got 0. Do change margin."))
        'Expected margin to be a number above 0, got 0. Do change margin.'
        >>> find_sentence(ValueError("something else"))
    """
    for one in _chain(error):
        for text in (str(one), *getattr(one, "__notes__", [])):
            found = OWN_SENTENCE.search(text)
            if found is not None:
                return " ".join(found.group(1).split())
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    return reversed(seen)


if __name__ == "__main__":
    main()
