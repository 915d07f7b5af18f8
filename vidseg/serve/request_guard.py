"""What happens to every request before its route: host and origin, token, size of the body, log and counts."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from vidseg.serve.server_metrics import ServerMetrics
from vidseg.serve.server_state import log_event
from vidseg.serve.upload_checks import RequestError

__all__ = ["RequestGuard", "error_response", "is_loopback", "token_matches"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_IDLE_SECONDS = 60.0  # without a byte of a request that is not complete
_SLOWEST = 1000  # bytes per second of a request that takes longer than that
_CLIENT_GONE = 499  # status of requests that got no answer, in counts and log
_OPEN = ("/v1/", "/metrics")  # prefixes of what the token protects; pages and /health have no data


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is one of this machine alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_matches(given: str | None, token: str | None) -> bool:
    """Return whether a client may use the server; the time of the comparison does not depend on the token."""
    if token is None:
        return True
    return given is not None and hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def error_response(status: int, message: str, *, request: str = "", seconds: int | None = None) -> JSONResponse:
    """Return the answer to a request that cannot be served."""
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": {"status": status, "message": message, "request": request}}, status, headers)


class RequestGuard:
    """ASGI middleware around the routes.

    Args:
        app: the routes.
        metrics: of the server.
        max_bytes: largest body of a request.
        token: that clients must send as `Authorization: Bearer TOKEN`; None: none.
    """

    def __init__(self, app: Any, *, metrics: ServerMetrics, max_bytes: int, token: str | None) -> None:
        self.app, self.metrics, self.max_bytes, self.token = app, metrics, max_bytes, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, headers: Headers) -> str | None:
        """Return why a browser's request from another page is refused, or None."""
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname if _is_host(host) else None
        if self.token is None and (name is None or not is_loopback(name)):
            return "without a token the server answers to localhost only"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host:
            return "requests from pages of other servers are refused"
        return None

    def _token(self, headers: Headers) -> str | None:
        kind, _, value = headers.get("authorization", "").partition(" ")
        return value.strip() if kind.lower() == "bearer" else None

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if self._refusal(headers) is not None:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
            return
        scope["vidseg_authorized"] = token_matches(self._token(headers), self.token)
        await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, begin = Headers(scope=scope), time.perf_counter()
        request = secrets.token_hex(8)
        scope["vidseg_request"] = request
        limit, taken, complete = self.max_bytes, 0, False
        status = _CLIENT_GONE
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers

        async def counted() -> MutableMapping[str, Any]:
            nonlocal taken, complete
            try:
                message = await asyncio.wait_for(receive(), None if complete else _IDLE_SECONDS)
            except asyncio.TimeoutError as error:
                raise RequestError(408, f"no data of the request came for {_IDLE_SECONDS:g} s") from error
            taken += len(message.get("body", b""))
            complete = complete or not message.get("more_body", False)
            if not complete and taken < _SLOWEST * (time.perf_counter() - begin - _IDLE_SECONDS):
                raise RequestError(408, f"the request is sent more slowly than {_SLOWEST} bytes per second")
            if taken > limit:
                raise RequestError(413, f"the request is larger than the limit of {limit} bytes")
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                fixed = [(b"x-request-id", request.encode()), (b"x-content-type-options", b"nosniff")]
                if has_body and not complete:  # the rest of the body is in the way of another request
                    fixed.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", []), *fixed]
            await send(message)

        answer = self._early(scope, headers, limit, request)
        try:
            if answer is not None:
                await answer(scope, receive, noted)
            else:
                await self.app(scope, counted, noted)
        except Exception:  # answered by the server's handler of unexpected errors
            status = 500
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - begin
            self.metrics.count("vidseg_requests_total", method=_method(scope), route=route, status=status)
            self.metrics.observe("vidseg_request_seconds", seconds, route=route)
            self.metrics.count("vidseg_upload_bytes_total", taken)
            if route not in ("/health", "/metrics"):
                facts = {"method": _method(scope), "route": route, "status": status, "bytes": taken}
                log_event("request", id=request, **facts, seconds=round(seconds, 4))

    def _early(self, scope: Scope, headers: Headers, limit: int, request: str) -> JSONResponse | None:
        """Return the answer to a request that is refused before its body is read."""
        reason = self._refusal(headers)
        if reason is not None:
            return error_response(403, reason, request=request)
        if scope["path"].startswith(_OPEN) and not token_matches(self._token(headers), self.token):
            return error_response(401, "the token is missing or wrong", request=request)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            return error_response(413, f"the request is larger than the limit of {limit} bytes", request=request)
        return None


def _method(scope: Scope) -> str:
    """Return the method, or "other" for those that a client made up."""
    known = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}
    return scope["method"] if scope["method"] in known else "other"


def _is_host(host: str) -> bool:
    try:
        return bool(urlsplit(f"//{host}").hostname)
    except ValueError:
        return False


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
