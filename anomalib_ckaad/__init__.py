"""CKAAD for anomalib: anomaly detection that learns from a few known anomalies (arXiv 2412.12850).

Importing this package takes milliseconds: torch, anomalib and the model are imported on the first use of a name.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers know this name, and importing typing would take longer than everything else here
if TYPE_CHECKING:
    from anomalib_ckaad.data import (
        ISIC2018,
        OCT2017,
        Br35H,
        ChestXray,
        CIFAR10OneClass,
        KnownAnomalies,
        Textures,
    )
    from anomalib_ckaad.lightning_model import Ckaad
    from anomalib_ckaad.metrics import SeenUnseenEvaluator
    from anomalib_ckaad.thresholds import RatePostProcessor

__version__ = "0.1.0"

__all__ = [
    "ISIC2018",
    "OCT2017",
    "Br35H",
    "CIFAR10OneClass",
    "ChestXray",
    "Ckaad",
    "KnownAnomalies",
    "RatePostProcessor",
    "SeenUnseenEvaluator",
    "Textures",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import a public name on its first use, after registering the plugin with anomalib.

    Raises:
        AttributeError: If the package has no public name ``name``.

    """
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    plugin = import_module("anomalib_ckaad.host.registration")
    plugin.register()
    value: object = getattr(import_module({**plugin.MODELS, **plugin.DATAMODULES, **plugin.OTHERS}[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
