"""The server killed and stopped: no accepted job is lost or has two results, and streams are saved."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("websockets")

import httpx
from fuzz.serve_requests import fuzz, seeds_of
from serve_models import jpegs, running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from vidseg.serve import Client
from vidseg.serve.job_store import JobStore
from vidseg.serve.running import choose_token


class Program:
    """`vidseg serve` in a process of its own, which ends with the context."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def __init__(self, store, models, *words):
        named = [f"{name}={path}" for name, path in models.items()]
        command = [sys.executable, "-m", "vidseg.cli.main", "serve", *named, "--port", "0", "--store", str(store)]
        self.process = subprocess.Popen(
            [*command, "--compute-threads", "1", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.url = self.process.stdout.readline().strip().rstrip("/")
        assert self.url.startswith("http"), self.process.stderr.read()

    def end(self, number):
        self.process.send_signal(number)
        output = self.process.communicate(timeout=60)
        return self.process.returncode, output[1]


@pytest.mark.slow
def test_jobs_survive_kill_and_end_once(served_models, tmp_path, short_video):
    with Program(tmp_path / "store", served_models) as program, Client(program.url) as client:
        jobs = [client.submit(short_video, model="clips", key=f"key-{number}", timeline=True) for number in range(6)]
        assert program.end(signal.SIGKILL)[0] == -signal.SIGKILL
    with Program(tmp_path / "store", served_models) as program, Client(program.url) as client:
        again = client.submit(short_video, model="clips", key="key-2")  # its answer may have been lost
        assert again == jobs[2]
        results = [client.wait(job) for job in jobs]
        assert sorted(row["id"] for row in client.jobs()) == sorted(jobs)
        assert len({tuple(row["label"] for row in result["classes"]) for result in results}) == 1
        assert list((tmp_path / "store" / "uploads").iterdir()) == []
        status, log = program.end(signal.SIGTERM)
    assert status == 143
    rows = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [row["event"] for row in rows if row["event"] in ("start", "stop")] == ["start", "stop"]


def work_and_die(folder, *, before, shared=False):
    """A process that claims a job and is killed before or after it ends the job."""
    code = f"""
import os, signal
from pathlib import Path
from vidseg.serve.job_store import JobStore
from vidseg.serve.running import choose_token
store = JobStore(Path({str(folder)!r}), shared={shared})
job = store.claim()
if not {before}:
    assert store.finish(job, "done", result={{"attempt": job.attempts}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL


def add(store, name="a" * 32, **more):
    (store.uploads / name).mkdir()
    (store.uploads / name / "upload").write_bytes(b"x")
    return store.add(name, **{"request": None, "model": "m", "options": {}, "kind": "video", "name": "", **more})


def test_a_job_runs_again_only_if_it_has_no_result(tmp_path):
    store = JobStore(tmp_path)
    add(store)
    (store.uploads / "orphan").mkdir()  # of a request that was not accepted
    store.close()
    work_and_die(tmp_path, before=True)
    work_and_die(tmp_path, before=False)
    store = JobStore(tmp_path)
    assert store.claim() is None and store.find("a" * 32).state == "done"
    assert store.result("a" * 32) == {"attempt": 2}
    assert list(store.uploads.iterdir()) == []
    store.close()


def test_a_job_that_kills_the_server_fails_in_the_end(tmp_path):
    store = JobStore(tmp_path)
    add(store)
    store.close()
    for _ in range(3):
        work_and_die(tmp_path, before=True)
    store = JobStore(tmp_path)
    job = store.find("a" * 32)
    assert job.state == "failed" and "the server stopped 3 times" in job.error
    store.close()


def test_an_older_attempt_cannot_end_a_job(tmp_path):
    store = JobStore(tmp_path)
    add(store)
    old = store.claim()
    store.close()
    store = JobStore(tmp_path)  # as after a crash
    new = store.claim()
    assert (old.attempts, new.attempts) == (1, 2)
    assert not store.finish(old, "done", result={"by": "old"})
    (store.uploads / new.id).mkdir(exist_ok=True)
    assert store.finish(new, "done", result={"by": "new"}) and not store.finish(new, "failed", error="late")
    assert store.result(new.id) == {"by": "new"}
    store.close()


def test_a_canceled_job_stays_canceled_after_a_crash(tmp_path):
    store = JobStore(tmp_path)
    add(store)
    store.claim()
    assert store.cancel("a" * 32).state == "running"
    store.close()
    store = JobStore(tmp_path)
    assert store.find("a" * 32).state == "canceled" and store.claim() is None
    store.close()


def test_results_are_kept_for_a_time(tmp_path):
    store = JobStore(tmp_path)
    add(store)
    assert store.forget(-1) == 0  # it has not ended
    store.finish(store.claim(), "done", result={})
    assert store.forget(3600) == 0 and store.forget(-1) == 1
    assert store.find("a" * 32) is None and store.result("a" * 32) is None
    store.close()


def test_a_stopping_server_lets_its_job_wait_and_saves_its_stream(served_models, tmp_path, short_video):
    begun = threading.Event()
    with running(tmp_path / "store", served_models) as state, Client(state.url) as client:
        predictor = state.predictors["clips"]

        def endless(upload, options, progress, **limits):
            begun.set()
            while True:
                progress.check()
                time.sleep(0.001)

        predictor.predict = endless
        job = client.submit(short_video, model="clips")
        begun.wait()
        socket = connect("ws" + state.url.removeprefix("http") + "/v1/models/stream/stream")
        socket.send('{"type": "start"}')
        name = json.loads(socket.recv())["session"]
        for frame in jpegs(7):  # the first window is complete at the seventh
            socket.send(frame)
        assert json.loads(socket.recv())["type"] == "labels"
    with pytest.raises(ConnectionClosed):
        while True:
            socket.recv()
    socket.close()
    with running(tmp_path / "store", served_models) as state, Client(state.url) as client:
        assert client.wait(job)["classes"] and client.job(job)["attempts"] == 1
        started = next(iter(client.stream([], model="stream", session=name)))
        assert started["received"] == 7


def test_a_request_is_answered_while_the_server_stops(served_models, tmp_path, short_video):
    answers, go = [], threading.Event()
    with running(tmp_path / "store", served_models) as state:
        predictor = state.predictors["clips"]
        ordinary = predictor.predict

        def held(*arguments, **limits):
            go.wait()
            return ordinary(*arguments, **limits)

        predictor.predict = held
        path = f"{state.url}/v1/models/clips/predict"

        def ask():
            answers.append(httpx.post(path, content=short_video.read_bytes(), timeout=60).status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        while state.busy < 3:
            pass
        threading.Timer(0.2, go.set).start()  # the server stops before or after that
    for thread in threads:
        thread.join()
    assert answers == [200] * 3


def test_a_client_that_leaves_ends_its_computation(served_models, tmp_path, short_video):
    ended = threading.Event()
    with running(tmp_path / "store", served_models) as state:

        def endless(upload, options, progress, **limits):
            try:
                while True:
                    progress.check()
                    time.sleep(0.001)
            finally:
                ended.set()

        state.predictors["clips"].predict = endless
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{state.url}/v1/models/clips/predict", content=short_video.read_bytes(), timeout=0.5)
        assert ended.wait(60)
        while state.busy or list(state.store.received.iterdir()):
            pass


def test_a_fault_of_the_program_is_a_500_with_a_number(served_models, tmp_path, short_video, caplog):
    with running(tmp_path / "store", served_models) as state, Client(state.url) as client:

        def broken(*_, **__):
            raise ZeroDivisionError("x")

        state.predictors["clips"].predict = broken
        response = httpx.post(f"{state.url}/v1/models/clips/predict", content=short_video.read_bytes())
        error = response.json()["error"]
        assert response.status_code == 500 and "ZeroDivisionError" in error["message"]
        assert f"request {error['request']} failed" in caplog.text
        job = client.submit(short_video, model="clips")
        while client.job(job)["state"] in ("waiting", "running"):
            pass
        assert client.job(job)["error"] == "the prediction failed: ZeroDivisionError"
        assert client.predict(short_video, model="stream")["segments"]  # the server goes on


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "name at least one run"),
        (["nothing.pth"], "nothing.pth"),
        (["a=x", "a=y"], "another model has the name a"),
        (["a b=x"], "must have letters, digits"),
        (["x", "y", "--network", "r3d_18"], "describe one model"),
        (["x", "--workers", "0"], "workers=0 must be at least 1"),
        (["x", "--token", "two words"], "token: must have"),
    ],
)
def test_wrong_use_of_the_command(words, said, capfd, tmp_path, monkeypatch):
    from vidseg.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(["serve", *words]) == 2
    assert said in " ".join(capfd.readouterr().err.split())
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "192.168.1.2", "example.org"])
def test_a_server_for_other_machines_has_a_token(host):
    made = choose_token(host, None)
    assert (made is None) == (host in ("127.0.0.1", "localhost", "::1"))
    assert made is None or (len(made) > 20 and made != choose_token(host, None))
    assert choose_token(host, "given") == "given"


def test_random_requests(tmp_path, make_video):
    """`tests/fuzz/serve_requests.py` sends as many as one likes."""
    counts = fuzz(tmp_path, seeds_of(tmp_path, make_video), requests=120, seed=7)
    assert sum(counts.values()) == 120 and counts["upload 422"] > 10 and counts["stream 200"] > 3
