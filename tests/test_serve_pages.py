"""The page of the server in a real Chromium: upload, time line, keyboard, camera, token, restart."""

import json
import os
import re
import shutil
import signal

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright import sync_api
from serve_models import detection, recognition, running, streaming
from test_serve_faults import Program

from vidseg.serve import Client

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

STRANGE = ['<img src=x onerror="window.hacked=1">', "jump", "wave"]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        words = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=words)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    return {"clips": recognition(folder, classes=STRANGE), "stream": streaming(folder)}


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    with running(tmp_path_factory.mktemp("store"), models) as state:
        yield state


@pytest.fixture(scope="module")
def video(tmp_path_factory, make_video):
    return make_video(tmp_path_factory.mktemp("videos") / "holiday.mp4", frames=120, fps=10, size=(96, 128))


class Opened:
    """A page, everything it asked for, and every error of its console."""

    def __init__(self, browser, url, **context):
        self.context = browser.new_context(permissions=["camera"], **context)
        self.page = self.context.new_page()
        self.asked, self.errors = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def upload(self, video):
        sync_api.expect(self.page.locator("#model option")).not_to_have_count(0)  # the scripts have run
        self.page.set_input_files("#file", video)
        sync_api.expect(self.page.locator("#status")).to_contain_text("Done", timeout=60_000)


def video_at(page, time, *, within=0.05):
    """Wait until the video is at a time; `wait_for_function` needs eval, which the page's policy forbids."""
    for _ in range(1000):
        found = page.evaluate("document.getElementById('video').currentTime")
        if abs(found - time) <= within:
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"the video is at {found} s, expected {time} s")


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 390)])
def test_a_video_is_labeled(browser, server, video, scheme, width):
    size = {"width": width, "height": 844}
    with Opened(browser, server.url, color_scheme=scheme, viewport=size, has_touch=width < 500) as opened:
        page = opened.page
        opened.upload(video)
        with Client(server.url) as client:
            job = re.search("job=(.*)", page.url)[1]
            expected = client.result(job)
            assert client.job(job)["name"] == "holiday.mp4"
        rows = page.locator("#table tbody tr")
        assert rows.count() == len(expected["segments"]) > 1
        first = expected["segments"][0]
        said = [first["label"], f"{first['start']:.2f}", f"{first['stop']:.2f}", f"{first['probability']:.3f}"]
        assert rows.first.locator("td").all_inner_texts() == said
        assert page.locator("#classes li").count() == 3
        assert page.locator("#drawing rect").count() == len(expected["segments"])
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        # seeking by click, by table and by keyboard
        across = page.locator("#timeline").bounding_box()["width"]
        page.locator("#timeline").click(position={"x": across / 2, "y": 20})
        video_at(page, 6, within=0.1)
        slider = page.locator("#timeline")
        slider.focus()
        for key, time in (("ArrowRight", 7), ("Shift+ArrowLeft", 6.9), ("Home", 0)):
            page.keyboard.press(key)
            video_at(page, time)
        page.keyboard.press("PageDown")
        second = expected["segments"][1]
        video_at(page, second["start"])
        assert second["label"] in slider.get_attribute("aria-valuetext")
        assert page.locator("#label").inner_text().startswith(second["label"])
        rows.first.locator("button").click()
        video_at(page, 0)
        for form in ("json", "csv", "srt", "vtt"):
            with page.expect_download() as download:
                page.click(f"[data-form={form}]")
            text = download.value.path().read_text()
            with Client(server.url) as client:
                found = client.result(job, form=form)
            assert json.loads(text) == found if form == "json" else text == found
        assert opened.errors == []
        assert {url for url in opened.asked if not url.startswith((server.url, "blob:", "data:"))} == set()
        if folder := os.environ.get("VIDSEG_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/upload_{scheme}_{width}.png", full_page=True)


def test_detections_have_a_smallest_score(browser, tmp_path, video):
    made = {"pixels": detection(tmp_path, pixels=True)}
    with running(tmp_path / "store", made) as state, Opened(browser, state.url) as opened:
        opened.upload(video)
        page = opened.page
        with Client(state.url) as client:
            rows = client.result(re.search("job=(.*)", page.url)[1])["detections"]
        assert page.locator("#camera").is_hidden()
        sync_api.expect(page.locator("#status")).to_contain_text("with a score of at least 0.30")
        for smallest in (0.3, 0.0, 0.01):
            page.locator("#score").fill(str(smallest))
            expected = sum(row["score"] >= smallest for row in rows)
            sync_api.expect(page.locator("#table tbody tr")).to_have_count(min(2000, expected))
            assert page.locator("#drawing rect").count() == expected
        shown = {row["label"] for row in rows if row["score"] >= smallest}
        assert set(page.locator("#legend li").all_inner_texts()) == shown and opened.errors == []
        if folder := os.environ.get("VIDSEG_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/detections.png", full_page=True)


