"""Annotation files of temporal action detection: every form, wrong content, and what reaches the catalog."""

import json

import pytest

from vidseg.cli.main import main
from vidseg.labels import VideoRecord, open_dataset, update_catalog
from vidseg.labels.detection_files import read_detection_file
from vidseg.labels.detection_labels import apply_detection, read_detection_labels
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.official_lists import read_class_list, read_id_list
from vidseg.labels.scan import scan_catalog


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def listed(labels):
    """What the labels hold, as plain values."""
    return {
        name: (video.split, video.seconds, [(one.label, one.start, one.stop) for one in video.segments])
        for name, video in labels.videos.items()
    }


ACTIVITYNET = {
    "version": "1.3",
    "database": {
        "abc": {
            "subset": "training",
            "duration": "30.5",
            "annotations": [{"label": "Polo", "segment": [1, 5.5]}, {"label": "Long jump", "segment": [4, 9]}],
        },
        "xyz": {"subset": "validation", "duration": 20, "annotations": [{"label": "Polo", "segment": [0, 20]}]},
        "tst": {"subset": "testing", "duration": 8},
    },
}
EXPECTED = {
    "abc": ("train", 30.5, [("Polo", 1.0, 5.5), ("Long jump", 4.0, 9.0)]),
    "xyz": ("val", 20.0, [("Polo", 0.0, 20.0)]),
    "tst": ("test", 8.0, []),
}


def test_activitynet(tmp_path):
    labels = read_detection_labels([write(tmp_path / "anet.json", ACTIVITYNET)])
    assert listed(labels) == EXPECTED and labels.classes is None


def test_the_derivative_of_bmn_with_its_table(tmp_path):
    derivative = {
        f"v_{name}": {"duration_second": seconds, "duration_frame": 30 * seconds, "feature_frame": 16,
                      "annotations": [{"label": label, "segment": times} for label, *times in segments]}
        for name, (_, seconds, segments) in EXPECTED.items()
    }  # fmt: skip
    rows = ["video,numFrame,seconds,fps,rfps,subset,featureFrame"]
    rows += [f"v_{n},100,{s},30,29,{split}ing,16" for n, (split, s, _) in EXPECTED.items() if split != "val"]
    rows += ["v_xyz,100,20.0,30,29,validation,16"]
    table = write(tmp_path / "video_info.csv", "\n".join(rows))
    labels = read_detection_labels([write(tmp_path / "anno.json", derivative), table])
    assert listed(labels) == {f"v_{name}": video for name, video in EXPECTED.items()}
    assert labels.videos["v_abc"].fps == pytest.approx(30)
    # the prefix may be on one side only
    write(table, table.read_text().replace("v_", ""))
    assert listed(read_detection_labels([tmp_path / "anno.json", table])) == listed(labels)


THUMOS = {
    "video_validation_0000051": ("train", [("Billiards", 67.5, 75.9), ("Diving", 85.9, 90.6)]),
    "video_test_0000004": ("test", [("CricketBowling", 0.2, 1.1)]),
}


def thumos_forms(folder):
    database = {
        name: {
            "subset": split,
            "annotations": [{"segment": [str(a), str(b)], "label": label} for label, a, b in segments],
        }
        for name, (split, segments) in THUMOS.items()
    }
    database["video_test_0000004"]["annotations"].append({"segment": ["1", "2"], "label": "Ambiguous"})
    yield [write(folder / "gt.json", {"database": database})]
    for entry in database.values():  # ActionFormer and OpenTAD: numbers, durations, other names of the subsets
        entry |= {"subset": "Validation", "duration": 100.0, "fps": 30.0}
    yield [write(folder / "thumos14.json", {"version": "Thumos14-30fps", "database": database})]
    files = []
    for part, name in (("val", "video_validation_0000051"), ("test", "video_test_0000004")):
        lines = ["video,type,type_idx,start,end,startFrame,endFrame"]
        lines += [f"{name},{label},9,{start},{stop},1,2" for label, start, stop in THUMOS[name][1]]
        lines += [f"{name},Ambiguous,0,1,2,1,2"] * (part == "test")
        files.append(write(folder / f"{part}_Annotation.csv", "\n".join(lines)))
    yield files
    truth = ["video-name,t-init,t-end,f-init,f-end,video-duration,frame-rate,video-frames,label-idx"]
    numbers = {"Billiards": 2, "Diving": 7, "CricketBowling": 5}
    for name, (_, segments) in THUMOS.items():
        truth += [f"{name},{start},{stop},1,2,100.5,25,2512,{numbers[label]}" for label, start, stop in segments]
    yield [write(folder / "groundtruth.csv", "\n".join([*truth, "video_test_0000004,1,2,1,2,100.5,25,2512,-1"]))]
    for name, (split, segments) in THUMOS.items():
        for label, start, stop in segments:
            write(folder / f"text/{label}_{'val' if split == 'train' else 'test'}.txt", f"{name}  {start} {stop}\n")
    write(folder / "text/Ambiguous_test.txt", "video_test_0000004 1.0 2.0\n")
    yield [folder / "text"]


