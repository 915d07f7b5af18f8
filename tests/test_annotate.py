"""The server of `vidseg annotate`: labels, conflicts, history, frames, files, suggestions, and what it refuses."""

import io
import json
import zipfile

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from PIL import Image
from serve_models import recognition, streaming

from vidseg import FrameDatabase, load_trained
from vidseg.convert import ConvertOptions, convert_videos
from vidseg.labels import open_dataset
from vidseg.labels.annotation import Annotations
from vidseg.serve.annotation_application import make_annotation_application
from vidseg.serve.suggestions import Suggester

V = "/v1/annotation"


@pytest.fixture(scope="module")
def source(tmp_path_factory, make_video):
    folder = tmp_path_factory.mktemp("annotate_videos")
    for number in range(2):
        make_video(folder / f"run/v{number}.mp4", frames=20, size=(48, 64))
    return folder


@pytest.fixture
def root(tmp_path, source):
    assert convert_videos(source, tmp_path / "data", workers=1).ok
    return tmp_path / "data"


def client(root, *, token=None, suggester=None, background=None, **options):
    app = make_annotation_application(Annotations(root, background=background), suggester=suggester, token=token)
    return TestClient(app, base_url="http://localhost", **options)


def save(browser, video, segments, *, version=None, label="run", author="ann"):
    version = version or browser.get(f"{V}/labels", params={"video": video}).json()["version"]
    rows = [{"start": start, "stop": stop, "label": name} for start, stop, name in segments]
    body = {"version": version, "author": author, "label": label, "segments": rows}
    return browser.put(f"{V}/labels", params={"video": video}, json=body)


VIDEO = "jpg/run/v0"


def test_labels_are_saved_undone_and_refused_when_stale(root):
    with client(root) as browser:
        assert browser.get(V).json()["classes"] == ["run"]
        first, _ = browser.get(f"{V}/videos").json()
        assert (first["path"], first["frames"], first["has_frames"], first["uncertainty"]) == (VIDEO, 20, True, None)
        seen = browser.get(f"{V}/labels", params={"video": VIDEO}).json()
        assert seen["label"] == "run" and not seen["can_undo"]
        saved = save(browser, VIDEO, [(0.1, 0.3, "jump")]).json()
        assert saved["segments"] == [{"start": 0.1, "stop": 0.3, "label": "jump"}] and saved["can_undo"]
        assert (saved["changes"][0]["author"], saved["changes"][0]["what"]) == ("ann", "class run, 1 segment")
        stale = save(browser, VIDEO, [(0.2, 0.4, "run")], version=seen["version"], author="ben")
        assert stale.status_code == 409 and "have changed" in stale.json()["error"]["message"]
        back = browser.post(
            f"{V}/undo", params={"video": VIDEO}, json={"version": saved["version"], "author": "ben"}
        ).json()
        assert back["segments"] == [] and back["can_redo"] and back["changes"][1]["what"] == "took back change 1"
    data = open_dataset(root)
    assert data.classes == ["run", "jump"] and data.segments(0) == []


@pytest.mark.parametrize(
    "segments, status, message",
    [
        ([(0.3, 0.3, "jump")], 422, "labels nothing"),
        ([(0.1, 0.2, "RUN")], 422, "upper and lower case"),
        ([(0.1, 0.2, "")], 422, "class ''"),
        ([("x", 0.2, "run")], 422, "segments.0.start"),
    ],
)
def test_wrong_labels_are_refused_with_a_sentence(root, segments, status, message):
    with client(root) as browser:
        answer = save(browser, VIDEO, segments)
        assert answer.status_code == status and message in answer.json()["error"]["message"]
        assert browser.get(f"{V}/labels", params={"video": VIDEO}).json()["changes"] == []


@pytest.mark.parametrize("path", ["jpg/run/v9", "../../etc", "/etc/passwd", "jpg/run/../run/v0", ""])
def test_only_videos_of_the_catalog_are_opened(root, path):
    with client(root) as browser:
        for answer in (
            browser.get(f"{V}/frame", params={"video": path, "number": 0}),
            browser.get(f"{V}/labels", params={"video": path}),
            save(browser, path, [], version="x"),
        ):
            assert answer.status_code == 404 and "no video" in answer.json()["error"]["message"]


