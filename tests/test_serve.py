"""The server: predictions over HTTP equal those of `predict`, jobs, streams, limits, tokens, counts."""

import contextlib
import json
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("websockets")

import itertools

import httpx
from serve_models import CLASSES, detection, jpegs, recognition, running, segmentation, streaming
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from vidseg import load_trained
from vidseg.serve import Client, ServeOptions, ServerError, make_application
from vidseg.serve.dynamic_batching import BatchedClips, BatchedStreams, Batcher
from vidseg.serve.request_progress import CanceledError, Progress, TimeLimitError, measured


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    return {"clips": recognition(folder), "stream": streaming(folder), "segments": segmentation(folder)}


@pytest.fixture(scope="module")
def detectors(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detectors")
    return {"columns": detection(folder, pixels=False), "pixels": detection(folder, pixels=True)}


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    with running(tmp_path_factory.mktemp("store"), models, max_bytes=1 << 20, max_seconds=4) as state:
        yield state


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def video(tmp_path_factory, make_video):
    return make_video(tmp_path_factory.mktemp("videos") / "v.mp4", frames=40)


@pytest.fixture
def web(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def test_classes_are_those_of_predict(client, models, video):
    found = client.predict(video, model="clips", clips=3, top=2)
    expected = load_trained(models["clips"]).predict(video, clips=3, top=2).videos[0]
    assert [row["label"] for row in found["classes"]] == list(expected.classes)
    assert [row["probability"] for row in found["classes"]] == pytest.approx(expected.probabilities, abs=2e-5)
    assert (found["frames"], found["seconds"], found["width"], found["height"]) == (40, 1.6, 64, 48)
    assert "segments" not in found and found["damage"] == []


def test_segments_of_a_stream_model_are_those_of_predict(client, models, video):
    found = client.predict(video, model="stream")
    expected = load_trained(models["stream"]).predict(video)
    assert [(row["label"], row["start"], row["stop"]) for row in found["segments"]] == [
        (name, round(start, 3), round(stop, 3)) for name, start, stop in expected.segments()
    ]
    curve = found["timeline"]
    assert curve["times"][0] == 0 and curve["times"][-1] == pytest.approx(1.56)
    assert curve["probabilities"][0] == pytest.approx(float(expected.probabilities[0]), abs=1e-3)


def test_a_timeline_of_a_recognition_model(client, video):
    found = client.predict(video, model="clips", timeline=True)
    bounds = [(row["start"], row["stop"]) for row in found["segments"]]
    assert bounds[0][0] == 0 and bounds[-1][1] == pytest.approx(1.6)
    assert all(first[1] == second[0] for first, second in itertools.pairwise(bounds))


def test_features(client, models, tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    np.save(tmp_path / "f.npy", values)
    found = client.predict(tmp_path / "f.npy", model="segments", fps=5)
    expected = load_trained(models["segments"]).predict(values).segments()
    assert [(row["label"], row["start"], row["stop"]) for row in found["segments"]] == [
        (name, start / 5, stop / 5) for name, start, stop in expected
    ]
    assert found["unit"] == "seconds" and found["seconds"] == 10
    assert client.predict(tmp_path / "f.npy", model="segments")["unit"] == "frames"


def test_detections_are_those_of_predict(detectors, tmp_path, video):
    values = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    np.save(tmp_path / "f.npy", values)
    with running(tmp_path / "store", detectors) as state, Client(state.url) as client:
        assert [row["takes"] for row in client.models()] == ["features", "video"]
        for name, source, given in (("columns", tmp_path / "f.npy", values), ("pixels", video, video)):
            found = client.predict(source, model=name, min_score=0.001)
            expected = load_trained(detectors[name]).predict(given).above(0.001)
            assert [row["label"] for row in found["detections"]] == [row.label for row in expected.detections]
            assert len(found["detections"]) > 0 and found["seconds"] == pytest.approx(expected.seconds, abs=0.1)
            for row, truth in zip(found["detections"], expected.detections, strict=True):
                assert (row["start"], row["stop"]) == pytest.approx((truth.start, truth.stop), abs=2e-3)
                assert row["score"] == pytest.approx(truth.score, abs=1e-4)
        assert client.predict(video, model="pixels", min_score=1)["detections"] == []
        lines = client.wait(client.submit(video, model="pixels"), form="csv").splitlines()
        assert lines[0] == "start,stop,label,score" and len(lines) > 1
        assert client.predict(video, model="pixels", form="srt") == ""  # no score reaches 0.3
        with pytest.raises(ServerError, match="does not label streams"):
            list(client.stream(jpegs(2), model="pixels"))


def test_frames_are_a_video(client, models, tmp_path):
    frames = jpegs(12)
    found = client.predict_frames(frames, fps=5, model="stream")
    assert found["frames"] == 12 and found["seconds"] == pytest.approx(2.4) and found["fps"] == 5
    sent = list(client.stream(frames, fps=5, model="stream"))
    labels = [row for message in sent if message["type"] == "labels" for row in message["segments"]]
    assert {row["label"] for row in labels} == {row["label"] for row in found["segments"]}
    form = {"files": [("video", ("../../x.mp4", b"".join(frames), "video/mp4"))]}
    response = httpx.post(f"{client.url}/v1/models/clips/predict", **form)
    assert response.status_code == 200 and response.json()["frames"] == 12  # raw Motion JPEG, whatever its name


@pytest.mark.parametrize("form, first", [("csv", "start,stop,label,probability"), ("srt", "1"), ("vtt", "WEBVTT")])
def test_forms_of_a_result(client, video, form, first):
    text = client.predict(video, model="stream", form=form)
    assert text.splitlines()[0] == first and any(name in text for name in CLASSES)


def test_a_result_without_segments_has_no_subtitles(client, video):
    with pytest.raises(ServerError, match="no segments in seconds") as caught:
        client.predict(video, model="clips", form="srt")
    assert caught.value.status == 409
    assert client.predict(video, model="clips", form="csv").splitlines()[0] == "label,probability"


def test_models_are_described(client, server):
    rows = {row["name"]: row for row in client.models()}
    assert list(rows) == ["clips", "stream", "segments"]
    assert rows["clips"]["classes"] == CLASSES and rows["clips"]["takes"] == "video"
    assert rows["stream"]["window"] == {"stride": 8, "frames": 4, "interval": 2}
    assert rows["segments"]["takes"] == "features" and not rows["segments"]["streams"]


def numpy_file(header: bytes, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00v\x00" + header.ljust(117) + b"\n" + content


PICKLE = numpy_file(b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }", b"\x80\x04N.")
HUGE = numpy_file(b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 9000000000), }")
UNCLOSED = numpy_file(b"{'descr': '<f4', 'fortran_order': False, 'shape': (6, 90")


@pytest.mark.parametrize(
    "model, body, query, status, words",
    [
        ("clips", b"", "", 422, "the request is empty"),
        ("clips", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "", 422, "not a video"),
        ("clips", b"ffconcat version 1.0\nfile /etc/passwd\n", "", 422, "not a video"),
        ("clips", b"\x00" * 5000, "", 422, "not a video"),
        ("clips", PICKLE, "", 422, "clips takes a video; the upload is features"),
        ("segments", PICKLE, "", 422, "the upload"),
        ("segments", HUGE, "", 422, "the upload"),
        ("segments", UNCLOSED, "", 422, "the upload"),
        ("segments", b"x", "", 422, "takes features"),
        ("nothing", b"x", "", 404, "no model 'nothing'; there are clips, stream, segments"),
        ("clips", b"x", "?top=0", 422, "top=0 must be from 1 to 1000"),
        ("clips", b"x", "?top=many", 422, "query.top"),
        ("clips", b"x", "?crops=2", 422, "crops=2 must be 1, 3, 5 or 10"),
        ("clips", b"x", "?form=exe", 422, "query.form"),
        ("clips", b"x" * (2 << 20), "", 413, "larger than the limit of 1048576 bytes"),
    ],
)
def test_wrong_requests_are_named(web, model, body, query, status, words):
    response = web.post(f"/v1/models/{model}/predict{query}", content=body)
    error = response.json()["error"]
    assert (response.status_code, error["status"]) == (status, status)
    assert words in error["message"] and error["request"] == response.headers["x-request-id"]
    assert "/tmp" not in error["message"]


def test_a_body_of_unknown_length_is_limited(web):
    pieces = (b"x" * 100_000 for _ in range(20))
    response = web.post("/v1/models/clips/predict", content=pieces)
    assert response.status_code == 413
    assert response.headers["connection"] == "close"  # a client must not use it again
    assert "connection" not in web.post("/v1/models/clips/predict", content=b"x").headers


@pytest.mark.parametrize(
    "form, words",
    [
        ({"data": {"path": "/etc/passwd"}}, "not a video"),
        ({"files": {"video": ("a", b"x")}, "data": {"path": "/etc/passwd"}}, "the form has the field 'path'"),
        ({"files": [("frames", ("a", b"no jpeg"))]}, "not a JPEG"),
        ({"files": [("frames", ("a", jpegs(1)[0])), ("frames", ("b", jpegs(1, height=80)[0]))]}, "frames of one size"),
        ({"files": [("frames", ("a", jpegs(1)[0]))], "data": {"fps": "fast"}}, "fps='fast' is not a number"),
        ({"files": [("frames", ("a", jpegs(1)[0]))], "data": {"fps": "nan"}}, "fps=nan must be from"),
        ({"files": [("video", ("a", b"x")), ("video", ("b", b"x"))]}, "needs one file"),
    ],
)
def test_wrong_forms_are_named(web, form, words):
    response = web.post("/v1/models/clips/predict", **form)
    assert response.status_code in (400, 422) and re.search(words, response.json()["error"]["message"])


def test_long_videos_need_a_job(web, client, tmp_path, make_video):
    long = make_video(tmp_path / "long.mp4", frames=60, fps=10)
    response = web.post("/v1/models/clips/predict", content=long.read_bytes())
    assert response.status_code == 413 and "lasts 6.0 s" in response.json()["error"]["message"]
    assert client.wait(client.submit(long, model="clips"))["seconds"] == 6


def test_large_frames_are_refused(models, tmp_path, video):
    with running(tmp_path / "store", {"clips": models["clips"]}, max_pixels=3000) as state, Client(state.url) as client:
        with pytest.raises(ServerError, match="max_pixels"):
            client.predict(video)
        with pytest.raises(ServerError, match="a frame of 64x48 pixels"):
            client.predict_frames(jpegs(2))
    few = running(tmp_path / "store", {"clips": models["clips"]}, max_frames=30)
    with (
        few as state,
        Client(state.url) as client,
        pytest.raises(ServerError, match="more frames than the limit of 30"),
    ):
        client.predict(video)


def test_a_job_has_progress_and_one_result(client, server, video):
    job = client.submit(video, model="stream", name="a <b>", key="once")
    assert client.submit(video, model="stream", key="once") == job
    assert client.wait(job) == {**client.predict(video, model="stream"), "computed_seconds": pytest.approx(0, abs=60)}
    state = client.job(job)
    assert (state["state"], state["progress"], state["attempts"], state["name"]) == ("done", 1.0, 1, "a <b>")
    assert client.jobs()[0]["id"] == job
    assert client.result(job, form="vtt").startswith("WEBVTT")
    assert client.cancel(job)["state"] == "done"  # what has ended stays
    assert list(server.store.uploads.iterdir()) == [] and list(server.store.received.iterdir()) == []


def test_a_failed_job_says_why(client, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    job = client.submit(tmp_path / "bad.mp4", model="clips")
    with pytest.raises(ServerError, match="it is failed: the upload is not a video"):
        client.wait(job)


def test_jobs_are_canceled(models, tmp_path, video):
    with running(tmp_path / "store", {"stream": models["stream"]}) as state, Client(state.url) as client:
        predictor, begun, go = state.predictors["stream"], threading.Event(), threading.Event()
        ordinary = predictor.predict

        def held(upload, options, progress, **limits):
            begun.set()
            go.wait()
            return ordinary(upload, options, progress, **limits)

        predictor.predict = held
        running_job, waiting = client.submit(video), client.submit(video)
        begun.wait()
        assert client.cancel(waiting)["state"] == "canceled"
        assert client.cancel(running_job)["state"] == "running"
        go.set()
        for job in (running_job, waiting):
            with pytest.raises(ServerError, match="it is canceled"):
                client.wait(job)
        assert state.metrics.value("vidseg_jobs_ended_total", state="canceled") == 1
        assert list(state.store.uploads.iterdir()) == []


def test_a_full_queue_refuses_with_a_time(models, tmp_path, video):
    limits = {"workers": 1, "queue": 1, "job_queue": 1}
    with running(tmp_path / "store", {"clips": models["clips"]}, **limits) as state:
        predictor, go, begun = state.predictors["clips"], threading.Event(), threading.Semaphore(0)
        ordinary = predictor.predict

        def held(*arguments, **limits):
            begun.release()
            go.wait()
            return ordinary(*arguments, **limits)

        predictor.predict = held
        answers: list[int] = []

        def ask():
            with Client(state.url) as client:
                answers.append(len(client.predict(video)["classes"]))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.acquire()
        while state.busy < 2:  # the second request waits for the worker
            pass
        response = httpx.post(f"{state.url}/v1/models/clips/predict", content=video.read_bytes())
        assert response.status_code == 503 and 1 <= int(response.headers["retry-after"]) <= 60
        assert "2 requests are waiting" in response.json()["error"]["message"]
        go.set()
        for thread in threads:
            thread.join()
        assert answers == [3, 3]
        assert state.metrics.value("vidseg_rejected_total", kind="request") == 1
        with Client(state.url, patience=30) as client:
            assert client.predict(video)["classes"]


def test_the_time_of_a_request_is_limited(models, tmp_path, video):
    with running(tmp_path / "store", {"clips": models["clips"]}, time_limit=1e-6) as state, Client(state.url) as client:
        with pytest.raises(
            ServerError, match="took longer than the limit of 1e-06 s; send the video as a job"
        ) as error:
            client.predict(video)
        assert error.value.status == 504


def test_a_token_is_needed(models, tmp_path, video):
    with running(tmp_path / "store", {"stream": models["stream"]}, token="sesame") as state:
        for token in (None, "other"):
            with Client(state.url, token=token) as client:
                for call in (client.models, client.jobs, lambda client=client: client.predict(video, model="stream")):
                    with pytest.raises(ServerError) as error:
                        call()
                    assert error.value.status == 401
                with pytest.raises(ServerError, match="token"):
                    list(client.stream(jpegs(2), model="stream"))
        with connect(f"ws{state.url[4:]}/v1/models/stream/stream") as socket:
            socket.send('{"type": "start", "token": "\\ud800"}')
            assert json.loads(socket.recv())["status"] == 401
        assert httpx.get(f"{state.url}/metrics").status_code == 401
        assert httpx.get(f"{state.url}/health").json() == {"status": "ok"}
        assert httpx.get(f"{state.url}/").status_code == 200
        with Client(state.url, token="sesame") as client:
            assert client.predict(video)["segments"]
            assert list(client.stream(jpegs(2), model="stream"))[-1]["type"] == "ended"


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "[::1"}]
)
def test_other_pages_cannot_use_a_server_on_loopback(web, headers):
    assert web.get("/v1/models", headers=headers).status_code in (400, 403)


def test_pages_use_no_other_server(web):
    for path in ("/", "/docs"):
        response = web.get(path)
        assert response.status_code == 200 and "default-src 'none'" in response.headers["content-security-policy"]
        assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", response.text)
    assert web.get("/pages/../application.py").status_code == 404
    assert web.get("/pages/%2e%2e/application.py").status_code == 404


def test_counts_and_health(web, client, video):
    client.predict(video, model="clips")
    assert web.get("/health").json() == {"status": "ok"}
    text = web.get("/metrics").text
    row = re.search(
        r'^vidseg_requests_total{method="POST",route="/v1/models/{model}/predict",status="200"} (\d+)', text, re.M
    )
    assert row and int(row[1]) >= 1
    for line in text.splitlines():
        assert line.startswith("# ") or re.fullmatch(r'\w+({\w+="[^"]*"(,\w+="[^"]*")*})? [-+0-9.e]+', line), line
    assert 'vidseg_batch_rows_bucket{model="clips",le="+Inf"}' in text


def test_every_request_is_a_line_of_the_log(web, caplog):
    with caplog.at_level("INFO", logger="vidseg.serve"):
        response = web.get("/v1/models", headers={"Authorization": "Bearer secret"})
    rows = [json.loads(record.getMessage()) for record in caplog.records if record.name == "vidseg.serve"]
    (row,) = [row for row in rows if row.get("id") == response.headers["x-request-id"]]
    assert (row["event"], row["route"], row["status"]) == ("request", "/v1/models", 200)
    assert "secret" not in caplog.text


def test_the_interface_is_described(web):
    paths = web.get("/openapi.json").json()["paths"]
    assert "/v1/models/{model}/predict" in paths and "/v1/jobs/{job}/result" in paths
    assert "multipart/form-data" in paths["/v1/models/{model}/jobs"]["post"]["requestBody"]["content"]


# Streams


def labels_of(messages):
    return [row for message in messages if message["type"] == "labels" for row in [message]]


def test_a_stream_has_the_labels_of_its_video(client, models, tmp_path, make_video):
    video = make_video(tmp_path / "v.mkv", frames=37, codec="mjpeg", pixel_format="yuvj420p")
    expected = load_trained(models["stream"]).predict(video)
    pieces = [video.read_bytes()[at : at + 3000] for at in range(0, video.stat().st_size, 3000)]
    messages = list(client.stream(pieces, model="stream", container=True))
    assert {message["type"] for message in messages[1:-1]} == {"labels"}
    rows = [row for message in labels_of(messages) for row in message["segments"]]
    joined = []
    for row in rows:
        if joined and joined[-1][0] == row["label"]:
            joined[-1] = (row["label"], joined[-1][1], row["stop"])
        else:
            joined.append((row["label"], row["start"], row["stop"]))
    assert joined == [(name, round(start, 3), round(stop, 3)) for name, start, stop in expected.segments()]
    assert all(message["latency"] > 0 and message["network_seconds"] >= 0 for message in labels_of(messages)[:-1])
    assert messages[-1] == {"type": "ended", "received": 37, "windows": 5}


def frames_of(messages):
    """(number, label) of each labeled frame, the frame rate being 25."""
    found = {}
    for message in labels_of(messages):
        for row in message["segments"]:
            for number in range(round(row["start"] * 25), round(row["stop"] * 25)):
                found.setdefault(number, []).append(row["label"])
    return found


@pytest.mark.parametrize("pause", [3, 8, 20])
def test_a_paused_stream_is_resumed(client, server, pause):
    frames = jpegs(40)
    whole = frames_of(client.stream(frames, model="stream"))
    first = list(client.stream(frames[:pause], model="stream", pause=True))
    assert first[-1]["type"] == "paused" and first[-1]["received"] == pause
    name = first[0]["session"]
    second = list(client.stream(frames[pause:], model="stream", session=name))
    assert second[0]["received"] == pause and second[-1] == {"type": "ended", "received": 40, "windows": 5}
    assert frames_of([*first, *second]) == whole and len(whole) == 40
    with pytest.raises(ServerError, match="no stream"):  # it has ended
        list(client.stream(frames, model="stream", session=name))


def test_a_broken_connection_is_resumed_and_lost_labels_are_sent_again(client, server):
    frames = jpegs(40)
    whole = frames_of(client.stream(frames, model="stream"))
    with connect("ws" + client.url.removeprefix("http") + "/v1/models/stream/stream") as socket:
        socket.send(json.dumps({"type": "start"}))
        name = json.loads(socket.recv())["session"]
        for frame in frames[:16]:  # further ones might be on their way when the connection breaks
            socket.send(frame)
        labeled = 0
        while labeled < 16:  # both windows; the client loses the labels of the second
            labeled += json.loads(socket.recv())["frames"]
        socket.socket.close()  # no closing handshake
    while not (server.saved_streams / f"{name}.pt").exists():
        pass
    with pytest.raises(ServerError, match="is one of the model stream"):
        list(client.stream([], model="clips", session=name))
    while True:  # the first connection may still hold it
        try:
            messages = list(client.stream(frames[16:], model="stream", session=name, labeled=8))
            break
        except ServerError as error:
            assert error.status == 503
    received = messages[0]["received"]
    assert received == 16 and messages[1]["again"] and messages[1]["first"] == 8
    found = frames_of(messages)
    assert found == {number: labels for number, labels in whole.items() if number >= 8}


def test_times_of_frames(client):
    frames = [(10 + 0.5 * number, jpeg) for number, jpeg in enumerate(jpegs(10))]
    messages = list(client.stream(frames, model="stream", fps=2))
    rows = [row for message in labels_of(messages) for row in message["segments"]]
    assert rows[0]["start"] == 10 and rows[-1]["stop"] == 15


def test_damaged_frames_are_skipped_and_named(client):
    frames = jpegs(10)
    frames[3] = b"no jpeg"
    messages = list(client.stream(frames, model="stream"))
    (skipped,) = [message for message in messages if message["type"] == "skipped"]
    assert skipped == {"type": "skipped", "frame": 3, "reason": "a frame is not a JPEG; send JPEG frames, or a video"}
    assert messages[-1]["received"] == 10 and sum(message["frames"] for message in labels_of(messages)) == 9


@pytest.mark.parametrize(
    "model, first, words",
    [
        ("stream", "no json", "a text message is not JSON"),
        ("stream", "[" * 60_000, "a text message is not JSON"),
        ("stream", "[]", "not a JSON object"),
        ("stream", '{"type": "go"}', "the first message must be"),
        ("stream", '{"type": "start", "path": "/etc"}', "start has the field 'path'"),
        ("stream", '{"type": "start", "fps": true}', "fps=True has the wrong type"),
        ("stream", '{"type": "start", "fps": 0}', "fps=0 must be from"),
        ("stream", '{"type": "start", "format": "exe"}', "must be jpeg or container"),
        ("stream", '{"type": "start", "session": "../../etc/passwd"}', "no stream"),
        ("stream", '{"type": "start", "session": "' + "0" * 32 + '"}', "no stream"),
        ("segments", '{"type": "start"}', "does not label streams"),
        ("nothing", '{"type": "start"}', "no model"),
    ],
)
def test_wrong_streams_are_named(client, model, first, words):
    with connect("ws" + client.url.removeprefix("http") + f"/v1/models/{model}/stream") as socket:
        with contextlib.suppress(ConnectionClosed):  # refused before the first message
            socket.send(first)
        message = json.loads(socket.recv())
        assert message["type"] == "error" and words in message["message"]


def test_frames_of_several_sizes(client):
    frames = [*jpegs(5), *jpegs(5, height=80, width=40), *jpegs(5)]
    messages = list(client.stream(frames, model="stream"))
    assert messages[-1] == {"type": "ended", "received": 15, "windows": 2}
    assert sum(message["frames"] for message in labels_of(messages)) == 15


def test_a_full_disk_refuses_uploads(models, tmp_path, video):
    with running(tmp_path / "store", {"clips": models["clips"]}, max_bytes=1 << 60) as state:
        response = httpx.post(f"{state.url}/v1/models/clips/jobs", content=video.read_bytes())
        assert response.status_code == 503 and "the disk" in response.json()["error"]["message"]


def test_a_stream_of_garbage_is_refused(client):
    with pytest.raises(ServerError, match="cannot open it"):
        list(client.stream([b"#EXTM3U\nfile:///etc/passwd\n" * 100], model="stream", container=True))


def test_streams_are_limited(models, tmp_path):
    one = running(tmp_path / "store", {"stream": models["stream"]}, streams=1)
    with one as state, Client(state.url) as client, connect(f"ws{client.url[4:]}/v1/models/stream/stream") as socket:
        socket.send('{"type": "start"}')
        socket.recv()
        with pytest.raises(ServerError, match="all 1 streams are in use"):
            list(client.stream([], model="stream"))


# Dynamic batching


def test_calls_at_the_same_time_share_a_batch():
    entered, go, seen = threading.Event(), threading.Event(), []

    def run(inputs):
        seen.append(len(inputs))
        entered.set()
        go.wait()
        return [value + 1 for value in inputs]

    batcher = Batcher(run, batch_size=4)
    results: dict[int, int] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: batcher("key", n, 1)})) for n in range(7)]
    threads[0].start()
    entered.wait()
    for thread in threads[1:]:
        thread.start()
    while batcher.waiting < 6:
        pass
    go.set()
    for thread in threads:
        thread.join()
    batcher.close()
    assert seen == [1, 4, 2] and results == {n: n + 1 for n in range(7)}


