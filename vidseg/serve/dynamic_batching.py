"""Dynamic batching: calls of one network from several threads share its forward passes.

A batched network takes the place of the network in a trained model. Every caller (prediction, stream, job) calls it as
before and waits for its rows of the output.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import torch
from torch import Tensor, nn

from vidseg.engine.trained import TrainedModel
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState
from vidseg.serve.request_progress import CanceledError, current_progress

__all__ = ["BatchedClips", "BatchedStreams", "Batcher", "batch_calls"]

_PATIENCE = 0.05  # seconds between two checks whether a waiting call was canceled
_BATCH_DIMENSION = {"logits": 1, "boundaries": 1, "backbone_logits": 0, "neck_logits": 0}


class _Call:
    """One caller's input, and the future of its output."""

    def __init__(self, key: Hashable, inputs: Any, rows: int) -> None:
        self.key, self.inputs, self.rows = key, inputs, rows
        self.since = time.monotonic()
        self.result: Future[Any] = Future()


class Batcher:
    """A thread that runs a function on the joined inputs of calls that wait at the same time.

    Args:
        run: takes a list of inputs with equal keys, returns a list of outputs.
        batch_size: most rows in one run; a single call may have more.
        delay: longest time in seconds that the first call waits for others.
        observe: called with the rows of each run; None: not.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        *,
        batch_size: int,
        delay: float = 0.0,
        observe: Callable[[int], None] | None = None,
    ) -> None:
        self._run, self._batch_size, self._delay = run, batch_size, delay
        self.observe = observe
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="vidseg-batcher", daemon=True)
        self._thread.start()

    def __call__(self, key: Hashable, inputs: Any, rows: int) -> Any:
        """Return the output of one call.

        Args:
            key: calls with equal keys can be joined.
            inputs: for `run`.
            rows: number of rows of the inputs.

        Raises:
            CanceledError: the computation of this thread was canceled while it waited, or the batcher is closed.
            TimeLimitError: its time is over.
        """
        call, progress = _Call(key, inputs, rows), current_progress()
        if progress is not None:
            progress.check()
        with self._changed:
            if self._closed:
                raise CanceledError("the server is shutting down")
            self._calls.append(call)
            self._changed.notify_all()
        while True:
            try:
                return call.result.result(timeout=None if progress is None else _PATIENCE)
            except FutureTimeoutError:
                if call.result.done():  # a TimeoutError of the network itself
                    raise
            assert progress is not None
            try:
                progress.check()
            except RuntimeError:
                with self._changed:
                    if call in self._calls:
                        self._calls.remove(call)
                raise

    def close(self) -> None:
        """End the thread; waiting calls fail."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def waiting(self) -> int:
        """Number of waiting calls."""
        return len(self._calls)

    def _work(self) -> None:
        while batch := self._next():
            if self.observe is not None:
                self.observe(sum(call.rows for call in batch))
            self._answer(batch)

    def _next(self) -> list[_Call]:
        """Wait for calls and take those that go together; none: the batcher is closed."""
        with self._changed:
            while not self._closed:
                if not self._calls:
                    self._changed.wait()
                    continue
                key, end = self._calls[0].key, self._calls[0].since + self._delay
                rows = sum(call.rows for call in self._calls if call.key == key)
                remaining = end - time.monotonic()
                if rows >= self._batch_size or remaining <= 0:
                    return self._take()
                self._changed.wait(remaining)
            for call in self._calls:
                call.result.set_exception(CanceledError("the server is shutting down"))
            self._calls.clear()
            return []

    def _take(self) -> list[_Call]:
        first, rows = self._calls[0], 0
        batch: list[_Call] = []
        for call in list(self._calls):
            if call.key == first.key and (not batch or rows + call.rows <= self._batch_size):
                batch.append(call)
                rows += call.rows
                self._calls.remove(call)
        return batch

    def _answer(self, batch: list[_Call]) -> None:
        try:
            outputs = self._run([call.inputs for call in batch])
        except Exception as error:  # noqa: BLE001  (raised again in the threads of the callers)
            if len(batch) == 1:
                batch[0].result.set_exception(error)
                return
            for call in batch:  # one of them may be the cause
                self._answer([call])
            return
        for call, output in zip(batch, outputs, strict=True):
            call.result.set_result(output)


