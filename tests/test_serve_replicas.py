"""Several servers with one store: jobs and streams are found everywhere, none is lost or has two results."""

import json
import os
import signal
import sqlite3
import threading
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("websockets")

import httpx
from serve_models import jpegs, running
from test_serve_faults import Program, add, work_and_die

from vidseg import load_trained
from vidseg.models._torch_file import read_torch_file
from vidseg.serve import Client, ServerError
from vidseg.serve.job_store import JobStore
from vidseg.serve.serve_options import ReplicaOptions


def labels_of(messages):
    return [(row["label"], row["start"], row["stop"]) for each in messages for row in each.get("segments", [])]


def paused(client, frames, **options):
    """Send frames, pause; returns the id of the stream and the messages."""
    messages = list(client.stream(frames, fps=10, model="stream", pause=True, **options))
    return messages[-1]["session"], messages


def test_two_servers_find_each_others_jobs_and_streams(served_models, tmp_path, short_video):
    with (
        running(tmp_path / "store", served_models, shared=True) as one,
        running(tmp_path / "store", served_models, shared=True) as two,
        Client(one.url) as first,
        Client(two.url) as second,
    ):
        jobs = [
            (first, second)[number % 2].submit(short_video, model="clips", key=f"key-{number}") for number in range(4)
        ]
        assert [second.submit(short_video, model="clips", key=f"key-{number}") for number in range(4)] == jobs
        results = [second.wait(job) for job in jobs]
        expected = load_trained(served_models["clips"]).predict(short_video).videos[0]
        for job, result in zip(jobs, results, strict=True):
            assert [row["label"] for row in result["classes"]] == list(expected.classes)
            assert first.result(job) == result and first.job(job)["attempts"] == 1
        ended = sum(state.metrics.value("vidseg_jobs_ended_total", state="done") for state in (one, two))
        assert ended == len(jobs)  # each ran in one of the servers

        frames = jpegs(48)
        whole = [*first.stream(frames, fps=10, model="stream")]
        stream, begin = paused(first, frames[:20])
        rest = [*second.stream(frames[20:], fps=10, model="stream", session=stream)]
        assert begin[-1]["received"] == 20 and rest[-1] == {"type": "ended", "received": 48, "windows": 6}
        assert labels_of(rest)[-1] == labels_of(whole)[-1]
        with pytest.raises(ServerError, match="no stream"):  # it has ended, in both servers
            list(first.stream(frames, model="stream", session=stream))
        text = httpx.get(f"{one.url}/metrics").text
        assert f'vidseg_open_streams{{server="{one.store.owner}"}} 0' in text


def test_a_stream_is_open_once(served_models, tmp_path):
    with (
        running(tmp_path / "store", served_models, shared=True) as one,
        running(tmp_path / "store", served_models, shared=True) as two,
        Client(one.url) as first,
        Client(two.url, patience=0) as second,
    ):
        stream, _ = paused(first, jpegs(12))
        refused, go_on = [], threading.Event()

        def frames():
            yield from jpegs(4)
            assert go_on.wait(60)

        for message in first.stream(frames(), fps=10, model="stream", session=stream):
            if message["type"] == "started":
                for client in (first, second):
                    with pytest.raises(ServerError, match="is open in another connection") as caught:
                        list(client.stream(jpegs(1), model="stream", session=stream))
                    refused.append(caught.value.status)
                go_on.set()
        assert refused == [503, 503] and message["received"] == 16


def test_a_store_is_shared_by_agreement_only(tmp_path, monkeypatch):
    monkeypatch.setattr("vidseg.serve.store_lock._SETUP_SECONDS", 0)
    one = JobStore(tmp_path, shared=True)
    two = JobStore(tmp_path, shared=True)
    with pytest.raises(ValueError, match="another server uses this folder; choose another"):
        JobStore(tmp_path)
    assert {json.loads(path.read_text())["process"] for path in (tmp_path / "servers").iterdir()} == {os.getpid()}
    one.close()
    two.close()
    alone = JobStore(tmp_path)
    with pytest.raises(ValueError, match="another server uses this folder; stop it, or start it with --shared"):
        JobStore(tmp_path, shared=True)
    alone.close()
    assert list((tmp_path / "servers").iterdir()) == []


