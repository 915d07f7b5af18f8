"""Making items ahead of their use, in one thread, within a number of bytes."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Prefetcher"]

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Iterates over make(first), make(first + 1), ... make(stop - 1).

    Items are made in a thread of their own, one after the other, while their bytes, and those of the next one, are
    within the limit; the one that is needed next is always made. The thread ends with the last item, with an error
    (which the consumer gets in the item's place), and with `close`.

    Args:
        make: makes an item from its number.
        size: the bytes that item `number` will have.
        first: number of the first item.
        stop: one more than the number of the last.
        limit: bytes of items that are waiting or in the making.
        cancel: called by `close`, so that a running `make` ends early.
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
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Item, float]]:
        """Yields each item and the seconds that the caller waited for it."""
        try:
            for _ in range(self._first, self._stop):
                yield self._next()
        finally:
            self.close()

    def _next(self) -> tuple[Item, float]:
        if os.getpid() != self._process:
            raise RuntimeError("a loader's iterator does not survive a fork; call iter() again in the child process")
        start = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed)
            if not self._ready:
                raise RuntimeError("the loader was closed while it was iterated over")
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
            except BaseException as problem:  # noqa: BLE001  (raised again where the consumer asks for the item)
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
        """End the thread and drop what it made; wakes a consumer that waits."""
        if os.getpid() != self._process:
            return  # the thread stayed in the parent, and with it the state of the lock
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._cancel()
            if threading.current_thread() is not self._thread:
                self._thread.join()
