"""Start-up hook: lets ``anomalib train --model Ckaad`` find a class that nothing has imported.

``anomalib_ckaad_startup.pth`` (Python before 3.15) or ``anomalib_ckaad_startup.start`` (from 3.15 on, PEP 829) calls
``install`` whenever an interpreter of the environment starts. ``install`` only adds a finder to ``sys.meta_path``. When
``anomalib.models`` has been imported, the finder removes itself and registers the plugin.

This runs in programs that have nothing to do with anomalib. So it imports only the standard library, and only modules
that every interpreter has loaded already. ``ANOMALIB_CKAAD_AUTOLOAD=0`` turns it off.
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
    """Whether ``ANOMALIB_CKAAD_AUTOLOAD`` leaves the hook on, as it does if it is not set."""
    return os.environ.get(SWITCH, "").strip().lower() not in OFF


class PluginFinder:
    """Finds ``anomalib.models`` where the other finders do, and registers the plugin once it has been imported."""

    def __init__(self) -> None:
        self._searching: set[int] = set()

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """The other finders' spec of ``anomalib.models``, with a loader that is watched; None for other modules."""
        if fullname != TARGET:
            return None
        thread = get_ident()
        if thread in self._searching:  # another hook of this kind asks all finders, including this one
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
        """Let ``loader`` call ``after_execution``; a loader that takes no attribute is left alone.

        The loader is changed, not wrapped, so that inspect, pickle and runpy get a loader of the type they know.
        """
        execute: Callable[[ModuleType], None] | None = getattr(loader, "exec_module", None)
        if execute is None or hasattr(execute, "watched_for"):
            return

        def exec_module(module: "ModuleType") -> None:
            execute(module)
            if module.__name__ == TARGET:
                vars(loader).pop("exec_module", None)
                self.after_execution()

        exec_module.watched_for = TARGET  # type: ignore[attr-defined]  # so that nothing is watched twice
        try:
            loader.exec_module = exec_module  # type: ignore[union-attr,method-assign]
        except (AttributeError, TypeError):
            return

    def after_execution(self) -> None:
        """Leave ``sys.meta_path`` and register the plugin; an error becomes a warning."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if is_on():
            register()


def register() -> None:
    """Import the plugin and register it; do nothing if it has been uninstalled, and warn if it is broken."""
    try:
        from importlib import import_module

        import_module("anomalib_ckaad.host.registration").register()
    except Exception as error:  # noqa: BLE001  # anomalib must work, whatever is wrong with the plugin
        if getattr(error, "name", None) != "anomalib_ckaad":
            _warn(error)


def _warn(error: Exception) -> None:
    from warnings import warn

    reason = f"{type(error).__name__}: {error}"
    message = f"anomalib-ckaad could not register its model ({reason}). Reinstall it, or set {SWITCH}=0."
    try:
        warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # in this program warnings are errors, but this one must not be
        sys.stderr.write(f"{message}\n")


def install() -> None:
    """Add the finder to ``sys.meta_path``, once, unless the hook is turned off or anomalib is loaded already."""
    if is_on() and TARGET not in sys.modules and not any(isinstance(f, PluginFinder) for f in sys.meta_path):
        sys.meta_path.insert(0, PluginFinder())
