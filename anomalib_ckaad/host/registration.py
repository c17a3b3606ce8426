"""Registration with anomalib: the only room that touches its insides.

anomalib discovers no plugins. jsonargparse resolves a bare class name among the imported direct subclasses of
``AnomalibModule``; ``get_model`` takes dotted names from ``ALLOWED_MODULES`` only and bare ones from
``anomalib.models``; ``get_datamodule`` looks on ``anomalib.data``. ``register`` answers all four, whoever calls it and
however often.
"""

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SUPPORTED = ((2, 7), (2, 8))  # from the first up to, not including, the second; pyproject.toml says the same

# Public names and the modules that define them.
MODELS: Mapping[str, str] = {"Ckaad": "anomalib_ckaad.lightning_model"}
DATAMODULES: Mapping[str, str] = dict.fromkeys(
    ("Br35H", "CIFAR10OneClass", "ChestXray", "ISIC2018", "KnownAnomalies", "OCT2017", "Textures"),
    "anomalib_ckaad.data",
)

# Names that anomalib has no place for: the package offers them, and configs name them in full.
OTHERS: Mapping[str, str] = {
    "RatePostProcessor": "anomalib_ckaad.thresholds",
    "SeenUnseenEvaluator": "anomalib_ckaad.metrics",
}


def register() -> None:
    """Make anomalib find the plugin's model and datamodules; further calls change nothing.

    The hosts get the names lazily: this may run while ``anomalib_ckaad.lightning_model`` is half imported, because
    that module's first import of anomalib is what brings the start-up hook here.

    Raises:
        ImportError: If anomalib or a module of the plugin cannot be imported.

    """
    # import_module and not attribute access: anomalib has no attribute `models` while that is being imported.
    models, data = import_module("anomalib.models"), import_module("anomalib.data")
    check_version(import_module("anomalib").__version__)
    models.ALLOWED_MODULES.add("anomalib_ckaad")
    offer(models, MODELS)
    offer(data, DATAMODULES)
    for module in (*MODELS.values(), *DATAMODULES.values()):
        try:
            import_module(module)  # bare names on the command line are looked up among the classes that exist
        except ImportError:
            # The import of a room that brought anomalib, and so this, goes on afterwards; names are offered anyway.
            if not is_half_imported():
                raise


def is_half_imported() -> bool:
    """Whether some module of the package is being imported right now, by other means than its registration."""
    rooms = [module for name, module in sys.modules.items() if name.startswith("anomalib_ckaad.") and name != __name__]
    return any(getattr(getattr(module, "__spec__", None), "_initializing", False) for module in rooms)


def offer(host: ModuleType, names: Mapping[str, str]) -> None:
    """Give module ``host`` an attribute for each of ``names``, imported on first use from the module named with it."""
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

    module_getattr.offered_names = names  # type: ignore[attr-defined]  # how a second call knows it has been here
    vars(host)["__getattr__"] = module_getattr


def mend_benchmark() -> None:
    """Let ``anomalib benchmark`` write its table where methods have different arguments or metrics.

    It takes its columns from the first result alone, and ends in a KeyError, without a table, where another one has
    more: as Ckaad's does, which reports AUPRO. Does nothing unless the benchmark is what runs.
    """
    job = sys.modules.get("anomalib.pipelines.benchmark.job")
    if job is not None:
        job.BenchmarkJob.collect = staticmethod(collect_results)


def collect_results(results: list[dict[str, object]]) -> "pd.DataFrame":
    """A table with every column that some result has.

    >>> collect_results([{"model": "a", "AUROC": 0.5}, {"model": "b", "AUPRO": 0.25}]).columns.tolist()
    ['model', 'AUROC', 'AUPRO']
    """
    from pandas import DataFrame  # noqa: PLC0415 - of the benchmark alone

    return DataFrame(results)


def check_version(version: str) -> None:
    """Warn when anomalib is of a version this plugin has not been tested with.

    >>> check_version("2.7.0")
    """
    lowest, beyond = SUPPORTED
    numbers = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:2])
    if not lowest <= numbers < beyond:
        wanted = f">={lowest[0]}.{lowest[1]},<{beyond[0]}.{beyond[1]}"
        message = f"Expected anomalib {wanted}, got {version}. Do `pip install 'anomalib{wanted}'` if anything fails."
        warnings.warn(message, UserWarning, stacklevel=2)