def test_one_wrong_call_fails_alone():
    entered, go = threading.Event(), threading.Event()

    def run(inputs):
        entered.set()
        go.wait()
        if "bad" in inputs:
            raise ValueError("bad")
        return inputs

    batcher = Batcher(run, batch_size=8)
    results: dict[str, object] = {}

    def call(value):
        try:
            results[value] = batcher("key", value, 1)
        except ValueError as error:
            results[value] = str(error)

    threads = [threading.Thread(target=call, args=(value,)) for value in ("first", "good", "bad", "fine")]
    threads[0].start()
    entered.wait()
    for thread in threads[1:]:
        thread.start()
    while batcher.waiting < 3:
        pass
    go.set()
    for thread in threads:
        thread.join()
    batcher.close()
    assert results == {"first": "first", "good": "good", "bad": "bad", "fine": "fine"}
    with pytest.raises(CanceledError, match="shutting down"):
        batcher("key", "late", 1)


def test_a_waiting_call_can_be_canceled():
    entered, go = threading.Event(), threading.Event()

    def run(inputs):
        entered.set()
        go.wait()
        return inputs

    batcher = Batcher(run, batch_size=1)
    thread = threading.Thread(target=batcher, args=("key", 1, 1))
    thread.start()
    entered.wait()
    stop = iter([False, True])
    with measured(Progress(canceled=lambda: next(stop))), pytest.raises(CanceledError):
        batcher("key", 2, 1)
    assert batcher.waiting == 0
    ended = Progress(60)
    ended._end = 0.0
    with measured(ended), pytest.raises(TimeLimitError):
        batcher("key", 3, 1)
    go.set()
    thread.join()
    batcher.close()


