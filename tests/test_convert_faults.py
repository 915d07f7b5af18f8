"""What goes wrong in a conversion is named and counted; nothing is lost, nothing is half-written."""

import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from vidseg.convert import ConvertOptions, TargetError, convert_videos
from vidseg.convert.conversion import convert_one, finished_outcome
from vidseg.frames import FrameDatabase
from vidseg.labels import open_dataset, update_catalog
from vidseg.videos.listing import Job

COMMAND = [sys.executable, "-m", "vidseg.cli.main", "convert"]

# Put on the path of the workers: opening a video of this name makes the decoder crash or hang, as some codecs do.
SABOTAGE = """
import os, signal, sys, time

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "vidseg.videos.decoding":
            sys.meta_path.remove(self)
            import av
            whole = av.open
            def sabotaged(file, *args, **kwargs):
                name = os.path.basename(file)
                if "crash" in name:
                    os.kill(os.getpid(), signal.SIGSEGV)
                if "hang" in name:
                    time.sleep(3600)
                return whole(file, *args, **kwargs)
            av.open = sabotaged
        return None

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def sabotage(tmp_path, monkeypatch):
    (tmp_path / "path").mkdir()
    (tmp_path / "path/sitecustomize.py").write_text(SABOTAGE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}:{os.environ.get('PYTHONPATH', '')}")


def leftovers(root: Path) -> list[Path]:
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and path.name not in {"frames.db", "n_frames"} and path.parent != root
    ]


def test_every_kind_of_bad_file_is_named(tmp_path, make_video):
    videos = tmp_path / "videos/run"
    good = make_video(videos / "good.mp4", frames=30)
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("this is no video")
    (videos / "notes.unknown").write_text("neither is this")
    (videos / "headless.mp4").write_bytes(good.read_bytes()[1000:])
    (videos / "noise.avi").write_bytes(os.urandom(5000))
    (videos / "link.mp4").symlink_to(videos / "nowhere.mp4")
    sound = subprocess.run(
        [sys.executable, "-c", AUDIO_ONLY, str(videos / "sound.mp4")], check=True, capture_output=True
    )
    assert sound.returncode == 0
    long = make_video(videos / "long.mkv", frames=200)
    (videos / "cut.mkv").write_bytes(long.read_bytes()[: long.stat().st_size // 2])
    report = convert_videos(tmp_path / "videos", tmp_path / "data", workers=2)
    assert not report.ok
    problems = {Path(outcome.source).name: (outcome.state, outcome.problem) for outcome in report.problems()}
    expected = {
        "empty.mp4": ("failed", "the file is empty"),
        "text.mp4": ("failed", "cannot open this file as a video"),
        "notes.unknown": ("failed", "cannot open this file as a video"),
        "headless.mp4": ("failed", "cannot open this file as a video"),
        "noise.avi": ("failed", "cannot open this file as a video"),
        "link.mp4": ("failed", "broken link"),
        "sound.mp4": ("failed", "no video stream (streams: audio)"),
        "cut.mkv": ("recovered", "header says 8.00 s"),
    }
    assert problems.keys() == expected.keys()
    for name, (state, words) in expected.items():
        assert problems[name][0] == state
        assert words in problems[name][1]
    assert report.count("converted") == 2
    assert 50 < len(FrameDatabase(tmp_path / "data/jpg/run/cut")) < 150
    assert leftovers(tmp_path / "data") == []
    assert sorted(path.name for path in (tmp_path / "data/jpg/run").iterdir()) == ["cut", "good", "long"]


AUDIO_ONLY = """
import sys, av, numpy as np
with av.open(sys.argv[1], "w") as container:
    stream = container.add_stream("aac", rate=44100)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 44100
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
"""


def damaged_video(path: Path, make_video) -> Path:
    """A Matroska file with the payload of some packets in its middle overwritten."""
    make_video(path, frames=60, options={"g": "10"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = b"\x00" * 400
    path.write_bytes(data)
    return path


def test_damage_inside_is_kept_and_marked_or_refused(tmp_path, make_video):
    damaged_video(tmp_path / "v/x.mkv", make_video)
    kept = convert_videos(tmp_path / "v", tmp_path / "kept", workers=1)
    assert (kept.outcomes[0].state, kept.ok) == ("recovered", False)
    database = FrameDatabase(tmp_path / "kept/jpg/unlabeled/x")
    assert 40 <= len(database) <= 60
    assert json.loads(database.meta["damage"])
    again = convert_videos(tmp_path / "v", tmp_path / "kept", workers=1)
    assert (again.outcomes[0].state, again.ok) == ("kept", False)  # the damage does not go away by asking twice
    refused = convert_videos(tmp_path / "v", tmp_path / "refused", workers=1, damaged="refuse")
    assert refused.outcomes[0].state == "failed"
    assert leftovers(tmp_path / "refused") == []
    assert not list((tmp_path / "refused/jpg").rglob("frames.db"))


NAMES = [
    "it's",
    'a "b"',
    "sp ace ",
    "[x]*?",
    "100%s",
    "häß-ü-日本-🎬",
    "-dash",
    "dots...",
    "semi;colon&|",
    "new\nline",
    "#frag?q=1",
]


def test_special_characters_in_names(tmp_path, make_video):
    for index, name in enumerate(NAMES):
        make_video(tmp_path / "v" / NAMES[-1 - index] / f"{name}.mp4", frames=2)
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=2)
    assert report.ok, report
    assert len(report.outcomes) == len(NAMES)
    for index, name in enumerate(NAMES):
        database = FrameDatabase(tmp_path / "data/jpg" / NAMES[-1 - index].strip() / name.strip())
        assert database.name == name.strip()
        assert database.verify() == []
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=2).count("kept") == len(NAMES)


def test_names_that_are_not_utf8_are_refused(tmp_path, make_video):
    video = make_video(tmp_path / "v/run/a.mp4", frames=2)
    video.rename(video.with_name(os.fsdecode(b"\xff\xfe.mp4")))
    make_video(video, frames=2)
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    assert report.count("converted") == 1
    (problem,) = report.problems()
    assert "not valid UTF-8" in problem.problem
    assert "\\udcff\\udcfe.mp4" in problem.source
    assert str(report).encode()  # can be printed


@pytest.mark.parametrize("label, name", [("..", "x"), ("run", ".."), ("run", "a/b"), ("a/b", "x")])
def test_targets_outside_the_data_set_are_refused(tmp_path, make_video, label, name):
    make_video(tmp_path / "v.mp4", frames=2)
    (tmp_path / "list.csv").write_text(f"path,label,id\nv.mp4,{label},{name}\nv.mp4,run,fine\n")
    report = convert_videos(tmp_path / "list.csv", tmp_path / "data", workers=1)
    assert [(outcome.state, outcome.frames) for outcome in report.outcomes if "fine" in outcome.target] == [
        ("converted", 2)
    ]
    assert len(report.problems()) == 1
    assert "<class>/<video>" in report.problems()[0].problem
    assert [path.name for path in (tmp_path / "data/jpg").iterdir()] == ["run"]


def test_two_sources_with_one_target_are_refused(tmp_path, make_video):
    make_video(tmp_path / "v/run/a.mp4", frames=2)
    make_video(tmp_path / "v/run/a.avi", frames=2, codec="mpeg4")
    make_video(tmp_path / "v/run/b.mp4", frames=2)
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    assert report.count("converted") == 1
    assert [Path(outcome.source).name for outcome in report.problems()] == ["a.avi", "a.mp4"]
    assert "2 sources have the same target" in report.problems()[0].problem


def test_a_decoder_that_crashes_or_hangs_affects_one_worker(tmp_path, make_video, sabotage):
    for name in ("a", "crash_1", "b", "hang", "c", "crash_2", "d"):
        make_video(tmp_path / f"v/run/{name}.mp4", frames=3)
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=2, stall_limit=8.0)
    assert {Path(o.source).stem: o.state for o in report.outcomes} == {
        **dict.fromkeys("abcd", "converted"),
        **dict.fromkeys(("crash_1", "crash_2", "hang"), "failed"),
    }
    problems = {Path(outcome.source).stem: outcome.problem for outcome in report.problems()}
    assert "the worker process crashed while decoding (SIGSEGV)" in problems["crash_1"]
    assert "no new frame for 8 s" in problems["hang"]
    limited = convert_videos(tmp_path / "v/run/hang.mp4", tmp_path / "limited", workers=1, time_limit=2.0)
    assert "time limit of 2 s" in limited.problems()[0].problem


def test_on_error_stop(tmp_path, make_video):
    for name in "abcdef":
        make_video(tmp_path / f"v/run/{name}.mp4", frames=2)
    (tmp_path / "v/run/b.mp4").write_text("no video")
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1, on_error="stop")
    assert [outcome.state for outcome in report.outcomes] == ["converted", "failed", *["not started"] * 4]
    assert "b.mp4" in report.stopped


def test_targets_that_cannot_be_written(tmp_path, make_video):
    make_video(tmp_path / "v/run/a.mp4", frames=2)
    (tmp_path / "file").write_text("")
    (tmp_path / "catalog/catalog.db").mkdir(parents=True)
    (tmp_path / "jpg").mkdir()
    (tmp_path / "jpg/jpg").write_text("")
    for target, place in (
        ("file/data", "file/data/jpg"),
        ("/proc/vidseg", "No such file or directory"),
        ("catalog", "catalog.db"),
        ("jpg", "jpg/jpg"),
    ):
        with pytest.raises(TargetError, match=f"cannot write to this folder: .*{place}"):
            convert_videos(tmp_path / "v", tmp_path / target)
    assert not list(tmp_path.rglob("frames.db"))


def test_a_disk_that_is_full_at_the_start_is_named_before_a_video_is_read(tmp_path, make_video):
    make_video(tmp_path / "v/run/a.mp4", frames=2)

    def no_space() -> None:  # a file-size limit stands for a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [*COMMAND, str(tmp_path / "v"), str(tmp_path / "data")]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=no_space)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.splitlines()[-1].endswith("data: cannot write to this folder: File too large")
    assert not list(tmp_path.rglob("frames.db"))


@pytest.mark.slow
def test_a_full_disk_stops_the_run_cleanly(tmp_path, make_video):
    for index in range(6):
        make_video(tmp_path / f"v/run/{index}.mp4", frames=3 if index < 2 else 1500)

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_100_000, 1_100_000))

    command = [*COMMAND, str(tmp_path / "v"), str(tmp_path / "data"), "--workers", "1", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files_only)
    assert result.returncode == 1
    report = json.loads(result.stdout)
    assert report["counts"] == {"converted": 2, "failed": 1, "not started": 3}
    assert "cannot write" in report["stopped"]
    assert leftovers(tmp_path / "data") == []
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=2).ok  # room again: the rest is done


def test_a_second_conversion_is_refused(tmp_path, make_video, sabotage):
    make_video(tmp_path / "v/run/hang.mp4", frames=2)
    first = subprocess.Popen([*COMMAND, str(tmp_path / "v"), str(tmp_path / "data")], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: (tmp_path / "data/.conversion.lock").exists())
        with pytest.raises(TargetError, match="another conversion is writing to this folder"):
            convert_videos(tmp_path / "v", tmp_path / "data")
    finally:
        first.kill()
        first.wait()


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    return [int(name) for name in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, make_video) -> Path:
    """Videos below v/ and, below data/, their databases from a conversion that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for index in range(9):
        make_video(folder / f"v/c{index % 2}/{index}.mp4", frames=150, size=(96, 128))
    assert convert_videos(folder / "v", folder / "data", workers=2).ok
    return folder


