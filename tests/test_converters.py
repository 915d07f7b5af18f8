"""The converters: small files in each official form become the published CSV files and the catalog."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import vidseg
from vidseg.cli.converter import load_converter
from vidseg.cli.main import main, run_program
from vidseg.labels import VideoRecord, apply_labels, open_dataset, read_label_csv, update_catalog

CONVERTERS = Path(__file__).parents[1] / "converters"
NAMES = ("diving48", "hacs", "hmdb51", "kinetics", "moments", "ucf101")


def convert(name, source, out, *words):
    """Runs converters/<name>.py; returns its exit status."""
    return run_program(load_converter(name), [str(source), "--out", str(out), *map(str, words)])


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))
    return folder


def dataset(root, *paths):
    root.mkdir()
    update_catalog(
        root,
        [
            VideoRecord(f"jpg/{path}", None if path.startswith("unlabeled/") else path.split("/")[0], 10, 8, 8, 5, 2, 9)
            for path in paths
        ],
    )
    return root


def names(root, split):
    return [video.name for video in open_dataset(root, split)]


def published(out):
    return {path.name: path.read_text().splitlines() for path in sorted(out.iterdir())}


def test_help_is_quick_to_load_and_complete():
    program = f"""
import runpy, sys
for name in {NAMES}:
    sys.argv = [name, "--help"]
    try:
        runpy.run_path(f"{CONVERTERS}/{{name}}.py", run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0
assert not {{"torch", "numpy", "av", "sqlite_utils"}} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(vidseg.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for word in ("HACS_clips_v1.1_{train,val,test}.csv", "--variant {200,400,600,700}", "--dataset", "diving48_"):
        assert word in done.stdout


def test_converters_are_commands_too(tmp_path, capsys):
    """As in `vidseg labels hmdb51 SOURCE`: each file of converters/ by its name."""
    names = sorted(path.stem for path in CONVERTERS.glob("*.py"))
    assert main(["labels", "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(names) >= 17 and all(f"\u2022 {name} " in shown for name in names)
    for name in names:
        assert main(["labels", name, "--help"]) == 0
        assert f"usage: vidseg labels {name} [-h]" in capsys.readouterr().out
    source = write(tmp_path, {f"stir_test_split{k}.txt": f"a.avi {k % 3}\n" for k in (1, 2, 3)})
    assert main(["labels", "hmdb51", str(source), "--out", str(tmp_path / "out")]) == 0
    assert published(tmp_path / "out")["hmdb_split1_train.csv"][1:] == ["stir,a,split1/train"]
    assert main(["labels", "hmdb"]) == 2
    with pytest.raises(ValueError, match="no converter 'hmdb'; expected one of 50salads, "):
        load_converter("hmdb")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_the_official_files_is_refused(name, tmp_path, capsys):
    assert convert(name, tmp_path, tmp_path / "out") == 2
    assert "pass the folder of the official annotation files" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ucf101(tmp_path, capsys, caplog):
    files = {"classInd.txt": "1 Hammering\r\n2 HammerThrow\r\n"}
    for division in (1, 2, 3):
        train = f"Hammering/v_Hammering_g0{division}_c01.avi 1\r\nHammerThrow/v_HammerThrow_g08_c02.avi 2\r\n"
        files[f"ucfTrainTestlist/trainlist0{division}.txt"] = train
        test = "" if division < 3 else "Hammering/v_Hammering_g02_c01.avi\n"
        files[f"ucfTrainTestlist/testlist0{division}.txt"] = f"HammerThrow/v_HammerThrow_g01_c01.avi\n{test}"
    files["ucfTrainTestlist/classInd.txt"] = files.pop("classInd.txt")
    root = dataset(
        tmp_path / "ucf",
        *(f"Hammering/v_Hammering_g0{number}_c01" for number in (1, 2)),
        *("HammerThrow/v_HammerThrow_g01_c01", "HammerThrow/v_HammerThrow_g08_c02", "HammerThrow/extra"),
    )
    out = tmp_path / "out"
    assert convert("ucf101", write(tmp_path / "official", files), out, "--dataset", root, "--json") == 0
    assert "classes found: 2; the whole data set has 101" in caplog.text
    found = published(out)
    assert [name for name in found if name.endswith("csv")] == [
        f"ucf101_split{division}_{part}.csv" for division in (1, 2, 3) for part in ("train", "val")
    ]
    assert found["ucf101_split1_train.csv"] == [
        "label,id,split",
        "Hammering,v_Hammering_g01_c01,split1/train",
        "HammerThrow,v_HammerThrow_g08_c02,split1/train",
    ]
    assert json.loads((out / "ucf101_split2_dictionary.json").read_text()) == {"Hammering": 0, "HammerThrow": 1}

    content = json.loads(capsys.readouterr().out)
    assert content["files"][str(out / "ucf101_split3_val.csv")] == 2 and content["classes"] == 2
    assert content["report"]["missing_videos"] == ["Hammering/v_Hammering_g03_c01"]
    assert content["report"]["unlabeled_videos"] == ["jpg/HammerThrow/extra"]
    assert open_dataset(root).classes == ["Hammering", "HammerThrow"]  # not the order of sorted names
    assert names(root, "split1/train") == ["v_HammerThrow_g08_c02", "v_Hammering_g01_c01"]
    assert names(root, "split3/test") == ["v_HammerThrow_g01_c01", "v_Hammering_g02_c01"]

    # The CSV files say the same as the catalog.
    again = dataset(tmp_path / "again", *(open_dataset(root).video_path(i)[4:] for i in range(5)))
    rows = [row for path in sorted(out.glob("*.csv")) for row in read_label_csv(path)]
    apply_labels(again, rows)
    for split in ("split1/train", "split2/train", "split1/test", "split3/test"):
        assert names(again, split) == names(root, split)


def test_the_first_division_of_ucf101_is_enough(tmp_path, capsys):
    files = {"classInd.txt": "1 Archery\n", "trainlist01.txt": "Archery/v_Archery_g08_c01.avi 1\n"}
    source = write(tmp_path / "official", files)
    assert convert("ucf101", source, tmp_path / "out") == 2
    assert "testlist01.txt not found" in capsys.readouterr().err
    write(source, {"testlist01.txt": "Archery/v_Archery_g01_c01.avi\n"})
    assert convert("ucf101", source, tmp_path / "out") == 0
    assert list(published(tmp_path / "out")) == [
        "ucf101_split1_dictionary.json",
        "ucf101_split1_train.csv",
        "ucf101_split1_val.csv",
    ]
    # a division that is there in part is not passed over
    write(source, {"testlist02.txt": "Archery/v_Archery_g02_c01.avi\n"})
    assert convert("ucf101", source, tmp_path / "out") == 2
    assert "trainlist02.txt not found" in capsys.readouterr().err


def test_hmdb51_codes(tmp_path, capsys):
    hair = [f"April_09_brush_hair_u_nm_np1_ba_goo_{number}" for number in range(3)]
    rad = "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0"
    files = {}
    for division, codes in ((1, "120"), (2, "012"), (3, "201")):
        lines = [f"{name}.avi {code} " for name, code in zip(hair, codes, strict=True)]
        files[f"brush_hair_test_split{division}.txt"] = "\n".join(lines) + "\n"
        files[f"cartwheel_test_split{division}.txt"] = f"{rad}.avi {division % 2 + 1} \n"
    source = write(tmp_path / "testTrainMulti_7030_splits", files)
    root = dataset(tmp_path / "hmdb", *(f"unlabeled/{name}" for name in (*hair, rad)))
    assert convert("hmdb51", source, tmp_path / "out", "--dataset", root) == 0
    assert published(tmp_path / "out")["hmdb_split1_train.csv"][1:] == [f"brush_hair,{hair[0]},split1/train"]
    assert names(root, "split1/train") == [hair[0]]
    assert names(root, "split1/test") == [rad, hair[1]]
    assert names(root, "split2/train") == [rad, hair[1]]
    assert names(root, "split3/test") == [rad, hair[0]]
    assert open_dataset(root).classes == ["brush_hair", "cartwheel"]
    assert "4 videos labeled\n0 labels without a video\n0 videos without a label" in capsys.readouterr().out

    write(source, {"brush_hair_test_split2.txt": "x.avi 3\n"})
    assert convert("hmdb51", source, tmp_path / "out") == 2
    assert "brush_hair_test_split2.txt:1: 'x.avi 3' is not of the form" in capsys.readouterr().err


def diving48(train_label=1):
    return {
        "Diving48_vocab.json": [["Reverse", "Dive", "PIKE"], ["Back", "15som", "05Twis", "FREE"]],
        "Diving48_V2_train.json": [
            {"vid_name": "-mmq0PT-u8k_00155", "label": train_label, "start_frame": 0, "end_frame": 48}
        ],
        "Diving48_V2_test.json": [{"vid_name": "2x00lRzlTVQ_00000", "label": 0, "start_frame": 0, "end_frame": 70}],
    }


def test_diving48(tmp_path, capsys):
    root = dataset(tmp_path / "diving", "unlabeled/-mmq0PT-u8k_00155", "unlabeled/2x00lRzlTVQ_00000")
    assert convert("diving48", write(tmp_path / "official", diving48()), tmp_path / "out", "--dataset", root) == 0
    found = published(tmp_path / "out")
    assert found["diving48_train.csv"] == ["label,id,split", "Back_15som_05Twis_FREE,-mmq0PT-u8k_00155,train"]
    assert found["diving48_val.csv"][1] == "Reverse_Dive_PIKE,2x00lRzlTVQ_00000,test"
    assert open_dataset(root).classes == ["Reverse_Dive_PIKE", "Back_15som_05Twis_FREE"]
    assert open_dataset(root, "train").labels.tolist() == [1] and open_dataset(root, "test").labels.tolist() == [0]
    assert convert("diving48", write(tmp_path / "official", diving48(2)), tmp_path / "out") == 2
    assert "'-mmq0PT-u8k_00155': label 2, but the vocabulary has classes 0 to 1" in capsys.readouterr().err


def test_moments(tmp_path):
    source = write(
        tmp_path / "Moments_in_Time",
        {
            "moments_categories.txt": "clapping,0\nadult+female+singing,1\n",
            "trainingSet.csv": "clapping/yt-5of6ffo6-Bw_205.mp4,clapping,3,0\n"
            "adult+female+singing/flickr-1-2_3.mp4,adult+female+singing,2,1\n",
            "validationSet.csv": "clapping/getty-clap-video-id635808620_4.mp4,clapping,3,0\n",
        },
    )
    root = dataset(tmp_path / "mit", "clapping/yt-5of6ffo6-Bw_205", "adult+female+singing/flickr-1-2_3")
    assert convert("moments", source, tmp_path / "out", "--dataset", root) == 0
    assert published(tmp_path / "out")["Moments_in_Time_val.csv"] == [
        "label,id,split",
        "clapping,getty-clap-video-id635808620_4,val",
    ]
    assert open_dataset(root).classes == ["clapping", "adult+female+singing"]
    assert open_dataset(root, "train").labels.tolist() == [1, 0]


HACS = """classname,youtube_id,subset,start,end,label
Long jump,a2X2hz1G6i8,training,15.5,17.5,1
Long jump,NUdji_CqvcY,training,77.5,79.5,-1
Archery,0O_qMHxBfXg,validation,24.5,26.5,1
,abc,testing,1.0,3.0,
"""


def test_hacs_skips_negative_samples(tmp_path, caplog):
    root = dataset(tmp_path / "hacs", "Long_jump/a2X2hz1G6i8_000015_000017", "Archery/0O_qMHxBfXg_000024_000026")
    source = write(tmp_path / "HACS_v1.1", {"HACS_clips_v1.1.csv": HACS})
    assert convert("hacs", source, tmp_path / "out", "--dataset", root) == 0
    assert "negative samples skipped: 1" in caplog.text
    found = published(tmp_path / "out")
    assert found["HACS_clips_v1.1_train.csv"] == [
        "label,youtube_id,time_start,time_end,split",
        "Long jump,a2X2hz1G6i8,15.5,17.5,train",
    ]
    assert found["HACS_clips_v1.1_test.csv"][1] == ",abc,1.0,3.0,test"
    assert open_dataset(root).classes == ["Archery", "Long jump"]
    assert names(root, "train") == ["a2X2hz1G6i8_000015_000017"] and names(root, "val") == ["0O_qMHxBfXg_000024_000026"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("youtube_id,label\n", "HACS_clips_v1.1.csv:1: header 'youtube_id,label', expected classname,"),
        (HACS + "a,b,training,1,2,7\n", "HACS_clips_v1.1.csv:6: column 'label': '7' is neither 1 nor -1"),
        (HACS + "a,b,training,1,x,1\n", "HACS_clips_v1.1.csv:6: times '1' and 'x' are not numbers of seconds"),
        (HACS + "a,b,training,1\n", "HACS_clips_v1.1.csv:6: 4 cells, expected 6"),
    ],
)
def test_faulty_hacs_files(tmp_path, capsys, text, message):
    assert convert("hacs", write(tmp_path / "in", {"HACS_clips_v1.1.csv": text}), tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def kinetics_csv(split, *rows):
    lines = [f"{label},{video},{start},{start + 10},{split},0" for label, video, start in rows]
    return "\n".join(["label,youtube_id,time_start,time_end,split,is_cc", *lines]) + "\n"


KINETICS = {
    "train.csv": kinetics_csv("train", ("air drumming", "_dbcJuKJQNs", 40), ("testifying", "x", 1)),
    "validate.csv": kinetics_csv("validate", ("testifying", "---QUuC4vJs", 84)),
}


def test_kinetics_csv(tmp_path, caplog):
    root = dataset(tmp_path / "k700", "air drumming/_dbcJuKJQNs_000040_000050", "testifying/---QUuC4vJs_000084_000094")
    source = write(
        tmp_path / "kinetics700", {**KINETICS, "test.csv": "youtube_id,time_start,time_end,split\nt,2,12,test\n"}
    )
    assert convert("kinetics", source, tmp_path / "out", "--dataset", root) == 0
    found = published(tmp_path / "out")
    assert sorted(found) == [f"kinetics-700_{name}" for name in ("dictionary.json", "test.csv", "train.csv", "val.csv")]
    assert found["kinetics-700_val.csv"][1:] == ["testifying,---QUuC4vJs,84.0,94.0,val"]
    assert found["kinetics-700_test.csv"][1:] == [",t,2.0,12.0,test"]
    assert "classes found: 2; the whole data set has 700" in caplog.text
    assert names(root, "train") == ["_dbcJuKJQNs_000040_000050"] and names(root, "val") == ["---QUuC4vJs_000084_000094"]


def test_kinetics_json_of_2017(tmp_path):
    def entry(label, start, subset):
        annotations = {"segment": [start, start + 10.0]} | ({"label": label} if label else {})
        return {"annotations": annotations, "duration": 10.0, "subset": subset, "url": "https://www.youtube.com/watch"}

    source = write(
        tmp_path / "in",
        {
            "kinetics_train/kinetics_train.json": {"_dbcJuKJQNs": entry("air drumming", 40.0, "train")},
            "kinetics_val/kinetics_val.json": {"---QUuC4vJs": entry("testifying", 84.0, "validate")},
            "kinetics_test/kinetics_test.json": {"a": entry(None, 0.0, "test"), "b": {"subset": "test", "url": ""}},
        },
    )
    assert convert("kinetics", source, tmp_path / "out", "--variant", "400") == 0
    found = published(tmp_path / "out")
    assert found["kinetics-400_train.csv"][1:] == ["air drumming,_dbcJuKJQNs,40.0,50.0,train"]
    assert found["kinetics-400_val.csv"][1:] == ["testifying,---QUuC4vJs,84.0,94.0,val"]
    assert found["kinetics-400_test.csv"][1:] == [",a,0.0,10.0,test", ",b,,,test"]


def test_kinetics_200_is_a_subset_of_400(tmp_path, caplog, capsys):
    source = write(tmp_path / "in", KINETICS)
    assert convert("kinetics", source, tmp_path / "out", "--variant", "200") == 2
    assert "train_ytid_list.txt not found" in capsys.readouterr().err
    write(source, {"train_ytid_list.txt": "x\ngone\n", "val_ytid_list.txt": "---QUuC4vJs\n"})
    assert convert("kinetics", source, tmp_path / "out", "--variant", "200") == 0
    assert published(tmp_path / "out")["kinetics-200_train.csv"][1:] == ["testifying,x,1.0,11.0,train"]
    assert "train: the list has 2 ids, of which" in caplog.text


def test_two_releases_in_one_folder_are_refused(tmp_path, capsys):
    source = write(tmp_path / "in", {f"{folder}/train.csv": KINETICS["train.csv"] for folder in ("k400", "k600")})
    assert convert("kinetics", source, tmp_path / "out") == 2
    assert "pass the folder that contains only one" in capsys.readouterr().err


TIMED = "video_id,start_timestamp,stop_timestamp,verb_class\n"
SEGMENTS = {
    "database": {"abc": {"subset": "training", "duration": 9, "annotations": [{"label": "b", "segment": [1, 2]}]}}
}


@pytest.mark.parametrize(
    "name, files, classes",
    [
        ("activitynet", {"activity_net.v1-3.min.json": SEGMENTS, "action_name.csv": "action\nb\na\n"}, ["b", "a"]),
        ("fineaction", {"annotations_gt.json": SEGMENTS}, ["b"]),
        ("hacs_segments", {"HACS_segments_v1.1.1.json": SEGMENTS}, ["b"]),
        (
            "charades",
            {
                "Charades_v1_train.csv": "id,actions,length\nabc,c001 1 2,9\n",
                "Charades_v1_test.csv": "id,actions,length\n",
                "Charades_v1_classes.txt": "c000 a\nc001 b\n",
            },
            ["a", "b"],
        ),
        (
            "epic_kitchens",
            {
                "EPIC_100_train.csv": f"{TIMED}abc,00:00:01.0,00:00:02.0,1\n",
                "EPIC_100_validation.csv": TIMED,
                "EPIC_100_video_info.csv": "video_id,duration,fps,resolution\nabc,9,50,1x1\n",
                "EPIC_100_verb_classes.csv": "id,key,instances,category\n0,a,[],x\n1,b,[],x\n",
            },
            ["a", "b"],
        ),
        (
            "multithumos",
            {
                "multithumos.json": {"abc": {"subset": "training", "duration": 9, "actions": [[2, 1, 2]]}},
                "class_list.txt": "1 a\n2 b\n",
            },
            ["a", "b"],
        ),
        (
            "multithumos",
            {"annotations/b.txt": "video_validation_0000001 1 2\n", "class_list.txt": "1 a\n2 b\n"},
            ["a", "b"],
        ),
    ],
)  # fmt: skip
def test_segments_of_untrimmed_videos(name, files, classes, tmp_path, capsys):
    root = tmp_path / "data"
    words = ["--without-durations"] if "annotations/b.txt" in files else []
    program = load_converter(name)
    assert run_program(program, [str(write(tmp_path / "official", files)), str(root), *words]) == 0
    data = open_dataset(root, "train")
    assert data.classes == classes
    assert [(one.start, one.stop, classes[one.label]) for one in data.segments(0)] == [(1.0, 2.0, "b")]
    (tmp_path / "empty").mkdir()
    assert run_program(program, [str(tmp_path / "empty"), str(tmp_path / "other")]) == 2
    assert "pass the folder of the official annotation files" in capsys.readouterr().err