def test_jobs_and_streams_of_a_dead_server_are_free(tmp_path):
    store = JobStore(tmp_path, shared=True)
    add(store)
    store.claim()
    other = JobStore(tmp_path, shared=True)
    other.recover()
    assert other.claim() is None and other.open_stream("s") and not store.open_stream("s")  # both are alive
    assert (other.claim(), other.find("a" * 32).state) == (None, "running")
    add(store, "b" * 32)
    work_and_die(tmp_path, before=True, shared=True)
    assert store.find("b" * 32).state == "running" and len(list((tmp_path / "requests").iterdir())) == 3
    other.recover()
    again = other.claim()
    assert (again.id, again.attempts) == ("b" * 32, 2) and len(list((tmp_path / "requests").iterdir())) == 2
    other.close()
    assert store.open_stream("s")
    store.recover()
    assert store.claim().id == "b" * 32
    store.close()


def test_a_server_that_was_taken_for_dead_has_no_second_result(tmp_path):
    store = JobStore(tmp_path, shared=True)
    add(store)
    slow = store.claim()
    store._servers.forget(store.owner)  # as a network file system does that no longer hears of its machine
    other = JobStore(tmp_path, shared=True)
    new = other.claim()
    assert new.id == slow.id
    store.report(slow, 0.9)
    assert not store.finish(slow, "done", result={"by": "slow"}) and other.find(new.id).progress == 0
    assert (other.uploads / new.id).is_dir()
    other.release(new)
    assert not store.finish(slow, "done", result={"by": "slow"})
    assert other.finish(other.claim(), "done", result={"by": "new"}) and store.result(new.id) == {"by": "new"}
    other.close()
    store.close()


def test_a_killed_server_loses_no_job(served_models, tmp_path, short_video):
    store = tmp_path / "store"
    with (
        running(store, served_models, shared=True) as state,
        Client(state.url) as client,
        Program(store, served_models, "--shared") as program,
        Client(program.url) as other,
    ):
        held = threading.Event()
        real = state.store.claim

        def claim():  # this server runs no job before the other one has died
            assert held.wait(60)
            return real()

        state.store.claim = claim
        jobs = [other.submit(short_video, model="clips", key=f"key-{number}", timeline=True) for number in range(4)]
        assert program.end(signal.SIGKILL)[0] == -signal.SIGKILL
        held.set()
        assert all(client.wait(job)["classes"] for job in jobs)
        assert client.submit(short_video, model="clips", key="key-0") == jobs[0]
        assert list((store / "uploads").iterdir()) == []
        assert len(list((store / "servers").iterdir())) == 1


def test_a_store_with_an_error_runs_its_jobs_later(served_models, tmp_path, short_video):
    """As with a full disk: a change of the store that fails is repeated."""
    with running(tmp_path / "store", served_models) as state, Client(state.url) as client:
        failed = []

        def once(real):
            def change(*words, **more):
                if real.__name__ not in failed:
                    failed.append(real.__name__)
                    raise sqlite3.OperationalError("database or disk is full")
                return real(*words, **more)

            return change

        state.store.claim, state.store.finish = once(state.store.claim), once(state.store.finish)
        job = client.submit(short_video, model="clips")
        assert client.wait(job)["classes"] and failed == ["claim", "finish"]
        assert client.job(job)["attempts"] == 1


