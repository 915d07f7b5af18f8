"""Clients of a server: `Client`, and `AsyncClient` with the same methods as coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import threading
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from vidseg.serve.client_protocols import (
    ClientProtocol,
    Request,
    ServerError,
    Steps,
    TritonProtocol,
    VidsegProtocol,
    read_response,
)

__all__ = ["AsyncClient", "Client", "ServerError"]

_POLL_SECONDS = (0.05, 1.0)  # first and longest pause between two questions for a job
_MESSAGE_BYTES = 8 << 20
_ENDED = ("done", "failed", "canceled")
_BUSY = 503

Source = str | Path | bytes
Frame = bytes | tuple[float, bytes]


def _content(source: Source) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _params(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _pause(response: httpx.Response) -> float:
    try:
        return float(response.headers.get("retry-after", "1"))
    except ValueError:
        return 1.0


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _stream_url(url: str, model: str) -> str:
    return "ws" + url.removeprefix("http").rstrip("/") + f"/v1/models/{model}/stream"


def _packed(frame: Frame) -> bytes:
    """Return the message of a frame: a JPEG, or its time before it."""
    return frame if isinstance(frame, bytes) else struct.pack("<d", frame[0]) + frame[1]


def _start(options: Mapping[str, Any]) -> str:
    return json.dumps({"type": "start", **_params(options)})


def _message(text: str | bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    if found["type"] == "error":
        raise ServerError(found["status"], found["message"])
    return found


class _Connection:
    """What both clients know: address, token, patience, protocol."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 120.0,
        patience: float = 60.0,
        triton: bool = False,
    ) -> None:
        self.url, self.token, self.patience = url.rstrip("/"), token, patience
        self.protocol: ClientProtocol = TritonProtocol() if triton else VidsegProtocol()
        self._settings: dict[str, Any] = {"base_url": self.url, "headers": _headers(token), "timeout": timeout}

    def _check(self) -> None:
        """Refuse what a Triton server does not have."""
        if isinstance(self.protocol, TritonProtocol):
            raise ValueError(f"{self.url}: a Triton server has neither jobs nor streams; they need `vidseg serve`")