class BatchedClips(nn.Module):
    """A recognition network whose calls are batched: clips (B, C, T, H, W) -> logits (B, K).

    Args:
        network: the network itself.
        batch_size: see `Batcher`.
        delay: see `Batcher`.
    """

    def __init__(self, network: Callable[..., Tensor], *, batch_size: int, delay: float) -> None:
        super().__init__()
        self.batcher = Batcher(self._joined, batch_size=batch_size, delay=delay)
        self._network = (network,)  # no submodule: train() and to() must not reach it from several threads

    def forward(self, clips: Tensor) -> Tensor:
        """Return the logits of the clips."""
        key = (tuple(clips.shape[1:]), clips.dtype)
        found: Tensor = self.batcher(key, clips, len(clips))
        return found

    def _joined(self, parts: list[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            logits = self._network[0](torch.cat(parts) if parts[1:] else parts[0])
        return logits.split([len(part) for part in parts])


class BatchedStreams(StreamModel):
    """A streaming network whose calls are batched over streams, each with its own memory.

    Args:
        network: the network itself.
        batch_size: see `Batcher`.
        delay: see `Batcher`.
    """

    def __init__(self, network: Callable[..., Any], *, batch_size: int, delay: float) -> None:
        super().__init__()
        self.batcher = Batcher(self._joined, batch_size=batch_size, delay=delay)
        self._network = (network,)

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """See `StreamModel.forward`."""
        memory = None if state is None else tuple((name, tuple(value.shape[1:])) for name, value in state.items())
        key = (tuple(clips.shape[1:]), clips.dtype, memory, mask is None)
        found: tuple[StreamOutput, StreamState] = self.batcher(key, (clips, state, mask), len(clips))
        return found

    def _joined(self, parts: list[Any]) -> Sequence[Any]:
        with torch.no_grad():
            if len(parts) == 1:
                return [self._network[0](*parts[0])]
            clips = torch.cat([part[0] for part in parts])
            first = parts[0][1]
            state = None
            if first is not None:
                state = StreamState({name: torch.cat([part[1][name] for part in parts]) for name in first})
            mask = None if parts[0][2] is None else torch.cat([part[2] for part in parts])
            output, after = self._network[0](clips, state, mask)
        results, start = [], 0
        for part in parts:
            stop = start + len(part[0])
            results.append((_rows(output, start, stop), after.take(range(start, stop))))
            start = stop
        return results


def _rows(output: StreamOutput, start: int, stop: int) -> StreamOutput:
    """Return the output of some of the videos."""
    values = {}
    for field in dataclasses.fields(output):
        value = getattr(output, field.name)
        if isinstance(value, Tensor):
            dimension = _BATCH_DIMENSION[field.name]
            value = value.narrow(dimension, start, stop - start)
        values[field.name] = value
    return type(output)(**values)


def batch_calls(trained: TrainedModel, *, batch_size: int, delay: float) -> Batcher | None:
    """Replace the network of a trained model by one whose calls are batched.

    Args:
        trained: recognition and streaming networks are replaced. Others stay as they are, but a call of theirs ends if
            the computation of its thread was canceled.
        batch_size: most clips at once.
        delay: longest time that a call waits for others, in seconds.

    Returns:
        The batcher, to be closed at the end; None for tasks without batching.
    """
    kinds = {"recognition": BatchedClips, "streaming": BatchedStreams}
    if trained.task not in kinds:
        if isinstance(trained.model, nn.Module):
            trained.model.register_forward_pre_hook(_check)
        return None
    batched: Any = kinds[trained.task](trained.model, batch_size=batch_size, delay=delay)
    trained.model = batched
    batcher: Batcher = batched.batcher
    return batcher


def _check(*_: Any) -> None:
    """End the computation of this thread if there is a reason."""
    if (progress := current_progress()) is not None:
        progress.check()
