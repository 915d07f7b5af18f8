"""Clients of a server: `Client`, and `AsyncClient` with the same methods as coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from vidseg.serve.client_protocols import (
    ClientProtocol,
    Pause,
    ServerError,
    Steps,
    TritonProtocol,
    VidsegProtocol,
    patient,
)

__all__ = ["AsyncClient", "Client", "ServerError"]

_MESSAGE_BYTES = 8 << 20

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Source = str | Path | bytes
Frame = bytes | tuple[float, bytes]


def _content(source: Source) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _params(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _packed(frame: Frame) -> bytes:
    """Return the message of a frame: a JPEG, or its time before it."""
    return frame if isinstance(frame, bytes) else struct.pack("<d", frame[0]) + frame[1]


def _start(*, container: bool, **options: Any) -> str:
    return json.dumps({"type": "start", "format": "container" if container else "jpeg", **_params(options)})


def _end(*, pause: bool) -> str:
    return json.dumps({"type": "pause" if pause else "finish"})


def _message(text: str | bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    if found["type"] == "error":
        raise ServerError(found["status"], found["message"])
    return found


class _Connection(Generic[Http]):
    """Address, token, patience and protocol of both clients; see `Client` for the arguments."""

    _kind: type[Http]

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
        self._http: Http = self._kind(base_url=self.url, headers=_headers(token), timeout=timeout)

    @property
    def _own(self) -> VidsegProtocol:
        """The protocol of a server that has jobs and streams, which a Triton server has not."""
        if not isinstance(self.protocol, VidsegProtocol):
            raise ValueError(f"{self.url}: a Triton server has neither jobs nor streams; they need `vidseg serve`")
        return self.protocol

    def _socket(self, model: str) -> dict[str, Any]:
        """Return the arguments of `connect` for a stream of a model."""
        uri = "ws" + self.url.removeprefix("http") + f"/v1/models/{model}/stream"
        return {
            "uri": uri,
            "additional_headers": _headers(self.token),
            "max_size": _MESSAGE_BYTES,
            "compression": None,
        }


class Client(_Connection[httpx.Client]):
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

    _kind = httpx.Client

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _run(self, steps: Steps) -> Any:
        """Send the requests of a protocol and return its result."""
        steps, answer = patient(steps, self.patience), None
        try:
            while True:
                step = steps.send(answer)
                answer = None
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                else:
                    answer = self._http.request(step.method, step.path, **step.options)
        except StopIteration as stop:
            return stop.value

    def models(self) -> list[dict[str, Any]]:
        """Return a description of each model."""
        return list(self._run(self.protocol.models()))

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
        steps = self._own.submit(_content(source), model, key, _params(options))
        return str(self._run(steps))

    def job(self, job: str) -> dict[str, Any]:
        """Return state and progress of a job."""
        return dict(self._run(self._own.job(job)))

    def jobs(self) -> list[dict[str, Any]]:
        """Return the latest jobs, the newest first."""
        return list(self._run(self._own.jobs()))

    def cancel(self, job: str) -> dict[str, Any]:
        """Cancel a job and return its state."""
        return dict(self._run(self._own.cancel(job)))

    def result(self, job: str, *, form: str = "json") -> Any:
        """Return the result of a job that is done."""
        return self._run(self._own.result(job, form))

    def wait(self, job: str, *, form: str = "json", progress: Callable[[float], None] | None = None) -> Any:
        """Wait for a job and return its result.

        Args:
            job: id of the job.
            form: form of the result.
            progress: called with the finished fraction at each question.

        Raises:
            ServerError: the job failed or was canceled (409).
        """
        return self._run(self._own.wait(job, form, progress))

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
        name = self._run(self._own.name(model))
        iterator, first = _peeked(frames)
        options = {"fps": fps, "session": session, "labeled": labeled, "times": isinstance(first, tuple)}
        with connect(**self._socket(name)) as socket:
            with contextlib.suppress(ConnectionClosed):  # the server's message says why
                socket.send(_start(container=container, **options))
            failed: list[BaseException] = []

            def send() -> None:
                try:
                    for frame in iterator:
                        socket.send(_packed(frame))
                    socket.send(_end(pause=pause))
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


class AsyncClient(_Connection[httpx.AsyncClient]):
    """A client whose methods are coroutines; closed by `async with` or `close`. See `Client`."""

    _kind = httpx.AsyncClient

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _run(self, steps: Steps) -> Any:
        """Send the requests of a protocol and return its result."""
        steps, answer = patient(steps, self.patience), None
        try:
            while True:
                step = steps.send(answer)
                answer = None
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    answer = await self._http.request(step.method, step.path, **step.options)
        except StopIteration as stop:
            return stop.value

    async def models(self) -> list[dict[str, Any]]:
        """Return a description of each model."""
        return list(await self._run(self.protocol.models()))

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
        steps = self._own.submit(_content(source), model, key, _params(options))
        return str(await self._run(steps))

    async def job(self, job: str) -> dict[str, Any]:
        """See `Client.job`."""
        return dict(await self._run(self._own.job(job)))

    async def jobs(self) -> list[dict[str, Any]]:
        """See `Client.jobs`."""
        return list(await self._run(self._own.jobs()))

    async def cancel(self, job: str) -> dict[str, Any]:
        """See `Client.cancel`."""
        return dict(await self._run(self._own.cancel(job)))

    async def result(self, job: str, *, form: str = "json") -> Any:
        """See `Client.result`."""
        return await self._run(self._own.result(job, form))

    async def wait(self, job: str, *, form: str = "json", progress: Callable[[float], None] | None = None) -> Any:
        """See `Client.wait`."""
        return await self._run(self._own.wait(job, form, progress))

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
        name = await self._run(self._own.name(model))
        async with connect_async(**self._socket(name)) as socket:
            with contextlib.suppress(ConnectionClosed):  # the server's message says why
                await socket.send(_start(container=container, fps=fps, session=session, labeled=labeled))

            async def send() -> None:
                try:
                    if isinstance(frames, AsyncIterable):
                        async for frame in frames:
                            await socket.send(frame)
                    else:
                        for frame in frames:
                            await socket.send(frame)
                    await socket.send(_end(pause=pause))
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
