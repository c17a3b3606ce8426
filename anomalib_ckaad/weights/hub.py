"""Whether timm's hub can be reached; checked first, because its clients retry for most of a minute."""

import os
import socket
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from anomalib_ckaad.errors import WeightsError

ADDRESS = "https://huggingface.co"
OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
SECONDS = 5.0
FILES = ("model.safetensors", "pytorch_model.bin")


def is_switched_off() -> bool:
    """Whether ``HF_HUB_OFFLINE`` keeps the hub's clients from the network."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def is_reachable(address: str | None = None, seconds: float = SECONDS) -> bool:
    """Whether the hub, or the proxy in front of it, accepts a connection in time.

    Args:
        address: Default: ``HF_ENDPOINT``, or the hub's own address.
        seconds: How long to wait, name resolution included.
    """
    target = urlsplit(address or os.environ.get("HF_ENDPOINT") or ADDRESS)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connected: list[bool] = []

    def connect() -> None:
        port = target.port or (80 if target.scheme == "http" else 443)
        try:
            socket.create_connection((target.hostname or "", port), seconds).close()
        except OSError:
            return
        connected.append(True)

    # Name resolution has no time limit of its own: a thread that is not waited for gives it one.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(connected)


def check_hub(pretrained_cfg: Mapping[str, Any]) -> None:
    """Refuse weights that are neither in the hub's cache nor reachable.

    Args:
        pretrained_cfg: timm's record of the weights.

    Raises:
        WeightsError: If the hub cannot be reached, or timm records no weights.
    """
    name, address = pretrained_cfg.get("hf_hub_id"), pretrained_cfg.get("url")
    if pretrained_cfg.get("file"):  # a local-dir folder
        return
    if not name and not address:
        msg = "timm has no weights of this name"
        raise WeightsError(msg)
    if is_switched_off() or (name and is_cached(name)):  # the hub's client then answers at once
        return
    if not is_reachable(None if name else address):
        msg = f"no connection to {(os.environ.get('HF_ENDPOINT') or ADDRESS) if name else address}"
        raise WeightsError(msg)


def is_cached(name: str) -> bool:
    """Whether the hub's own cache holds a repository's weights, so that they need no network."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  # half a second, only where a hub is asked

    repository, _, revision = name.partition("@")
    found = (try_to_load_from_cache(repository, file, revision=revision or None) for file in FILES)
    return any(isinstance(path, str) for path in found)
