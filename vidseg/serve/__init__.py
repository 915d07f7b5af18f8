"""A server for trained models, its pages, and clients.

`ServeOptions` can be imported without torch; the other names are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vidseg.serve.serve_options import ServeOptions

if TYPE_CHECKING:
    from vidseg.serve.application import make_application
    from vidseg.serve.client import AsyncClient, Client, ServerError

__all__ = ["AsyncClient", "Client", "ServeOptions", "ServerError", "make_application"]

_HOME = {"AsyncClient": "client", "Client": "client", "ServerError": "client", "make_application": "application"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"vidseg.serve.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vidseg.serve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
