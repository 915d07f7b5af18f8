"""The annotation page in Chromium: segments by keyboard and mouse, conflicts, undo over sessions, a phone's screen."""

import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from fractions import Fraction
from urllib.parse import urlsplit

import av
import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright import sync_api

from vidseg.convert import convert_videos
from vidseg.labels import apply_segmentation
from vidseg.labels.annotation import Annotations
from vidseg.labels.label_changes import VideoLabels
from vidseg.labels.segmentation_labels import SegmentationLabels
from vidseg.serve.annotation_application import make_annotation_application
from vidseg.serve.running import RunningServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
A, B = "jpg/run/a", "jpg/run/b"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def root(tmp_path, make_video):
    for name in "ab":
        make_video(tmp_path / f"v/run/{name}.mp4", frames=50, size=(48, 64))
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1).ok
    Annotations(tmp_path / "data").add_class("jump")
    return tmp_path / "data"


@contextmanager
def serving(root, *, token=None):
    server = RunningServer(make_annotation_application(Annotations(root), token=token))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.url
    finally:
        server.stop()
        thread.join()


def open_page(browser, url, *, author="ann", **options):
    context = browser.new_context(**options)
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(url)
    page.get_by_label("Name", exact=True).fill(author)
    page.locator("#screen[data-frame='0']").wait_for()
    page.locator("#title").click()  # the keys are those of the page, not of a field
    return page


def saved(page, count):
    """Wait until the page has this number of changes."""
    page.locator("#history li").nth(count - 1).wait_for(state="attached")


def segments(root, video=A):
    found = Annotations(root).labels(video).segments
    return [(round(one.start * 25, 3), round(one.stop * 25, 3), one.label) for one in found]


def test_a_video_is_labeled_with_the_keyboard(root, browser):
    with serving(root) as url:
        page = open_page(browser, url)
        press = page.keyboard.press
        press("2")  # jump
        for _ in range(5):
            press("ArrowRight")
        press("i")
        press("Shift+ArrowRight")  # a second: 25 frames
        press("i")
        saved(page, 1)
        assert segments(root) == [(5, 31, "jump")]
        for _ in range(10):
            press("ArrowLeft")
        press("s")
        saved(page, 2)
        assert segments(root) == [(5, 20, "jump"), (20, 31, "jump")]
        press("1")
        saved(page, 3)
        press("Home")
        press("ArrowRight")
        press("Escape")
        for _ in range(6):
            press("ArrowRight")
        press("Enter")
        press("[")
        saved(page, 4)
        assert segments(root) == [(7, 20, "jump"), (20, 31, "run")]
        press("Alt+ArrowLeft")
        saved(page, 5)
        assert segments(root) == [(6, 19, "jump"), (20, 31, "run")]
        press("m")
        saved(page, 6)
        assert segments(root) == [(6, 31, "jump")]
        press("Delete")
        saved(page, 7)
        assert segments(root) == []
        press("Control+z")
        saved(page, 8)
        press("Control+Shift+z")
        saved(page, 9)
        assert segments(root) == [] and page.faults == []
    with serving(root) as url:  # another session
        page = open_page(browser, url, author="ben")
        page.locator("#videos button[data-path='jpg/run/a']").click()
        saved(page, 9)
        page.keyboard.press("Control+z")
        saved(page, 10)
        assert segments(root) == [(6, 31, "jump")]
        assert Annotations(root).changes(A)[-1].author == "ben"


def test_segments_are_drawn_moved_and_cut_with_the_mouse(root, browser):
    with serving(root) as url:
        page = open_page(browser, url)
        box = page.locator("#lane").bounding_box()

        def drag(first, last):
            page.mouse.move(box["x"] + box["width"] * first / 50, box["y"] + 10)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] * last / 50, box["y"] + 12, steps=4)
            page.mouse.up()

        drag(10, 20)
        saved(page, 1)
        assert segments(root) == [(10, 20, "run")]
        drag(15, 25)  # the middle
        saved(page, 2)
        assert segments(root) == [(20, 30, "run")]
        drag(29.9, 40)  # the right edge
        saved(page, 3)
        assert segments(root) == [(20, 40, "run")]
        page.get_by_label("Class of the whole video").select_option("jump")
        saved(page, 4)
        assert Annotations(root).labels(A).label == "jump" and page.faults == []


