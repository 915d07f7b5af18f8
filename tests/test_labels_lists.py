"""Lists of videos without a header, class lists beside them, and names: what is read and what is refused."""

import unicodedata

import numpy as np
import pytest

from vidseg.cli.main import main
from vidseg.labels import (
    FrameLabels,
    LabelRow,
    VideoRecord,
    apply_labels,
    apply_segmentation,
    open_dataset,
    read_mapping,
    read_predictions,
    read_segmentation,
    update_catalog,
)
from vidseg.labels.label_files import read_label_files
from vidseg.labels.names import PathFinder, division_of_file
from vidseg.loaders import FeatureLoader

CLASS_INDEX = "1 Archery\n2 Bowling\n3 Long Jump\n"


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def read(folder, *names, **options):
    found = read_label_files([folder / name for name in names], **options)
    return [(row.label, row.name, row.split) for row in found.rows], found.classes


def put(root, *paths):
    root.mkdir(exist_ok=True)
    update_catalog(root, [VideoRecord(f"jpg/{path}", path.split("/")[0], 100, 8, 8, 5, 20, 9) for path in paths])
    return root


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.txt", "train"),
        ("validation.csv", "val"),
        ("testlist01.txt", "split1/test"),
        ("kinetics400_val_list_videos.txt", "val"),
        ("ucf101_train_split_2_rawframes.txt", "split2/train"),
        ("trainSet.txt", "train"),
        ("testTrainMulti.txt", None),
        ("contest.txt", None),
        ("strain.txt", None),
        ("list.txt", None),
    ],
)
def test_splits_from_the_names_of_lists(name, split):
    assert division_of_file(f"train/{name}") == split


def test_list_of_paths_and_numbers_from_0(tmp_path):
    write(tmp_path, {"train.txt": "d/a.mp4 0\nd/b c.mp4 1\n", "val.txt": "d/e.mp4\t2\n", "classes.txt": "x\ny\nz\n"})
    rows, classes = read(tmp_path, "train.txt", "val.txt")
    assert rows == [("x", "a", "train"), ("y", "b c", "train"), ("z", "e", "val")]
    assert classes == ["x", "y", "z"]


def test_list_of_folders_frame_counts_and_numbers(tmp_path):
    write(tmp_path, {"train.txt": "d/P01.a 163 1\nd/P01.b 9 0\n", "label_map.txt": "x\ny\n"})
    assert read(tmp_path, "train.txt") == ([("y", "P01.a", "train"), ("x", "P01.b", "train")], ["x", "y"])


def test_numbers_of_ucf_lists_begin_with_1_and_test_lists_have_none(tmp_path):
    write(
        tmp_path,
        {
            "trainlist01.txt": "Archery/v_a.avi 1\nLong Jump/v_c.avi 3\n",
            "testlist01.txt": "Bowling/v_b.avi\nArchery/v_d.avi\n",
            "classInd.txt": CLASS_INDEX,
        },
    )
    rows, classes = read(tmp_path, "trainlist01.txt", "testlist01.txt")
    assert rows == [
        ("Archery", "v_a", "split1/train"),
        ("Long Jump", "v_c", "split1/train"),
        ("Bowling", "v_b", "split1/test"),
        ("Archery", "v_d", "split1/test"),
    ]
    assert classes == ["Archery", "Bowling", "Long Jump"]


def test_numbers_from_0_beside_a_class_list_from_1(tmp_path):
    write(
        tmp_path, {"classInd.txt": CLASS_INDEX, "train.txt": "a.mp4 0\nb.mp4 2\n", "folders.txt": "Bowling/a.mp4 1\n"}
    )
    assert read(tmp_path, "train.txt")[0] == [("Archery", "a", "train"), ("Long Jump", "b", "train")]
    assert read(tmp_path, "folders.txt")[0] == [("Bowling", "a", None)]  # the folder shows that 1 is Bowling


def test_numbers_that_can_begin_with_0_or_1_are_not_guessed(tmp_path):
    write(tmp_path, {"classInd.txt": CLASS_INDEX, "train.txt": "a.mp4 1\nb.mp4 2\n"})
    with pytest.raises(ValueError, match=r"classInd.txt: its numbers begin with 1, but the lists do not show"):
        read(tmp_path, "train.txt")
    assert [row[0] for row in read(tmp_path, "train.txt", first_number=0)[0]] == ["Bowling", "Long Jump"]
    assert [row[0] for row in read(tmp_path, "train.txt", first_number=1)[0]] == ["Archery", "Bowling"]