class Client(_Connection):
    """A client that waits for each answer; closed by `with` or `close`.

    Args:
        url: address of the server, such as "http://127.0.0.1:8000".
        token: token of the server, if it has one.
        timeout: seconds for one answer.
        patience: seconds for which a request is repeated while the server is busy (status 503).
        triton: whether it is a Triton server with a repository of `vidseg export --to triton`. Its predictions have
            the same options and results; it has neither jobs nor streams.

    Every method raises `ServerError` for an error that the server reports, and `httpx.TransportError` if the server
    cannot be reached.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 120.0,
        patience: float = 60.0,
        triton: bool = False,
    ) -> None:
        super().__init__(url, token=token, timeout=timeout, patience=patience, triton=triton)
        self._http = httpx.Client(**self._settings)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, request: Request) -> httpx.Response:
        end = time.monotonic() + self.patience
        while True:
            response = self._http.request(request.method, request.path, **request.options)
            pause = _pause(response)
            if response.status_code != _BUSY or time.monotonic() + pause > end:
                return response
            time.sleep(pause)

    def _run(self, steps: Steps) -> Any:
        """Send the requests of a protocol and return its result."""
        try:
            request = next(steps)
            while True:
                request = steps.send(self._send(request))
        except StopIteration as end:
            return end.value

    def _call(self, method: str, path: str, **options: Any) -> Any:
        self._check()
        return read_response(self._send(Request(method, path, options)))

    def models(self) -> list[dict[str, Any]]:
        """Return a description of each model."""
        return list(self._run(self.protocol.models()))

    def _model(self, model: str | None) -> str:
        return model if model is not None else str(self.models()[0]["name"])

    def predict(self, source: Source, *, model: str | None = None, **options: Any) -> Any:
        """Return the prediction for a short video, or a file of features.

        Args:
            source: file, or its bytes.
            model: name of the model; None: the first one of the server.
            **options: query of the request, such as clips, top, timeline, fps, form.

        Returns:
            The result; text with form="csv", "srt" or "vtt".
        """
        return self._run(self.protocol.predict(_content(source), model, _params(options)))

    def predict_frames(
        self, frames: Iterable[bytes], *, fps: float = 25.0, model: str | None = None, **options: Any
    ) -> Any:
        """Return the prediction for JPEG frames of one size.

        Args:
            frames: JPEGs in order.
            fps: frames per second.
            model: name of the model; None: the first one of the server.
            **options: query of the request.
        """
        return self._run(self.protocol.predict_frames(frames, fps, model, _params(options)))

    def submit(self, source: Source, *, model: str | None = None, key: str | None = None, **options: Any) -> str:
        """Send a video as a job; a request that is repeated with the same key is the same job.

        Args:
            source: file, or its bytes.
            model: name of the model; None: the first one of the server.
            key: key of the request; None: a new one.
            **options: query of the request.

        Returns:
            The id of the job.
        """
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        path = f"/v1/models/{self._model(model)}/jobs"
        found = self._call("POST", path, content=_content(source), params=_params(options), headers=headers)
        return str(found["id"])

    def job(self, job: str) -> dict[str, Any]:
        """Return state and progress of a job."""
        return dict(self._call("GET", f"/v1/jobs/{job}"))

    def jobs(self) -> list[dict[str, Any]]:
        """Return the latest jobs, the newest first."""
        return list(self._call("GET", "/v1/jobs")["jobs"])

    def cancel(self, job: str) -> dict[str, Any]:
        """Cancel a job and return its state."""
        return dict(self._call("DELETE", f"/v1/jobs/{job}"))

    def result(self, job: str, *, form: str = "json") -> Any:
        """Return the result of a job that is done."""
        return self._call("GET", f"/v1/jobs/{job}/result", params={"form": form})

    def wait(self, job: str, *, form: str = "json", progress: Callable[[float], None] | None = None) -> Any:
        """Wait for a job and return its result.

        Args:
            job: id of the job.
            form: form of the result.
            progress: called with the finished fraction at each question.

        Raises:
            ServerError: the job failed or was canceled (409).
        """
        pause = _POLL_SECONDS[0]
        while (state := self.job(job))["state"] not in _ENDED:
            if progress is not None:
                progress(state["progress"])
            time.sleep(pause)
            pause = min(_POLL_SECONDS[1], pause * 1.5)
        return self.result(job, form=form)

    def stream(
        self,
        frames: Iterable[Frame],
        *,
        model: str | None = None,
        fps: float = 25.0,
        container: bool = False,
        session: str | None = None,
        labeled: int | None = None,
        pause: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Send frames and yield the messages of the server as they come.

        Args:
            frames: JPEGs, or pairs of time in seconds and JPEG; with `container` pieces of a video file.
            model: name of the model; None: the first one of the server.
            fps: frames per second of frames without times.
            container: whether `frames` are pieces of a container.
            session: id of a stream to resume.
            labeled: frames whose labels are known, of a stream to resume; labels behind them are sent again.
            pause: keep the stream on the server at the end, to be resumed.

        Yields:
            Messages; their types are started, labels, skipped, ended and paused.
        """
        self._check()
        url = _stream_url(self.url, self._model(model))
        iterator, first = _peeked(frames)
        options = {"format": "container" if container else "jpeg", "fps": fps, "session": session, "labeled": labeled}
        with connect(url, additional_headers=_headers(self.token), max_size=_MESSAGE_BYTES, compression=None) as socket:
            with contextlib.suppress(ConnectionClosed):  # the server's message says why
                socket.send(_start({**options, "times": isinstance(first, tuple)}))
            failed: list[BaseException] = []

            def send() -> None:
                try:
                    for frame in iterator:
                        socket.send(_packed(frame))
                    socket.send(json.dumps({"type": "pause" if pause else "finish"}))
                except ConnectionClosed:  # the server's message says why
                    return
                except BaseException as error:  # noqa: BLE001  (of the caller's frames; raised in its thread)
                    failed.append(error)
                    socket.close()

            thread = threading.Thread(target=send, daemon=True)
            thread.start()
            for text in socket:
                yield _message(text)
            thread.join()
            if failed:
                raise failed[0]