@pytest.mark.parametrize("task", ["clips", "stream"])
def test_batched_networks_equal_the_network(models, task):
    trained = load_trained(models[task])
    network, kind = trained.model, {"clips": BatchedClips, "stream": BatchedStreams}[task]
    size = trained.input_spec
    clips = torch.randn(5, 3, size.frames, size.size, size.size)
    batched = kind(network, batch_size=8, delay=0.0)
    with torch.no_grad():
        if task == "clips":
            expected = network(clips)
            found = torch.cat(batched._joined([clips[:1], clips[1:3], clips[3:]]))
            assert torch.allclose(batched(clips), expected, atol=1e-5)
            assert torch.allclose(found, expected, atol=1e-5)
        else:
            mask = torch.ones(5, size.frames, dtype=torch.bool)
            state, after = None, [None, None]
            for _ in range(2):
                output, state = network(clips, state, mask)
                parts = [(clips[:2], after[0], mask[:2]), (clips[2:], after[1], mask[2:])]
                rows = batched._joined(parts)
                after = [row[1] for row in rows]
                assert torch.allclose(torch.cat([row[0].logits for row in rows], 1), output.logits, atol=1e-4)
                for name, value in state.items():
                    assert torch.allclose(torch.cat([part[name] for part in after]), value, atol=1e-4)
    batched.batcher.close()


