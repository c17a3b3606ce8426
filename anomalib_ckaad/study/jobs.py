"""From a study's config to its jobs: methods x data sets x seeds, and the values of `vary`."""

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from anomalib_ckaad.errors import StudyError

KEYS = {"name", "seeds", "trainer", "data", "methods"}
METHOD_KEYS = {"class_path", "init_args", "vary", "trainer", "use"}
DATA_KEYS = {"class_path", "init_args", "vary"}


@dataclass(frozen=True)
class Job:
    """One training and its test.

    Attributes:
        method: Name of the method, with its values of ``vary``.
        data: Name of the data set, with its values of ``vary``.
        seed: Seed of everything random.
        settings: ``model`` and ``data`` as ``class_path`` and ``init_args``; ``trainer``; ``use`` of known anomalies:
            ``train``, ``drop``, or None to let the model decide; and ``files``, a hash of each file of groups that the
            data's arguments name.
    """

    method: str
    data: str
    seed: int
    settings: Mapping[str, Any]

    @property
    def name(self) -> tuple[str, str, int]:
        """Method, data set and seed, which no other job of the study shares."""
        return self.method, self.data, self.seed

    @property
    def fingerprint(self) -> str:
        """Hash of all settings but ``files``: jobs of the same name can be compared if it is the same."""
        settings = {name: value for name, value in self.settings.items() if name != "files"}
        text = json.dumps(settings, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """Name of the folder for the job's files."""
        words = re.sub(r"[^A-Za-z0-9.=_-]+", "_", f"{self.data}-{self.method}-seed{self.seed}")
        return f"{words[:150]}-{self.fingerprint}"


@dataclass(frozen=True)
class Study:
    """A study's name and its jobs, in the order they are run."""

    name: str
    jobs: tuple[Job, ...]


def read_study(config: Path) -> Study:
    """Read a study's config.

    Args:
        config: YAML with ``methods`` and ``data``, each a mapping from a name to ``class_path``, ``init_args`` and
            ``vary`` (a list of values for some arguments; every combination becomes a method or data set);
            ``seeds``, a number or a list, default 3; ``trainer``, arguments of Lightning's trainer for all methods,
            to which a method's own ``trainer`` adds; ``name``, by default that of the file.

    Raises:
        StudyError: If the file is not such a config; nothing has been run then.
    """
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"Cannot read the config {str(config)!r}: {reason}."
        raise StudyError(msg) from error
    _check_keys("The study", settings, KEYS, required={"data", "methods"})
    _check_mapping("`trainer`", settings.get("trainer"))
    methods = list(_variants("method", settings["methods"], METHOD_KEYS))
    data = list(_variants("data set", settings["data"], DATA_KEYS))
    jobs = [
        Job(method, name, seed, _settings_of(settings.get("trainer") or {}, entry, data_entry, seed))
        for (name, data_entry), seed, (method, entry) in itertools.product(data, _seeds(settings), methods)
    ]
    names = [job.name for job in jobs]
    repeated = sorted({f"{method} on {name}" for method, name, seed in names if names.count((method, name, seed)) > 1})
    if repeated:
        msg = f"Several jobs have the same name: {', '.join(repeated)}. Remove repeated values from `vary`, or rename."
        raise StudyError(msg)
    return Study(str(settings.get("name", config.stem)), tuple(jobs))


def _seeds(settings: Mapping[str, Any]) -> Sequence[int]:
    seeds = settings.get("seeds", 3)
    found = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    # True and False are numbers to Python.
    if not isinstance(found, list) or not found or any(type(one) is not int or one < 0 for one in found):
        msg = f"`seeds` must be a number of at least 1 or a list of whole numbers of at least 0, not {seeds!r}."
        raise StudyError(msg)
    if len(set(found)) != len(found):
        msg = f"`seeds` has a seed twice: {found}. Remove the repeated ones."
        raise StudyError(msg)
    return found


def _check_keys(what: str, entry: Any, known: set[str], required: set[str]) -> None:  # noqa: ANN401
    if not isinstance(entry, Mapping):
        keys = f" with {', '.join(sorted(known))}" if known else ""
        msg = f"{what} must be a mapping{keys}, not {entry!r}."
        raise StudyError(msg)
    wrong = sorted(set(map(str, entry)) - known)
    missing = sorted(key for key in required if not entry.get(key))
    if wrong or missing:
        problem = f"has unknown keys: {', '.join(wrong)}" if wrong else f"lacks {', '.join(missing)}"
        msg = f"{what} {problem}. Allowed keys: {', '.join(sorted(known))}."
        raise StudyError(msg)


def _check_mapping(what: str, entry: Any) -> None:  # noqa: ANN401
    if entry is not None and not isinstance(entry, Mapping):
        msg = f"{what} must be a mapping from arguments to values, not {entry!r}."
        raise StudyError(msg)


def _variants(kind: str, entries: Any, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401
    """Every entry by name, once for each combination of the values of its ``vary``."""
    names = set(map(str, entries)) if isinstance(entries, Mapping) else set()
    _check_keys(f"The mapping of {kind}s by name", entries, names, set())
    for name, entry in entries.items():
        _check_keys(f"The {kind} {name}", entry, known, required={"class_path"})
        for key in ("init_args", "trainer"):
            _check_mapping(f"`{key}` of the {kind} {name}", entry.get(key))
        if entry.get("use") not in [None, "train", "drop"]:
            msg = f"`use` of the {kind} {name} must be train or drop, not {entry['use']!r}."
            raise StudyError(msg)
        vary = entry.get("vary") or {}
        if not isinstance(vary, Mapping) or any(not isinstance(one, list) or not one for one in vary.values()):
            msg = f"`vary` of the {kind} {name} must be a mapping from arguments to lists of values, not {vary!r}."
            raise StudyError(msg)
        for values in itertools.product(*vary.values()):
            chosen = dict(zip(vary, values, strict=True))
            made = {key: copy.deepcopy(value) for key, value in entry.items() if key != "vary"}
            made["init_args"] = {**(made.get("init_args") or {}), **chosen}
            words = [f"{key}={_short(value)}" for key, value in chosen.items()]
            yield " ".join([str(name), *words]), made


def _short(value: Any) -> str:  # noqa: ANN401
    """Return a value as part of a name.

    >>> _short([2, 3]), _short(None), _short("recon")
    ('2,3', 'none', 'recon')
    """
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return "none" if value is None else str(value)


def _settings_of(
    trainer: Mapping[str, Any], method: Mapping[str, Any], data: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Settings of a job; splits and known anomalies are drawn with its seed if the config has none."""
    data_args = copy.deepcopy(dict(data.get("init_args") or {}))
    inner = data_args.get("data")
    if isinstance(inner, Mapping):
        if not isinstance(inner.get("init_args") or {}, Mapping) or not inner.get("class_path"):
            msg = f"`data` within a data set must have class_path and init_args, not {inner!r}."
            raise StudyError(msg)
        data_args["data"] = {**inner, "init_args": {"seed": seed, **(inner.get("init_args") or {})}}
    files = _hashes_of(data_args.get("groups"))
    return {
        "model": {"class_path": method["class_path"], "init_args": dict(method.get("init_args") or {})},
        "data": {"class_path": data["class_path"], "init_args": {"seed": seed, **data_args}},
        "trainer": {**trainer, **(method.get("trainer") or {})},
        "use": method.get("use"),
        **({"files": files} if files else {}),
    }


def _hashes_of(groups: object) -> dict[str, str]:
    """Hash of the content of a file of groups, by its path: other groups of the same name mean other test images."""
    if not isinstance(groups, str) or not groups.lower().endswith(".csv") or not Path(groups).is_file():
        return {}  # a pattern; a missing file is reported when the data set is made
    lines = sorted(Path(groups).read_bytes().split())
    return {groups: hashlib.sha256(b"\n".join(lines)).hexdigest()[:12]}
