"""Several classes, or a number, of each video: CSV files, the catalog, the data set."""

import numpy as np
import pytest
from test_labels_apply import put

from vidseg.cli.main import main
from vidseg.clips.planner import ClipPlanner
from vidseg.clips.video_order import VideoOrder
from vidseg.labels import LabelRow, apply_labels, open_dataset
from vidseg.labels.video_targets import apply_targets, read_targets
from vidseg.tasks.recognition.data import choose_splits, labeled
from vidseg.tasks.recognition.options import RecognitionData


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    put(folder, "run/1", "unlabeled/2", "unlabeled/3", "unlabeled/4")
    return folder


def write(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return path


def names_of(data):
    return {
        video.name: [data.classes[number] for number in np.flatnonzero(row)]
        for video, row in zip(data, data.class_sets, strict=True)
    }


def test_sets_of_classes_reach_the_data_set(root, tmp_path):
    path = write(tmp_path, "id,labels,split\n1,walk;indoor,train\n2, indoor | run ,train\n3,,val\n9,run,val\n")
    report = apply_targets(root, [path])
    assert (report.matched, report.missing_videos, report.unlabeled_videos) == (3, ["9"], ["jpg/unlabeled/4"])
    data = open_dataset(root)
    assert data.classes == ["run", "indoor", "walk"]  # run was the class of a folder
    assert data.has_class_set.tolist() == [True, True, True, False]
    assert names_of(data) == {"1": ["indoor", "walk"], "2": ["run", "indoor"], "3": [], "4": []}
    assert (data.labels == -1).all() and data.values is None
    assert names_of(open_dataset(root, "train")) == {"1": ["indoor", "walk"], "2": ["run", "indoor"]}
    assert len(labeled(data, "classes")) == 3
    part = data.subset([2, 0])
    assert names_of(part) == {"3": [], "1": ["indoor", "walk"]}
    # single labels applied afterwards leave the sets and their classes alone
    apply_labels(root, [LabelRow("sit", "4")])
    assert names_of(open_dataset(root))["1"] == ["indoor", "walk"]


def test_numbers_reach_the_data_set_and_keep_the_classes(root, tmp_path):
    apply_targets(root, [write(tmp_path, "video,value,split\n1,0.5,train\n2,-2,train\n3,1e3,val\n")])
    data = open_dataset(root)
    assert data.values[:3].tolist() == [0.5, -2.0, 1000.0] and np.isnan(data.values[3])
    assert data.classes == ["run"] and data.class_sets is None
    splits = choose_splits(RecognitionData(dataset=str(root)), seed=0, target="value")
    assert (len(splits.train), len(splits.validation), splits.test) == (2, 1, None)
    with pytest.raises(ValueError, match="no video has a set of classes; run `vidseg labels targets"):
        labeled(data, "classes")


def test_an_unknown_class_is_refused_by_name(root, tmp_path, capsys):
    classes = tmp_path / "classes.txt"
    classes.write_text("run\nwalk\njump\n")
    path = write(tmp_path, "id,labels\n1,run;jump\n2,wlak\n")
    assert main(["labels", "targets", str(root), str(path), "--classes", str(classes)]) == 2
    message = capsys.readouterr().err
    assert f"{path}:3: unknown class 'wlak', which is not in {classes}; did you mean 'walk'?" in message
    assert open_dataset(root).class_sets is None  # unchanged
    write(tmp_path, "id,labels\n1,run;jump\n2,walk\n")
    assert main(["labels", "targets", str(root), str(path), "--classes", str(classes)]) == 0
    assert open_dataset(root).classes == ["run", "walk", "jump"]
    write(tmp_path, "id,labels\n1,sit\n")  # the class list of the catalog holds from now on
    with pytest.raises(ValueError, match=r"labels.csv:2: unknown class 'sit'.*the classes are run, walk, jump"):
        apply_targets(root, [path])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the file is empty; expected a header"),
        ("id,label\n1,a\n", "needs one of the columns youtube_id, id, path, video, and either labels or value"),
        ("id,labels,value\n1,a,2\n", "either labels or value"),
        ("id,value\n1,fast\n", "labels.csv:2: column 'value': 'fast' is not a number"),
        ("id,value\n1,inf\n", "'inf' is not a number"),
        ("id,value\n,2\n", "labels.csv:2: column 'id' is empty"),
        ("id,value\n1\n", "labels.csv:2: 1 cells, but the header has 2 columns"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError) as error:
        read_targets(write(tmp_path, text))
    assert message in str(error.value)


def test_two_rows_of_a_video_must_agree(root, tmp_path):
    with pytest.raises(ValueError, match=r"labels.csv:3: '1' has other labels in .*labels.csv:2"):
        apply_targets(root, [write(tmp_path, "id,value\n1,2\n1,3\n")])


@pytest.mark.parametrize("options", [{"repeats": 2}, {"balanced": True}, {"balanced": True, "repeats": 3}])
def test_orders_are_the_same_on_one_and_two_ranks_and_after_a_resume(root, options):
    put(root, *(f"{name}/{name}_{number}" for name, count in (("a", 2), ("b", 9)) for number in range(count)))
    data = open_dataset(root)
    data = data.subset(data.labels >= 0)

    def planner(rank=0, world_size=1):
        order = VideoOrder(data.labels, seed=3, **options)
        shape = {"frames": 4, "size": 8, "batch_size": 4, "seed": 3}
        return ClipPlanner(data, sampler=order, rank=rank, world_size=world_size, **shape)

    one, two = planner(), [planner(rank, 2) for rank in range(2)]
    for epoch in (0, 1):
        for index in range(one.batches(epoch)):
            whole, parts = one.plan(epoch, index), [part.plan(epoch, index) for part in two]
            assert whole.take([0, 2]) == parts[0] and whole.take([1, 3]) == parts[1]
            assert planner().plan(epoch, index) == whole  # asked for alone, as after a resume
            pairs = whole.videos * 100 + whole.repeats
            assert len(set(pairs.tolist())) == len(pairs)
