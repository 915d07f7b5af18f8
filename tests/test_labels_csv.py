"""The published label CSV: what is read from it, what is refused and how, and that writing is its inverse."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidseg.labels import LabelRow, read_label_csv, write_label_csv
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.names import clean_name, strip_extension
from vidseg.labels.official_lists import read_class_list


def read(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_label_csv(path)


def test_published_example(tmp_path):
    rows = read(tmp_path, "label,youtube_id,time_start,time_end,split\nArchery,abcdEFGH123,12.0,14.0,train\n")
    assert rows == [LabelRow("Archery", "abcdEFGH123", 12.0, 14.0, "train")]
    assert rows[0].folder_name == "abcdEFGH123_000012_000014"


def test_times_are_cut_to_whole_seconds_in_the_folder_name():
    assert LabelRow("a", "x", 15.5, 1117.9).folder_name == "x_000015_001117"
    assert LabelRow("a", "x").folder_name == "x"


def test_byte_order_mark_crlf_blank_lines_and_quotes(tmp_path):
    text = '\ufefflabel,id,split\r\n\r\n"jump, high",  clip one  ,train\r\n   \r\n"say ""hi""",b,\r\n'
    assert read(tmp_path, text) == [
        LabelRow("jump, high", "clip one", split="train"),
        LabelRow('say "hi"', "b"),
    ]


def test_surrounding_blanks_of_every_field_are_removed(tmp_path):
    text = "path , label, split ,time_start\t, time_end\n films/a.mp4 , Long  Jump\u00a0,\u200btrain , 1 ,\t2 \n"
    assert read(tmp_path, text) == [LabelRow("Long  Jump", "a", 1.0, 2.0, "train", "films/a.mp4")]
    assert read(tmp_path, "label,id, split\n  , x\t,\u2003\n") == [LabelRow(None, "x")]


@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_tabs_and_semicolons_separate_columns_as_commas_do(tmp_path, delimiter):
    rows = read(tmp_path, "label,id,split\nLong Jump,a,train\n".replace(",", delimiter))
    assert rows == [LabelRow("Long Jump", "a", split="train")]


