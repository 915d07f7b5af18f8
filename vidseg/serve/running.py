"""Running an application with uvicorn: its socket, its address, and its end."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import sys
from typing import Any

import uvicorn

from vidseg.serve.request_guard import is_loopback

__all__ = ["RunningServer", "choose_token", "free_port", "shown_url", "start_logging"]

_MESSAGE_BYTES = 8 << 20  # of a WebSocket message
_CONNECTIONS = 2000
_IDLE_SECONDS = 30  # of a connection between two requests; clients such as httpx close theirs after 5
_WAITING = 512  # connections that are not accepted yet


class _LineOfJson(logging.Formatter):
    """Messages of the server are JSON already; others become a field of it."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == "vidseg.serve":
            return record.getMessage()
        facts = {"time": round(record.created, 3), "event": "log", "level": record.levelname, "logger": record.name}
        text = super().format(record)
        return json.dumps({**facts, "message": text}, ensure_ascii=False)


def start_logging() -> None:
    """Write the log as one JSON object per line to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineOfJson())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vidseg.serve").setLevel(logging.INFO)


def choose_token(host: str, token: str | None) -> str | None:
    """Return the token of a server: the given one; none on loopback; a new one elsewhere.

    Raises:
        ValueError: the token is empty or has characters that a header cannot have.
    """
    if token is not None:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("token: must have one or more ASCII characters without blanks")
        return token
    return None if is_loopback(host) else secrets.token_urlsafe(24)


def shown_url(host: str, port: int) -> str:
    """Return the address of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def free_port(host: str) -> int:
    """Return a port that no program listens on now."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class RunningServer:
    """An application and the socket on which it listens.

    Args:
        app: ASGI application.
        host: address or name to listen on.
        port: port; 0: a free one.
        graceful_seconds: time that open requests get when the server stops.

    Attributes:
        url: address of the server.

    Raises:
        OSError: the port is in use or not permitted.
    """

    def __init__(self, app: Any, *, host: str = "127.0.0.1", port: int = 0, graceful_seconds: int = 10) -> None:
        self.socket = socket.socket(_family(host), socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind((host, port))
            self.socket.listen(_WAITING)  # clients may connect as soon as the address is known
        except OSError as error:
            self.socket.close()
            raise OSError(f"{host}:{port}: cannot listen there: {error.strerror}; choose another --port") from error
        self.url = shown_url(host, self.socket.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws_max_size=_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=graceful_seconds,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM or `stop`."""
        try:
            self._server.run(sockets=[self.socket])
        finally:
            self.socket.close()

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._server.should_exit = True

    @property
    def started(self) -> bool:
        """Whether requests are taken."""
        return bool(self._server.started)
