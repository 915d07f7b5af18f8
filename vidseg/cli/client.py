"""`vidseg client`: predictions of a server for video files."""

from __future__ import annotations

import json as json_format
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vidseg.serve.client import Client

__all__ = ["Command"]

_PIECE = 1 << 16


@dataclass(frozen=True)
class Command:
    """Send videos to a server of `vidseg serve` or of Triton and print their classes, segments or detections.

    Each video is a request, with --job a job whose progress is shown, with --stream a stream whose labels are printed
    as they come. Without a video the command lists the models of the server.
    """

    videos: Annotated[Positional[tuple[Path, ...]], arg(metavar="VIDEO...")] = ()
    """Video files, or files of features <video>.npy."""
    url: str = "http://127.0.0.1:8000"
    """Address of the server."""
    triton: str | None = None
    """Address of a Triton server with a repository of `vidseg export --to triton`, in place of --url."""
    token: str | None = None
    """Token of the server; default: the environment variable VIDSEG_TOKEN."""
    model: str | None = None
    """Name of the model; default: the first one of the server."""
    job: bool = False
    """Send each video as a job, for long videos."""
    stream: bool = False
    """Send each video as a stream; a line of JSON for each message."""
    timeline: bool = False
    """Recognition: also label a window that slides over the video."""
    top: int | None = None
    """Recognition: number of classes; default: 5."""
    clips: int | None = None
    """Recognition: clips of each video; default: 1."""
    fps: float | None = None
    """Features: columns per second."""
    form: Literal["json", "csv", "srt", "vtt"] = "json"
    """Form of the results."""
    out: Path | None = None
    """Folder to write <video>.<form> to; default: print."""

    def run(self) -> int:
        """Send and print; exit status 1 if a video failed."""
        import httpx

        from vidseg.serve.client import Client, ServerError

        token = self.token or os.environ.get("VIDSEG_TOKEN")
        url = self.url if self.triton is None else self.triton
        if self.triton is not None and (self.job or self.stream):
            raise ValueError("--triton: a Triton server has neither jobs nor streams; leave out --job and --stream")
        failed = 0
        try:
            with Client(url, token=token, triton=self.triton is not None) as client:
                if not self.videos:
                    print(json_format.dumps(client.models(), ensure_ascii=False, indent=1))
                for video in self.videos:
                    if not video.is_file():
                        raise FileNotFoundError(f"{video}: no such file")
                    try:
                        self._send(client, video)
                    except ServerError as error:
                        print(f"vidseg client: {video}: {error}", file=sys.stderr)
                        failed += 1
        except httpx.TransportError as error:
            raise RuntimeError(f"{url}: the server cannot be reached: {error}") from error
        return 1 if failed else 0

    def _send(self, client: Client, video: Path) -> None:
        options: dict[str, Any] = {"top": self.top, "clips": self.clips, "fps": self.fps}
        options["timeline"] = True if self.timeline else None
        if self.stream:
            for message in client.stream(_pieces(video), model=self.model, container=True):
                print(json_format.dumps(message, ensure_ascii=False), flush=True)
            return
        if self.job:
            job = client.submit(video, model=self.model, name=video.name, **options)
            found = client.wait(job, form=self.form, progress=_show)
        else:
            found = client.predict(video, model=self.model, form=self.form, **options)
        text = found if isinstance(found, str) else json_format.dumps(found, ensure_ascii=False)
        if self.out is None:
            print(text)
            return
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{video.stem}.{self.form}").write_text(text, encoding="utf-8")


def _pieces(video: Path) -> Iterator[bytes]:
    with video.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _show(done: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{done:4.0%}", end="", file=sys.stderr, flush=True)
