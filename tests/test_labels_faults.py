"""Segments that label nothing: named and refused, or skipped and counted, by the converter of every data set."""

import json

import pytest
from test_labels_segmentation import convert, write

from vidseg.cli.main import main
from vidseg.labels import FrameLabels, VideoRecord, open_dataset, read_label_csv, read_localization_json, update_catalog
from vidseg.labels.faults import SegmentFaults

EMPTY, AFTER, BEFORE = "it has no length", "it is after the end of the video", "it is before the start of the video"


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        ((3.0, 3.0), EMPTY),
        ((3.0, 2.0), "it ends before it starts"),
        ((10.0, 12.0), AFTER),
        ((-2.0, 0.0), BEFORE),
        ((0.01, 0.02), "it contains none of the video's labels (15 labels per second)"),
    ],
)
def test_segments_that_label_nothing(segment, reason):
    with pytest.raises(ValueError, match="v: segment 'a' from") as caught:
        SegmentFaults().check(*segment, place="v", label="a", seconds=10.0, rate=15.0)
    assert reason in str(caught.value) and "--on-error skip" in str(caught.value)
    faults = SegmentFaults(skip=True)
    assert faults.check(*segment, place="v", label="a", seconds=10.0, rate=15.0) is None
    assert len(faults.skipped) == 1 and reason in faults.skipped[0] and not faults.cut


def test_segments_partly_outside_are_cut_and_named(caplog):
    faults = SegmentFaults()
    assert faults.check(-1, 2, place="v", seconds=10.0) == (0, 2)
    assert faults.check(9, 10.5, place="w", seconds=10.0) == (9, 10)
    assert faults.check(9, 10 + 1e-9, place="w", seconds=10.0) == (9, 10)
    assert faults.check(9, 99, place="w") == (9, 99)
    assert [line.split(":")[0] for line in faults.cut] == ["v", "w"]
    faults.log()
    assert "2 segments cut to the video:\n    v: segment from -1 to 2 seconds: cut to 0 to 2" in caplog.text
    with pytest.raises(ValueError, match="not finite"):
        SegmentFaults(skip=True).check(float("nan"), 2, place="v")


def activitynet(*segments):
    annotations = [{"label": label, "segment": [start, stop]} for label, start, stop in segments]
    return json.dumps({"database": {"v": {"subset": "training", "duration": 4, "annotations": annotations}}})


def test_activitynet_json(tmp_path, capsys):
    source = tmp_path / "a.json"
    source.write_text(activitynet(("run", 0.01, 0.02), ("run", 1, 3), ("run", 0, 0), ("jump", 4, 6), ("jump", 3.5, 6)))
    options = ["--out", tmp_path / "out", "--rate", 2]
    assert convert("thumos14", source, *options) == 2
    assert "video 'v': segment 'run' from 0 to 0 seconds: it has no length" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert convert("thumos14", source, *options, "--on-error", "skip", "--json") == 1
    out, log = capsys.readouterr()
    report = json.loads(out)
    assert len(report["skipped_segments"]) == 3 and len(report["cut_segments"]) == 1
    assert "3 segments skipped:" in log and "1 segment cut to the video:" in log
    data = open_dataset(tmp_path / "out")
    assert [data.classes[label] for label in FrameLabels(data)[0]] == ["None"] * 2 + ["run"] * 4 + ["None", "jump"]


def test_duplicate_videos_of_a_json_are_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"database": {"v": {"annotations": []}, "v.mp4": {"annotations": []}}}')
    with pytest.raises(ValueError, match="occurs twice"):
        read_localization_json(path)


FILES = {
    "thumos14": {
        "CliffDiving_val.txt": "v 1 2\nv 2 2\n",
        "Diving_test.txt": "w 1 2\n",
    },
    "50salads": {
        "labels/low_to_mid.txt": "cut_core\tcut\n",
        "activity_annotation/01-1-activityAnnotation.txt": "0 2000000 cut_core\n2000000 2000000 cut_core\n",
    },
    "breakfast": {"P03_tea.txt": "1-2\tSIL\n3-2 take\n3-4 pour\n"},
    "egtea": {
        "verb_idx.txt": "Take 1\n",
        **{f"{part}_split{n}.txt": "A-B-C-0-1-F000024-F000047 1 1\n" for part in ("train", "test") for n in (1, 2)},
        "train_split3.txt": "A-B-C-0-1-F000024-F000047 1 1\n",
        "test_split3.txt": "A-B-C-0-1-F000024-F000023 1 1\n",
    },
}


@pytest.mark.parametrize("name", FILES)
def test_converters_of_frame_labels(tmp_path, capsys, name):
    source = write(tmp_path / "in", FILES[name])
    assert convert(name, source, "--out", tmp_path / "out") == 2
    assert "correct it, or skip" in capsys.readouterr().err
    assert convert(name, source, "--out", tmp_path / "out", "--on-error", "skip", "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["skipped_segments"]) == 1
    assert len(FrameLabels(open_dataset(tmp_path / "out"))) >= 1


HACS = (
    "classname,youtube_id,subset,start,end,label\nRun,a,training,1,3,1\nRun,b,training,2,2,1\nJump,c,validation,0,2,1\n"
)
KINETICS = {
    "train.json": json.dumps(
        {
            "a": {"annotations": {"label": "run", "segment": [0, 10]}, "subset": "train"},
            "b": {"annotations": {"label": "run", "segment": [5.0, 5.0]}, "subset": "train"},
        }
    ),
    "val.csv": "label,youtube_id,time_start,time_end,split\nrun,c,0,10,validate\n",
}


@pytest.mark.parametrize(("name", "files"), [("hacs", {"HACS_clips_v1.1.csv": HACS}), ("kinetics", KINETICS)])
def test_converters_of_clips(tmp_path, capsys, name, files):
    source = write(tmp_path / "in", files)
    assert convert(name, source, "--out", tmp_path / "out") == 2
    assert EMPTY in capsys.readouterr().err
    assert convert(name, source, "--out", tmp_path / "out", "--on-error", "skip", "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["skipped_segments"]) == 1
    (train,) = (tmp_path / "out").glob("*train.csv")
    assert [row.name for row in read_label_csv(train)] == ["a"]


def test_segments_of_untrimmed_videos(tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    update_catalog(root, [VideoRecord("jpg/unlabeled/film", None, 100, 8, 8, 10.0, 10.0, 9)])
    before = (root / "catalog.db").read_bytes()
    rows = "label,id,time_start,time_end\nrun,film,1,2\nrun,film,12,13\nrun,film,9,13\n"
    (tmp_path / "labels.csv").write_text(rows)
    assert main(["labels", "apply", str(root), str(tmp_path / "labels.csv")]) == 2
    assert "jpg/unlabeled/film: segment 'run' from 12 to 13 seconds" in capsys.readouterr().err
    assert (root / "catalog.db").read_bytes() == before
    assert main(["labels", "apply", str(root), str(tmp_path / "labels.csv"), "--on-error", "skip"]) == 1
    assert "1 segment skipped:\n    jpg/unlabeled/film: segment 'run' from 12" in capsys.readouterr().out
    assert [(s.start, s.stop) for s in open_dataset(root).segments(0)] == [(1.0, 2.0), (9.0, 10.0)]