@pytest.mark.parametrize("victim, finished", [("parent", 0), ("parent", 3), ("parent", 7), ("worker", 2)])
def test_conversion_resumes_after_a_kill(tmp_path, undisturbed, victim, finished):
    data = tmp_path / "data"
    command = [*COMMAND, str(undisturbed / "v"), str(data), "--workers", "2"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(data.rglob("frames.db"))) >= finished and list(data.rglob("*.tmp")))
    workers = children_of(run.pid)
    os.kill(run.pid if victim == "parent" else workers[0], signal.SIGKILL)
    status = run.wait()
    wait_for(lambda: not any(alive(pid) for pid in workers))  # nobody goes on writing behind the next run
    done = {path: path.stat().st_mtime_ns for path in data.rglob("frames.db")}
    for path in done:
        assert FrameDatabase(path).verify() == []
    assert (victim, status) in {("parent", -signal.SIGKILL), ("worker", 1)}
    assert subprocess.run(command, capture_output=True).returncode == 0
    for index in range(9):
        name = f"jpg/c{index % 2}/{index}/frames.db"
        assert (data / name).read_bytes() == (undisturbed / "data" / name).read_bytes()
    assert all(path.stat().st_mtime_ns == moment for path, moment in done.items())
    assert leftovers(data) == []


