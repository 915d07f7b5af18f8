"""The HTML page of a run: self-contained, the right numbers, every video, the worst first."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from vidseg.cli.main import main
from vidseg.frames import FrameWriter
from vidseg.plots.page_parts import chart
from vidseg.plots.page_parts import levels as round_levels
from vidseg.plots.palette import CLASSES as COLORS
from vidseg.plots.palette import GRAY
from vidseg.plots.run_page import write_report

CLASSES = ["take <tea>", "open", "background"]
VOID = {"meta", "br", "img"}


def split_folder(folder, split, *, select="validation", videos=None, task="segmentation"):
    """What a split's run leaves."""
    folder.mkdir(parents=True)
    videos = videos or {"S1_good": [[0, 10], [1, 20]], "S2_bad": [[1, 30]]}
    truth = [[0, 10], [1, 20]]
    accuracy = {"S1_good": 100.0, "S2_bad": 200 / 3}
    rows = [
        {
            "name": name,
            "acc": accuracy[name],
            "edit": 50.0,
            "f1": {"0.1": 80.0, "0.5": 60.0},
            "truth": truth,
            "prediction": prediction,
        }
        for name, prediction in videos.items()
    ]
    test = {
        "task": task,
        "network": "mstcn",
        "dataset": "gtea",
        "split": f"{split}/test",
        "division": split,
        "epoch": 2,
        "select": select,
        "tested": "said so & so",
        "validation_videos": ["S3_held"],
        "classes": CLASSES,
        "background": [2],
        "scores": {"acc": 83.25, "edit": 50.0, "f1": {"0.1": 80.0, "0.5": 60.0}, "frames": 60, "cross_entropy": 1.0},
        "boundaries": {"precision": 100.0, "recall": 75.0, "f1": 85.7},
        "class_scores": {
            "number": [0, 1],
            "frames": [20, 40],
            "acc": [50.0, 100.0],
            "precision": [100.0, 80.0],
            "iou": [50.0, 80.0],
            "f1": {"0.1": [66.0, 90.0], "0.5": [66.0, 90.0]},
        },
        "videos": rows,
    }
    (folder / "test.json").write_text(json.dumps(test))
    (folder / "train_results_s0001.csv").write_text("Epoch,Acc,Loss\n1,0.2,4.5\n2,0.4,3.5\n3,0.5,9\n")
    (folder / "train_results_s0003.csv").write_text("Epoch,Acc,Loss\n3,0.5,2.5\n")
    (folder / "validation.csv").write_text(
        "Epoch,Acc,Edit,F1@50,CrossEntropy\n1,20,30,10,1\n2,80,70,60,1\n3,70,60,50,1\n"
    )
    return folder


def test_names_of_lines_have_room():
    """7 pixels a letter, as in a narrow window, where letters are larger."""
    lines = [(name, COLORS[0], {1: 0.1, 2: 0.1234}) for name in ("mAP", "a score with a long name")]
    (svg,) = pictures(chart("scores", lines, chosen=1))
    names = [text for text in svg.iter("text") if text.text.endswith("0.123")]
    assert len(names) == 2 and all(float(text.get("x")) + 7 * len(text.text) < 520 for text in names)


