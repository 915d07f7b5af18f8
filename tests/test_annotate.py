"""The server of `vidseg annotate`: labels, conflicts, history, frames, files, suggestions, and what it refuses."""

import io
import json
import re
import shutil
import zipfile
from typing import get_args
from urllib.parse import unquote

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from PIL import Image
from serve_models import recognition, streaming

from vidseg import FrameDatabase, load_trained
from vidseg.convert import ConvertOptions, convert_videos
from vidseg.labels import FrameLabels, open_dataset
from vidseg.labels.annotation import Annotations
from vidseg.labels.catalog import read_catalog
from vidseg.labels.frame_labels import label_frames
from vidseg.labels.label_export import LabelForm
from vidseg.labels.splitting import divide_videos
from vidseg.labels.video_targets import apply_targets, read_class_sets, read_values
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


def save(browser, video, segments, *, version=None, label="run", author="ann", classes=None):
    version = version or browser.get(f"{V}/labels", params={"video": video}).json()["version"]
    rows = [{"start": start, "stop": stop, "label": name} for start, stop, name in segments]
    body = {"version": version, "author": author, "label": label, "segments": rows, "classes": classes}
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


def send(browser, *files, form=None):
    return browser.post(
        f"{V}/import", params={"form": form} if form else {}, files=[("files", (name, body)) for name, body in files]
    )


def zipped(files):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def content_of(root):
    """All labels of a catalog that files can have: class numbers, classes, sets, numbers, splits, frame labels."""
    with read_catalog(root) as connection:
        videos = dict(connection.execute("SELECT id, path FROM videos"))
        sets, values = read_class_sets(connection), read_values(connection)
        splits = connection.execute(
            "SELECT s.name, v.path FROM split_videos JOIN splits s ON s.id = split_id JOIN videos v ON v.id = video_id"
        ).fetchall()
    annotations = Annotations(root)
    return {
        "labels": {path: annotations.labels(path) for path in videos.values()},
        "sets": {videos[row]: names for row, names in sets.items()},
        "values": {videos[row]: value for row, value in values.items()},
        "splits": sorted(splits),
    }


@pytest.mark.parametrize("form", get_args(LabelForm))
def test_every_form_returns_what_it_has_written(root, tmp_path, form):
    """The labels of one data set, exported and imported into another one with the same videos."""
    shutil.copytree(root, other := tmp_path / "other")
    first, second = "jpg/run/v0", "jpg/run/v1"
    with client(root) as browser:
        if form in ("classes", "lists"):
            if form == "classes":
                save(browser, first, [], label="jump, high")  # another class than its folder
                answer = browser.get(f"{V}/export", params={"form": "lists"})
                assert answer.status_code == 422 and "write the form classes" in answer.json()["error"]["message"]
        elif form == "targets":
            save(browser, first, [], label=None, classes=["run", "jump high"])
            save(browser, second, [], label=None, classes=[])
        elif form == "values":
            (tmp_path / "x.csv").write_text("id,value\nv0,0.25\nv1,-3\n")
            apply_targets(root, [tmp_path / "x.csv"])
        else:
            save(browser, first, [(0.2, 0.4, "jump"), (0.4, 0.6, "jump"), (0.6, 0.7, "run")], label=None)
            save(browser, second, [(0.0, 0.8, "run")], label=None)
    if form == "frames":
        label_frames(root, background="none")
    divide_videos(root, (0.5, 0.5), names=("train", "test"))
    expected = content_of(root)
    with client(root) as browser:
        answer = browser.get(f"{V}/export", params={"form": form})
        assert answer.status_code == 200, answer.text
        report = unquote(answer.headers["X-Report"])
    name = re.search('filename="(.*)"', answer.headers["Content-Disposition"])[1]
    with client(other) as browser:
        imported = send(browser, (name, answer.content))
        assert imported.status_code == 200, imported.text
    found = content_of(other)
    if form == "frames":
        assert "1 boundary between segments of one class left out" in report
        lengths = [FrameLabels(open_dataset(place))[0].tolist() for place in (root, other)]
        assert [[open_dataset(root).classes[n] for n in lengths[0]]] == [
            [open_dataset(other).classes[n] for n in lengths[1]]
        ]
        assert found["splits"] == expected["splits"]
    elif form in ("segments", "activitynet"):  # which have no classes of whole videos
        segments = [{path: labels.segments for path, labels in one["labels"].items()} for one in (found, expected)]
        assert segments[0] == segments[1] and found["splits"] == expected["splits"]
    else:
        assert found == expected


def test_a_data_set_with_divisions_is_exported_by_division(root):
    divide_videos(root, (0.5, 0.5), names=("split1/train", "split1/test"))
    divide_videos(root, (0.5, 0.5), names=("split2/train", "split2/test"), seed=3)
    with client(root) as browser:
        assert browser.get(V).json()["divisions"] == ["split1", "split2"]
        answer = browser.get(f"{V}/export", params={"form": "classes"})
        assert answer.status_code == 422 and "--division" in answer.json()["error"]["message"]
        answer = browser.get(f"{V}/export", params={"form": "classes", "division": "split2"})
        assert answer.status_code == 200 and "test" in answer.text


