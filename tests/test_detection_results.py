"""Files of detections: the official form both ways, tables, subtitles, scores and pictures of them."""

import json

import numpy as np
import pytest
from golden_vectors import FOLDER

from vidseg.cli.main import main
from vidseg.labels import read_localization_json
from vidseg.labels.detection_labels import apply_detection, read_detection_labels
from vidseg.labels.localization import LocalizedVideo, TimedLabel
from vidseg.metrics import DetectionProtocol, false_positive_profile
from vidseg.plots import DetectedVideo, plot_timelines
from vidseg.tasks.detection.result_files import (
    DetectionResults,
    DetectionRow,
    read_results,
    subtitle_cues,
    write_detections,
    write_results,
    write_subtitles,
)
from vidseg.tasks.detection.result_scores import detected_videos, pair_results, read_truth, score_pair

MAPS = json.loads((FOLDER / "detection_map.json").read_text())["cases"]
THUMOS = MAPS[-1]


def results_of(**videos) -> DetectionResults:
    """Results from rows (label, start, stop, score), classes numbered by name."""
    classes = sorted({row[0] for rows in videos.values() for row in rows})
    columns = {
        name: ([row[1:3] for row in rows], [classes.index(row[0]) for row in rows], [row[3] for row in rows])
        for name, rows in videos.items()
    }
    return DetectionResults.of(columns, classes)


def test_the_official_form_is_written_and_read(tmp_path):
    found = results_of(v_abc=[("run", 1.23456, 2, 0.2), ("jump", 0, 9.5, 0.9)], other=[])
    path = write_results(tmp_path / "all.json", found)
    content = json.loads(path.read_text())
    assert content["external_data"] == {} and content["version"] == "VERSION 1.3"
    assert content["results"] == {
        "v_abc": [
            {"label": "jump", "score": 0.9, "segment": [0.0, 9.5]},
            {"label": "run", "score": 0.2, "segment": [1.23456, 2.0]},
        ],
        "other": [],
    }
    back = read_results(path)
    assert back.videos == ("v_abc", "other") and back.classes == ("jump", "run")
    assert dict(back.rows()) == dict(found.rows())
    for prefix, names in ((True, ["v_abc", "v_other"]), (False, ["abc", "other"])):
        write_results(path, found, prefix=prefix, digits=2, external_data={"used": False})
        content = json.loads(path.read_text())
        assert list(content["results"]) == names and content["external_data"] == {"used": False}
        assert content["results"][names[0]][1]["segment"] == [1.23, 2.0]
    with pytest.raises(ValueError, match="two videos have the name 'abc'"):
        write_results(path, results_of(v_abc=[], abc=[]), prefix=False)
    assert [video.name for video in tmp_path.iterdir()] == ["all.json"]  # nothing half-written is left
    assert found.without(["abc"]).videos == ("other",) and len(found.without(["abc"]).detections) == 0
    assert dict(results_of(a=[("run", 1, 2, 1)], b=[("run", 3, 4, 1)]).without(["a"]).rows())["b"][0].start == 3