class Checked(HTMLParser):
    """Refuses tags that are not closed, and collects what a browser would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def pictures(page):
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_the_page_is_complete_and_self_contained(tmp_path):
    split_folder(tmp_path / "run/split1", "split1")
    page = write_report(tmp_path / "run", tmp_path / "page.html").read_text()
    parser = Checked()
    parser.feed(page)
    assert parser.open == [] and parser.loads == [] and "script" not in parser.tags
    assert "url(" not in page and "@import" not in page and "://" not in page
    assert "take &lt;tea&gt;" in page and "<tea>" not in page and "said so &amp; so" in page
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["page.html"]


def test_bars_show_the_labels_with_the_lowest_accuracy_first(tmp_path):
    page = write_report(split_folder(tmp_path / "split1", "split1"), tmp_path / "page.html").read_text()
    assert page.index("S2_bad") < page.index("S1_good")
    bad, good = pictures(page)[-2:]

    def bars(picture):
        found = {"truth": [], "prediction": []}
        for rect in picture.iter("rect"):
            title = rect.find("title")
            if title is not None:
                found[title.text.partition(":")[0]].append((int(rect.get("x")), int(rect.get("width")), title.text))
        return found

    assert [bar[:2] for bar in bars(bad)["prediction"]] == [(0, 30)]
    assert bars(good)["truth"] == [
        (0, 10, "truth: take <tea>, frames 0 to 9"),
        (10, 20, "truth: open, frames 10 to 29"),
    ]
    wrong = [rect for rect in bad.iter("rect") if rect.find("title") is None]
    assert [(rect.get("x"), rect.get("width")) for rect in wrong] == [("0", "10")]
    assert not [rect for rect in good.iter("rect") if rect.find("title") is None]
    # Frames of "take" are taken for "open" in one of two videos.
    titles = [title.text for picture in pictures(page) for title in picture.iter("title")]
    assert "take <tea> predicted as open: 50.0%, 10 frames" in titles


def test_curves_take_the_later_table_and_mark_the_tested_epoch(tmp_path):
    page = write_report(split_folder(tmp_path / "split1", "split1"), tmp_path / "page.html").read_text()
    loss, scores = pictures(page)[:2]
    texts = [text.text for text in loss.iter("text")]
    assert "loss 2.5" in texts and "1" in texts and "3" in texts
    assert [text.text for text in scores.iter("text")][-3:] == ["Acc 70", "Edit 60", "F1@50 50"]
    assert "tested epoch: 2" in [title.text for title in scores.iter("title")]
    (line,) = loss.iter("polyline")
    heights = [float(point.split(",")[1]) for point in line.get("points").split()]
    assert heights == sorted(heights)  # falling losses: further down


@pytest.mark.parametrize(
    ("largest", "levels"),
    [
        (100, [0, 25, 50, 75, 100]),
        (11.2, [0, 5, 10, 15]),
        (0.83, [0, 0.25, 0.5, 0.75, 1]),
        (3e-5, [0, 1e-5, 2e-5, 3e-5]),
        (0, [0, 1]),
    ],
)
def test_axes_have_round_numbers(largest, levels):
    assert round_levels(largest) == pytest.approx(levels)


def test_several_splits_have_a_mean(tmp_path):
    for split in ("split1", "split2"):
        split_folder(tmp_path / split, split)
    test = json.loads((tmp_path / "split2/test.json").read_text())
    test["scores"]["acc"] = 90.25
    (tmp_path / "split2/test.json").write_text(json.dumps(test))
    page = write_report(tmp_path, tmp_path / "page.html").read_text()
    sums = re.findall(r'<tr class="sum">(.*?)</tr>', page)
    assert sums == ["<td>mean</td><td></td><td>4</td><td>80.00</td><td>60.00</td><td>50.00</td><td>86.75</td>"]


def test_a_choice_on_the_test_split_is_a_warning(tmp_path):
    honest = write_report(split_folder(tmp_path / "a/split1", "split1"), tmp_path / "a.html").read_text()
    chosen = write_report(split_folder(tmp_path / "b/split1", "split1", select="test"), tmp_path / "b.html").read_text()
    assert '<p class="warning">Tested: said' in chosen and '<p class="warning">' not in honest


def test_a_streaming_run_has_a_page_too(tmp_path):
    split_folder(tmp_path / "run", "split1", task="streaming")
    assert main(["plot", "report", str(tmp_path / "run")]) == 0
    assert "<h2>split1</h2>" in (tmp_path / "run/report.html").read_text()


def test_the_command_and_its_errors(tmp_path, capsys):
    split_folder(tmp_path / "run/split1", "split1")
    assert main(["plot", "report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run/report.html'}\n"
    with pytest.raises(FileNotFoundError, match="train and test the model first"):
        write_report(tmp_path, tmp_path / "page.html")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/test.json").write_text("{}")
    with pytest.raises(ValueError, match=r"test\.json: not a test of a run"):
        write_report(tmp_path / "other", tmp_path / "page.html")
    (tmp_path / "other/test.json").write_text("{")
    with pytest.raises(ValueError, match=r"test\.json: not valid JSON"):
        write_report(tmp_path / "other", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def recognition_folder(folder):
    """A tested recognition run with two mistakes; the video of one has frames."""
    writer = FrameWriter(folder / "data/jpg/open/b/frames.db", meta={"height": 24, "width": 32})
    with writer:
        for level in (40, 120, 200):
            buffer = io.BytesIO()
            Image.fromarray(np.full((24, 32, 3), (level, 30, 30), np.uint8)).save(buffer, "JPEG")
            writer.add(buffer.getvalue(), width=32)
    mistakes = [
        {"video": "jpg/open/b", "true": "open", "predicted": "take <tea>", "probability_true": 0.1},
        {"video": "jpg/open/c", "true": "open", "predicted": "background", "probability_true": 0.2},
    ]
    test = {
        "task": "recognition", "network": "r3d_18", "checkpoint": "r3d_18_best.pth", "epoch": 2, "split": "test",
        "dataset": str(folder / "data"), "selected_on": True, "videos": 4, "clips": 1, "crops": 1, "top1": 0.5,
        "top5": 1.0, "loss": 0.75, "mean_class_accuracy": 2 / 3, "classes": CLASSES,
        "confusion": [[1, 0, 0], [1, 0, 1], [0, 0, 1]],
        "mistakes": [{**one, "probability_predicted": 0.8 - one["probability_true"]} for one in mistakes],
    }  # fmt: skip
    (folder / "test.json").write_text(json.dumps(test))
    for kind in ("train", "val"):
        (folder / f"{kind}_results_s0001.csv").write_text("Epoch,Top1,Top5,Loss\n1,0.2,0.9,1.5\n2,0.5,1,nan\n")
    return folder


def test_a_recognition_run_has_scores_confusions_and_mistakes_with_frames(tmp_path):
    out = write_report(
        recognition_folder(tmp_path), tmp_path / "page.html",
        notes=[("What was decided", ["3 classes & 4 videos"])], commands=["vidseg learn videos"],
    )  # fmt: skip
    page = out.read_text()
    parser = Checked()
    parser.feed(page)
    assert parser.open == [] and all(load.startswith("data:image/jpeg;base64,") for load in parser.loads)
    assert "top-1<b>50.0%</b>" in page and "mean class accuracy<b>66.7%</b>" in page and "also selected" in page
    assert page.index("<td>open</td><td>2</td><td>0.0%</td>") < page.index("<td>background</td><td>1</td>")
    assert "<td>open</td><td>background</td><td>1</td><td>50%</td>" in page
    assert page.index("jpg/open/b") < page.index("jpg/open/c") and "predicted as take &lt;tea&gt; (70.0%)" in page
    (strip,) = parser.loads  # one video has frames
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.partition(",")[2]))).convert("RGB"))
    assert pixels.shape[1] == 3 * 144 and pixels[50, 400, 0] > pixels[50, 20, 0] + 100
    assert "3 classes &amp; 4 videos" in page and "<pre>vidseg learn videos</pre>" in page
    assert write_report(tmp_path / "test.json", tmp_path / "again.html").read_text().count("<h2>") == 0


def test_splits_of_several_tasks_have_no_page(tmp_path):
    split_folder(tmp_path / "split1", "split1")
    split_folder(tmp_path / "split2", "split2", task="streaming")
    with pytest.raises(ValueError, match=r"split2/test\.json: not a test of segmentation"):
        write_report(tmp_path, tmp_path / "page.html")


def test_bars_have_sides_seconds_and_a_gray_background(tmp_path):
    folder = split_folder(tmp_path / "split1", "split1", videos={"S2_bad": [[2, 10], [1, 20]]})
    test = json.loads((folder / "test.json").read_text())
    plain = write_report(folder, tmp_path / "page.html").read_text()
    assert '<span class="unit">frames</span>' in plain
    test["videos"][0]["fps"] = 2.5
    (folder / "test.json").write_text(json.dumps(test))
    page = write_report(folder, tmp_path / "page.html").read_text()
    assert "<span>truth</span><span>prediction</span>" in page and "30 frames, 12.0 s" in page
    ticks = re.search(r'<div class="ticks">(.*?)</div>', page).group(1)
    assert re.findall(r'left:([0-9.]+)%">([0-9.]+)<', ticks) == [("0.00", "0"), ("41.67", "5")]
    assert ticks.endswith('<span class="unit">seconds</span>')
    colors = {rect.find("title").text.split(",")[0]: rect.get("fill") for rect in pictures(page)[-1].iter("rect")
              if rect.find("title") is not None}  # fmt: skip
    assert colors["prediction: background"] == GRAY and colors["truth: open"] == COLORS[1]


def test_a_flow_run_has_a_page(tmp_path):
    scores = {"epe": 0.5, "within_1px": 0.8, "within_3px": 0.9, "within_5px": 0.99, "f1_all": 0.05}
    test = {
        "task": "flow", "network": "raft", "dataset": "shapes", "split": "held out", "pairs": 64, "epoch": 2,
        "checkpoint": "raft_best.pth", "scores": scores, "text": "",
    }  # fmt: skip
    (tmp_path / "test.json").write_text(json.dumps(test))
    for kind in ("train", "val"):
        (tmp_path / f"{kind}_results_s0001.csv").write_text(
            "Epoch,1px,3px,5px,F1-all,Loss\n1,.1,.2,.3,.5,2\n2,.2,.4,.5,.3,1\n"
        )
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures/test.png")
    page = write_report(tmp_path, tmp_path / "page.html").read_text()
    assert "end-point error<b>0.500 px</b>" in page and "outliers (F1-all)<b>5.0%</b>" in page and "64 pairs" in page
    assert page.count('<svg class="chart"') == 2 and "data:image/png" in page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_pages_are_dark_narrow_and_printed(tmp_path):
    """Colors follow the scheme of the reader, print is dark on white, and 420 pixels are wide enough."""
    sync_api = pytest.importorskip("playwright.sync_api")
    long = {f"a_video_with_a_very_long_name_{number}": [[1, 30]] for number in range(3)}
    folder = split_folder(tmp_path / "split1", "split1")
    test = json.loads((folder / "test.json").read_text())
    test["videos"] = [{**test["videos"][0], "name": name} for name in long]
    (folder / "test.json").write_text(json.dumps(test))
    recognition = tmp_path / "recognition"
    recognition.mkdir()
    commands = ["vidseg train " + "data " * 60]
    pages = [
        write_report(folder, tmp_path / "a.html"),
        write_report(recognition_folder(recognition), tmp_path / "b.html", commands=commands),
    ]
    color = "getComputedStyle(document.body).%s"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for page in pages:
            opened = browser.new_page(viewport={"width": 420, "height": 800}, color_scheme="dark")
            opened.goto(page.as_uri())
            assert opened.evaluate("document.documentElement.scrollWidth") <= 420
            dark = [opened.evaluate(color % name) for name in ("color", "backgroundColor")]
            label = opened.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
            opened.emulate_media(media="print")
            printed = opened.evaluate(color % "color")
            paper = opened.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            opened.emulate_media(media="screen", color_scheme="light")
            light = [opened.evaluate(color % name) for name in ("color", "backgroundColor")]
            assert dark == ["rgb(236, 235, 230)", "rgb(23, 24, 27)"] and light == [
                "rgb(29, 29, 27)",
                "rgb(252, 252, 251)",
            ]
            assert printed == light[0] and paper == "rgb(255, 255, 255)"
            assert (
                label
                == "rgb(165, 164, 157)"
                != opened.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
            )
            opened.close()
        browser.close()


def test_errors_are_plotted_from_a_run_without_a_mapping(tmp_path, capsys):
    folder = split_folder(tmp_path / "split1", "split1")
    names = ["errors.png", "confusion_frames.png", "confusion_segments.png"]
    assert main(["plot", "errors", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / name) for name in names]
    assert main(["plot", "errors", str(folder), "--bundle", "x"]) == 2
    assert "--bundle is for label files" in capsys.readouterr().err