@pytest.mark.parametrize("store", ["jpeg", "video"])
def test_frames_are_those_of_the_database(tmp_path, source, store):
    root = tmp_path / "data"
    assert convert_videos(source, root, options=ConvertOptions(workers=1, store=store)).ok
    with client(root) as browser, FrameDatabase(root / VIDEO / "frames.db") as database:
        for number in (0, 19):
            answer = browser.get(f"{V}/frame", params={"video": VIDEO, "number": number})
            assert answer.headers["content-type"] == "image/jpeg"
            shown = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"), np.int16)
            difference = np.abs(shown - database[number].numpy())
            assert difference.mean() < (0.1 if store == "jpeg" else 3)
        answer = browser.get(f"{V}/frame", params={"video": VIDEO, "number": 20})
        assert answer.status_code == 404 and "frames 0 to 19" in answer.json()["error"]["message"]


def test_import_and_export(root):
    with client(root) as browser:
        save(browser, VIDEO, [(0.1, 0.3, "jump")])
        rows = browser.get(f"{V}/export", params={"form": "segments"}).text.splitlines()
        assert rows[:2] == ["video,start,end,class,split,duration", "v0,0.1,0.3,jump,,0.8"]
        content = json.loads(browser.get(f"{V}/export", params={"form": "activitynet"}).content)
        assert content["database"]["v0"]["annotations"] == [{"label": "jump", "segment": [0.1, 0.3]}]
        answer = browser.get(f"{V}/export", params={"form": "frames"})
        assert answer.status_code == 422 and "frame by frame" in answer.json()["error"]["message"]
        words = {
            "params": {"form": "segments", "name": "x.csv"},
            "content": b"video,start,end,class\nv1,0.2,0.4,jump\n",
        }
        assert browser.post(f"{V}/import", **words).status_code == 200
        assert browser.get(f"{V}/labels", params={"video": "jpg/run/v1"}).json()["segments"][0]["start"] == 0.2
        answer = browser.post(f"{V}/import", params={"form": "classes", "name": "/etc/x"}, content=b"nothing")
        assert answer.status_code == 422 and "/tmp" not in answer.json()["error"]["message"]
        assert browser.get(f"{V}/labels", params={"video": VIDEO}).json()["label"] == "run"


def test_frame_labels_leave_as_an_archive(root):
    from vidseg.labels.frame_labels import label_frames

    with client(root) as browser:
        save(browser, VIDEO, [(0.2, 0.4, "jump")], label=None)
    label_frames(root, background="none")
    with client(root, background="none") as browser:
        saved = save(browser, VIDEO, [(0.0, 0.2, "jump")], label=None).json()
        assert [one["label"] for one in saved["segments"]] == ["jump", "none"]
        content = browser.get(f"{V}/export", params={"form": "frames"}).content
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.read("groundTruth/v0.txt").decode().split() == ["jump"] * 5 + ["none"] * 15


def test_a_token_protects_the_data(root):
    with client(root, token="secret") as browser:
        assert browser.get("/").status_code == 200  # a page without data
        assert browser.get(f"{V}/videos").status_code == 401
        headers = {"Authorization": "Bearer secret"}
        assert browser.get(f"{V}/videos", headers=headers).status_code == 200
    with client(root) as browser:
        assert browser.get(f"{V}/videos", headers={"Origin": "http://elsewhere.example"}).status_code == 403


@pytest.mark.parametrize("make", [recognition, streaming])
def test_suggestions_of_a_model(root, tmp_path, make):
    trained = load_trained(make(tmp_path))
    with client(root, suggester=Suggester(trained, root=root)) as browser:
        found = browser.get(f"{V}/suggestion", params={"video": VIDEO}).json()
        listed = {video["path"]: video["uncertainty"] for video in browser.get(f"{V}/videos").json()}
    assert listed[VIDEO] == found["uncertainty"] and 0 <= found["uncertainty"] <= 1
    if make is recognition:
        assert found["label"] in trained.classes and found["segments"] == []
    else:
        assert found["label"] is None
        assert found["segments"][0]["start"] == 0 and found["segments"][-1]["stop"] == pytest.approx(0.8)
        assert {one["label"] for one in found["segments"]} <= set(trained.classes)


def test_models_that_suggest_nothing_are_refused(root, tmp_path):
    from serve_models import segmentation

    with pytest.raises(ValueError, match="takes features; give their folder with --features"):
        Suggester(load_trained(segmentation(tmp_path)), root=root)