def test_a_stream_continues_from_its_last_copy_after_a_crash(served_models, tmp_path, monkeypatch):
    monkeypatch.setattr("vidseg.serve.stream_routes._SAVE_SECONDS", 0)
    frames, copied, copies = jpegs(48), threading.Event(), []

    def until_copied():
        yield from frames[:24]
        assert copied.wait(60)

    with running(tmp_path / "store", served_models) as state, Client(state.url) as client:
        whole = list(client.stream(frames, fps=10, model="stream"))
        for message in client.stream(until_copied(), fps=10, model="stream", pause=True):
            if message["type"] == "labels" and not copies:
                (path,) = (tmp_path / "store" / "streams").glob("*.pt")
                copies.append(path.read_bytes())
                copied.set()
        path.write_bytes(copies[0])  # as if the server had died then
        received = read_torch_file(path)["received"]
        assert 0 < received <= 24
        rest = list(client.stream(frames[received:], fps=10, model="stream", session=path.stem))
        assert rest[0]["received"] == received and rest[-1]["received"] == 48
        assert labels_of(rest)[-1] == labels_of(whole)[-1] and rest[-1]["windows"] == whole[-1]["windows"]


def patiently(call):
    """Repeat a call while Ray notices that a replica has died: requests that were sent to it fail."""
    while True:
        try:
            return call()
        except ServerError as error:
            assert error.status in (500, 503), error
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)  # about 25 s of processor time, in ten processes
def test_replicas_on_ray(served_models, tmp_path, short_video, monkeypatch):
    pytest.importorskip("ray.serve", reason='pip install "vidseg[ray]"')
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("READY", "HEALTH"):  # on a busy machine the proxy starts slowly, and would be started anew
        monkeypatch.setenv(f"RAY_SERVE_PROXY_{name}_CHECK_TIMEOUT_S", "120")
    store, words = tmp_path / "store", ["--ray", "--cluster", "local", "--replica-cpus", "0.5"]
    with (
        Program(store, served_models, *words, "--min-replicas", "2", "--max-replicas", "2") as program,
        Client(program.url) as client,
    ):
        expected = load_trained(served_models["clips"]).predict(short_video).videos[0]
        found = client.predict(short_video, model="clips")["classes"]
        assert [row["label"] for row in found] == list(expected.classes)
        assert [row["probability"] for row in found] == pytest.approx(expected.probabilities, abs=2e-5)

        frames, streams = jpegs(32), []
        for _ in range(3):
            stream, _ = paused(client, frames[:20])
            streams.append(list(client.stream(frames[20:], fps=10, model="stream", session=stream)))
        whole = list(client.stream(frames, fps=10, model="stream"))
        assert [each[-1] for each in streams] == [whole[-1]] * 3 and whole[-1]["received"] == 32

        jobs = [client.submit(short_video, model="clips", key=f"key-{number}", timeline=True) for number in range(6)]
        servers = {path.name: json.loads(path.read_text())["process"] for path in (store / "servers").iterdir()}
        assert len(servers) == 2
        os.kill(min(servers.values()), signal.SIGKILL)
        for number, job in enumerate(jobs):
            while patiently(lambda job=job: client.job(job))["state"] in ("waiting", "running"):
                time.sleep(0.1)
            assert patiently(lambda job=job: client.result(job))["classes"]
            assert (
                patiently(lambda number=number: client.submit(short_video, model="clips", key=f"key-{number}"))
                == jobs[number]
            )
        assert sorted(row["id"] for row in patiently(client.jobs)) == sorted(jobs)
        assert program.end(signal.SIGTERM)[0] == 143
    assert list((store / "uploads").iterdir()) == [] and (store / "jobs.db").is_file()


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"max_replicas": 8}, "options of replicas need --ray"),
        ({"cluster": "local"}, "options of replicas need --ray"),
        ({"ray": True, "min_replicas": 5}, "max_replicas=4 must be at least min_replicas=5"),
        ({"ray": True, "min_replicas": 0}, "min_replicas=0"),
        ({"ray": True, "replica_gpus": -1}, "replica_gpus=-1"),
        ({"ray": True, "requests_per_replica": 0}, "requests_per_replica=0 must be greater than 0"),
    ],
)
def test_options_of_replicas(values, reason):
    with pytest.raises(ValueError, match=reason):
        ReplicaOptions(**values)