def test_two_people_do_not_overwrite_each_other(root, browser):
    with serving(root) as url:
        ann, ben = open_page(browser, url), open_page(browser, url, author="ben")
        for page, frames in ((ann, 3), (ben, 6)):
            page.keyboard.press("i")
            for _ in range(frames):
                page.keyboard.press("ArrowRight")
        ann.keyboard.press("i")
        saved(ann, 1)
        ben.keyboard.press("i")
        ben.get_by_text("Someone else changed these labels").wait_for()
        assert segments(root) == [(0, 4, "run")]
        ben.get_by_role("button", name="Use my labels instead").click()
        saved(ben, 2)
        assert segments(root) == [(0, 7, "run")]
        assert [change.author for change in Annotations(root).changes(A)] == ["ann", "ben"]


def start_command(root, port):
    """Start `vidseg annotate`; returns the process when it listens, and its address."""
    command = [sys.executable, "-m", "vidseg.cli.main", "annotate", str(root), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return process, process.stdout.readline().strip()


def test_nothing_saved_is_lost_when_the_server_is_killed(root, browser):
    process, url = start_command(root, 0)
    try:
        page = open_page(browser, url)
        page.keyboard.press("i")
        page.keyboard.press("i")
        saved(page, 1)
        process.kill()
        process.wait()
        page.keyboard.press("Delete")
        page.get_by_text("The server does not answer").wait_for()
        process, _ = start_command(root, urlsplit(url).port)
        page.reload()
        page.locator("#screen[data-frame='0']").wait_for()
        page.locator("#videos button[data-path='jpg/run/a']").click()
        saved(page, 1)
        assert page.locator("#rows tr").count() == 1 and segments(root) == [(0, 1, "run")]
    finally:
        process.terminate()
        assert process.wait() in (0, 143)


def test_a_video_gets_several_classes(root, browser):
    with serving(root) as url:
        page = open_page(browser, url)
        page.get_by_label("Classes of a video").select_option("several")
        saved(page, 1)  # the class that it has is the first of the set
        assert Annotations(root).labels(A) == VideoLabels(None, (), ("run",))
        page.locator("#title").click()
        page.keyboard.press("Shift+Digit2")
        saved(page, 2)
        assert Annotations(root).labels(A).classes == ("jump", "run")
        page.get_by_label("Classes of a video").select_option("one")
        page.get_by_text("Take classes away until one is left").wait_for()
        page.get_by_role("button", name="run", exact=True).click()
        saved(page, 3)
        assert Annotations(root).labels(A).classes == ("jump",)
        page.keyboard.press("Control+z")
        saved(page, 4)
        page.keyboard.press("Control+y")
        saved(page, 5)
        page.get_by_label("Classes of a video").select_option("one")
        saved(page, 6)
        assert Annotations(root).labels(A) == VideoLabels("jump", ()) and page.faults == []


def test_a_dense_video_has_no_gaps_and_keeps_its_boundaries(root, browser):
    apply_segmentation(root, SegmentationLabels(["run", "jump"], {"a": np.repeat([0, 1], 25)}, {}, 25.0))
    with serving(root) as url:
        page = open_page(browser, url)
        press = page.keyboard.press
        for _ in range(5):
            press("ArrowRight")
        press("Enter")
        press("s")
        saved(page, 1)
        assert segments(root) == [(0, 5, "run"), (5, 25, "run"), (25, 50, "jump")]
        press("Shift+ArrowRight")
        press(".")  # the stop of the second half
        saved(page, 2)
        assert segments(root) == [(0, 5, "run"), (5, 31, "run"), (31, 50, "jump")]
        press("Delete")  # its neighbor takes its frames
        saved(page, 3)
        assert segments(root) == [(0, 31, "run"), (31, 50, "jump")] and page.faults == []


def test_a_source_that_the_browser_cannot_play_is_named(tmp_path, browser, make_video):
    make_video(tmp_path / "v/run/a.avi", frames=50, codec="mpeg4")
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1).ok
    with serving(tmp_path / "data", token="sesame") as url:
        page = open_page(browser, f"{url}/#token=sesame")
        sync_api.expect(page.locator("#picture-note")).to_contain_text("cannot play a.avi (mpeg4)")
        page.keyboard.press("Space")
        page.locator("#screen[data-from='frames'][data-frame='49']").wait_for()
        assert page.faults == [] and "sesame" not in page.url


