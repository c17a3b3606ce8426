"""The results of a study, as a report reads them."""

import logging
import statistics
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from anomalib_ckaad.data.reading.anomaly_types import UNTYPED
from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.metrics.per_type import ALL_TYPES
from anomalib_ckaad.study.statistics import Paired
from anomalib_ckaad.study.store import DONE, NAMES, SCORES, Store

logger = logging.getLogger(__name__)

KEPT = ("paths", "masks", "types", "scores", "labels", "threshold", "maps")
"""Arrays that a job keeps at least of its test images."""
SEEN, UNSEEN = "mean of seen types", "mean of unseen types"


@dataclass(frozen=True)
class Results:
    """The rows of a store.

    Attributes:
        name: Name of the study.
        folder: Folder of the study.
        done: Rows of jobs that are done.
        failed: Rows of jobs that failed.
        missing: Method, data set and seed of jobs that have not been run.
    """

    name: str
    folder: Path
    done: Sequence[Mapping[str, Any]]
    failed: Sequence[Mapping[str, Any]]
    missing: Sequence[tuple[str, str, int]] = ()
    _loaded: dict[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """Read a study's folder.

        Raises:
            StudyError: If there is no study, it cannot be read, or none of its jobs is done.
        """
        store = Store(folder)
        name, rows = store.read()
        planned = store.planned()
        there = {tuple(row[key] for key in NAMES) for row in rows}
        missing = [job for job in planned if job not in there]
        if planned:  # jobs that the config no longer has are neither done nor missing
            rows, others = (
                [row for row in rows if (tuple(row[key] for key in NAMES) in planned) is wanted]
                for wanted in (True, False)
            )
            if others:
                names = ", ".join(sorted({f"{row['method']} on {row['data']}" for row in others}))
                logger.warning("The report leaves out jobs that the study's config no longer has: %s.", names)
        done = [row for row in rows if row["status"] == DONE]
        if name is None or not done:
            what = "no results of a study" if name is None or not rows else f"{len(rows)} failed jobs and no results"
            msg = f"{str(folder)!r} has {what}. Run `anomalib-ckaad study` first."
            raise StudyError(msg)
        return cls(name, folder, done, [row for row in rows if row["status"] != DONE], missing)

    @cached_property
    def data_sets(self) -> list[str]:
        """Names, in the order in which they were run."""
        return list(dict.fromkeys(row["data"] for row in self.done))

    @cached_property
    def methods(self) -> list[str]:
        """Names, in the order in which they were run."""
        return list(dict.fromkeys(row["method"] for row in self.done))

    def rows(self, data: str, method: str) -> list[Mapping[str, Any]]:
        """Results of a method on a data set, in the order of the seeds."""
        chosen = [row for row in self.done if (row["data"], row["method"]) == (data, method)]
        return sorted(chosen, key=lambda row: int(row["seed"]))

    def types(self, data: str) -> list[str]:
        """Types of defects in the test images of a data set."""
        return sorted({name for row in self.done if row["data"] == data for name in row["scores"]} - {ALL_TYPES})

    def metrics(self, data: str) -> set[str]:
        """Names of the metrics of a data set."""
        return {name for row in self.done if row["data"] == data for name in row["scores"][ALL_TYPES]} - {"images"}

    def values(self, data: str, method: str, metric: str, kind: str = ALL_TYPES) -> list[float]:
        """A metric for each seed: of one type, of all types together, or the mean over seen or unseen types."""
        found = []
        for row in self.rows(data, method):
            seen = set(row["seen"])
            if UNTYPED in seen and kind in (SEEN, UNSEEN):
                continue  # the types of the known anomalies are not known
            wanted: Callable[[str], bool] = {
                SEEN: lambda name, seen=seen: name in seen,
                UNSEEN: lambda name, seen=seen: name not in seen,
            }.get(kind, lambda name: name == kind)
            names = [name for name in row["scores"] if wanted(name) and (name != ALL_TYPES or kind == ALL_TYPES)]
            of_types = [row["scores"][name][metric] for name in names if metric in row["scores"][name]]
            if of_types:
                found.append(statistics.mean(of_types))
        return found

    def scores(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Scores and maps of every test image of a job; empty if the file is missing or damaged."""
        if row["folder"] not in self._loaded:
            path = self.folder / row["folder"] / SCORES
            self._loaded[row["folder"]] = _load(path)
        return self._loaded[row["folder"]]

    def pairs(self, data: str, first: str, second: str) -> list[Paired]:
        """Scores of two methods on the same images, one element per seed.

        Raises:
            StudyError: If the methods were tested on different images.
        """
        by_seed = {row["seed"]: self.scores(row) for row in self.rows(data, second)}
        found = []
        for row in self.rows(data, first):
            one, other = self.scores(row), by_seed.get(row["seed"], {})
            if not one or not other:
                continue
            place = {path: index for index, path in enumerate(other["paths"].tolist())}
            both = [path in place for path in one["paths"].tolist()]
            if not all(both) or len(place) != len(both):
                msg = (
                    f"{first} and {second} were tested on different images of {data} with seed {row['seed']}. Run them "
                    "again in one study."
                )
                raise StudyError(msg)
            order = [place[path] for path in one["paths"].tolist()]
            labels, groups = one["labels"].astype(bool), one.get("groups")
            found.append(Paired(one["scores"], other["scores"][order], labels, one["paths"], groups))
        # If the groups of some job are not known, none are used.
        return found if all(one.groups is not None for one in found) else [one._replace(groups=None) for one in found]


def _load(path: Path) -> Mapping[str, Any]:
    """Read what a job keeps of its test images; nothing, with a warning, if it is missing or damaged."""
    try:
        found = dict(np.load(path))
        return {name: found[name] for name in (*KEPT, *(found.keys() - set(KEPT)))}
    except (KeyError, OSError, ValueError, BadZipFile, zlib.error) as error:
        logger.warning("Cannot read the scores in %s (%s). Plots and differences leave them out.", path, error)
        return {}
