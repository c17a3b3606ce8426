"""The YAML files that ``anomalib train --config`` takes as they are: where they lie and what they are called."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """Return the folder of the configs: the wheel's, or the checkout's in an editable install.

    Raises:
        FileNotFoundError: If the installation has neither.

    """
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if folder.is_dir():
            return folder
    msg = f"Expected a folder of configs beside {PACKAGE}, got none. Do install anomalib-ckaad again."
    raise FileNotFoundError(msg)


def config_names() -> list[str]:
    """Return the configs' names in alphabetical order.

    >>> "mvtec_ad" in config_names()
    True
    """
    return sorted(path.stem for path in config_folder().glob("*.yaml"))


def config_path(name: str) -> Path:
    """Return the file of the config ``name``, with or without its ``.yaml``.

    >>> config_path("mvtec_ad").name
    'mvtec_ad.yaml'

    Raises:
        ValueError: If there is no config of that name.

    """
    names = config_names()
    stem = name.removesuffix(".yaml")
    if stem not in names:
        msg = f"Expected a config among {', '.join(names)}, got {name!r}. Do `anomalib-ckaad config list` to see them."
        raise ValueError(msg)
    return config_folder() / f"{stem}.yaml"


def config_summary(name: str) -> str:
    """Return the first line of the config's leading comment, which says what it is for."""
    first = config_path(name).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