def test_the_page_fits_a_phone(root, browser):
    with serving(root) as url:
        for scheme in ("light", "dark"):
            page = open_page(browser, url, viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert page.locator("#play").bounding_box()["height"] >= 36
            page.keyboard.press("?")
            assert page.get_by_role("dialog").is_visible()
            assert page.faults == []


def test_names_are_asked_for_and_classes_added(root, browser):
    with serving(root) as url:
        page = open_page(browser, url, author="")
        page.keyboard.press("i")
        page.keyboard.press("i")
        page.get_by_text("Enter your name first").wait_for()
        assert segments(root) == []
        page.get_by_label("Name", exact=True).fill("ann")
        page.get_by_label("Name of a new class").fill("wave")
        page.get_by_role("button", name="Add class").click()
        page.get_by_role("button", name="3 wave").click()
        page.locator("#title").click()
        page.keyboard.press("i")
        page.keyboard.press("i")
        saved(page, 1)
        assert segments(root) == [(0, 1, "wave")] and page.faults == []


def write_numbered(path, times, *, codec="libx264", fps=25):
    """A video whose frames show their number as a row of eight bits, black or white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for number, time in enumerate(times):
            bits = [255 * (number >> bit & 1) for bit in range(8)]
            pixels = np.repeat(np.repeat(np.array(bits, np.uint8)[None, :, None], 64, 0), 16, 1).repeat(3, 2)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = time, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


NUMBER = """name => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [128, 64];
    const context = canvas.getContext("2d");
    context.drawImage(document.getElementById(name), 0, 0, 128, 64);
    const { data } = context.getImageData(0, 32, 128, 1);
    return [...Array(8).keys()].reduce((sum, bit) => sum + (data[4 * (16 * bit + 8)] > 127) * 2 ** bit, 0);
}"""

UNEVEN = [7, 8, 9, 13, 14, 20, 21, 22, 23, 40, 41, 42, 43, 45, 47, 49, 51, 52, 53, 60, 61, 62, 63, 64, 65]


@pytest.mark.parametrize("name, times", [("a.mp4", range(60)), ("a.mkv", UNEVEN)])
def test_the_source_has_the_numbers_of_the_database(tmp_path, browser, name, times):
    write_numbered(tmp_path / "v/run" / name, times)
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1).ok
    with serving(tmp_path / "data") as url:
        page = open_page(browser, url)
        screen, source, clock = (page.locator(f"#{name}") for name in ("screen", "source", "clock"))
        sync_api.expect(source).to_have_attribute("data-number", "0")
        for number in (5, 9, len(times) - 1, 8, 0):
            middle = (times[number] + 0.5 - times[0]) / 25  # the browser's clock begins with the first frame or later
            begin = page.evaluate("document.getElementById('source').seekable.start(0)")
            page.evaluate(
                "time => void (document.getElementById('source').currentTime = time)",
                middle + max(begin, times[0] / 25),
            )
            sync_api.expect(source).to_have_attribute("data-number", str(number))
            assert page.evaluate(NUMBER, "source") == number
        for _ in range(3):
            before = clock.inner_text()
            page.keyboard.press("Space")
            sync_api.expect(screen).to_have_attribute("data-from", "source")
            sync_api.expect(clock).not_to_have_text(before)
            page.keyboard.press("Space")
            page.locator("#screen[data-from='frames'][data-frame]").wait_for()
            number = int(screen.get_attribute("data-frame"))
            assert page.evaluate(NUMBER, "picture") == number
            assert f"frame {number + 1} of {len(times)}" in clock.inner_text()
        page.keyboard.press("v")
        sync_api.expect(page.locator("#picture-from")).to_have_value("frames")
        assert page.faults == []
