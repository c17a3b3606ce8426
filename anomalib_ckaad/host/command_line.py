"""anomalib's command line, with the errors of this package as they were raised.

jsonargparse tries every type that an argument may have, and raises one error with the texts of all: the classes are
lost. It lets a parser build objects in its own way, and this is where they are kept.
"""

from typing import Any, TypeVar

from anomalib.cli import AnomalibCLI

from anomalib_ckaad.errors import CkaadError

Built = TypeVar("Built")


class HostCLI(AnomalibCLI):
    """anomalib's command line; a ``CkaadError`` of a class that it builds is raised as it is."""

    def instantiate_classes(self) -> None:
        """Build model, data and engine.

        Raises:
            CkaadError: If one of them cannot be built as asked.
        """
        refused: list[CkaadError] = []

        def build(class_type: type[Built], *arguments: Any, **named: Any) -> Built:  # noqa: ANN401 - any class's
            try:
                return class_type(*arguments, **named)
            except CkaadError as error:
                refused.append(error)
                raise

        self.parser.add_instantiator(build, object)
        try:
            super().instantiate_classes()
        except CkaadError:
            raise
        except Exception as error:
            if not refused:
                raise
            raise refused[0] from error

    def argument(self, name: str) -> Any:  # noqa: ANN401 - of any type
        """Value of an argument of the command that runs, or None if it has no such argument."""
        return self.config[self.config["subcommand"]].get(name)
