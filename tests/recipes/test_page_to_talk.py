"""The page to talk with, in a real browser: files, a microphone, several turns, problems."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.helpers.models import most_answered, speech, talking_model, user
from tests.helpers.serving import served, wav_bytes
from vtblender_nemo import VTBlenderModel
from vtblender_nemo.serving.engine.engine import Engine

pytestmark = [
    pytest.mark.skipif(shutil.which("chromium") is None, reason="apt-get install -y chromium"),
    pytest.mark.skipif(shutil.which("chromedriver") is None, reason="apt-get install -y chromium-driver"),
]

NEW = 12
NOTHING = "(nothing)"
_PATIENCE_SECS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VTBlenderModel:
    return talking_model(tmp_path_factory.mktemp("talking"))


@pytest.fixture(scope="module")
def engine(model: VTBlenderModel) -> Iterator[Engine]:
    engine = Engine(model)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that stands for what is said into the microphone, and is attached."""
    path = tmp_path_factory.mktemp("spoken") / "spoken.wav"
    path.write_bytes(wav_bytes(np.tile(speech(1.5, 3), 4)))
    return path


@pytest.fixture(scope="module")
def browser(spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "autoplay-policy=no-user-gesture-required",
        "use-fake-ui-for-media-stream",
        "use-fake-device-for-media-stream",
        f"use-file-for-fake-audio-capture={spoken}",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
        "window-size=900,800",
    ):
        options.add_argument(f"--{flag}")
    browser = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    yield browser
    browser.quit()


class Page:
    """What a person does with the page."""

    def __init__(self, browser: Chrome, address: str) -> None:
        self._browser = browser
        browser.get(address)
        self.wait(lambda: self.find("#model")[0].text == "tiny" or self.find("#key-label")[0].is_displayed())

    def find(self, selector: str) -> list[Any]:
        return self._browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, condition: Any) -> None:
        WebDriverWait(self._browser, _PATIENCE_SECS).until(lambda _: condition())

    def write(self, text: str) -> None:
        self.find("#text")[0].send_keys(text)

    def attach(self, path: Path) -> None:
        count = len(self.find("#parts canvas"))
        self.find("#file")[0].send_keys(str(path))
        self.wait(lambda: len(self.find("#parts canvas")) == count + 1 or self.problem())

    def click(self, name: str) -> None:
        self.find(f"#{name}")[0].click()

    def send(self) -> str:
        """Sends, and gives the whole answer."""
        count = len(self.answers())
        self.click("send")
        self.wait(lambda: (len(self.answers()) == count + 1 and not self.find(".waiting")) or self.problem())
        return self.answers()[-1] if len(self.answers()) > count else ""

    def answers(self) -> list[str]:
        """At one moment: the page may take a message away at any other."""
        texts = "return [...document.querySelectorAll('.message.assistant')].map(one => one.innerText)"
        return self._browser.execute_script(texts)

    def problem(self) -> str:
        return self.find("#problem")[0].text

    def picture(self, path: Path) -> None:
        self._browser.save_screenshot(str(path))


def test_a_conversation(browser: Chrome, engine: Engine, model: VTBlenderModel, spoken: Path, tmp_path: Path) -> None:
    with served(engine, max_new_tokens=NEW) as address:
        page = Page(browser, address)
        audio = {"type": "audio", "audio": str(spoken)}
        question = most_answered(model, audio, NEW)
        page.write(question)
        page.attach(spoken)
        first = page.send()
        chat = [user(question, audio)]
        assert first == model.generate([chat], NEW)[0] != ""
        assert len(page.find(".message.user canvas")) == 1
        page.attach(spoken)
        page.write("say that again")
        second = page.send()
        chat += [{"role": "assistant", "content": first}, user(audio, "say that again")]
        assert second == (model.generate([chat], NEW)[0] or NOTHING)
        page.picture(tmp_path / "conversation.png")
        page.click("new")
        assert not page.find(".message")
        page.write(question)
        page.attach(spoken)
        assert page.send() == first


def test_a_chat_goes_on_behind_an_answer_of_nothing(browser: Chrome, engine: Engine, model: VTBlenderModel) -> None:
    texts = ["hello", "what is said?", "go on", "tell me more", "and then", "good day", "why", "no", "who is it", "ok"]
    answers = dict(zip(texts, model.generate([[user(text)] for text in texts], NEW), strict=True))
    silent, loud = (next(text for text in texts if bool(answers[text]) == talks) for talks in (False, True))
    with served(engine, max_new_tokens=NEW) as address:
        page = Page(browser, address)
        page.write(silent)
        assert page.send() == NOTHING
        page.write(loud)
        assert page.send() == answers[loud]
        assert not page.problem()


def test_a_recording(browser: Chrome, engine: Engine) -> None:
    with served(engine, max_new_tokens=NEW) as address:
        page = Page(browser, address)
        page.click("record")
        page.wait(lambda: page.find("#record")[0].text == "stop recording")
        heard = "return new Promise(done => setTimeout(() => done(true), 800))"  # time for something to be said
        assert browser.execute_script(heard)
        page.click("record")
        page.wait(lambda: page.find("#parts canvas"))
        length = float(page.find("#parts .audio span")[0].text.removesuffix(" s"))
        assert 0.3 < length < 30
        loudness = "return Math.max(...parts[0].audio.samples)"
        assert browser.execute_script(loudness) > 0.01  # the fake microphone is not silent
        assert page.send()


def test_problems_are_told_and_the_message_comes_back(browser: Chrome, engine: Engine, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio at all")
    with served(engine, max_new_tokens=NEW, api_key="secret") as address:
        page = Page(browser, address)
        assert page.find("#key-label")[0].is_displayed()
        page.attach(broken)
        assert "cannot be read" in page.problem()
        page.write("hello")
        assert page.send() == ""
        assert "API key" in page.problem()
        assert page.find("#parts li")[0].text.startswith("hello")
        page.find("#key")[0].send_keys("secret\t")
        page.wait(lambda: page.find("#model")[0].text == "tiny")
        assert page.send()
        assert not page.problem()


def test_the_report_of_an_evaluation_opens(browser: Chrome, engine: Engine, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<!doctype html><title>what it can</title><script>document.title += ' do'</script>")
    with served(engine, report=report) as address:
        page = Page(browser, address)
        page.wait(lambda: page.find("#report")[0].is_displayed())
        page.click("report")
        page.wait(lambda: browser.title == "what it can do")
    with served(engine) as address:
        page = Page(browser, address)
        assert not page.find("#report")[0].is_displayed()