def test_without_a_class_list_the_folders_or_the_numbers_name_the_classes(tmp_path):
    write(tmp_path, {"train.txt": "walk/a.mp4 0\nrun/b.mp4 1\n", "flat.txt": "a.mp4 10\nb.mp4 9\n"})
    assert read(tmp_path, "train.txt") == ([("walk", "a", "train"), ("run", "b", "train")], ["walk", "run"])
    rows, classes = read(tmp_path, "flat.txt")
    assert rows == [("10", "a", None), ("9", "b", None)] and classes == [str(number) for number in range(11)]
    write(tmp_path, {"paths.txt": "data/walk/a.mp4\ndata/run/b.mp4\n", "ids.txt": "a\nb\n"})
    assert read(tmp_path, "paths.txt") == ([("walk", "a", None), ("run", "b", None)], None)
    assert read(tmp_path, "ids.txt") == ([(None, "a", None), (None, "b", None)], None)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.txt": "a.mp4 1\nb.mp4 7 1\n"}, "train.txt:2: 2 numbers after the path, but line 1 has 1"),
        ({"train.txt": "a 9 1 2\n"}, "train.txt:1: 3 numbers after the path"),
        ({"train.txt": "a.mp4 3\n", "classes.txt": "x\ny\n"}, "2 classes, but the lists have the class numbers 3"),
        (
            {"train.txt": "y/a.mp4 0\n", "classes.txt": "x\ny\n"},
            "train.txt:1: class number 0 in folder 'y' contradicts",
        ),
        ({"train.txt": "z/a.mp4\nx/b.mp4\n", "classes.txt": "x\ny\n"}, "train.txt:1: folder 'z' is not a class of"),
        ({"train.txt": "a 0\n", "classes.txt": "x\n", "mapping.txt": "0 x\n"}, "several class lists"),
        ({"train.txt": ""}, "train.txt: the file is empty"),
    ],
)
def test_faulty_lists(tmp_path, files, message):
    write(tmp_path, files)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "train.txt")


@pytest.mark.parametrize("name", ["labels.txt", "classes.txt"])
def test_a_list_is_not_its_own_class_list(tmp_path, name):
    write(tmp_path, {name: "run/a.mp4 0\nwalk/b.mp4 1\n"})
    assert read(tmp_path, name) == ([("run", "a", None), ("walk", "b", None)], ["run", "walk"])


def test_apply_command_with_lists(tmp_path, capsys):
    root = put(tmp_path / "data", "Archery/v_a", "Bowling/v_b", "Long Jump/v_c")
    lists = write(
        tmp_path / "lists",
        {
            "trainlist01.txt": "Archery/v_a.avi 1\nLong Jump/v_c.avi 3\n",
            "testlist01.txt": "Bowling/v_b.avi\n",
            "classInd.txt": CLASS_INDEX,
        },
    )
    assert main(["labels", "apply", str(root), *map(str, sorted(lists.iterdir()))]) == 0
    assert "3 videos labeled" in capsys.readouterr().out
    assert [video.name for video in open_dataset(root, "split1/train")] == ["v_a", "v_c"]
    assert open_dataset(root, "split1/test").labels.tolist() == [1]
    (lists / "trainlist01.txt").write_text("Archery/v_a.avi 1\nArchery/v_a.avi\n")
    assert main(["labels", "apply", str(root), str(lists / "trainlist01.txt")]) == 2


# Names


def test_class_folders_of_paths_select_the_video(tmp_path):
    root = put(tmp_path / "data", "run/1", "walk/1")
    rows = [LabelRow("Running", "1", path="clips/run/1.mp4"), LabelRow("Walking", "1", path="clips/walk/1.mp4")]
    assert apply_labels(root, rows).matched == 2
    data = open_dataset(root)
    assert [data.classes[label] for label in data.labels] == ["Running", "Walking"]