def test_proposals_have_no_label(tmp_path):
    proposals = {"results": {"a": [{"score": 0.5, "segment": [0, 1]}]}}
    (tmp_path / "p.json").write_text(json.dumps(proposals))
    found = read_results(tmp_path / "p.json")
    assert not found.has_classes
    write_results(tmp_path / "q.json", found)
    assert "label" not in json.loads((tmp_path / "q.json").read_text())["results"]["a"][0]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"database": {}}, "expected an object with the entry 'results'"),
        ({"results": {"a": 1}}, "video 'a' is not a list"),
        ({"results": {"a": [{"label": "x", "segment": [0, 1]}]}}, "video 'a': detection 0: KeyError: 'score'"),
        ({"results": {"a": [{"label": "x", "segment": [0], "score": 1}]}}, "video 'a': detection 0: ValueError"),
        ({"results": {"a": [{"label": "x", "segment": [0, 1], "score": None}]}}, "video 'a': detection 0: TypeError"),
        ({"results": {"a": [{"label": "x", "segment": [0, float("nan")], "score": 1}]}}, "is not finite"),
        ({"results": {"a": [], "a.mp4": []}}, "video 'a' occurs twice"),
        ('{"results": {"a": [], "a": []}}', "entry 'a' occurs twice"),
        (
            {"results": {"a": [{"segment": [0, 1], "score": 1}, {"segment": [0, 1], "score": 1, "label": "x"}]}},
            "some detections have a label and some have none",
        ),
    ],
)
def test_malformed_results_are_named(content, message, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        read_results(path)
    assert str(path) in str(error.value)


def test_tables_and_subtitles(tmp_path):
    rows = [
        DetectionRow("run", 1.0, 4.0, 0.9),
        DetectionRow("jump & <turn>", 3.0, 6.0, 0.5),
        DetectionRow("run", 3.5, 5.0, 0.6),
        DetectionRow("rest", 0.0, 60.0, 0.1),
        DetectionRow("rest", 3661.5, 3662.0, 1.0),
    ]
    assert subtitle_cues(rows, min_score=0.3) == [
        (1.0, 3.0, ["run 90%"]),
        (3.0, 4.0, ["run 90%", "jump & <turn> 50%"]),
        (4.0, 5.0, ["run 60%", "jump & <turn> 50%"]),
        (5.0, 6.0, ["jump & <turn> 50%"]),
        (3661.5, 3662.0, ["rest 100%"]),
    ]
    srt = write_subtitles(tmp_path / "a.srt", rows).read_text()
    assert srt.startswith(
        "1\n00:00:01,000 --> 00:00:03,000\nrun 90%\n\n2\n00:00:03,000 --> 00:00:04,000\nrun 90%\njump &"
    )
    assert "5\n01:01:01,500 --> 01:01:02,000\nrest 100%\n\n" in srt
    vtt = write_subtitles(tmp_path / "a.vtt", rows).read_text()
    assert vtt.startswith("WEBVTT\n\n1\n00:00:01.000 --> 00:00:03.000\nrun 90%\n\n")
    assert "jump &amp; &lt;turn&gt; 50%" in vtt
    with pytest.raises(ValueError, match=r"a\.txt: subtitles are written as"):
        write_subtitles(tmp_path / "a.txt", rows)
    found = results_of(a=[("run", 1, 2.00051, 0.5)], b=[("jump", 0, 1, 0.25)])
    assert write_detections(tmp_path / "all.csv", found) == [tmp_path / "all.csv"]
    assert (
        tmp_path / "all.csv"
    ).read_text() == "video,start,end,class,score\na,1.0,2.001,run,0.5\nb,0.0,1.0,jump,0.25\n"
    labels = read_detection_labels([tmp_path / "all.csv"])
    assert labels.videos["a"].segments == [TimedLabel("run", 1.0, 2.001)]
    assert write_detections(tmp_path / "s.vtt", found) == [tmp_path / "s/a.vtt", tmp_path / "s/b.vtt"]
    assert (tmp_path / "s/b.vtt").read_text() == "WEBVTT\n\n"
    assert write_detections(tmp_path / "one.srt", found.without(["b"])) == [tmp_path / "one.srt"]
    with pytest.raises(ValueError, match=r"x\.xml: detections are written as \.json"):
        write_detections(tmp_path / "x.xml", found)


def truth_files(tmp_path, case):
    for name, content in (("truth", case["ground_truth"]), ("results", case["detections"])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return str(tmp_path / "truth.json"), str(tmp_path / "results.json")


@pytest.mark.parametrize("case", MAPS, ids=lambda case: case["name"])
def test_published_values_of_files(case, tmp_path, capsys):
    words = ["score", *truth_files(tmp_path, case), "--json", "--thresholds", *map(str, case["tiou_thresholds"])]
    words += ["--split", {"validation": "val"}.get(case["subset"], case["subset"])]
    if case["blocked"]:
        (tmp_path / "blocked.json").write_text(json.dumps(case["blocked"]))
        words += ["--blocked", str(tmp_path / "blocked.json")]
    for protocol, key in (("activitynet", "expected"), ("thumos14", "expected_duplicates_removed")):
        if key in case:
            assert main([*words, "--protocol", protocol]) == 0
            found = json.loads(capsys.readouterr().out)
            assert list(found["map"].values()) == pytest.approx(case[key]["mAP"], abs=1e-9)
            assert found["average"] == pytest.approx(case[key]["average_mAP"], abs=1e-9)
            assert found["instances"] == case[key]["n_gt"]


def test_scores_as_a_table(tmp_path, capsys):
    truth, results = truth_files(tmp_path, THUMOS)
    assert main(["score", truth, results, "--protocol", "thumos14", "--classes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("242 instances, 14 classes, 237 detections")
    assert lines[2].split() == ["IoU", "0.3", "0.4", "0.5", "0.6", "0.7", "average"]
    expected = [*THUMOS["expected"]["mAP"], THUMOS["expected"]["average_mAP"]]
    assert lines[3].split()[1:] == [f"{100 * value:.2f}" for value in expected]
    assert lines[4].startswith("recall@1x") and lines[7].split() == [
        "proposals",
        "AR@1",
        "AR@5",
        "AR@10",
        "AR@100",
        "AUC",
    ]
    costs = {line[:18].strip(): line.split()[-1] for line in lines[11:16]}
    videos = read_truth([truth])
    pair = pair_results(videos, read_results(results), protocol="thumos14")
    gains = false_positive_profile(pair.truth, pair.detections, protocol="thumos14").summary()["gains"]
    assert costs == {name: f"{100 * gain:.2f}" for name, gain in gains.items()}
    table = [line.split() for line in lines[18:]]
    assert len(table) == 14 and float(table[0][-1]) == min(float(row[-1]) for row in table)


def test_names_with_and_without_prefix_and_videos_of_one_side():
    truth = {
        "abc": LocalizedVideo([TimedLabel("run", 0, 10)], 20.0),
        "v_xyz": LocalizedVideo([TimedLabel("run", 0, 10)], 20.0),
        "none": LocalizedVideo([TimedLabel("jump", 1, 2)], 20.0),
    }
    rows = [("run", 0, 10, 0.5)]
    found = results_of(v_abc=rows, xyz=rows, extra=[("run", 0, 10, 0.9)], v_none=[("walk", 1, 2, 0.5)])
    pair = pair_results(truth, found, protocol=DetectionProtocol((0.5,)))
    assert (pair.missing, pair.outside, pair.unknown) == ([], ["extra"], ["walk"])
    assert pair.videos == ("abc", "v_xyz", "none", "extra") and pair.classes == ("jump", "run", "walk")
    scores = score_pair(pair).scores
    assert scores.classes.tolist() == [0, 1] and scores.ap[1, 0] == pytest.approx(2 / 3)  # extra is a false positive
    ignoring = pair_results(truth, found, protocol=DetectionProtocol((0.5,), outside_videos="ignore"))
    assert score_pair(ignoring).scores.ap[1, 0] == 1.0
    assert pair_results(truth, found, classes=["walk", "run"]).classes == ("walk", "run", "jump")
    with pytest.raises(ValueError, match="class 'walk' of the results has no instance"):
        pair_results(truth, found, protocol=DetectionProtocol((0.5,), unknown_labels="refuse"))
    with pytest.raises(ValueError, match="1 video of the truth not in the results, such as 'none'"):
        rules = DetectionProtocol((0.5,), missing_videos="refuse")
        pair_results(truth, found.without(["none"]), protocol=rules)
    with pytest.raises(ValueError, match="the video 'abc' twice"):
        pair_results(truth, results_of(v_abc=rows, abc=rows))
    lines = score_pair(pair).lines()
    assert "1 video of the results not in the truth; detections there are false positives: extra" in lines
    assert "1 class of the results without an instance; ignored: walk" in lines


def test_the_truth_is_used_as_the_file_has_it(tmp_path):
    """The published evaluators neither cut a segment to its video nor leave out one without length."""
    annotations = [{"label": "run", "segment": [-1, 25]}, {"label": "run", "segment": [5, 5]}]
    entry = {"subset": "validation", "duration": 20, "annotations": annotations}
    (tmp_path / "truth.json").write_text(json.dumps({"database": {"a": entry}}))
    (video,) = read_truth([tmp_path / "truth.json"]).values()
    assert [(one.start, one.stop) for one in video.segments] == [(-1, 25), (5, 5)]
    with pytest.raises(ValueError, match="it has no length"):
        read_localization_json(tmp_path / "truth.json")


def test_the_truth_of_a_data_set(tmp_path, capsys):
    truth, results = truth_files(tmp_path, THUMOS)
    root = tmp_path / "data"
    labels = read_detection_labels([truth])
    apply_detection(root, labels, without_durations=True)
    assert main(["score", str(root), results, "--protocol", "thumos14", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["average"] == pytest.approx(THUMOS["expected"]["average_mAP"], abs=1e-9)
    assert main(["score", str(root), results, "--split", "val"]) == 2
    assert "split 'val' has no video; splits: test" in capsys.readouterr().err
    assert main(["score", results]) == 2
    assert "give the truth first" in capsys.readouterr().err
    assert main(["score", str(root), results, "--weights", "1"]) == 2
    assert "--weights is for files of scores" in capsys.readouterr().err
    assert main(["score", str(root), results, "--protocol", "thumos"]) == 2
    assert "'thumos' is not one of activitynet" in capsys.readouterr().err


def test_the_split_is_chosen_or_asked_for(tmp_path):
    own = tmp_path / "own.csv"
    own.write_text("video,start,end,class,split\na,1,2,run,train\nb,1,2,run,val\nc,1,2,run,test\n")
    with pytest.raises(ValueError, match="the splits test, val have segments; choose one with --split"):
        read_truth([own])
    assert list(read_truth([own], split="train")) == ["a"]
    own.write_text("video,start,end,class,split\na,1,2,run,train\nb,1,2,run,val\nc,,,,test\n")
    assert list(read_truth([own])) == ["b"]
    own.write_text("video,start,end,class\na,1,2,run\nb,1,2,run\n")
    (tmp_path / "blocked.txt").write_text("v_b\n")
    assert list(read_truth([own], blocked=tmp_path / "blocked.txt")) == ["a"]


def test_proposals_have_recall_only(tmp_path, capsys):
    case = json.loads((FOLDER / "detection_recall.json").read_text())["cases"][0]
    for entries in case["proposals"]["results"].values():
        for entry in entries:
            entry.pop("label", None)
    (tmp_path / "results.json").write_text(json.dumps(case["proposals"]))
    for entry in case["ground_truth"]["database"].values():
        for annotation in entry["annotations"]:
            annotation.setdefault("label", "x")
    (tmp_path / "truth.json").write_text(json.dumps(case["ground_truth"]))
    assert main(["score", str(tmp_path / "truth.json"), str(tmp_path / "results.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["average_recall"] == pytest.approx(case["expected"]["AR"], abs=1e-9)
    assert 100 * found["auc"] == pytest.approx(case["expected"]["AUC"], rel=1e-8) and "map" not in found


def test_pictures(tmp_path, capsys):
    truth, results = truth_files(tmp_path, THUMOS)
    out = tmp_path / "pictures"
    words = ["plot", "detections", truth, results, "--protocol", "thumos14", "--out", str(out)]
    assert main([*words, "--rows", "2"]) == 0
    names = ["timelines.png", "precision_recall.png", "false_positives.png"]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in names)
    assert main([*words, "--videos", "nonsense"]) == 2
    assert "unknown video 'nonsense'; the videos are video_test_" in capsys.readouterr().err


def test_videos_of_the_timeline():
    truth = {"a": LocalizedVideo([TimedLabel("run", 0, 10)], 20.0), "b": LocalizedVideo([], 5.0)}
    found = results_of(a=[("run", 0, 9, 0.5), ("run", 1, 10, 0.4), ("jump", 0, 5, 0.3)], b=[("run", 0, 1, 0.9)])
    pair = pair_results(truth, found)
    (video,) = detected_videos(pair)
    assert (video.name, video.seconds) == ("a", 20.0)
    assert video.correct.tolist() == [True, False, False] and video.scores.tolist() == [0.5, 0.4, 0.3]
    assert detected_videos(pair, ["b"])[0].correct.tolist() == [False]


def test_a_timeline_without_times_is_refused(tmp_path):
    nothing = DetectedVideo("a", None, *(np.zeros((0, 2)), np.zeros(0, int)) * 2, np.zeros(0))
    with pytest.raises(ValueError, match="video 'a': neither a duration nor a segment"):
        plot_timelines([nothing], ["run"], tmp_path / "x.png")
    with pytest.raises(ValueError, match="0 videos: expected 1 to 40"):
        plot_timelines([], ["run"], tmp_path / "x.png")
