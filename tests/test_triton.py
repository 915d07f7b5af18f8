"""Model repositories in a real Triton server, the clients of one, and the Python model of a repository by itself."""

import asyncio
import json
import struct

import httpx
import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("websockets")

from serve_models import CLASSES, detection, jpegs, recognition, write_checkpoint
from tiny_stream import SPEC, TinyStream, registered_tiny_stream
from triton_server import MISSING, SERVER, running_triton, with_onnx_runtime

from vidseg import load_trained
from vidseg.cli.main import main
from vidseg.export import export_model, read_artifact
from vidseg.models import InputSpec
from vidseg.serve import AsyncClient, Client, ServeOptions, ServerError
from vidseg.serve.predictors import PredictOptions, Predictor, Upload
from vidseg.serve.request_progress import Progress, TimeLimitError
from vidseg.serve.triton_model import TritonRequests, limits_of
from vidseg.serve.upload_checks import RequestError

NAMES = {"clips": "r3d_18", "stream": "tiny_stream", "segments": "mstcn"}
PYTHON_MODELS = {"clips": "r3d_18_video", "stream": "tiny_stream_video", "segments": "mstcn_features"}


def segmentation(folder):
    return write_checkpoint(
        folder, "segments", task="segmentation", network="mstcn", spec=InputSpec(modality="features"),
        options={"in_features": 6, "stages": 1, "layers": 2}, more={"feature_size": 6},
    )  # fmt: skip


def streaming(folder):
    torch.manual_seed(0)
    model = TinyStream(len(CLASSES))
    with torch.no_grad():  # labels that change with the pictures
        model.now.weight.mul_(30)
    more = {"stride": 8}
    return write_checkpoint(
        folder, "stream", task="streaming", network="tiny_stream", spec=SPEC, model=model, more=more
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Checkpoints, and their model repositories."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("triton")
    with registered_tiny_stream():
        checkpoints = {"clips": recognition(folder), "stream": streaming(folder), "segments": segmentation(folder)}
        for kind, path in checkpoints.items():
            assert export_model(load_trained(path), folder / "models" / kind, to="triton").replay.ok
        yield folder, checkpoints


@pytest.fixture(scope="module")
def server(made):
    """The address of a real server."""
    if not SERVER.is_file():
        pytest.skip(MISSING)
    folder, _ = made
    repositories = [folder / "models" / kind for kind in NAMES]
    models = [*PYTHON_MODELS.values(), "r3d_18", "tiny_stream"]
    with running_triton(repositories, models, folder / "log", backends=with_onnx_runtime(folder / "backends")) as found:
        yield found[0]


@pytest.fixture(scope="module")
def video(tmp_path_factory, make_video):
    return make_video(tmp_path_factory.mktemp("videos") / "v.mkv", frames=40)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "f.npy"
    np.save(path, np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32))
    return path


def expected_of(checkpoint, upload, kind, **options):
    """What `vidseg serve` returns for the checkpoint."""
    predictor = Predictor("x", load_trained(checkpoint), ServeOptions())
    try:
        return predictor.predict(Upload(upload, kind), PredictOptions(**options), Progress(), max_seconds=100)
    finally:
        predictor.close()


