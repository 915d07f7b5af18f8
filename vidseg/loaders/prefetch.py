"""Prefetching: items are made ahead of their use, in one thread, within a number of bytes."""

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["Prefetcher"]

Item = TypeVar("Item")

_LIVE: "weakref.WeakSet[Prefetcher[Any]]" = weakref.WeakSet()


class Prefetcher(Generic[Item]):
    """Iterates over make(first), make(first + 1), ... make(stop - 1).

    A background thread makes the items one after the other. It starts an item if the items that wait and the new one
    together are within `limit`, or if no item waits. The thread ends after the last item, after an error (which is
    raised in the consumer's thread in place of the item), when `close` is called, and when Python exits.

    Args:
        make: makes an item from its number.
        size: number of bytes of item `number`.
        first: number of the first item.
        stop: one more than the number of the last item.
        limit: largest number of bytes of items that wait or are being made.
        cancel: called by `close`; makes a running `make` return early.
    """

    def __init__(
        self,
        make: Callable[[int], Item],
        size: Callable[[int], int],
        *,
        first: int,
        stop: int,
        limit: int,
        cancel: Callable[[], object],
    ) -> None:
        self._make, self._size, self._first, self._stop = make, size, first, stop
        self._limit, self._cancel = limit, cancel
        self._ready: deque[tuple[Item | None, BaseException | None, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="vidseg-prefetch", daemon=True)
        _LIVE.add(self)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Item, float]]:
        """Yield each item and the time that the consumer waited for it, in seconds."""
        try:
            for _ in range(self._first, self._stop):
                yield self._next()
        finally:
            self.close()

    def _next(self) -> tuple[Item, float]:
        if os.getpid() != self._process:
            raise RuntimeError("a loader's iterator cannot be used after a fork; call iter() in the child process")
        start = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed)
            if not self._ready:
                raise RuntimeError("the loader was closed during the iteration")
            item, error, size = self._ready.popleft()
            self._bytes -= size
            self._changed.notify_all()
        if error is not None:
            raise error
        return item, time.perf_counter() - start  # type: ignore[return-value]

    def _run(self) -> None:
        for number in range(self._first, self._stop):
            size = self._size(number)
            with self._changed:
                while not self._closed and self._ready and self._bytes + size > self._limit:
                    self._changed.wait()
                if self._closed:
                    return
                self._bytes += size
            item, error = None, None
            try:
                item = self._make(number)
            except BaseException as problem:  # noqa: BLE001  (raised in the consumer's thread)
                error = problem
            with self._changed:
                if self._closed:
                    return
                self._ready.append((item, error, size))
                self._changed.notify_all()
            del item
            if error is not None:
                return

    def close(self) -> None:
        """End the thread and drop the items that wait; a waiting consumer gets an error."""
        if os.getpid() != self._process:
            return  # a fork copies the lock in an unknown state, and not the thread
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._cancel()
            if threading.current_thread() is not self._thread:
                self._thread.join()


def _close_live() -> None:
    """Close every prefetcher; a thread in compiled code when the interpreter is freed would abort the process."""
    for prefetcher in list(_LIVE):
        while True:
            try:
                prefetcher.close()
            except KeyboardInterrupt:  # the thread ends within the time of one frame
                continue
            break


atexit.register(_close_live)
