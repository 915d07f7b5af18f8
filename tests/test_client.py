"""The clients and `vidseg client`."""

import asyncio
import json

import httpx
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("websockets")

from serve_models import jpegs, recognition, running, streaming

from vidseg.cli.main import main
from vidseg.serve import AsyncClient, Client, ServerError


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("served")
    with running(folder / "store", {"clips": recognition(folder), "stream": streaming(folder)}, token="t") as state:
        yield state


@pytest.fixture(scope="module")
def video(tmp_path_factory, make_video):
    return make_video(tmp_path_factory.mktemp("videos") / "v.mkv", frames=20)


def test_both_clients_have_the_same_methods():
    def public(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)


def test_the_asynchronous_client_gets_the_same_answers(server, video):
    async def ask():
        async with AsyncClient(server.url, token="t") as client:
            names = [model["name"] for model in await client.models()]
            several = await asyncio.gather(*(client.predict(video, model="clips") for _ in range(4)))
            frames = await client.predict_frames(jpegs(8), fps=5, model="stream")
            seen: list[float] = []
            job = await client.submit(video, model="stream")
            result = await client.wait(job, progress=seen.append)
            text = await client.result(job, form="csv")
            known = [row["id"] for row in await client.jobs()]
            with pytest.raises(ServerError, match="no job"):
                await client.cancel("0")

            async def camera():
                for frame in jpegs(12):
                    yield frame

            messages = [message async for message in client.stream(camera(), model="stream")]
            return names, several, frames, result, text, known, job, messages

    names, several, frames, result, text, known, job, messages = asyncio.run(ask())
    with Client(server.url, token="t") as client:
        assert names == [model["name"] for model in client.models()]
        expected = client.predict(video, model="clips")
        for found in several:
            for one, other in zip(found["classes"], expected["classes"], strict=True):
                assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
        assert client.predict_frames(jpegs(8), fps=5, model="stream")["segments"] == frames["segments"]
        assert client.predict(video.read_bytes(), model="stream")["segments"] == result["segments"]
        assert text.startswith("start,stop,label") and job in known
        same = list(client.stream(jpegs(12), model="stream"))
        assert [message["type"] for message in messages] == [message["type"] for message in same]


def test_an_error_in_the_frames_of_the_caller_is_raised(server):
    def broken():
        yield jpegs(1)[0]
        raise KeyError("camera")

    async def also():
        yield jpegs(1)[0]
        raise KeyError("camera")

    with Client(server.url, token="t") as client, pytest.raises(KeyError, match="camera"):
        list(client.stream(broken(), model="stream"))

    async def ask():
        async with AsyncClient(server.url, token="t") as client:
            return [message async for message in client.stream(also(), model="stream")]

    with pytest.raises(KeyError, match="camera"):
        asyncio.run(ask())


def test_a_busy_server_is_asked_again():
    answers = iter([503, 503, 200])

    def answer(request):
        status = next(answers)
        return httpx.Response(status, json={"models": []}, headers={"retry-after": "0"})

    client = Client("http://localhost")
    client._http = httpx.Client(base_url="http://localhost", transport=httpx.MockTransport(answer))
    assert client.models() == [] and next(answers, None) is None
    impatient = Client("http://localhost", patience=0.0)
    transport = httpx.MockTransport(lambda _: httpx.Response(503, text="busy", headers={"retry-after": "5"}))
    impatient._http = httpx.Client(base_url="http://localhost", transport=transport)
    with pytest.raises(ServerError, match=r"busy \(status 503\)"):
        impatient.models()


def run(server, *words):
    return main(["client", *map(str, words), "--url", server.url, "--token", "t"])


def test_the_command(server, video, tmp_path, capsys):
    assert run(server) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["clips", "stream"]
    assert run(server, video, "--top", "2") == 0
    assert len(json.loads(capsys.readouterr().out)["classes"]) == 2
    assert run(server, video, "--model", "stream", "--job", "--form", "srt", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out/v.srt").read_text().startswith("1\n")
    capsys.readouterr()
    assert run(server, video, "--model", "stream", "--stream") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["type"] == "started" and rows[-1] == {"type": "ended", "received": 20, "windows": 3}


def test_errors_of_the_command(server, video, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"x")
    assert run(server, tmp_path / "bad.mp4", video) == 1  # the other one is sent
    printed = capsys.readouterr()
    assert "bad.mp4: the upload is not a video" in printed.err and json.loads(printed.out)["classes"]
    assert run(server, tmp_path / "missing.mp4") == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["client", str(video), "--url", "http://127.0.0.1:9"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