def test_every_control_has_a_name_and_is_reached_by_tab(browser, server, video):
    with Opened(browser, server.url) as opened:
        opened.upload(video)
        page = opened.page
        nameless = page.evaluate(
            """[...document.querySelectorAll("button, input, select, a, [tabindex='0'], progress")].filter(each =>
            !(each.innerText || each.ariaLabel || each.labels?.length)).map(each => each.outerHTML)"""
        )
        assert nameless == []
        page.evaluate("document.activeElement.blur()")
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.dataset?.form"))
        assert {"model", "browse", "camera", "timeline", "json", "csv", "srt", "vtt"} <= reached
        snapshot = page.locator("body").aria_snapshot()
        for words in ('slider "Time line"', 'combobox "Model"', "status:", 'heading "Result"', 'button "JSON"'):
            assert words in snapshot, words


def test_colors_have_contrast(browser, server):
    ratios = """() => {
        const linear = each => each <= 10 ? each / 255 / 12.92 : ((each / 255 + .055) / 1.055) ** 2.4;
        const light = text => {
            const [red, green, blue] = text.match(/[0-9.]+/g).map(Number).map(linear);
            return .2126 * red + .7152 * green + .0722 * blue;
        };
        const contrast = (one, other) => {
            const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
            return (high + .05) / (low + .05);
        };
        const style = name => getComputedStyle(document.querySelector(name));
        const back = style("body").backgroundColor;
        return [...["body", ".muted", "header a"].map(name => contrast(style(name).color, back)),
            contrast(style("#browse").color, style("#browse").backgroundColor)];
    }"""
    for scheme in ("light", "dark"):
        with Opened(browser, server.url, color_scheme=scheme) as opened:
            assert min(opened.page.evaluate(ratios)) >= 4.5, scheme


def test_the_camera(browser, server):
    with Opened(browser, server.url, color_scheme="dark") as opened:
        page = opened.page
        sync_api.expect(page.locator("#model option")).not_to_have_count(0)
        page.select_option("#model", "stream")
        page.click("#camera")
        sync_api.expect(page.locator("#table tbody tr")).not_to_have_count(0, timeout=60_000)
        sync_api.expect(page.locator("#latency")).to_contain_text("Latency", timeout=60_000)
        assert page.locator("#label").inner_text()
        if folder := os.environ.get("VIDSEG_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/camera.png", full_page=True)
        page.click("#stop")
        sync_api.expect(page.locator("#status")).to_have_text("The camera is closed.")
        assert page.evaluate("document.getElementById('video').srcObject") is None
        assert opened.errors == []


def test_a_failed_upload_and_a_canceled_job_are_named(browser, server, video, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with Opened(browser, server.url) as opened:
        sync_api.expect(opened.page.locator("#model option")).not_to_have_count(0)
        opened.page.set_input_files("#file", tmp_path / "bad.mp4")
        sync_api.expect(opened.page.locator("#problem")).to_contain_text("not a video", timeout=60_000)
        predictor = server.predictors["clips"]
        ordinary = predictor.predict

        def endless(upload, options, progress, **limits):
            while True:
                progress.advance(0.5)

        predictor.predict = endless
        try:
            opened.page.set_input_files("#file", video)
            sync_api.expect(opened.page.locator("#status")).to_contain_text("50 %", timeout=60_000)
            opened.page.click("#cancel")
            sync_api.expect(opened.page.locator("#status")).to_have_text("Canceled.", timeout=60_000)
        finally:
            predictor.predict = ordinary
        opened.upload(video)
        assert opened.page.locator("#problem").is_hidden()


def test_a_token(browser, models, tmp_path, video):
    with running(tmp_path / "store", models, token="sesame") as state:
        with Opened(browser, state.url) as opened:
            opened.page.fill("#token", "sesame")
            opened.page.click("#login button")
            opened.upload(video)
        with Opened(browser, f"{state.url}/#token=sesame") as opened:
            sync_api.expect(opened.page.locator("#model option")).to_have_count(2)
            assert "sesame" not in opened.page.url


def test_a_result_is_shown_again_after_the_server_was_killed(browser, models, tmp_path, video):
    with Program(tmp_path / "store", models) as program, Opened(browser, program.url) as opened:
        opened.upload(video)
        rows = opened.page.locator("#table tbody tr").all_inner_texts()
        program.end(signal.SIGKILL)
        with Program(tmp_path / "store", models, "--port", program.url.rpartition(":")[2]):
            opened.page.reload()
            sync_api.expect(opened.page.locator("#status")).to_contain_text("Done", timeout=60_000)
            assert opened.page.locator("#table tbody tr").all_inner_texts() == rows
            slider = opened.page.locator("#timeline")
            slider.focus()
            opened.page.keyboard.press("ArrowRight")
            assert slider.get_attribute("aria-valuenow") == "1.00"  # without the video, too


def test_the_description_of_the_interface(browser, server):
    with Opened(browser, f"{server.url}/docs") as opened:
        sync_api.expect(opened.page.get_by_text("POST /v1/models/{model}/predict")).to_be_visible()
        assert opened.errors == []
