"""Lets anomalib's benchmark compare models that have different arguments or metrics."""

import sys
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

JOB: Final = "anomalib.pipelines.benchmark.job"


def patch_benchmark_with(models: ModuleType) -> None:
    """Patch the benchmark now, and whenever anomalib makes a model; further calls change nothing.

    The benchmark may be imported later than the plugin, but makes its models with ``get_model`` after that.

    Args:
        models: ``anomalib.models``, whose ``get_model`` is wrapped.
    """
    patch_benchmark()
    get_model: Callable[..., Any] = models.get_model
    if getattr(get_model, "patches_benchmark", False):
        return

    @wraps(get_model)
    def patching_get_model(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - anomalib's
        patch_benchmark()
        return get_model(*args, **kwargs)

    patching_get_model.patches_benchmark = True  # type: ignore[attr-defined]  # so that a second call does nothing
    models.get_model = patching_get_model  # type: ignore[attr-defined]


def patch_benchmark() -> None:
    """Replace ``BenchmarkJob.collect`` if anomalib's benchmark has been imported.

    anomalib takes the columns of the table from the first result. If a later result has more, as that of Ckaad, which
    reports AUPRO, the benchmark ends in a KeyError after all its work, without a table.
    """
    job = getattr(sys.modules.get(JOB), "BenchmarkJob", None)
    if job is not None:
        job.collect = staticmethod(collect_results)


def collect_results(results: list[dict[str, object]]) -> "pd.DataFrame":
    """A table with a row for each result, and a column for each name that any result has.

    >>> collect_results([{"model": "a", "AUROC": 0.5}, {"model": "b", "AUPRO": 0.25}]).columns.tolist()
    ['model', 'AUROC', 'AUPRO']
    """
    from pandas import DataFrame  # noqa: PLC0415 - needed by the benchmark only

    return DataFrame(results)