def test_every_form_of_thumos14_is_the_same(tmp_path):
    for files in thumos_forms(tmp_path):
        labels = read_detection_labels(files)
        found = {name: (split, sorted(segments)) for name, (split, _, segments) in listed(labels).items()}
        assert found == THUMOS, files
        assert labels.ambiguous == 1
        with_durations = {"thumos14.json": 100.0, "groundtruth.csv": 100.5}.get(files[0].name)
        assert {video.seconds for video in labels.videos.values()} == {with_durations}


def test_epic_kitchens(tmp_path):
    header = "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
    header += "stop_frame,narration,verb,verb_class,noun,noun_class\n"
    row = "P01_01_0,P01,P01_01,0:0:1,00:00:00.14,00:00:03.37,8,202,open door,pull,{},door,{}\n"
    train = write(tmp_path / "EPIC_100_train.csv", header + row.format(1, 3))
    other = row.replace("P01_01", "P02_12").replace("00:00:03.37", "01:02:03.50")
    val = write(tmp_path / "EPIC_100_validation.csv", header + other.format(0, 2))
    text = "video_id,start_timestamp,stop_timestamp\nP03_1,0:0:1,0:0:2\n"
    test = write(tmp_path / "EPIC_100_test_timestamps.csv", text)
    text = "video_id,duration,fps,resolution\nP01_01,90.5,59.94,1x1\nP02_12,5000,50,1x1\nP03_1,9,50,1x1\n"
    info = write(tmp_path / "EPIC_100_video_info.csv", text)
    text = """id,key,instances,category\n0,take,"['a', 'b']",x\n1,open,"['c']",x\n"""
    verbs = write(tmp_path / "EPIC_100_verb_classes.csv", text)
    labels = read_detection_labels([train, val, test, info], classes=verbs)
    assert labels.classes == ["take", "open"]
    assert listed(labels) == {
        "P01_01": ("train", 90.5, [("open", 0.14, 3.37)]),
        "P02_12": ("val", 5000.0, [("take", 0.14, 3723.5)]),
        "P03_1": ("test", 9.0, []),
    }
    assert labels.videos["P01_01"].fps == 59.94
    assert listed(read_detection_labels([train], level="noun"))["P01_01"][2] == [("3", 0.14, 3.37)]
    assert listed(read_detection_labels([train], level="action"))["P01_01"][2] == [("1,3", 0.14, 3.37)]
    annotation = {"segment": [0.14, 3.37], "label": "id_001", "label_name": "pull"}
    opentad = {"database": {"P01_01": {"subset": "train", "duration": 90.5, "annotations": [annotation]}}}
    found = read_detection_labels([write(tmp_path / "epic.json", opentad)], classes=verbs)
    assert listed(found)["P01_01"][2] == [("open", 0.14, 3.37)]
    write(train, header + row.format("x", 3))
    with pytest.raises(ValueError, match=r"train\.csv:2: verb class 'x' is not a number"):
        read_detection_file(train)
    write(train, header + row.format(1, 3).replace("00:00:03.37", "3.37"))
    with pytest.raises(ValueError, match=r"train\.csv:2: '3\.37' is not a time of the form"):
        read_detection_file(train)