def handles(pid: int, number: int) -> bool:
    """Whether a process has installed a handler for a signal."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)


def start_conversion(command: list[str]) -> subprocess.Popen:
    # A shell starts what runs in the background, such as these tests, with Ctrl-C ignored; and so would be theirs.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("number, group", [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)])
def test_a_signal_stops_at_once_and_finished_work_is_recorded(tmp_path, make_video, number, group):
    for index in range(12):
        make_video(tmp_path / f"v/run/{index:02d}.mp4", frames=20 if index < 4 else 900, size=(96, 128))
    data = tmp_path / "data"
    run = start_conversion([*COMMAND, str(tmp_path / "v"), str(data), "--workers", "2"])
    wait_for(lambda: len(list(data.rglob("frames.db"))) >= 4 and list(data.rglob("*.tmp")))
    workers = children_of(run.pid)
    assert len(workers) == 2
    began = time.monotonic()
    (os.killpg if group else os.kill)(run.pid, number)
    output, errors = run.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert run.returncode == 128 + number
    assert "stopped: interrupted" in output
    assert "Traceback" not in errors
    assert not any(alive(pid) for pid in workers)
    assert leftovers(data) == []
    found = sorted(path.parent.name for path in data.rglob("frames.db"))
    assert sorted(video.name for video in open_dataset(data)) == found
    report = json.loads((data / "conversion_report.json").read_text())
    states = {Path(video["source"]).stem: video["state"] for video in report["videos"]}
    assert [name for name, state in sorted(states.items()) if state in {"converted", "kept"}] == found
    assert report["counts"]["not started"] == 12 - len(found)


@pytest.mark.slow
def test_no_traceback_at_any_moment(tmp_path, make_video):
    for index in range(4):
        make_video(tmp_path / f"v/run/{index}.mp4", frames=100, size=(96, 128))
    for turn in range(8):
        run = start_conversion([*COMMAND, str(tmp_path / "v"), str(tmp_path / f"data{turn}"), "--workers", "2"])
        wait_for(lambda run=run: handles(run.pid, signal.SIGTERM))
        time.sleep(0.2 * turn)
        number = (signal.SIGINT, signal.SIGTERM)[turn % 2]
        os.killpg(run.pid, number)
        _, errors = run.communicate(timeout=60)
        assert "Traceback" not in errors, errors
        assert run.returncode in {128 + number, -number, 0}


def test_a_signal_while_the_outcomes_are_recorded(tmp_path, make_video, monkeypatch):
    make_video(tmp_path / "v/run/a.mp4", frames=3)
    calls = []

    def interrupted(root, records):
        calls.append(root)
        if len(calls) == 1:
            raise KeyboardInterrupt
        update_catalog(root, records)

    monkeypatch.setattr("vidseg.convert.run.update_catalog", interrupted)
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    assert report.stopped is not None
    assert report.count("converted") == 1
    assert len(open_dataset(tmp_path / "data")) == 1
    assert (tmp_path / "data/conversion_report.json").is_file()


def test_a_changed_source_is_converted_again(tmp_path, make_video):
    make_video(tmp_path / "v/run/a.mp4", frames=5)
    make_video(tmp_path / "v/run/b.mp4", frames=5)
    convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    make_video(tmp_path / "v/run/a.mp4", frames=9)
    (tmp_path / "data/jpg/run/b/n_frames").unlink()
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1, quality=80)
    assert [(outcome.state, outcome.frames) for outcome in report.outcomes] == [("converted", 9), ("converted", 5)]
    again = convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    assert [(outcome.state, outcome.other_options) for outcome in again.outcomes] == [("kept", True)] * 2
    assert "--overwrite" in str(again)
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1, overwrite=True).count("converted") == 2


def test_a_source_of_equal_size_and_other_content_is_converted_again(tmp_path, make_video):
    video = make_video(tmp_path / "v/run/a.mp4", frames=5)
    for number in range(4):
        frame = tmp_path / f"v/run/frames/frame_{number:05d}.jpg"
        frame.parent.mkdir(exist_ok=True)
        Image.new("RGB", (48, 32), (60 * number, 0, 0)).save(frame)
    convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    meta = FrameDatabase(tmp_path / "data/jpg/run/a").meta
    assert meta["source_sha256"] == hashlib.sha256(video.read_bytes()).hexdigest()
    assert meta["source_modified"] == video.stat().st_mtime_ns

    def states() -> list[tuple[str, str]]:
        report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
        return [(outcome.target, outcome.state) for outcome in report.outcomes]

    os.utime(video, (1, 1))  # copied: another time, the same bytes
    os.utime(tmp_path / "v/run/frames/frame_00002.jpg", (1, 1))
    assert states() == [("run/a", "kept"), ("run/frames", "kept")]
    data = bytearray(video.read_bytes())
    place = data.index(b"Lavf")  # the name of the program that wrote the file
    data[place : place + 4] = b"vfaL"
    video.write_bytes(data)
    assert states() == [("run/a", "converted"), ("run/frames", "kept")]
    folder = tmp_path / "v/run/frames"
    for old, new in (("frame_00001", "x"), ("frame_00002", "frame_00001"), ("x", "frame_00002")):
        (folder / f"{old}.jpg").rename(folder / f"{new}.jpg")
    assert states() == [("run/a", "kept"), ("run/frames", "converted")]
    assert states() == [("run/a", "kept"), ("run/frames", "kept")]


def test_a_database_as_the_source_is_compared_by_its_own_content(tmp_path, make_video):
    make_video(tmp_path / "v/run/a.mp4", frames=4)
    convert_videos(tmp_path / "v", tmp_path / "one", workers=1)
    assert convert_videos(tmp_path / "one", tmp_path / "two", workers=1).count("converted") == 1
    os.utime(tmp_path / "one/jpg/run/a/frames.db", (1, 1))
    assert convert_videos(tmp_path / "one", tmp_path / "two", workers=1).count("kept") == 1
    meta = [FrameDatabase(tmp_path / name / "jpg/run/a").meta for name in ("one", "two")]
    assert meta[0]["source_sha256"] == meta[1]["source_sha256"] != meta[1]["database_sha256"]


def test_a_source_that_changes_during_its_conversion_fails(tmp_path, make_video, monkeypatch):
    video = make_video(tmp_path / "a.mp4", frames=4)
    job = Job(str(video), "video", "run/a")

    def touch(frames: int) -> None:
        os.utime(video, (1, frames))

    outcome = convert_one(job, tmp_path / "jpg", ConvertOptions(), touch)
    assert (outcome.state, "changed during its conversion" in outcome.problem) == ("failed", True)
    assert not (tmp_path / "jpg/run/a").exists()


def test_a_data_set_inside_the_folder_of_its_videos(tmp_path, make_video):
    source = tmp_path / "v"
    make_video(source / "run/a.mp4", frames=3)
    for root in (source, source / "data"):
        for _ in range(2):
            report = convert_videos(source, root, workers=1)
            assert [outcome.target for outcome in report.outcomes if outcome.frames] == ["run/a"]
            assert report.ok, report
        assert len(open_dataset(root)) == 1
        assert str(root / "jpg") in report.ignored
        (root / ".conversion.lock").touch()  # of a process that was killed
        assert convert_videos(source, root, workers=1).ok
        for target in (root / "jpg", root / "jpg/run", root / "jpg/run/a/frames.db"):
            with pytest.raises(ValueError, match="inside the data set"):
                convert_videos(target, root)
        for path in sorted((root / "jpg").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (root / "jpg").rmdir()


def test_odd_sources_are_named_and_the_others_are_converted(tmp_path, make_video):
    source = tmp_path / "v"
    make_video(source / "run/a.mp4", frames=3)
    make_video(source / "--help/-i.mp4", frames=3)
    (source / "run/up").symlink_to(source, target_is_directory=True)
    (source / "self").symlink_to("self")
    os.mkfifo(source / "pipe.mp4")
    report = convert_videos(source, tmp_path / "data", workers=1)
    assert {outcome.target for outcome in report.outcomes if outcome.frames} == {"run/a", "--help/-i"}
    assert {Path(outcome.source).name for outcome in report.problems()} == {"up", "self", "pipe.mp4"}


def test_a_label_or_path_that_is_too_long(tmp_path, make_video):
    make_video(tmp_path / "v/a.mp4", frames=3)
    deep = "/".join(["x" * 250] * 17)
    lines = ["path,label", "a.mp4,run", f"a.mp4,{'long' * 75}", f"{'b' * 300}.mp4,run", f"{deep}.mp4,run"]
    (tmp_path / "v/list.csv").write_text("\n".join(lines) + "\n")
    report = convert_videos(tmp_path / "v/list.csv", tmp_path / "data", workers=1)
    assert [outcome.target for outcome in report.outcomes if outcome.frames] == ["run/a"]
    assert len(report.problems()) == 3
    job = Job(str(tmp_path / "v/a.mp4"), "video", f"{'c' * 300}/a")
    assert convert_one(job, tmp_path / "jpg", ConvertOptions(), lambda frames: None).state == "failed"
    assert finished_outcome(job, tmp_path / "jpg", ConvertOptions()) is None