def test_clients_at_the_same_time_get_their_own_answers(client, server, tmp_path, make_video):
    videos = [make_video(tmp_path / f"{n}.mp4", frames=6 + n, fps=10) for n in range(6)]
    expected = [client.predict(video, model="clips") for video in videos]
    found: dict[int, dict] = {}

    def ask(n):
        with Client(server.url) as one:
            found[n] = one.predict(videos[n], model="clips")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, row in enumerate(expected):
        assert found[n]["frames"] == 6 + n
        for one, other in zip(found[n]["classes"], row["classes"], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


def test_a_server_needs_models_and_its_own_folder(models, tmp_path):
    with pytest.raises(ValueError, match="no model to serve"):
        make_application({}, ServeOptions(store=str(tmp_path / "empty")))
    options, clips = ServeOptions(store=str(tmp_path / "store")), load_trained(models["clips"])
    network, motion = clips.model, load_trained(models["clips"])
    motion.input_spec = replace(motion.input_spec, modality="flow")
    with pytest.raises(ValueError, match="sees flow, which an uploaded video does not have"):
        make_application({"clips": clips, "motion": motion}, options)
    assert clips.model is network
    state = make_application({"clips": clips}, options).state.server
    assert clips.model is not network
    with pytest.raises(ValueError, match="another server uses"):
        make_application({"clips": clips}, options)
    state.runner.start()
    state.close()
    assert clips.model is network