def test_case_differences_are_named_before_anything_is_written(tmp_path):
    root = put(tmp_path / "data", "Run/1", "jump/2", "walk/3")
    before = (root / "catalog.db").read_bytes()
    rows = [LabelRow("run", "1", split="train"), LabelRow("walk", "3"), LabelRow("Walk", "3")]
    with pytest.raises(ValueError, match=r"'Walk' and 'walk'; 'run' and 'Run'; 'walk' and 'Walk'; nothing is written"):
        apply_labels(root, rows)
    assert (root / "catalog.db").read_bytes() == before
    with pytest.raises(ValueError, match="'run' and 'Run'"):
        apply_labels(root, rows[:1], classes=["Run", "jump", "walk"])
    report = apply_labels(root, rows[:1], classes=["jump", "run", "walk"])  # the list says which spelling is right
    assert report.matched == 1 and open_dataset(root).classes == ["jump", "run", "walk"]


def test_class_folders_that_differ_only_in_case_are_named(tmp_path, caplog):
    assert open_dataset(put(tmp_path / "data", "Run/1", "run/2")).classes == ["Run", "run"]
    assert "classes 'Run' and 'run' differ only in upper and lower case" in caplog.text


def test_classes_that_are_numbers_are_ordered_by_number(tmp_path):
    assert open_dataset(put(tmp_path / "data", "10/a", "9/b", "x/c")).classes == ["9", "10", "x"]


def test_folders_in_another_unicode_form_are_found(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "gâteau") for form in ("NFC", "NFD"))
    root = put(tmp_path / "data", f"{decomposed}/{decomposed}")
    assert open_dataset(root).classes == [composed]
    assert apply_labels(root, [LabelRow(composed, composed, split="train")]).matched == 1
    assert len(open_dataset(root, "train")) == 1
    (tmp_path / decomposed).mkdir()
    (tmp_path / decomposed / "a.mp4").touch()
    assert PathFinder(tmp_path).find(f"{composed}\\a.mp4") == tmp_path / decomposed / "a.mp4"
    assert PathFinder(tmp_path).find(f"{composed}/a") == tmp_path / decomposed / "a.mp4"
    assert PathFinder(tmp_path).find(f"{composed}/b.mp4") is None


def test_segmentation_files_in_both_unicode_forms(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Décorer_gâteau") for form in ("NFC", "NFD"))
    write(
        tmp_path,
        {
            "mapping.txt": f"0\t{composed}\n1\t b \n",
            f"groundTruth/{decomposed}.txt": f"{decomposed}\n b\t\n",
            "splits/train.split1.bundle": f"{composed}.txt\n",
        },
    )
    (tmp_path / "features").mkdir()
    np.save(tmp_path / f"features/{decomposed}.npy", np.zeros((4, 2), np.float32))
    labels = read_segmentation(tmp_path, rate=1.0)
    assert labels.classes == [composed, "b"] and labels.splits == {"split1/train": [composed]}
    apply_segmentation(tmp_path, labels)
    data = open_dataset(tmp_path, "split1/train")
    assert data[0].name == composed and FrameLabels(data)[0].tolist() == [0, 1]
    assert len(FeatureLoader(data)) == 1
    (tmp_path / f"groundTruth/{composed}.txt").write_text("b\nb\n")
    with pytest.raises(ValueError, match="has a second file"):
        read_segmentation(tmp_path, rate=1.0)


@pytest.mark.parametrize("form", ["0\ttake\n1\tput down\n", "0 take \n 1\t put down\n", "0,take\n1, put down\n"])
def test_mappings_with_tabs_blanks_and_commas(tmp_path, form):
    (tmp_path / "mapping.txt").write_text(form)
    assert read_mapping(tmp_path / "mapping.txt") == ["take", "put down"]


def test_dotted_names_of_predictions_without_extension(tmp_path):
    files = {f"truth/{name}.txt": "take\nput\n" for name in ("P01.a", "P01.b", "plain")}
    recognized = "### Frame level recognition: ###\ntake put\n"
    write(tmp_path, files | {f"ours/{name}": recognized for name in ("P01.a", "P01.b", "plain", "notes.md")})
    found = read_predictions(tmp_path / "truth", tmp_path / "ours")
    assert found.names == ["P01.a", "P01.b", "plain"] and not found.failed
    assert [values.tolist() for values in found.prediction] == [[1, 0]] * 3
