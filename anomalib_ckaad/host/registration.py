"""Registration of the model and the data modules with anomalib, which discovers no plugins.

jsonargparse looks a bare class name up among the imported direct subclasses of ``AnomalibModule``. ``get_model`` takes
dotted names from ``ALLOWED_MODULES`` only, and bare names from ``anomalib.models``. ``get_datamodule`` takes names from
``anomalib.data``. ``register`` makes all of these work.
"""

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from anomalib_ckaad.host.benchmark import patch_benchmark_with

SUPPORTED = ((2, 7), (2, 8))
"""Versions of anomalib from the first up to, but not including, the second; the same as in pyproject.toml.

Checkpoints of 2.6 contain pickled pre- and post-processors, which cannot be loaded without running their code.
"""

# Public names, and the modules that define them.
MODELS: Mapping[str, str] = {"Ckaad": "anomalib_ckaad.lightning_model"}
DATAMODULES: Mapping[str, str] = dict.fromkeys(
    ("Br35H", "CIFAR10OneClass", "ChestXray", "ISIC2018", "KnownAnomalies", "OCT2017", "Textures"),
    "anomalib_ckaad.data",
)

# Public names that anomalib does not look up: configs use them with the name of the package.
OTHERS: Mapping[str, str] = {
    "RatePostProcessor": "anomalib_ckaad.thresholds",
    "SeenUnseenEvaluator": "anomalib_ckaad.metrics",
}


def register() -> None:
    """Let anomalib find the model and the data modules, and patch its benchmark; further calls change nothing.

    anomalib's modules import the classes on first use: ``register`` may run while ``anomalib_ckaad.lightning_model`` is
    being imported, because the start-up hook calls it after that module's first import of anomalib.

    Raises:
        ImportError: If anomalib or a module of the plugin cannot be imported.

    """
    # Not `anomalib.models`: anomalib does not have this attribute while the module is being imported.
    models, data = import_module("anomalib.models"), import_module("anomalib.data")
    check_version(import_module("anomalib").__version__)
    models.ALLOWED_MODULES.add("anomalib_ckaad")
    offer(models, MODELS)
    offer(data, DATAMODULES)
    patch_benchmark_with(models)
    for module in (*MODELS.values(), *DATAMODULES.values()):
        try:
            import_module(module)  # jsonargparse finds classes that have been imported
        except ImportError:
            # A module of the package is being imported, has imported anomalib, and goes on after this.
            if not is_half_imported():
                raise


def is_half_imported() -> bool:
    """Whether a module of the package, other than this one, is being imported right now."""
    others = [module for name, module in sys.modules.items() if name.startswith("anomalib_ckaad.") and name != __name__]
    return any(getattr(getattr(module, "__spec__", None), "_initializing", False) for module in others)


def offer(host: ModuleType, names: Mapping[str, str]) -> None:
    """Give module ``host`` attributes that are imported on first use.

    Args:
        host: The module.
        names: The attributes, and for each the module that defines it.
    """
    previous = vars(host).get("__getattr__")
    if getattr(previous, "offered_names", None) == names:
        return

    def module_getattr(name: str) -> object:
        if name in names:
            value: object = getattr(import_module(names[name]), name)
            setattr(host, name, value)
            return value
        if previous is not None:
            return previous(name)
        msg = f"module {host.__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)

    module_getattr.offered_names = names  # type: ignore[attr-defined]  # so that a second call does nothing
    vars(host)["__getattr__"] = module_getattr


def check_version(version: str) -> None:
    """Warn if this version of anomalib has not been tested with the plugin.

    >>> check_version("2.7.0")
    """
    lowest, beyond = SUPPORTED
    numbers = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:2])
    if not lowest <= numbers < beyond:
        wanted = f">={lowest[0]}.{lowest[1]},<{beyond[0]}.{beyond[1]}"
        message = (
            f"anomalib-ckaad is tested with anomalib{wanted}, and {version} is installed. If anything fails, run "
            f"`pip install 'anomalib{wanted}'`."
        )
        warnings.warn(message, UserWarning, stacklevel=2)