class AsyncClient(_Connection):
    """A client whose methods are coroutines; closed by `async with` or `close`. See `Client`."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 120.0,
        patience: float = 60.0,
        triton: bool = False,
    ) -> None:
        super().__init__(url, token=token, timeout=timeout, patience=patience, triton=triton)
        self._http = httpx.AsyncClient(**self._settings)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, request: Request) -> httpx.Response:
        end = time.monotonic() + self.patience
        while True:
            response = await self._http.request(request.method, request.path, **request.options)
            pause = _pause(response)
            if response.status_code != _BUSY or time.monotonic() + pause > end:
                return response
            await asyncio.sleep(pause)

    async def _run(self, steps: Steps) -> Any:
        """Send the requests of a protocol and return its result."""
        try:
            request = next(steps)
            while True:
                request = steps.send(await self._send(request))
        except StopIteration as end:
            return end.value

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        self._check()
        return read_response(await self._send(Request(method, path, options)))

    async def models(self) -> list[dict[str, Any]]:
        """Return a description of each model."""
        return list(await self._run(self.protocol.models()))

    async def _model(self, model: str | None) -> str:
        return model if model is not None else str((await self.models())[0]["name"])

    async def predict(self, source: Source, *, model: str | None = None, **options: Any) -> Any:
        """See `Client.predict`."""
        return await self._run(self.protocol.predict(_content(source), model, _params(options)))

    async def predict_frames(
        self, frames: Iterable[bytes], *, fps: float = 25.0, model: str | None = None, **options: Any
    ) -> Any:
        """See `Client.predict_frames`."""
        return await self._run(self.protocol.predict_frames(frames, fps, model, _params(options)))

    async def submit(self, source: Source, *, model: str | None = None, key: str | None = None, **options: Any) -> str:
        """See `Client.submit`."""
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        path = f"/v1/models/{await self._model(model)}/jobs"
        found = await self._call("POST", path, content=_content(source), params=_params(options), headers=headers)
        return str(found["id"])

    async def job(self, job: str) -> dict[str, Any]:
        """See `Client.job`."""
        return dict(await self._call("GET", f"/v1/jobs/{job}"))

    async def jobs(self) -> list[dict[str, Any]]:
        """See `Client.jobs`."""
        return list((await self._call("GET", "/v1/jobs"))["jobs"])

    async def cancel(self, job: str) -> dict[str, Any]:
        """See `Client.cancel`."""
        return dict(await self._call("DELETE", f"/v1/jobs/{job}"))

    async def result(self, job: str, *, form: str = "json") -> Any:
        """See `Client.result`."""
        return await self._call("GET", f"/v1/jobs/{job}/result", params={"form": form})

    async def wait(self, job: str, *, form: str = "json", progress: Callable[[float], None] | None = None) -> Any:
        """See `Client.wait`."""
        pause = _POLL_SECONDS[0]
        while (state := await self.job(job))["state"] not in _ENDED:
            if progress is not None:
                progress(state["progress"])
            await asyncio.sleep(pause)
            pause = min(_POLL_SECONDS[1], pause * 1.5)
        return await self.result(job, form=form)

    async def stream(
        self,
        frames: AsyncIterable[bytes] | Iterable[bytes],
        *,
        model: str | None = None,
        fps: float = 25.0,
        container: bool = False,
        session: str | None = None,
        labeled: int | None = None,
        pause: bool = False,
    ) -> AsyncIterator[dict[str, Any]]:
        """Send frames and yield the messages of the server as they come.

        See `Client.stream`; frames may come from an asynchronous iterator, and have no times of their own.
        """
        self._check()
        url = _stream_url(self.url, await self._model(model))
        options = {"format": "container" if container else "jpeg", "fps": fps, "session": session, "labeled": labeled}
        async with connect_async(
            url, additional_headers=_headers(self.token), max_size=_MESSAGE_BYTES, compression=None
        ) as socket:
            with contextlib.suppress(ConnectionClosed):  # the server's message says why
                await socket.send(_start(options))

            async def send() -> None:
                try:
                    if isinstance(frames, AsyncIterable):
                        async for frame in frames:
                            await socket.send(frame)
                    else:
                        for frame in frames:
                            await socket.send(frame)
                    await socket.send(json.dumps({"type": "pause" if pause else "finish"}))
                except ConnectionClosed:  # the server's message says why
                    return
                except BaseException:
                    await socket.close()
                    raise

            sending = asyncio.create_task(send())
            try:
                async for text in socket:
                    yield _message(text)
                await sending
            finally:
                sending.cancel()


def _peeked(frames: Iterable[Frame]) -> tuple[Iterator[Frame], Frame | None]:
    """Return an iterator over the frames, and the first of them."""
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        return iterator, None

    def whole() -> Iterator[Frame]:
        yield first
        yield from iterator

    return whole(), first