def test_names_in_both_unicode_forms_are_one_name(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Décor,gâteau.mp4,é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    first, second = (read(tmp_path, f"label,id,split\n{line}\n") for line in (composed, decomposed))
    assert first == second == [LabelRow("Décor", "gâteau", split="é")]


def test_dots_belong_to_a_name_unless_a_video_extension_follows(tmp_path):
    text = "path\nfilms/P01.a\nfilms/P01.b\nfilms/P01.b.MKV\nclip.v2.webm\n"
    assert [row.name for row in read(tmp_path, text)] == ["P01.a", "P01.b", "P01.b", "clip.v2"]
    assert read(tmp_path, "id\nv_one.avi\n") == [LabelRow(None, "v_one")]


def test_a_start_before_the_video_is_cut_to_it(tmp_path):
    faults = SegmentFaults()
    (tmp_path / "labels.csv").write_text("id,time_start,time_end\nx,-1,2\n")
    assert read_label_csv(tmp_path / "labels.csv", faults=faults) == [LabelRow(None, "x", 0.0, 2.0)]
    assert [line.rpartition("labels.csv:")[2] for line in faults.cut] == [
        "2: segment from -1 to 2 seconds: cut to 0 to 2 seconds"
    ]


def test_youtube_id_goes_before_id_and_id_before_path(tmp_path):
    assert read(tmp_path, "id,youtube_id\na,b\n")[0].name == "b"
    row = read(tmp_path, "path,id\nfilms/a.mp4,b\n")[0]
    assert (row.name, row.path) == ("b", "films/a.mp4")


def test_list_of_paths_names_videos_without_extension(tmp_path):
    rows = read(tmp_path, "path,label,split\n/films/run/clip.one.mp4,run,val\nplain,walk,\n")
    assert rows == [
        LabelRow("run", "clip.one", split="val", path="/films/run/clip.one.mp4"),
        LabelRow("walk", "plain", path="plain"),
    ]


def test_columns_in_any_order_and_unknown_ones_ignored(tmp_path):
    rows = read(tmp_path, "is_cc,Split,time_end,time_start,youtube_id\n0,validate,69,59,-3B32lodo2M\n")
    assert rows == [LabelRow(None, "-3B32lodo2M", 59.0, 69.0, "validate")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels.csv: the file is empty"),
        ("a,b\nx,y\n", r"labels.csv:1: the header 'a,b' has none of the columns youtube_id, id, path, video"),
        ("id,label,id\nx,y,z\n", r"labels.csv:1: the header has column 'id' twice"),
        ("id,time_start\nx,1\n", r"labels.csv:1: only one of time_start and time_end is present"),
        (
            "id,label\nx,y\nx,jump, high\n",
            r"labels.csv:3: 3 cells, but the header has 2 columns; put names with commas in quotes",
        ),
        ("id,label\n\n ,y\n", r"labels.csv:3: column 'id' is empty"),
        ("id,time_start,time_end\nx,one,2\n", r"labels.csv:2: column 'time_start': 'one' is not a time"),
        ("id,time_start,time_end\nx,1,nan\n", r"labels.csv:2: column 'time_end': 'nan' is not a time"),
        ("id,time_start,time_end\nx,-2,-1\n", r"labels.csv:2: segment from -2 to -1 seconds: it is before the start"),
        ("id,time_start,time_end\nx,5,5\n", r"labels.csv:2: segment from 5 to 5 seconds: it has no length"),
        ("id,time_start,time_end\nx,5,4\n", r"labels.csv:2: segment from 5 to 4 seconds: it ends before it starts"),
        ("id,time_start,time_end\nx,5,\n", r"labels.csv:2: one of time_start and time_end is empty"),
        ('id,label\n"x\ny",z\n', r"labels.csv:3: name 'x\\ny' contains a line break"),
        ('id,label\n"x"y,z\n', r"labels.csv:2: not valid CSV"),
        (b"id,label\n\xff,x\n", r"labels.csv: not UTF-8"),
    ],
)
def test_errors_name_file_line_and_column(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_label_csv(tmp_path / "none.csv")


words = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1)
names = words.filter(lambda word: bool(clean_name(strip_extension(clean_name(word)))))
paths = words.map(str.strip).filter(bool)
times = st.tuples(st.floats(0, 1e6), st.floats(0.5, 1e6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(
    st.lists(
        st.builds(
            lambda label, name, span, split, path: LabelRow(label, name, *span, split=split, path=path),
            st.none() | words,
            names,
            st.just((None, None)) | times,
            st.none() | names,
            st.none() | paths,
        ),
        max_size=8,
    )
)
def test_reading_returns_the_written_rows(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "labels.csv"
    write_label_csv(path, rows)
    assert read_label_csv(path) == rows
    assert list(path.parent.iterdir()) == [path]


def test_a_name_that_equals_its_path_is_a_name(tmp_path):
    """Only the columns path and video hold paths: an id is a name, whatever another column contains."""
    rows = [LabelRow(None, "/", path="/"), LabelRow("x", "a/b", path="a/b")]
    write_label_csv(tmp_path / "labels.csv", rows)
    assert read_label_csv(tmp_path / "labels.csv") == rows


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "labels.csv"
    write_label_csv(path, [LabelRow("a", "x")])
    with pytest.raises(ValueError, match="line break"):
        write_label_csv(path, [LabelRow("a", "y"), LabelRow("b\nc", "z")])
    assert read_label_csv(path) == [LabelRow("a", "x")]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classInd.txt", "2 Archery\r\n1 Apply Makeup\r\n3 50 Salads\r\n"),
        ("moments_categories.txt", "Apply Makeup,0\nArchery,1\n50 Salads,2\n"),
        ("names.txt", "Apply Makeup\nArchery\n\n50 Salads\n"),
        ("dictionary.json", '{"Archery": 1, "Apply Makeup": 0, "50 Salads": 2}'),
        ("names.json", '["Apply Makeup", "Archery", "50 Salads"]'),
    ],
)
def test_class_lists_of_all_forms(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_class_list(tmp_path / name) == ["Apply Makeup", "Archery", "50 Salads"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 a\n3 b\n", "class 'b' has number 3, expected 2"),
        ("1 a\n1 b\n", "class 'b' has number 1, expected 2"),
        ("7 a\n8 b\n", "class 'a' has number 7"),
        ("a\nb\na\n", "class 'a' occurs twice"),
        ("\n", "empty"),
    ],
)
def test_faulty_class_lists(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_class_list(tmp_path / "classes.txt")
