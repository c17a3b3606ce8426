"""``anomalib-ckaad config``: the packaged YAML files for ``anomalib train --config``."""

from pathlib import Path
from typing import Final

from anomalib_ckaad.errors import ConfigurationError, FileError

PACKAGE: Final = Path(__file__).resolve().parents[1]


def list_configs() -> int:
    """List the configs."""
    names = config_names()
    width = max(map(len, names), default=0)
    for name in names:
        print(f"{name:<{width}}  {config_summary(name)}".rstrip())
    return 0


def show_config(name: str) -> int:
    """Print a config.

    Args:
        name: A name from ``config list``.
    """
    print(config_path(name).read_text(encoding="utf-8"), end="")
    return 0


def print_config_path(name: str) -> int:
    """Print the path of a config.

    Args:
        name: A name from ``config list``.
    """
    print(config_path(name))
    return 0


def config_folder() -> Path:
    """The folder of the configs: the wheel's, or the checkout's in an editable install.

    Raises:
        FileError: If the installation has neither.
    """
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if folder.is_dir():
            return folder
    msg = f"The configs are missing: there is no folder {PACKAGE / 'configs'}. Install anomalib-ckaad again."
    raise FileError(msg)


def config_names() -> list[str]:
    """The names of the configs, in alphabetical order.

    Example:
        >>> "mvtec_ad" in config_names()
        True
    """
    return sorted(path.stem for path in config_folder().glob("*.yaml"))


def config_path(name: str) -> Path:
    """The file of a config, whose name may end in ``.yaml``.

    Raises:
        ConfigurationError: If there is no config of that name.

    Example:
        >>> config_path("mvtec_ad").name
        'mvtec_ad.yaml'
    """
    names = config_names()
    stem = name.removesuffix(".yaml")
    if stem not in names:
        msg = f"There is no config {name!r}. Choose one of {', '.join(names)}."
        raise ConfigurationError(msg)
    return config_folder() / f"{stem}.yaml"


def config_summary(name: str) -> str:
    """The first line of a config's leading comment, which says what it is for."""
    first = config_path(name).read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