def test_several_classes_of_a_video(root):
    with client(root) as browser:
        saved = save(browser, VIDEO, [], label=None, classes=["run", "jump", "run"]).json()
        assert saved["classes"] == ["jump", "run"] and saved["label"] is None
        assert saved["changes"][-1]["what"] == "classes jump, run, 0 segments"
        listed = {video["path"]: video["classes"] for video in browser.get(f"{V}/videos").json()}
        assert listed == {VIDEO: ["jump", "run"], "jpg/run/v1": None}
        stale = save(browser, VIDEO, [], label=None, classes=[], version="0" * 16, author="ben")
        assert stale.status_code == 409
        wrong = save(browser, VIDEO, [], label=None, classes=["RUN"])
        assert wrong.status_code == 422 and "upper and lower case" in wrong.json()["error"]["message"]


def test_the_source_is_served_in_ranges_under_a_random_name(root, source):
    file = (source / "run/v0.mp4").read_bytes()
    with client(root, token="secret") as browser:
        headers = {"Authorization": "Bearer secret"}
        assert browser.get(f"{V}/source", params={"video": VIDEO}).status_code == 401
        found = browser.get(f"{V}/source", params={"video": VIDEO}, headers=headers).json()
        assert (found["file"], found["codec"], len(found["times"])) == ("v0.mp4", "h264", 20)
        assert found["times"][:3] == [0.0, 0.04, 0.08] and found["seconds"] == pytest.approx(0.8)
        assert "v0" not in found["address"]
        whole = browser.get(found["address"])  # a player sends no token
        assert whole.content == file and whole.headers["content-type"] == "video/mp4"
        part = browser.get(found["address"], headers={"Range": "bytes=10-19"})
        assert part.status_code == 206 and part.content == file[10:20]
        assert browser.get(found["address"], headers={"Range": f"bytes={len(file)}-"}).status_code == 416
        for wrong in ("/source/v0.mp4", "/source/..%2f..%2fetc%2fpasswd", "/source/"):
            assert browser.get(wrong).status_code == 404


@pytest.mark.parametrize("fault", ["missing", "changed", "no video", "resampled", "elsewhere"])
def test_why_a_source_is_not_played(tmp_path, make_video, fault):
    video = make_video(tmp_path / "v/run/v0.mp4", frames=20)
    options = ConvertOptions(workers=1, fps=10 if fault == "resampled" else None)
    root = tmp_path / "data"
    assert convert_videos(tmp_path / "v", root, options=options).ok
    moved = None
    if fault == "missing":
        video.unlink()
    elif fault == "changed":
        video.write_bytes(b"x")
    elif fault == "no video":
        video.write_bytes(b"#EXTM3U\n/etc/passwd\n".ljust(video.stat().st_size, b"\n"))
    elif fault == "elsewhere":
        moved = tmp_path / "moved"
        (tmp_path / "v").rename(moved)
    app = make_annotation_application(Annotations(root), videos=moved)
    with TestClient(app, base_url="http://localhost") as browser:
        answer = browser.get(f"{V}/source", params={"video": VIDEO})
        if fault == "elsewhere":
            assert browser.get(answer.json()["address"]).content == (moved / "run/v0.mp4").read_bytes()
            return
        words = {"missing": "--videos FOLDER", "changed": "has changed", "no video": "v0.mp4", "resampled": "10 frames"}
        assert answer.status_code == 404 and words[fault] in answer.json()["error"]["message"]


def test_import_and_export(root):
    with client(root) as browser:
        save(browser, VIDEO, [(0.1, 0.3, "jump")])
        rows = browser.get(f"{V}/export", params={"form": "segments"}).text.splitlines()
        assert rows[:2] == ["video,start,end,class,split,duration", "v0,0.1,0.3,jump,,0.8"]
        content = json.loads(browser.get(f"{V}/export", params={"form": "activitynet"}).content)
        assert content["database"]["v0"]["annotations"] == [{"label": "jump", "segment": [0.1, 0.3]}]
        answer = browser.get(f"{V}/export", params={"form": "frames"})
        assert answer.status_code == 422 and "frame by frame" in answer.json()["error"]["message"]
        assert send(browser, ("x.csv", b"video,start,end,class\nv1,0.2,0.4,jump\n")).status_code == 200
        assert browser.get(f"{V}/labels", params={"video": "jpg/run/v1"}).json()["segments"][0]["start"] == 0.2
        for name, content, message in (
            ("/etc/x.csv", b"nothing", "x.csv"),
            ("x.sh", b"", "not a label file"),
            ("../x", b"", "not a label file"),
            ("x.zip", b"no archive", "not a ZIP archive"),
            ("x.zip", zipped({"../../y.sh": b""}), "not a label file"),
        ):
            answer = send(browser, (name, content), form="classes")
            said = answer.json()["error"]["message"]
            assert answer.status_code == 422 and message in said and "/tmp" not in said, said
        assert browser.get(f"{V}/labels", params={"video": VIDEO}).json()["label"] == "run"


def test_frame_labels_leave_as_an_archive(root):
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
