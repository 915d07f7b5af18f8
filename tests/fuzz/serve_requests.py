"""Random requests to a server: every answer must be one that the interface describes, and the server must go on.

    python tests/fuzz/serve_requests.py --requests 10000 [--seed 0] [--folder /tmp/x]

Requests are valid ones whose bytes, forms, queries, headers, paths and messages are changed, and plain garbage on the
socket. Status 500, a lost connection without an answer, and a server that no longer predicts correctly are faults.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import socket
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx
import numpy as np
from serve_models import jpegs, recognition, running, segmentation, streaming
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

EXPECTED = {200, 202, 206, 307, 400, 401, 403, 404, 405, 408, 409, 413, 422, 431, 503, 504}
ODD = ["", "0", "-1", "nan", "inf", "1e999", "9" * 400, "true", "None", "\u0000", "../../etc/passwd", "%00", "é",
       "\U0001f600", "a" * 3000, "{}", "[1]", "3.5", "json"]  # fmt: skip


class Fuzzer:
    """Random requests of a seed."""

    def __init__(self, url: str, seeds: list[bytes], seed: int) -> None:
        self.url, self.seeds, self.seed = url, seeds, seed
        self.http = httpx.Client(base_url=url, timeout=120)
        self.counts: collections.Counter[str] = collections.Counter()

    def bytes_of(self) -> bytes:
        """A valid upload, changed, or garbage."""
        rng, data = self.rng, bytearray(self.rng.choice(self.seeds))
        for _ in range(rng.choice((0, 1, 1, 3, 20))):
            kind = rng.randrange(5)
            if not data:
                break
            at = rng.randrange(len(data))
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data[at : at + rng.randrange(64)] = rng.randbytes(rng.randrange(64))
            elif kind == 3:
                other = rng.choice(self.seeds)
                data[at:at] = other[rng.randrange(len(other) + 1) :][:4096]
            else:
                data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        return bytes(data)

    def text(self) -> str:
        return (
            self.rng.choice(ODD) if self.rng.random() < 0.8 else "".join(map(chr, self.rng.choices(range(1, 900), k=5)))
        )

    def query(self) -> str:
        rng = self.rng
        names = ["clips", "crops", "top", "timeline", "min_score", "fps", "seconds", "form", "name", "nothing"]
        good = ["1", "3", "true", "0.5", "csv", "srt", "5"]
        pairs = [
            (rng.choice(names), rng.choice(good) if rng.random() < 0.7 else self.text())
            for _ in range(rng.choice((0, 0, 1, 2)))
        ]
        return "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)

    def model(self) -> str:
        return (
            self.rng.choice(["clips", "stream", "segments"])
            if self.rng.random() < 0.93
            else quote(self.text(), safe="")
        )

    def upload(self) -> int:
        action = self.rng.choice(["predict", "predict", "predict", "jobs"])
        path = f"/v1/models/{self.model()}/{action}?{self.query()}"
        headers = {}
        if self.rng.random() < 0.1:
            headers["Content-Type"] = self.rng.choice(
                ["multipart/form-data", "multipart/form-data; boundary=x", "image/jpeg", "text/html; charset=\x7f", "/"]
            )
        if self.rng.random() < 0.1:
            headers["Idempotency-Key"] = self.rng.choice(["k", "k2", "a" * 500])
        return self.http.post(path, content=self.bytes_of(), headers=headers).status_code

    def form(self) -> int:
        rng = self.rng
        frames = [self.bytes_of() if rng.random() < 0.3 else self.seeds[-1] for _ in range(rng.randrange(5))]
        files = [
            (rng.choice(["frames"] * 6 + ["video", "features", "x"]), (self.text()[:50], frame)) for frame in frames
        ]
        data = {rng.choice(["fps", "fps", "video", "path"]): rng.choice(["5", "25", self.text()])}
        path = f"/v1/models/{self.model()}/predict?{self.query()}"
        return self.http.post(path, files=files or None, data=data).status_code

    def other(self) -> int:
        rng = self.rng
        job = "/v1/jobs/" + "0" * 32
        paths = ["/", "/docs", "/health", "/metrics", "/openapi.json", "/v1/models", "/v1/jobs", job, f"{job}/result"]
        paths += ["/pages/page.js", "/pages/..%2fjobs.py", "/v1/models/clips/stream"]
        path = rng.choice(paths) if rng.random() < 0.8 else "/" + quote(self.text(), safe="/%")
        headers = {
            rng.choice(["Host", "Origin", "Authorization", "Range", "X"]): rng.choice(
                ["x", "null", "bytes=0-1", "Bearer x"]
            )
        }
        if rng.random() < 0.5:
            headers = {}
        method = rng.choice(["GET", "GET", "GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "XYZ"])
        return self.http.request(method, path, headers=headers).status_code

    def garbage(self) -> int:
        """Bytes that are not HTTP, or nearly."""
        rng = self.rng
        post = b"POST /v1/models/clips/predict HTTP/1.1\r\nHost: localhost\r\n"
        heads = [
            post + b"Content-Length: %d\r\n\r\n" % rng.choice((-1, 5, 10**20)),
            post + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET " + b"/a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            rng.randbytes(rng.randrange(1, 300)) + b"\r\n\r\n",
        ]
        head = rng.choice(heads)
        host, port = self.url.removeprefix("http://").split(":")
        with (
            socket.create_connection((host, int(port)), timeout=60) as connection,
            contextlib.suppress(ConnectionError),
        ):
            connection.sendall(head)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(4096)
            if answer.startswith(b"HTTP/1.1 "):
                return int(answer[9:12])
        return 400  # closed without an answer: it was no request

    def stream(self) -> int:
        rng = self.rng
        start = {"type": "start", "format": rng.choice(["jpeg", "container"]), "fps": 10}
        if rng.random() < 0.4:
            name = rng.choice(["type", "format", "fps", "times", "session", "labeled", "token", "x"])
            start[name] = rng.choice([None, True, -1, 0, 1e300, "x", "0" * 32, [], {}, self.text()])
        text = json.dumps(start) if rng.random() < 0.9 else self.text()
        ends = contextlib.suppress(WebSocketException, ConnectionError, TimeoutError)
        address = f"ws{self.url[4:]}/v1/models/{self.model()}/stream"
        with ends, connect(address, close_timeout=30) as connection:
            connection.send(text)
            for _ in range(rng.randrange(12)):
                connection.send(self.bytes_of() if rng.random() < 0.4 else self.seeds[-1])
            if rng.random() < 0.2:
                connection.send(self.text())
            if rng.random() < 0.8:
                connection.send(json.dumps({"type": rng.choice(["finish", "pause"])}))
                for message in connection:
                    found = json.loads(message)
                    if found["type"] == "error":
                        return int(found["status"])
        return 200

    def step(self, number: int) -> None:
        """Send request `number` of the seed.

        Raises:
            AssertionError: the answer is a fault.
        """
        kinds = [self.upload] * 8 + [self.form] * 3 + [self.other] * 4 + [self.garbage] + [self.stream] * 2
        self.rng = random.Random(f"{self.seed}/{number}")
        kind = self.rng.choice(kinds)
        try:
            status = kind()
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeEncodeError):  # the client refuses it
            self.counts["refused by the client"] += 1
            return
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            # The server refuses a body and closes the connection while the body is sent: the system may reset it before
            # the client reads the answer.
            assert kind in (self.upload, self.form), f"request {number} of seed {self.seed}: no answer"
            assert self.http.get("/health").status_code == 200
            self.counts["closed while it was sent"] += 1
            return
        self.counts[f"{kind.__name__} {status}"] += 1
        assert status in EXPECTED, f"request {number} of seed {self.seed}, {kind.__name__}: status {status}"


def fuzz(folder: Path, seeds: list[bytes], *, requests: int, seed: int) -> collections.Counter[str]:
    """Send random requests to a new server, then check that it still works; returns the number of each answer."""
    made = {"clips": recognition(folder), "stream": streaming(folder), "segments": segmentation(folder)}
    limits = {"max_bytes": 1 << 20, "max_seconds": 20, "time_limit": 20, "job_queue": 20, "max_pixels": 1 << 18}
    with running(folder / "store", made, **limits) as state:
        fuzzer = Fuzzer(state.url, seeds, seed)
        before = fuzzer.http.post("/v1/models/clips/predict", content=seeds[0]).json()["classes"]
        for number in range(requests):
            fuzzer.step(number)
        after = fuzzer.http.post("/v1/models/clips/predict", content=seeds[0]).json()["classes"]
        assert before == after and state.busy == 0 and state.metrics.value("vidseg_jobs_ended_total", state="x") == 0
        while state.open_streams:
            pass
        assert not list(state.store.received.iterdir())
    return fuzzer.counts


def seeds_of(folder: Path, make_video) -> list[bytes]:
    """Valid uploads; the last one is a JPEG."""
    features = folder / "f.npy"
    np.save(features, np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32))
    videos = [
        make_video(folder / "a.mp4", frames=8),
        make_video(folder / "b.mkv", frames=8, codec="mjpeg", pixel_format="yuvj420p"),
        make_video(folder / "c.ts", frames=8, codec="mpeg2video"),
        make_video(folder / "d.avi", frames=8, codec="mpeg4"),
    ]
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    return [*(path.read_bytes() for path in [*videos, features]), playlist, b"", jpegs(1)[0]]


def main() -> int:
    """Run the program."""
    import conftest
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="vidseg-fuzz-") as name:
        folder = Path(name)
        seeds = seeds_of(folder, conftest.make_video.__wrapped__())
        counts = fuzz(folder, seeds, requests=chosen.requests, seed=chosen.seed)
    for name, count in sorted(counts.items()):
        print(f"{count:7} {name}")
    print(f"{sum(counts.values()):7} requests, no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main())