def assert_same(found, expected):
    """Equal but for times of computation, the name of the model, rounding, and the curve, whose points depend on it."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected.keys() - {"computed_seconds", "model", "timeline"}:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=2e-4)
    else:
        assert found == expected


@pytest.mark.slow
@pytest.mark.triton
def test_results_are_those_of_the_checkpoint(made, server, video, features):
    _, checkpoints = made
    cases = [
        ("clips", video, "video", {"clips": 2, "top": 2}),
        ("clips", video, "video", {"timeline": True}),
        ("stream", video, "video", {}),
        ("segments", features, "features", {"fps": 4.0}),
    ]
    with Client(server, triton=True) as client:
        for kind, path, takes, options in cases:
            found = client.predict(path, model=PYTHON_MODELS[kind], **options)
            assert found["model"] == PYTHON_MODELS[kind]
            assert_same(found, expected_of(checkpoints[kind], path, takes, **options))
            assert found.get("classes") or found.get("segments")
        found = client.predict(video, model=PYTHON_MODELS["clips"])["classes"]
        truth = load_trained(checkpoints["clips"]).predict(video).videos[0]
        assert [row["label"] for row in found] == list(truth.classes)
        assert [row["probability"] for row in found] == pytest.approx(list(truth.probabilities), abs=1e-4)
        rows = client.predict(video, model=PYTHON_MODELS["stream"], form="csv").splitlines()
        assert rows[0] == "start,stop,label,probability" and len(rows) > 1


@pytest.mark.triton
def test_frames_are_a_video(made, server, video):
    _, checkpoints = made
    frames = jpegs(24)
    with Client(server, triton=True) as client:
        models = {model["name"]: model for model in client.models()}
        assert set(models) == set(PYTHON_MODELS.values())
        assert models["r3d_18_video"]["classes"] == CLASSES and models["mstcn_features"]["takes"] == "features"
        slow = client.predict_frames(frames, fps=5, model="tiny_stream_video")
        fast = client.predict_frames(frames, model="tiny_stream_video")
        assert slow["seconds"] == 4.8 and fast["seconds"] == 0.96
        found = client.predict_frames(frames, model="r3d_18_video")["classes"]
    requests = TritonRequests(checkpoints["clips"])
    assert_same(found, json.loads(requests.predict({"FRAMES": frames}, {}))["classes"])
    requests.close()


@pytest.mark.triton
def test_requests_at_the_same_time(made, server, video):
    """They are batched whatever their size and kind, and a bad one does not spoil the others."""
    data, frames = video.read_bytes(), jpegs(8)

    async def ask():
        async with AsyncClient(server, triton=True) as client:
            calls = []
            for number in range(24):
                if number % 4 == 3:
                    calls.append(client.predict(data[: 100 + number], model="r3d_18_video"))
                elif number % 4 == 2:
                    calls.append(client.predict_frames(frames, model="r3d_18_video"))
                else:
                    calls.append(client.predict(data, model="r3d_18_video", clips=1 + number % 2))
            return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(ask())
    with Client(server, triton=True) as client:
        alone = [client.predict(data, model="r3d_18_video", clips=clips)["classes"] for clips in (1, 2)]
        alone.append(client.predict_frames(frames, model="r3d_18_video")["classes"])
    assert alone[0] != alone[1] != alone[2]
    for number, result in enumerate(found):
        if number % 4 == 3:
            assert isinstance(result, ServerError) and result.status == 400 and "not a video" in result.message
        else:
            assert_same(result["classes"], alone[number % 4])


def infer(server, model, tensors, *, output="PREDICTION"):
    """Send tensors as (name, type, shape, bytes)."""
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, kind, shape, data in tensors
    ]
    text = json.dumps({"inputs": inputs, "outputs": [{"name": output, "parameters": {"binary_data": True}}]}).encode()
    return httpx.post(
        f"{server}/v2/models/{model}/infer",
        content=text + b"".join(data for *_, data in tensors),
        headers={"Inference-Header-Content-Length": str(len(text))},
        timeout=60,
    )


@pytest.mark.triton
def test_wrong_requests_are_refused(server, video, features, capsys, tmp_path):
    data, model = video.read_bytes(), "r3d_18_video"
    frame = jpegs(1)[0]
    packed = struct.pack("<I", len(frame)) + frame
    cases = [
        ([("VIDEO", "UINT8", [1, 50], data[:50])], "not a video"),
        ([("VIDEO", "UINT8", [1, 0], b"")], "VIDEO is empty"),
        ([("VIDEO", "UINT8", [1, len(data)], data[:50])], "byte size mismatch"),
        ([("VIDEO", "FP32", [1, 1], b"1234")], "type"),
        ([("FRAMES", "BYTES", [1, 1], b"\xff\xff\xff\xff" + frame)], "string"),
        ([("FRAMES", "BYTES", [1, 2], packed)], "expected 2"),
        ([("FRAMES", "BYTES", [1, 1], b"\x02\0\0\0ab")], "not a JPEG"),
        ([("VIDEO", "UINT8", [1, 50], data[:50]), ("FRAMES", "BYTES", [1, 1], packed)], "expected one input"),
        ([], "input"),
    ]
    for tensors, message in cases:
        answer = infer(server, model, tensors)
        assert answer.status_code == 400 and message in answer.json()["error"], answer.text
    twice = infer(server, model, [("VIDEO", "UINT8", [2, len(data)], data + data)])
    assert twice.status_code == 200 and twice.content.count(b'"classes"') == 2
    with Client(server, triton=True) as client:
        for options, message in (
            ({"nothing": 1}, "unknown option 'nothing'"),
            ({"top": 0}, "top=0 must be"),
            ({"clips": "x"}, "clips='x' is not valid"),
            ({"form": "xml"}, "form='xml'"),
        ):
            with pytest.raises(ServerError, match=message):
                client.predict(video, model=model, **options)
        with pytest.raises(ServerError, match=r"nothing.*404"):
            client.predict(video, model="nothing")
        with pytest.raises(ServerError, match="VIDEO"):
            client.predict(video, model="mstcn_features")
        assert client.predict(video, model=model)["classes"]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"x")
    words = ["client", "--triton", server, "--model", model]
    assert main([*words, str(bad), str(video), "--top", "2"]) == 1
    printed = capsys.readouterr()
    assert "bad.mp4: the upload is not a video" in printed.err and len(json.loads(printed.out)["classes"]) == 2
    assert main(["client", "--triton", server]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(PYTHON_MODELS.values())


@pytest.mark.triton
def test_the_tensors_of_a_network(made, server):
    """Names, types, sizes and batching of the configuration, with the values that the network computes."""
    _, checkpoints = made
    draw = np.random.default_rng(1)
    network = load_trained(checkpoints["clips"]).model
    for batch, frames in ((1, 4), (3, 4), (2, 8)):
        clips = draw.normal(size=(batch, 3, frames, 32, 32)).astype(np.float32)
        answer = infer(server, "r3d_18", [("clips", "FP32", list(clips.shape), clips.tobytes())], output="logits")
        assert answer.status_code == 200, answer.text
        found = np.frombuffer(answer.content[int(answer.headers["Inference-Header-Content-Length"]) :], np.float32)
        with torch.no_grad():
            assert np.abs(found.reshape(batch, 3) - network(torch.from_numpy(clips)).numpy()).max() < 1e-4
    network = load_trained(checkpoints["stream"]).model
    clips, mask = draw.normal(size=(1, 3, 4, 32, 32)).astype(np.float32), np.ones((1, 4), np.float32)
    tensors = [("clips", "FP32", list(clips.shape), clips.tobytes()), ("mask", "FP32", [1, 4], mask.tobytes())]
    for spec in read_artifact(made[0] / "models/stream/tiny_stream/1/model.onnx").inputs[2:]:
        shape = [1, *spec.shape[1:]]
        tensors.append((spec.name, "FP32", shape, np.zeros(shape, np.float32).tobytes()))
    answer = infer(server, "tiny_stream", tensors, output="logits")
    assert answer.status_code == 200, answer.text
    found = np.frombuffer(answer.content[int(answer.headers["Inference-Header-Content-Length"]) :], np.float32)
    with torch.no_grad():
        logits = network(torch.from_numpy(clips), None, torch.from_numpy(mask))[0].logits
    assert np.abs(found - logits.numpy().ravel()).max() < 1e-4


def test_the_files_of_a_repository(made):
    folder, _ = made
    config = (folder / "models/clips/r3d_18/config.pbtxt").read_text()
    assert "max_batch_size: 16" in config and 'name: "clips" data_type: TYPE_FP32 dims: [ 3, -1, 32, 32 ]' in config
    assert read_artifact(folder / "models/clips/r3d_18/1/model.onnx").format == "triton"
    (folder / "mine").mkdir()
    (folder / "mine/notes.txt").write_text("")
    with pytest.raises(FileExistsError, match="with other files"):
        export_model(load_trained(made[1]["clips"]), folder / "mine", to="triton")


def test_the_python_model_by_itself(made, video, features):
    folder, checkpoints = made
    requests = TritonRequests(folder / "models/stream/tiny_stream/1/model.onnx", name="mine")
    found = json.loads(requests.predict({"VIDEO": video.read_bytes()}, {}))
    assert found["model"] == "mine"
    assert_same(found, expected_of(checkpoints["stream"], video, "video"))
    text = requests.predict({"VIDEO": video.read_bytes()}, {"form": "srt"})
    assert text.startswith("1\n00:00:00,000")
    for given, parameters, message in (
        ({}, {}, "no input; expected one"),
        ({"VIDEO": b"x", "FRAMES": [b"x"]}, {}, "VIDEO and FRAMES; expected one"),
        ({"VIDEO": b"not a video"}, {}, "not a video"),
        ({"VIDEO": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"}, {}, "not a video"),
        ({"FRAMES": []}, {}, "FRAMES is empty"),
        ({"FRAMES": jpegs(1) + jpegs(1, width=96)}, {}, "frames of one size"),
        ({"FRAMES": jpegs(1)}, {"fps": "nan"}, "fps=nan must be"),
        ({"FEATURES": np.load(features)}, {}, "takes a video"),
        ({"VIDEO": b"x"}, {"timeline": "maybe"}, "timeline='maybe' is not valid"),
    ):
        with pytest.raises(RequestError, match=message):
            requests.predict(given, parameters)
    requests.close()
    requests = TritonRequests(detection(folder, pixels=False))
    found = json.loads(requests.predict({"FEATURES": np.load(features)}, {"seconds": 11.0, "min_score": 0.02}))
    assert found["detections"] and found["seconds"] == 11.0
    requests.close()
    limits = limits_of({"max_bytes": "1000"})
    requests = TritonRequests(checkpoints["stream"], limits=limits)
    with pytest.raises(RequestError, match="VIDEO has 2000 bytes, more than the limit of 1000"):
        requests.predict({"VIDEO": bytes(2000)}, {})
    requests.close()
    requests = TritonRequests(checkpoints["stream"], limits=limits_of({"time_limit": "1e-9"}))
    with pytest.raises(TimeLimitError):
        requests.predict({"VIDEO": video.read_bytes()}, {})
    requests.close()
    with pytest.raises(ValueError, match="unknown parameter 'store'"):
        limits_of({"store": "x"})
    for value in ("many", "0"):
        with pytest.raises(ValueError, match=r"config\.pbtxt: a limit is not valid: .*" + value):
            limits_of({"workers": value})


def test_what_a_client_of_triton_refuses(video, capsys):
    client = Client("http://localhost:1", triton=True)
    for call in (client.jobs, lambda: client.submit(video, model="x"), lambda: next(client.stream([], model="x"))):
        with pytest.raises(ValueError, match="a Triton server has neither jobs nor streams"):
            call()
    with pytest.raises(ValueError, match=r"not a \.npy file of numbers"):
        client.predict(b"\x93NUMPYx", model="x")
    assert main(["client", "--triton", "http://localhost:1", "--job", str(video)]) == 2
    assert "leave out --job" in capsys.readouterr().err
    client._http = httpx.Client(
        base_url="http://localhost", transport=httpx.MockTransport(lambda _: httpx.Response(200, json=[]))
    )
    with pytest.raises(ServerError, match="has no model of"):
        client.predict(video)
