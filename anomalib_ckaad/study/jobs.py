"""From a study's config to its jobs: methods x data sets x seeds, and what else shall vary."""

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
        method: Name of the method, with what varies.
        data: Name of the data set, with what varies.
        seed: Of everything random.
        settings: ``model`` and ``data`` as ``class_path`` and ``init_args``, ``trainer``, ``use`` of known anomalies:
            ``train``, ``drop`` or None for what the model can do; and ``files``, a hash of each file that the data's
            arguments name for their groups, where they do.
    """

    method: str
    data: str
    seed: int
    settings: Mapping[str, Any]

    @property
    def name(self) -> tuple[str, str, int]:
        """What tells it from the other jobs of its study."""
        return self.method, self.data, self.seed

    @property
    def fingerprint(self) -> str:
        """Hash of all settings but ``files``: jobs of one name and other settings are not comparable."""
        settings = {name: value for name, value in self.settings.items() if name != "files"}
        text = json.dumps(settings, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """Name of a folder for its files."""
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
            ``vary`` (a list of values for each of some arguments: every combination is a method or a data set of its
            own); ``seeds``, a number or a list, default 3; ``trainer``, arguments of Lightning's trainer for all
            methods, which a method's own ``trainer`` adds to; ``name``, default: the file's.

    Raises:
        StudyError: If the file is not such a config; nothing has been run then.
    """
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        msg = f"Expected --config to be a YAML file, got {str(config)!r} ({reason}). Do correct it."
        raise StudyError(msg) from error
    _check_keys("the study", settings, KEYS, required={"data", "methods"})
    _check_mapping("trainer", settings.get("trainer"))
    methods = list(_variants("method", settings["methods"], METHOD_KEYS))
    data = list(_variants("data set", settings["data"], DATA_KEYS))
    jobs = [
        Job(method, name, seed, _settings_of(settings.get("trainer") or {}, entry, data_entry, seed))
        for (name, data_entry), seed, (method, entry) in itertools.product(data, _seeds(settings), methods)
    ]
    names = [job.name for job in jobs]
    repeated = sorted({f"{method} on {name}" for method, name, seed in names if names.count((method, name, seed)) > 1})
    if repeated:
        msg = f"Expected a name of its own for each job, got {', '.join(repeated)} twice. Do rename or vary less."
        raise StudyError(msg)
    return Study(str(settings.get("name", config.stem)), tuple(jobs))


def _seeds(settings: Mapping[str, Any]) -> Sequence[int]:
    seeds = settings.get("seeds", 3)
    found = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    # True and False are numbers to Python.
    if not isinstance(found, list) or not found or any(type(one) is not int or one < 0 for one in found):
        msg = f"Expected seeds to be a number of at least 1 or a list of whole numbers, got {seeds!r}. Do correct it."
        raise StudyError(msg)
    if len(set(found)) != len(found):
        msg = f"Expected different seeds, got {found}. Do leave the repeated ones out."
        raise StudyError(msg)
    return found


def _check_keys(what: str, entry: Any, known: set[str], required: set[str]) -> None:  # noqa: ANN401
    if not isinstance(entry, Mapping):
        msg = f"Expected {what} to be a mapping with {', '.join(sorted(known))}, got {entry!r}. Do correct it."
        raise StudyError(msg)
    wrong = sorted(set(map(str, entry)) - known)
    missing = sorted(key for key in required if not entry.get(key))
    if wrong or missing:
        got = f"{', '.join(wrong)}" if wrong else f"no {', '.join(missing)}"
        msg = f"Expected {what} to have {', '.join(sorted(known))}, got {got}. Do correct it."
        raise StudyError(msg)


def _check_mapping(what: str, entry: Any) -> None:  # noqa: ANN401
    if entry is not None and not isinstance(entry, Mapping):
        msg = f"Expected {what} to be arguments by name, got {entry!r}. Do correct it."
        raise StudyError(msg)


def _variants(kind: str, entries: Any, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401
    """Every entry by name, once for each combination of what it varies."""
    _check_keys(f"{kind}s by name", entries, set(map(str, entries)) if isinstance(entries, Mapping) else set(), set())
    for name, entry in entries.items():
        _check_keys(f"{kind} {name}", entry, known, required={"class_path"})
        for key in ("init_args", "trainer"):
            _check_mapping(f"{key} of {kind} {name}", entry.get(key))
        if entry.get("use") not in [None, "train", "drop"]:
            msg = f"Expected use of {kind} {name} to be train or drop, got {entry['use']!r}. Do correct it."
            raise StudyError(msg)
        vary = entry.get("vary") or {}
        if not isinstance(vary, Mapping) or any(not isinstance(one, list) or not one for one in vary.values()):
            msg = f"Expected vary of {kind} {name} to give lists of values by argument, got {vary!r}. Do correct it."
            raise StudyError(msg)
        for values in itertools.product(*vary.values()):
            chosen = dict(zip(vary, values, strict=True))
            made = {key: copy.deepcopy(value) for key, value in entry.items() if key != "vary"}
            made["init_args"] = {**(made.get("init_args") or {}), **chosen}
            words = [f"{key}={_short(value)}" for key, value in chosen.items()]
            yield " ".join([str(name), *words]), made


def _short(value: Any) -> str:  # noqa: ANN401
    """A value as part of a name.

    >>> _short([2, 3]), _short(None), _short("recon")
    ('2,3', 'none', 'recon')
    """
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return "none" if value is None else str(value)


def _settings_of(
    trainer: Mapping[str, Any], method: Mapping[str, Any], data: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Everything a job needs; splits and known anomalies are drawn by its seed where the config names none."""
    data_args = copy.deepcopy(dict(data.get("init_args") or {}))
    inner = data_args.get("data")
    if isinstance(inner, Mapping):
        if not isinstance(inner.get("init_args") or {}, Mapping) or not inner.get("class_path"):
            msg = f"Expected the inner data to have class_path and init_args, got {inner!r}. Do correct it."
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
    """Hash of what a file of groups says, by its path: another one under the same name means other test images."""
    if not isinstance(groups, str) or not groups.lower().endswith(".csv") or not Path(groups).is_file():
        return {}  # a pattern; that a file is missing is found where the data are made
    lines = sorted(Path(groups).read_bytes().split())
    return {groups: hashlib.sha256(b"\n".join(lines)).hexdigest()[:12]}
