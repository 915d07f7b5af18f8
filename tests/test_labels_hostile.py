"""Label files from elsewhere: what is wrong with one is a sentence with its name, in little memory."""

import json
import tracemalloc

import pytest

from vidseg.labels import frame_labels_of, read_frame_labels, read_label_csv, read_localization_json, read_mapping
from vidseg.labels.json_files import read_json
from vidseg.labels.label_files import read_label_files
from vidseg.labels.localization import LocalizedVideo, TimedLabel
from vidseg.labels.official_csv import read_hacs_csv, read_moments_csv
from vidseg.labels.official_json import read_diving48_json, read_diving48_vocabulary, read_kinetics_json
from vidseg.labels.official_lists import read_class_list, read_ucf_list
from vidseg.labels.segmentation_files import read_range_names

DEEP = "[" * 100_000 + "]" * 100_000
LONG = "x" * 70_000


def refused(tmp_path, name, content, read, message):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and len(text) < 1000
    assert type(caught.value) is ValueError  # not a UnicodeError or a JSONDecodeError of the parser


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DEEP, "nested too deeply"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ("{", "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_json(tmp_path, content, message):
    refused(tmp_path, "a.json", content, read_json, message)
    (tmp_path / "b.json").write_text('["\\ud83d\\ude00"]')
    assert read_json(tmp_path / "b.json") == ["\U0001f600"]


def activitynet(**video):
    segment = {"label": "run", "segment": [0, 1]}
    return {"database": {"v": {"subset": "training", "duration": 4, "annotations": [segment], **video}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (activitynet(subset=1.5), "video 'v': .*subset is 1.5, expected a text"),
        (activitynet(duration="long"), "duration is 'long', expected a finite number"),
        (activitynet(duration=-1), "duration is -1 seconds, must be 0 to 1000000000"),
        (activitynet(duration=10**400), "duration is an integer too large"),
        (activitynet(annotations=[{"label": ["run"], "segment": [0, 1]}]), r"label is \['run'\], expected a text"),
        (activitynet(annotations=[{"label": "run", "segment": [0, float("inf")]}]), "expected a finite number"),
        (activitynet(annotations=[{"label": "run", "segment": [0]}]), "video 'v'"),
        ({"fps": "fast", **activitynet()}, "fps is 'fast', expected a finite number"),
        ({"fps": -1, **activitynet()}, "fps is -1.0, must be above 0"),
        ({"database": {"": activitynet()["database"]["v"]}}, "no name of a video"),
    ],
)
def test_activitynet(tmp_path, content, message):
    refused(tmp_path, "activity.json", content, read_localization_json, message)


def kinetics(**entry):
    return {"v": {"annotations": {"label": "run", "segment": [0, 1]}, "subset": "train", **entry}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (kinetics(subset=["train"]), "subset is .'train'., expected a text"),
        (kinetics(annotations={"label": 3}), "label is 3, expected a text"),
        (kinetics(annotations={"label": "run", "segment": ["one", 2]}), "start of the segment is 'one'"),
        (kinetics(annotations={"label": "a\nb"}), "contains a line break"),
        ({LONG: kinetics()["v"]}, "name of 70000 characters, more than 4096"),
        ({" ": kinetics()["v"]}, "no name of a video"),
    ],
)
def test_kinetics(tmp_path, content, message):
    refused(tmp_path, "kinetics.json", content, read_kinetics_json, message)


@pytest.mark.parametrize(
    ("name", "content", "read", "message"),
    [
        ("a.csv", f"label,id\n{LONG},v\n", read_label_csv, ":2: a cell of 70000 characters"),
        ("a.csv", f"{LONG},b\nx,y\n", read_label_csv, ":1: a cell of 70000 characters"),
        ("a.csv", "label,id,time_start,time_end\nrun,v,0,1e300\n", read_label_csv, ":2: .* at most 1000000000"),
        ("a.csv", "label,path\nrun, .mp4/ \n\n", read_label_csv, None),
        ("a.txt", f"{LONG} 1\n", lambda path: read_label_files([path]), ":1: a line of 7000[0-9] characters"),
        ("a.txt", f"{LONG}/v.mp4 1\n", lambda path: read_ucf_list(path, split="train"), ":1: a line of"),
        ("a.csv", f"a.mp4,{LONG}\n", lambda path: read_moments_csv(path, split="train"), ":1: a cell of"),
        (
            "a.csv",
            "classname,youtube_id,subset,start,end,label\nrun,,training,1,2,1\n",
            read_hacs_csv,
            ":2: the row has no name of a video",
        ),
        ("v.json", [["a", 3]], read_diving48_vocabulary, "not a list of words"),
        (
            "d.json",
            [{"vid_name": 3, "label": 0}],
            lambda path: read_diving48_json(path, classes=["a"], split="train"),
            "entry 0: vid_name is 3, expected a text",
        ),
        ("c.txt", "9" * 5000 + " a\n", read_class_list, ":1: a line of 5002 characters"),
        ("c.txt", "9" * 4000 + " a\n", read_class_list, None),
        ("mapping.txt", f"0 {LONG}\n", read_mapping, ":1: a line of"),
        ("labels.txt", f"a\n{LONG}\n", lambda path: read_frame_labels(path, ["a"]), ":2: a class name of 70000"),
        ("ranges.txt", "1-999999999 SIL\n", read_range_names, ":1: frame 999999999 is above 33554432"),
    ],
)
def test_texts(tmp_path, name, content, read, message):
    if message is None:  # unusual, but valid
        (tmp_path / name).write_text(content)
        read(tmp_path / name)
    else:
        refused(tmp_path, name, content, read, message)


def test_names_have_no_extension_in_any_format(tmp_path):
    """As in the CSV files that converters write: `v.mp4` and `v` are one video."""
    (tmp_path / "k.json").write_text(json.dumps({"v.mp4": kinetics()["v"]}))
    (tmp_path / "d.json").write_text(json.dumps([{"vid_name": "v.mp4", "label": 0}]))
    (tmp_path / "h.csv").write_text("classname,youtube_id,subset,start,end,label\nrun,v.mp4,training,1,2,1\n")
    found = [
        *read_kinetics_json(tmp_path / "k.json"),
        *read_diving48_json(tmp_path / "d.json", classes=["a"], split="train"),
        *read_hacs_csv(tmp_path / "h.csv")[0],
    ]
    assert [row.name for row in found] == ["v", "v", "v"]


def test_memory_does_not_depend_on_the_numbers_in_a_file(tmp_path):
    (tmp_path / "ranges.txt").write_text("1-999999999 SIL\n")
    videos = {"v": LocalizedVideo([TimedLabel("run", 0.0, 1e9)], 1e9)}
    tracemalloc.start()
    with pytest.raises(ValueError, match="frame 999999999"):
        read_range_names(tmp_path / "ranges.txt")
    with pytest.raises(ValueError, match=r"video 'v': 1e\+09 seconds have 15000000000 labels"):
        frame_labels_of(videos, rate=15, background="none")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
