"""Nothing is reported home by the libraries, and with ``--offline`` nothing outside this machine is reached.

``forbid_telemetry`` is called before a library that reports is imported; a variable that the user set stays as it is.
``forbid_network`` holds for this process and those it starts: libraries are told by their variables, and what asks for
a name or a connection through Python all the same gets ``NetworkForbidden``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from semaug.artifacts.errors import SemaugError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

SWITCH = "SEMAUG_OFFLINE"
SILENT: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers asks the hub to convert pickled weights
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime keeps a data base of its uses and sends it, on Linux too
    "RAY_USAGE_STATS_ENABLED": "0",
    "YOLO_OFFLINE": "true",  # ultralytics counts uses, and looks whether there is a network, at its import
    "YOLO_AUTOINSTALL": "false",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}
"""Variables that keep libraries from reporting, from looking for updates, and from installing."""
OFFLINE: Mapping[str, str] = {
    SWITCH: "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "YOLO_OFFLINE": "true",
}
"""Variables that keep libraries from the network altogether."""
_CONNECTING = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_ASKING = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


class NetworkForbidden(SemaugError, ConnectionError):
    """Something outside this machine was asked for while ``--offline`` holds."""


def forbid_telemetry() -> None:
    """Set ``SILENT`` where the user has not set it; libraries read it when they are imported."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)


def forbid_network() -> None:
    """Keep this process, and those it starts, from the network: the loopback and local sockets stay open."""
    os.environ.update(OFFLINE)
    keep_offline()


def keep_offline() -> None:
    """What a started process does first: nothing, unless the one that started it is offline."""
    if is_offline() and not getattr(sys, _HOOKED, False):
        setattr(sys, _HOOKED, True)  # there and not here, since a hook stays when a module is imported anew
        sys.addaudithook(_refuse)


_HOOKED = "_semaug_offline"


def is_offline() -> bool:
    """Whether ``forbid_network`` holds."""
    return os.environ.get(SWITCH) == "1"


def require_reachable(host: str, what: str) -> None:
    """Raise ``NetworkForbidden``, in words that name ``what``, for another machine while offline."""
    if is_offline() and not is_here(host):
        raise NetworkForbidden(f"--offline forbids to reach {what} at {host}; leave one of them out")


def is_here(host: object) -> bool:
    """Whether a host is this machine: a loopback or unspecified address, ``localhost``, or the machine's own name.

    >>> [is_here(h) for h in ("127.0.0.1", "localhost", "::1", "", None, "example.com", "10.0.0.1")]
    [True, True, True, True, True, False, False]
    """
    import socket

    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
    if text.lower() in ("", "localhost", "localhost.localdomain", socket.gethostname().lower()):
        return True
    address = _address(text)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(host: object) -> IPv4Address | IPv6Address | None:
    from ipaddress import ip_address

    try:
        return ip_address(str(host).partition("%")[0])
    except ValueError:
        return None


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook: it sees every connection and every question for a name that Python makes."""
    if event in _CONNECTING:
        address = arguments[1]  # a path, where the socket is a local one
        host = address[0] if isinstance(address, tuple) and isinstance(address[0], (str, bytes)) else None
    elif event in _ASKING:
        host = arguments[0] if _address(arguments[0]) is None else None  # an address asks nobody
    else:
        return
    if is_offline() and not is_here(host):
        raise NetworkForbidden(f"--offline forbids to reach {host!s}; leave it out, or get what is needed before")
