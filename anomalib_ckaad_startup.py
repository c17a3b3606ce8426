"""Start-up hook: lets ``anomalib train --model Ckaad`` find a class nobody has imported.

``anomalib_ckaad_startup.pth`` (Python before 3.15) or ``anomalib_ckaad_startup.start`` (from 3.15 on, PEP 829) calls
``install`` whenever an interpreter of the environment starts. All it does then is to put one finder on
``sys.meta_path``; once ``anomalib.models`` has been imported, the plugin registers itself and the finder is gone.

Only the standard library, and of that only what every interpreter has loaded already: this runs in programs that have
nothing to do with anomalib. ``ANOMALIB_CKAAD_AUTOLOAD=0`` turns it off.
"""

import os
import sys
from _thread import get_ident

TYPE_CHECKING = False  # typing would cost more than all the rest; type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

SWITCH = "ANOMALIB_CKAAD_AUTOLOAD"
TARGET = "anomalib.models"
OFF = frozenset({"0", "false", "no", "off"})


def is_on() -> bool:
    """Tell whether the environment leaves the hook on, which it does unless ``ANOMALIB_CKAAD_AUTOLOAD`` says no."""
    return os.environ.get(SWITCH, "").strip().lower() not in OFF


class PluginFinder:
    """Finds ``anomalib.models`` where the other finders do, and registers the plugin once it has been executed."""

    def __init__(self) -> None:
        self._searching: set[int] = set()

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the other finders' spec of ``anomalib.models`` with its loader watched, and None for all else."""
        if fullname != TARGET:
            return None
        thread = get_ident()
        if thread in self._searching:  # another hook of our kind asks all finders, us included
            return None
        self._searching.add(thread)
        try:
            for finder in list(sys.meta_path):
                if finder is not self and (find := getattr(finder, "find_spec", None)) is not None:
                    spec: ModuleSpec | None = find(fullname, path, target)
                    if spec is not None:
                        self._watch(spec.loader)
                        return spec
        finally:
            self._searching.discard(thread)
        return None

    def _watch(self, loader: "Loader | None") -> None:
        """Have ``loader`` call ``after_execution``; a loader that takes no attribute is left alone.

        The instance is changed and not wrapped, so that the spec shows inspect, pickle and runpy the loader they know.
        """
        execute: Callable[[ModuleType], None] | None = getattr(loader, "exec_module", None)
        if execute is None or hasattr(execute, "watched_for"):
            return

        def exec_module(module: "ModuleType") -> None:
            execute(module)
            if module.__name__ == TARGET:
                vars(loader).pop("exec_module", None)
                self.after_execution()

        exec_module.watched_for = TARGET  # type: ignore[attr-defined]  # a mark, so that nothing is watched twice
        try:
            loader.exec_module = exec_module  # type: ignore[union-attr,method-assign]
        except (AttributeError, TypeError):
            return

    def after_execution(self) -> None:
        """Leave ``sys.meta_path`` and register the plugin; what fails there becomes a warning, never an error."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if is_on():
            register()


def register() -> None:
    """Import the plugin and register it; a plugin that is gone is no news, one that is broken makes a warning."""
    try:
        from importlib import import_module

        import_module("anomalib_ckaad.host.registration").register()
    except Exception as error:  # noqa: BLE001  # whatever is wrong with the plugin, anomalib itself must go on working
        if getattr(error, "name", None) != "anomalib_ckaad":
            _warn(error)


def _warn(error: Exception) -> None:
    from warnings import warn

    reason = f"{type(error).__name__}: {error}"
    message = f"Expected anomalib-ckaad to register its model, got {reason}. Do mend that, or set {SWITCH}=0."
    try:
        warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # warnings are errors here, and this one must not be
        sys.stderr.write(f"{message}\n")


def install() -> None:
    """Put the finder in front of ``sys.meta_path``, once, unless it is turned off or anomalib is loaded already."""
    if is_on() and TARGET not in sys.modules and not any(isinstance(f, PluginFinder) for f in sys.meta_path):
        sys.meta_path.insert(0, PluginFinder())
