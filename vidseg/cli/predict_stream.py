"""`vidseg predict --stream`: labels of a video's frames while they arrive."""

from __future__ import annotations

import itertools
import json as json_format
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vidseg.live.session import LabeledFrame, LiveSession
    from vidseg.live.source import LiveSource

__all__ = ["Command"]

_INTERRUPTED = 130  # as shells say of a program that Ctrl-C ended


@dataclass(frozen=True)
class Command:
    """Label a video frame by frame while it arrives: a file, a camera, an address, or standard input.

    A line comes with each window: the labels of its frames, the latency, and the real-time factor: seconds of
    computing for a second of video, below 1 where the stream can be kept up with. Ctrl-C ends the stream: the frames
    that are there are labeled, and files are complete.
    """

    source: Annotated[Positional[str], arg(metavar="VIDEO|CAMERA|-")]
    """Video file, camera such as /dev/video0 or its number, address that FFmpeg can open, or - for a container on
    standard input."""
    weights: str
    """Folder of a run of `vidseg train stream`, one of its checkpoints, or a file of weights with --network and
    --classes."""
    network: str | None = None
    """Name of the network; default: that of the run."""
    classes: str | None = None
    """File with a class in each line, or mapping.txt with its number before it; default: those of the run."""
    stride: int | None = None
    """Frames from window to window; default: as trained, like the next three."""
    frames: int | None = None
    """Frames that the network sees of a window."""
    interval: int | None = None
    """Frames from one of these to the next."""
    size: int | None = None
    """Height and width that the network sees, in pixels."""
    draw: str | None = None
    """Video to write with the labels drawn in, such as out.mp4."""
    state: str | None = None
    """File of the stream's state: gone on from if it is there, and saved on Ctrl-C. A file that was stopped in the
    middle is gone on with there; frames of another source follow those seen. A stream that has ended leaves none."""
    more: bool = False
    """With --state: the stream does not end with this source. What cannot be labeled yet is saved, for the next."""
    format: str | None = None
    """FFmpeg's name of the source's format or kind of device; default: found out, v4l2 for cameras."""
    source_option: tuple[str, ...] = ()
    """Options of the source for FFmpeg, such as framerate=30 video_size=1280x720."""
    device: str | None = None
    """Where to compute, such as cpu or cuda; default: the accelerator if there is one."""
    json: bool = False
    """Print a line of JSON for each window, and one at the end, instead of text."""

    def run(self) -> int:
        """Label until the stream ends; exit status 1 where frames were damaged, 130 after Ctrl-C."""
        import torch

        from vidseg.engine.distributed import join_group
        from vidseg.live.session import LiveSession, load_stream_network
        from vidseg.live.source import LiveSource

        if self.more and self.state is None:
            raise ValueError("--more needs --state, where what is left is saved")
        chosen = {name: getattr(self, name) for name in ("stride", "frames", "interval", "size")}
        network = load_stream_network(
            self.weights,
            network=self.network,
            classes=None if self.classes is None else _read_classes(Path(self.classes)),
            changes={name: value for name, value in chosen.items() if value is not None},
        )
        options = dict(_pair(word) for word in self.source_option)
        source = LiveSource(self.source, container_format=self.format, options=options)
        device = torch.device(self.device) if self.device is not None else join_group()
        session = LiveSession(network, device=device, keep_frames=self.draw is not None)
        return _Stream(self, source, session).run()


def _read_classes(path: Path) -> list[str]:
    """Names of classes from mapping.txt, or one a line."""
    from vidseg.labels.segmentation_files import read_mapping

    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if lines and all(line.partition(" ")[0].isdigit() for line in lines):
        return read_mapping(path)
    return lines


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ValueError(f"{word!r} is not of the form NAME=VALUE, such as framerate=30")
    return key, value


class _Interrupt:
    """Ctrl-C as an end of the stream, when the frame in hand is done; a second one interrupts whatever goes on."""

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
        self.names = session.network.classes
        self.writer: Any = None
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
        try:
            with _Interrupt(self.source) as interrupt:
                for number, (frame, moment) in enumerate(self.source):
                    if number < self.skip:
                        continue
                    if self.streamed == 0 and self.last is not None and not self.skip:
                        self.shift = self.last + 1 / self.source.fps - moment
                    self._push(frame, moment + self.shift)
                self._end(stopped=interrupt.wanted)
        finally:
            if self.writer is not None:
                self.writer.close()
        self._summary(interrupt.wanted)
        for damage in self.source.damage:
            print(f"vidseg predict --stream: {self.command.source}: {damage}", file=sys.stderr)
        return _INTERRUPTED if interrupt.wanted else 1 if self.source.damage else 0

    def _restore(self) -> None:
        """Take up the saved state, if there is one."""
        import torch

        if self.state is None or not self.state.is_file():
            return
        saved = torch.load(self.state, map_location="cpu", weights_only=True)
        if "session" not in saved:
            raise ValueError(f"{self.state}: not the state of a stream")
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
        """Frames whose labels are known: kept for the next line, and drawn."""
        self.labeled += len(ready)
        if self.command.draw is not None:
            for each in ready:
                if each.frame is not None:
                    self._draw(each.frame, each.time, each.label, each.probability)
        self.open += ready

    def _draw(self, frame: Any, moment: float, label: int | None, probability: float = 0.0) -> None:
        if self.writer is None:
            from vidseg.plots import class_colors
            from vidseg.videos.writer import LabeledVideoWriter

            assert self.command.draw is not None
            self.writer = LabeledVideoWriter(
                self.command.draw, self.names, class_colors(len(self.names)), fps=self.source.fps
            )
        self.writer.write(frame, moment, label, probability)

    def _end(self, *, stopped: bool) -> None:
        """The source is at its end: save the state, or label what is left."""
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
        """A line for the frames that have got their labels since the last one."""
        frames, self.open = self.open, []
        if not frames:
            return
        step, rate = 1 / self.source.fps, self._real_time_factor()
        runs = [list(run) for _, run in itertools.groupby(frames, key=lambda each: each.label)]
        segments = [
            {
                "label": self.names[run[0].label],
                "start": round(run[0].time, 3),
                "stop": round(run[-1].time + step, 3),
                "probability": round(sum(each.probability for each in run) / len(run), 4),
            }
            for run in runs
        ]
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
