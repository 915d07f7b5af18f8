"""`vidseg predict --stream`: labels of a video's frames while they arrive."""

from __future__ import annotations

import json as json_format
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from vidseg.cli.model_options import InputChanges, ModelOptions, load_model

if TYPE_CHECKING:
    from vidseg.live.session import LabeledFrame, LiveSession
    from vidseg.live.source import LiveSource

__all__ = ["Command"]

_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
_UNKNOWN = (0.35, 0.35, 0.35)
"""Color of frames without a label."""


@dataclass(frozen=True)
class Command:
    """Label a video frame by frame while it arrives: a file, a camera, an address, or standard input.

    The network is a streaming network, or a recognition network, which labels a sliding window. The command prints one
    line per window: the labels of its frames, the latency, and the real-time factor: seconds of computation for a
    second of video; below 1 the network keeps up with the stream. Ctrl-C ends the stream: frames that have arrived are
    labeled, and files are complete.
    """

    source: Annotated[Positional[str], arg(metavar="VIDEO|CAMERA|-")]
    """Video file, camera such as /dev/video0 or its number, address that FFmpeg can open, or - for a container on
    standard input."""
    weights: str
    """Folder of a streaming or recognition run, one of its checkpoints, or a file of weights."""
    stride: int | None = None
    """Frames from the start of a window to the start of the next; default: as trained; of a recognition network half of
    a window."""
    draw: str | None = None
    """Video to write with the labels drawn in and the sound of the source, such as out.mp4."""
    state: str | None = None
    """File of the stream's state: it is continued from if it exists, and written on Ctrl-C. A file that was interrupted
    is continued at the same frame; frames of another source follow those already seen. A complete stream removes it."""
    more: bool = False
    """With --state: the stream does not end with this source; frames that cannot be labeled yet are saved."""
    format: str | None = None
    """FFmpeg's name of the source's format or kind of device; default: detected, v4l2 for cameras."""
    source_option: tuple[str, ...] = ()
    """Options of the source for FFmpeg, such as framerate=30 video_size=1280x720."""
    json: bool = False
    """Print a line of JSON for each window, and one at the end, instead of text."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    def run(self) -> int:
        """Label until the stream ends; exit status 1 if frames were damaged, 130 after Ctrl-C."""
        if self.more and self.state is None:
            raise ValueError("--more needs --state, the file that the rest is saved in")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride={self.stride} must be at least 1")
        from vidseg.engine.weight_source import find_weights
        from vidseg.live.session import LiveSession
        from vidseg.live.source import LiveSource

        options = dict(_pair(word) for word in self.source_option)
        draws = self.draw is not None
        source = LiveSource(self.source, container_format=self.format, options=options, keep_sound=draws)
        own = None
        if self.stride is not None:
            found = find_weights(self.weights, network=self.model.network)
            own = self.stride if found.task == "streaming" else None
        trained = load_model(self.weights, self.model, self.input, stride=own)
        stride = self.stride if own is None else None
        session = LiveSession(trained, stride=stride, keep_frames=draws)
        return _Stream(self, source, session).run()


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ValueError(f"{word!r} is not of the form NAME=VALUE, such as framerate=30")
    return key, value


class _Interrupt:
    """Ends the stream on Ctrl-C, after the current frame; a second Ctrl-C interrupts the process."""

    def __init__(self, source: LiveSource) -> None:
        self.source, self.wanted = source, False
        self._before: Any = None

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        self.source.stop()


class _Stream:
    """One pass over a source."""

    def __init__(self, command: Command, source: LiveSource, session: LiveSession) -> None:
        self.command, self.source, self.session = command, source, session
        self.state = None if command.state is None else Path(command.state)
        self.names = session.classes
        self.writer: Any = None
        self.colors: Any = None
        self.busy = 0.0  # seconds of computing and drawing
        self.streamed = 0  # frames of this pass
        self.labeled = 0
        self.network_seconds: list[float] = []
        self.latencies: list[float] = []
        self.open: list[LabeledFrame] = []  # labeled, not printed yet
        self.skip = 0  # frames of this source that were seen before the state was saved
        self.last: float | None = None  # time of the frame seen last
        self.shift = 0.0  # from the source's times to the stream's

    def run(self) -> int:
        """Label the source."""
        self._restore()
        interrupt = _Interrupt(self.source)
        try:
            with interrupt:
                for number, (frame, moment) in enumerate(self.source):
                    if number < self.skip:
                        continue
                    if self.streamed == 0 and self.last is not None and not self.skip:
                        self.shift = self.last + 1 / self.source.fps - moment
                    self._push(frame, moment + self.shift)
                self._end(stopped=interrupt.wanted)
        finally:
            if self.writer is not None:
                self.writer.close(until=self.last - self.shift if interrupt.wanted and self.last is not None else None)
            self.source.close()
        self._summary(interrupt.wanted)
        for damage in self.source.damage:
            print(f"vidseg predict --stream: {self.command.source}: {damage}", file=sys.stderr)
        return _INTERRUPTED if interrupt.wanted else 1 if self.source.damage else 0

    def _restore(self) -> None:
        """Load the saved state, if there is one."""
        from vidseg.models._torch_file import read_torch_file

        if self.state is None or not self.state.is_file():
            return
        saved = read_torch_file(self.state)
        if not isinstance(saved, dict) or "session" not in saved:
            raise ValueError(f"{self.state}: not a file that `vidseg predict --stream --state` writes")
        self.session.load_state_dict(saved["session"])
        self.last = saved["last"]
        if self.source.is_file and saved["source"] == str(Path(self.command.source).resolve()):
            self.skip, self.shift = saved["taken"], saved["shift"]

    def _push(self, frame: Any, moment: float) -> None:
        begin, windows = time.perf_counter(), self.session.windows
        self.last, self.streamed = moment, self.streamed + 1
        self._take(self.session.push(frame, moment))
        self.busy += time.perf_counter() - begin
        if self.session.windows > windows:
            self.network_seconds.append(self.session.network_seconds)
            self.latencies.append(self.session.latency)
            self._print()

    def _take(self, ready: Sequence[LabeledFrame]) -> None:
        """Keep frames whose labels are known for the next line, and draw them."""
        self.labeled += len(ready)
        if self.command.draw is not None:
            for each in ready:
                if each.frame is not None:
                    self._draw(each.frame, each.time, each.label, each.probability)
        self.open += ready

    def _draw(self, frame: Any, moment: float, label: int | None, probability: float = 0.0) -> None:
        if self.writer is None:
            from vidseg.labels.parts import class_numbers
            from vidseg.plots import class_colors
            from vidseg.videos.video_writer import LabeledVideoWriter

            assert self.command.draw is not None
            self.writer = LabeledVideoWriter(self.command.draw, fps=self.source.fps, sound=self.source.sound())
            record = self.session.trained.source.record
            background = record.get("options", {}).get("background") or ("background",)
            self.colors = class_colors(len(self.names), background=class_numbers(self.names, background))
        moment -= self.shift  # the clock of the sound
        if label is None:
            self.writer.write(frame, moment, "...", _UNKNOWN)
        else:
            self.writer.write(frame, moment, f"{self.names[label]}  {probability:.0%}", self.colors[label])

    def _end(self, *, stopped: bool) -> None:
        """End the source: save the state, or label the remaining frames."""
        if self.state is not None and (stopped or self.command.more):
            self._print()
            self._save()
            for frame, moment in self.session.unlabeled():
                self._draw(frame, moment, None)
            return
        begin = time.perf_counter()
        self._take(self.session.finish())
        self.busy += time.perf_counter() - begin
        self._print()
        if self.state is not None:
            self.state.unlink(missing_ok=True)

    def _save(self) -> None:
        from vidseg.engine.checkpoints import save_checkpoint

        assert self.state is not None
        self.state.parent.mkdir(parents=True, exist_ok=True)
        here = str(Path(self.command.source).resolve()) if self.source.is_file else self.command.source
        content = {
            "session": self.session.state_dict(),
            "source": here,
            "taken": self.skip + self.streamed,
            "last": self.last,
            "shift": self.shift,
        }
        save_checkpoint(self.state, content)

    def _print(self) -> None:
        """Print a line for the frames that were labeled since the last one."""
        frames, self.open = self.open, []
        if not frames:
            return
        from vidseg.live.frame_segments import join_frames

        step, rate = 1 / self.source.fps, self._real_time_factor()
        segments = [each._asdict() for each in join_frames(frames, self.names, step=step)]
        latency, network = self.session.latency, self.session.network_seconds
        if self.command.json:
            facts = {"first_frame": frames[0].number, "frames": len(frames), "segments": segments}
            facts |= {"latency": latency, "network_seconds": network, "real_time_factor": rate}
            print(json_format.dumps(facts), flush=True)
            return
        said = ", ".join(
            f"{each['label']} {each['start']:.2f}-{each['stop']:.2f} s ({each['probability']:.2f})" for each in segments
        )
        print(f"{said}   latency {latency:.3f} s, network {network:.3f} s, real-time factor {rate:.3f}", flush=True)

    def _real_time_factor(self) -> float:
        """Seconds of computing and drawing for a second of this pass's video; reading is not counted."""
        return self.busy * self.source.fps / max(1, self.streamed)

    def _summary(self, stopped: bool) -> None:
        facts: dict[str, Any] = {
            "frames": self.streamed,
            "labeled": self.labeled,
            "windows": len(self.network_seconds),
            "stopped": stopped,
            "network_seconds": _middle(self.network_seconds),
            "latency": _middle(self.latencies),
            "longest_latency": max(self.latencies, default=0.0),
            "real_time_factor": self._real_time_factor(),
            "drawn": None if self.writer is None else self.command.draw,
            "state": str(self.state) if self.state is not None and self.state.is_file() else None,
        }
        if self.command.json:
            print(json_format.dumps(facts), flush=True)
            return
        print(
            f"{facts['frames']} frames, {facts['labeled']} labeled; of a window: network "
            f"{facts['network_seconds']:.3f} s, latency {facts['latency']:.3f} s, at most "
            f"{facts['longest_latency']:.3f} s; real-time factor {facts['real_time_factor']:.3f}"
        )
        for name, kind in (("drawn", "drawn into"), ("state", "state saved in")):
            if facts[name] is not None:
                print(f"{kind} {facts[name]}")


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
