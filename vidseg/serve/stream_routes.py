"""WebSocket of a stream: the protocol between client and server.

The client sends {"type": "start", ...}, then binary messages, then {"type": "finish"} or {"type": "pause"}. The server
sends messages of the types started, labels, skipped, ended, paused and error. A connection that breaks is a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from vidseg.serve.request_guard import token_matches
from vidseg.serve.request_progress import CanceledError
from vidseg.serve.server_state import BusyError, ServerState, log_event
from vidseg.serve.stream_sessions import ChunkQueue, ChunkSource, JpegSource, StreamSession, check_session_id
from vidseg.serve.upload_checks import RequestError
from vidseg.videos.opening import VideoError

__all__ = ["stream_routes"]

logger = logging.getLogger(__name__)

_START_SECONDS = 10.0  # for the first message
_SAVE_SECONDS = 10.0  # between two copies of an open stream on the disk, from which it continues after a crash
_TEXT = 1 << 16  # longest text message
_UNSENT = 256  # messages for a client that does not read, before its frames wait
_TRY_AGAIN, _POLICY, _NORMAL, _ERROR = 1013, 1008, 1000, 1011

End = Literal["finish", "pause", "gone"]


@dataclass(frozen=True)
class Start:
    """The first message of a client.

    Attributes:
        format: "jpeg": a message is a frame; "container": messages are pieces of a video container.
        fps: frames per second of JPEG frames.
        times: whether each JPEG has its time before it.
        session: id of the stream to resume, or None.
        labeled: frames whose labels the client has, of a stream to resume; None: all that were sent.
    """

    format: Literal["jpeg", "container"] = "jpeg"
    fps: float = 25.0
    times: bool = False
    session: str | None = None
    labeled: int | None = None

    @classmethod
    def read(cls, message: dict[str, Any]) -> Start:
        """Check the fields of the message.

        Raises:
            RequestError: an unknown field, or a value of the wrong type or out of range (422).
        """
        kinds: dict[str, tuple[type, ...]] = {
            "format": (str,),
            "fps": (int, float),
            "times": (bool,),
            "session": (str, type(None)),
            "labeled": (int, type(None)),
        }
        values = {name: value for name, value in message.items() if name not in ("type", "token")}
        for name, value in values.items():
            if name not in kinds:
                raise RequestError(422, f"start has the field {name!r:.40}; expected {', '.join(kinds)}")
            if not isinstance(value, kinds[name]) or (isinstance(value, bool) and bool not in kinds[name]):
                raise RequestError(422, f"{name}={value!r:.40} has the wrong type")
        start = cls(**values)
        if start.format not in ("jpeg", "container"):
            raise RequestError(422, f"format={start.format!r:.40} must be jpeg or container")
        if not 0.01 <= start.fps <= 1000:
            raise RequestError(422, f"fps={start.fps} must be from 0.01 to 1000")
        if start.labeled is not None and start.labeled < 0:
            raise RequestError(422, f"labeled={start.labeled} must be at least 0")
        return start


def stream_routes(state: ServerState, token: str | None) -> APIRouter:
    """Return the WebSocket route of a server.

    Args:
        state: of the server.
        token: that clients must send in a header or in the first message; None: none.
    """
    router = APIRouter()

    @router.websocket("/v1/models/{model}/stream")
    async def stream(websocket: WebSocket, model: str) -> None:
        await websocket.accept()
        begin, facts = time.monotonic(), {"model": model, "frames": 0}
        try:
            try:
                with state.admitted_stream():
                    predictor = state.predictor(model)
                    message = await asyncio.wait_for(_text(websocket), _START_SECONDS)
                    authorized = websocket.scope.get("vidseg_authorized") or token_matches(
                        message.get("token") if isinstance(message.get("token"), str) else None, token
                    )
                    if not authorized:
                        raise RequestError(401, "the token is missing or wrong")
                    if message.get("type") != "start":
                        raise RequestError(422, 'the first message must be {"type": "start", ...}')
                    start = Start.read(message)
                    name = check_session_id(start.session or secrets.token_hex(16))
                    async with state.reserved_stream(name):
                        session = (
                            StreamSession(predictor, name)
                            if start.session is None
                            else StreamSession.load(predictor, state.saved_streams, name)
                        )
                        try:
                            await _Connection(websocket, state, session, start).run()
                        finally:
                            facts["frames"] = session.received
            except asyncio.TimeoutError as error:
                raise RequestError(408, f"no start message came for {_START_SECONDS:g} s") from error
        except RequestError as error:
            code = _TRY_AGAIN if isinstance(error, BusyError) else _POLICY
            await _refuse(websocket, error.status, str(error), code)
        except WebSocketDisconnect:
            pass
        except Exception as error:
            logger.exception("a stream failed")
            await _refuse(websocket, 500, f"the stream failed: {type(error).__name__}; see the log", _ERROR)
        finally:
            log_event("stream", **facts, seconds=round(time.monotonic() - begin, 3))

    return router


async def _refuse(websocket: WebSocket, status: int, message: str, code: int) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client has gone
        await websocket.send_json({"type": "error", "status": status, "message": message})
        await websocket.close(code)


async def _text(websocket: WebSocket) -> dict[str, Any]:
    """Return the next message, which must be a JSON object."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    return _parsed(message.get("text"))