def test_charades(tmp_path):
    header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    row = '{},A,B,6,7,Yes,"x, y",o,"d",{},33.67\n'
    train = write(tmp_path / "Charades_v1_train.csv", header + row.format("46GP8", "c001 11.90 21.20;c000 0.00 12.60"))
    test = write(tmp_path / "Charades_v1_test.csv", header + row.format("N11GT", ""))
    classes = write(tmp_path / "Charades_v1_classes.txt", "c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    labels = read_detection_labels([train, test], classes=classes)
    assert labels.classes == ["Holding some clothes", "Putting clothes somewhere"]
    assert listed(labels) == {
        "46GP8": ("train", 33.67, [("Putting clothes somewhere", 11.9, 21.2), ("Holding some clothes", 0.0, 12.6)]),
        "N11GT": ("test", 33.67, []),
    }
    assert [one[0] for one in listed(read_detection_labels([train]))["46GP8"][2]] == ["c001", "c000"]
    write(test, header + row.format("N11GT", "c001 11.90"))
    with pytest.raises(ValueError, match=r"test\.csv:2: action 'c001 11\.90' is not of the form"):
        read_detection_file(test)
    write(test, header + 2 * row.format("N11GT", ""))
    with pytest.raises(ValueError, match=r"test\.csv:3: video 'N11GT' occurs twice"):
        read_detection_file(test)


def test_numbered_actions_of_multithumos_and_charades(tmp_path):
    content = {"video_test_0000004": {"subset": "testing", "duration": 33.6, "actions": [[1, 0.5, 2.0], [2, 3.0, 4.0]]}}
    path = write(tmp_path / "multithumos.json", content)
    classes = write(tmp_path / "class_list.txt", "1 BaseballPitch\n2 Walk\n")
    expected = [("BaseballPitch", 0.5, 2.0), ("Walk", 3.0, 4.0)]
    assert listed(read_detection_labels([path], classes=classes))["video_test_0000004"] == ("test", 33.6, expected)
    assert [one[0] for one in listed(read_detection_labels([path]))["video_test_0000004"][2]] == ["1", "2"]
    write(classes, "1 BaseballPitch\n2 Walk\n3 Run\n")
    with pytest.raises(ValueError, match="do not show whether the first class is 0 or 1; set --first-number"):
        read_detection_labels([path], classes=classes)
    found = read_detection_labels([path], classes=classes, first_number=0)
    assert [one[0] for one in listed(found)["video_test_0000004"][2]] == ["Walk", "Run"]
    content["video_test_0000004"]["actions"].append([3.5, 1, 2])
    with pytest.raises(ValueError, match=r"json: video 'video_test_0000004': class number 3\.5"):
        read_detection_file(write(path, content))


def test_own_rows(tmp_path):
    text = "video,start,end,class,split,duration\na.mp4,1,2.5,run,training,10\na.mp4,4,5,jump,,\nb.mp4,,,,val,7\n"
    labels = read_detection_labels([write(tmp_path / "own.csv", text)])
    assert listed(labels) == {"a": ("train", 10.0, [("run", 1.0, 2.5), ("jump", 4.0, 5.0)]), "b": ("val", 7.0, [])}
    plain = write(tmp_path / "plain.csv", "video,start,end,class\na,1,2,run\n")
    durations = write(tmp_path / "durations.csv", "video,duration\na,3\n")
    assert listed(read_detection_labels([plain, durations], split="train"))["a"] == ("train", 3.0, [("run", 1.0, 2.0)])


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", "video,start,end,class\na,1,x,run\n", r"a\.csv:2: times '1' and 'x' are not numbers"),
        ("a.csv", "video,start,end,class\na,5,2,run\n", r"a\.csv:2: segment 'run' from 5 to 2 seconds: it ends before"),
        ("a.csv", "video,start,end,class\na,-3,-1,run\n", r"a\.csv:2: .* before the start of the video"),
        ("a.csv", "video,start,end,class\na,1,2,\n", r"a\.csv:2: one of start, end and class is empty"),
        ("a.csv", "video,start,end,class\n,1,2,run\n", r"a\.csv:2: the name of the video is empty"),
        ("a.csv", "video,start,end,class\na,1,2\n", r"a\.csv:2: 3 cells, but the header has 4 columns"),
        ("a.csv", "video,start,end,class,duration\na,11,12,run,10\n", r"a\.csv:2: .* after the end of the video"),
        ("a.csv", "video,start,end,class,duration\na,1,2,run,10\na,1,2,run,11\n", r"a\.csv:3: video 'a' has seconds"),
        ("a.csv", "video,start,end,class,split\na,1,2,run,val\na,1,2,run,test\n", r"a\.csv:3: video 'a' has split"),
        ("a.csv", "video,start,end,class,duration\na,1,2,run,0\n", r"a\.csv:2: column 'duration': '0' is not a number"),
        ("a.csv", "video,begin,end,class\na,1,2,run\n", r"a\.csv:1: header .* expected the columns video, start, end"),
        ("a.csv", "video,start,start,class\na,1,2,run\n", r"a\.csv:1: the header has column 'start' twice"),
        ("a.csv", "", r"a\.csv: the file is empty"),
        ("a.json", "{", r"a\.json: not valid JSON"),
        ("a.json", {"videos": 1}, r"a\.json: not an annotation file"),
        ("a.json", '{"database": {"a": {}, "a": {}}}', r"a\.json: .* entry 'a' occurs twice"),
        ("a.json", {"database": {"a": {"subset": "training"}}}, r"a\.json: video 'a': KeyError: 'annotations'"),
        ("a.json", {"database": {"a": {"annotations": [{"label": "x", "segment": [1]}]}}}, r"a\.json: video 'a'"),
        ("a.json", {"a": {"duration_second": 5, "annotations": [{"segment": [0, 1]}]}}, "video 'a': KeyError: 'label'"),
        ("a.json", {"database": {"a": {"duration": 5, "annotations": [{"label": "x", "segment": [7, 9]}]}}},
         r"a\.json: video 'a': segment 'x' from 7 to 9 seconds: it is after the end"),
        ("Run.txt", "video 1\n", r"Run\.txt:1: 'video 1' is not of the form VIDEO START STOP"),
        ("a.xml", "x", r"a\.xml: annotation files are \.json, \.csv, \.tsv or \.txt"),
    ],
)  # fmt: skip
def test_malformed_files_are_named(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_detection_labels([write(tmp_path / name, content)])


def test_files_that_contradict_each_other(tmp_path):
    one = write(tmp_path / "one.json", ACTIVITYNET)
    with pytest.raises(ValueError, match=r"two\.json: video 'abc' also has segments in .*one\.json"):
        read_detection_labels([one, write(tmp_path / "two.json", ACTIVITYNET)])
    with pytest.raises(
        ValueError, match=r"split\.csv: video 'v_abc' is in split 'val', but an earlier file has 'train'"
    ):
        read_detection_labels([one, write(tmp_path / "split.csv", "video,duration,split\nv_abc,30.5,val\n")])
    with pytest.raises(FileNotFoundError, match=r"no <Class>\.txt in this folder"):
        read_detection_labels([tmp_path])
    with pytest.raises(FileNotFoundError, match=r"none\.csv: annotation file not found"):
        read_detection_labels([tmp_path / "none.csv"])


def test_class_lists_and_lists_of_names(tmp_path):
    assert read_class_list(write(tmp_path / "names.csv", "action\nPolo\nLong jump, high\n")) == [
        "Polo",
        "Long jump, high",
    ]
    assert read_class_list(write(tmp_path / "names.txt", "action\nPolo\n")) == ["action", "Polo"]
    assert read_id_list(write(tmp_path / "blocked.json", ["a", "b"])) == {"a", "b"}
    with pytest.raises(ValueError, match=r"blocked\.json: expected a list of video names"):
        read_id_list(write(tmp_path / "blocked.json", {"a": 1}))
    classes = write(tmp_path / "classes.txt", "Polo\n")
    with pytest.raises(ValueError, match=r"anet\.json: video 'abc': segment 'Long jump' .* not in the class list"):
        read_detection_labels([write(tmp_path / "anet.json", ACTIVITYNET)], classes=classes)
    faults = SegmentFaults(skip=True)
    assert (
        len(read_detection_labels([tmp_path / "anet.json"], classes=classes, faults=faults).videos["abc"].segments) == 1
    )
    assert len(faults.skipped) == 1


def test_the_catalog_holds_videos_with_and_without_frames(tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    update_catalog(root, [VideoRecord("jpg/unlabeled/v_abc", None, 900, 8, 8, 30.0, 30.0, 99),
                          VideoRecord("jpg/unlabeled/other", None, 30, 8, 8, 30.0, 1.0, 99)])  # fmt: skip
    write(tmp_path / "anet.json", ACTIVITYNET)
    classes = write(tmp_path / "names.csv", "action\nPolo\nLong jump\nNever seen\n")
    blocked = write(tmp_path / "blocked.json", ["v_xyz", "v_abc", "unknown"])
    words = ["labels", "segments", str(root), str(tmp_path / "anet.json"), "--classes", str(classes), "--json"]
    assert main([*words, "--blocked", str(blocked)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["videos"] == 3 and report["segments"] == 3 and report["without_frames"] == 2
    assert report["splits"] == {"test": 1, "train": 1} and report["blocked"] == 1  # a training video stays
    assert report["without_labels"] == ["jpg/unlabeled/other"] and report["without_segments"] == 1
    data = open_dataset(root)
    assert data.classes == ["Polo", "Long jump", "Never seen"]
    videos = {video.name: (video.frames, index) for index, video in enumerate(data)}
    assert videos.keys() == {"v_abc", "xyz", "tst", "other"} and videos["v_abc"][0] == 900 and videos["xyz"][0] == 0
    assert [(one.start, one.stop, one.label) for one in data.segments(videos["v_abc"][1])] == [(1, 5.5, 0), (4, 9, 1)]
    # once more: segments are replaced, and the split val comes back without the blocked list
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["segments"] == 3 and report["splits"] == {"test": 1, "train": 1, "val": 1}
    assert [video.name for video in open_dataset(root, "val")] == ["xyz"]
    assert main(["labels", "show", str(root)]) == 0
    assert "3 segments" in capsys.readouterr().out
    # a scan keeps the videos that have features only
    (root / "jpg").mkdir()
    with pytest.raises(ValueError, match="none"):
        scan_catalog(root)
    assert len(open_dataset(root)) == 4


def test_segments_are_checked_against_the_converted_video(tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    update_catalog(root, [VideoRecord("jpg/unlabeled/a", None, 100, 8, 8, 10.0, 10.0, 99)])
    path = write(tmp_path / "own.csv", "video,start,end,class,duration\na,8,12,run,20\na,15,16,run,20\n")
    assert main(["labels", "segments", str(root), str(path)]) == 2
    assert "video 'a': segment 'run' from 15 to 16 seconds: it is after the end" in capsys.readouterr().err
    assert open_dataset(root).segments(0) == []
    assert main(["labels", "segments", str(root), str(path), "--on-error", "skip", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert len(report["skipped"]) == 1 and "15 to 16" in report["skipped"][0]
    assert len(report["cut"]) == 1 and "cut to 8 to 10" in report["cut"][0]
    assert [(one.start, one.stop) for one in open_dataset(root).segments(0)] == [(8, 10)]


def test_videos_without_a_known_duration(tmp_path, capsys):
    path = write(tmp_path / "own.csv", "video,start,end,class\na,1,2,run\nb,1,2,run\n")
    root, durations = tmp_path / "data", write(tmp_path / "durations.csv", "video,duration,fps\na,30,25\n")
    assert main(["labels", "segments", str(root), str(path), str(durations)]) == 2
    assert "video 'b': its duration is unknown" in capsys.readouterr().err
    assert main(["labels", "segments", str(root), str(path), str(durations), "--on-error", "skip"]) == 1
    assert [(video.name, video.frames) for video in open_dataset(root)] == [("a", 750)]
    capsys.readouterr()
    assert main(["labels", "segments", str(root), str(path), str(durations), "--without-durations", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["without_duration"] == ["b"]
    assert [(video.name, video.frames) for video in open_dataset(root)] == [("a", 750), ("b", 0)]


def test_repeated_segments_are_kept_and_named(tmp_path):
    path = write(tmp_path / "own.csv", "video,start,end,class,duration\na,1,2,run,9\na,1.0005,2,run,9\na,1,2,jump,9\n")
    labels = read_detection_labels([path])
    assert len(labels.videos["a"].segments) == 3
    (repeated,) = labels.duplicates
    assert repeated.startswith(f"{path}:3: segment 'run'")
    report = apply_detection(tmp_path / "data", labels)
    assert report.segments == 3 and "1 segment repeated; kept" in str(report)