def _parsed(text: str | None) -> dict[str, Any]:
    if text is None or len(text) > _TEXT:
        raise RequestError(422, "expected a message of JSON text")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(422, "a text message is not JSON") from error
    if not isinstance(found, dict):
        raise RequestError(422, "a text message is not a JSON object")
    return found


class _Connection:
    """One connection: a coroutine that receives, one that sends, and a thread that labels."""

    def __init__(self, websocket: WebSocket, state: ServerState, session: StreamSession, start: Start) -> None:
        self.websocket, self.state, self.session, self.start = websocket, state, session, start
        self.loop = asyncio.get_running_loop()
        self.chunks = ChunkQueue(self.loop)
        self.messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.end: End = "gone"
        self.failed = False

    async def run(self) -> None:
        """Serve the connection to its end."""
        session, step = self.session, 1 / self.start.fps
        await self.websocket.send_json(
            {
                "type": "started",
                "session": session.id,
                "received": session.received,
                "classes": list(session.live.classes),
                "window": session.predictor.window,
            }
        )
        if self.start.labeled is not None and (missed := session.again(self.start.labeled, step=step)) is not None:
            await self.websocket.send_json(missed)
        work = self.loop.run_in_executor(self.state.stream_pool, self._label)
        sending = asyncio.create_task(self._send())
        receiving = asyncio.create_task(self._receive())
        await asyncio.wait({work, receiving}, return_when=asyncio.FIRST_COMPLETED)
        self.chunks.close(drop=self.end == "gone")
        try:
            await work
        finally:
            receiving.cancel()
            self.messages.put_nowait(None)
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await sending
        if receiving.done() and not receiving.cancelled() and (error := receiving.exception()) is not None:
            raise error
        if self.end != "gone" or self.failed:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await self.websocket.close(_POLICY if self.failed else _NORMAL)

    async def _receive(self) -> None:
        while True:
            while self.messages.qsize() > _UNSENT:
                await asyncio.sleep(0.01)
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            if data is not None:
                await self.chunks.put(data)
                continue
            kind = _parsed(message.get("text")).get("type")
            if kind not in ("finish", "pause"):
                raise RequestError(422, f"a message of the type {kind!r:.40}; expected finish or pause")
            self.end = kind
            return

    async def _send(self) -> None:
        while (message := await self.messages.get()) is not None:
            await self.websocket.send_json(message)

    def _emit(self, message: dict[str, Any] | None) -> None:
        """Hand a message to the sending coroutine; called in the thread."""
        if message is not None:
            self.loop.call_soon_threadsafe(self.messages.put_nowait, message)

    def _refuse(self, number: int, reason: str) -> None:
        self._emit({"type": "skipped", "frame": number, "reason": reason})

    def _label(self) -> None:
        """Label the frames; runs in a thread until the connection ends."""
        session, metrics = self.session, self.state.metrics
        source = self._source()
        timed, before, shift = self.start.format == "jpeg", session.last, 0.0
        saved = time.monotonic()
        try:
            for number, (frame, moment) in enumerate(source):
                step = 1 / source.fps
                if number == 0 and before is not None and not timed:
                    shift = before + step - moment  # the clock of another container starts again
                waited = time.monotonic() - self.chunks.taken_at
                found = session.push(frame, moment + shift, step=step, queue_seconds=waited)
                session.received = source.next if timed else session.received + 1
                if time.monotonic() - saved >= _SAVE_SECONDS:
                    session.save(self.state.saved_streams)
                    saved = time.monotonic()
                metrics.count("vidseg_stream_frames_total")
                if found is not None:
                    metrics.observe("vidseg_window_seconds", found["window_seconds"])
                    self._emit({**found, "received": session.received})
        except VideoError as error:
            self.failed = True
            self._emit({"type": "error", "status": 422, "message": str(error).removeprefix("-: ")})
        except CanceledError:  # the server is shutting down
            self.end = "gone"
        self._finish(source)

    def _source(self) -> Any:
        """Return the frames of the connection."""
        limit = self.state.options.max_pixels
        if self.start.format == "container":
            return ChunkSource(self.chunks, max_pixels=limit)
        return JpegSource(
            self.chunks,
            fps=self.start.fps,
            first=self.session.received,
            timed=self.start.times,
            max_pixels=limit,
            refuse=self._refuse,
        )

    def _finish(self, source: Any) -> None:
        session, folder = self.session, self.state.saved_streams
        for damage in source.damage:
            self._emit({"type": "skipped", "frame": session.received, "reason": damage})
        if self.end == "finish":
            self._emit(session.finish(step=1 / source.fps))
            session.forget(folder)
            self._emit({"type": "ended", "received": session.received, "windows": session.windows})
        elif session.received:
            session.save(folder)
            self._emit({"type": "paused", "session": session.id, "received": session.received})
