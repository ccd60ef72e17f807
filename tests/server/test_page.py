"""The page at `/` in a real browser: headless Chromium, driven through its WebDriver.

| variable | meaning |
|---|---|
| `GGUF_JAX_REQUIRE_BROWSER` | `1`: without Chromium and chromedriver these tests fail, which else are skipped |
"""

import json
import os
import re
import shutil
import threading
import time
from importlib import resources

import httpx
import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import gguf_jax as gj
from gguf_jax.generation import Scheduler
from gguf_jax.server.app import make_app
from gguf_jax.server.run import Server, listening
from gguf_jax.server.settings import Settings
from gguf_jax.server.static import POLICY, TYPES
from gguf_jax.server.worker import Worker
from tests.server.scripted import Scripted

BEGINNING = "It was a cold evening in November, and"
WRITING = "document.querySelector('.slot[data-state=answer] .what')?.textContent"
KEY = "open sesame"
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"
SAID = f"Well:\n\n```python\nprint({HOSTILE!r})\n```\n{HOSTILE} and **naïve** ✓."
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync")


def serving(worker, settings):
    """A server on a thread, until it is told to exit."""
    listener = listening("127.0.0.1", 0)
    config = uvicorn.Config(make_app(worker, settings), ws="none", log_level="warning")
    server = Server(config, worker, 1.0)
    server.thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    server.thread.start()
    server.address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    return server


@pytest.fixture(scope="module")
def servers():
    found = []

    def start(worker, settings):
        found.append(serving(worker, settings))
        return found[-1].address

    yield start
    for server in found:
        server.should_exit = True
    for server in found:
        server.thread.join()


@pytest.fixture(scope="module")
def text_server(servers):
    """A model without a chat template, as the bundled one is."""
    worker = Worker(lambda told: (model := gj.load(), Scheduler(model, slots=2, ctx_size=256)))
    return loaded(servers(worker, Settings("prose-23m", path="prose.gguf")), worker)


@pytest.fixture(scope="module")
def scripted():
    model = gj.load()
    model.tokenizer.chat_templates = {"": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"}
    return Scripted(model, SAID)


@pytest.fixture(scope="module")
def chat_server(servers, scripted):
    return loaded(servers(scripted, Settings("chatty", api_key=KEY)), scripted)


def loaded(address, worker):
    while worker.status == "loading":
        time.sleep(0.01)
    return address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        if os.environ.get("GGUF_JAX_REQUIRE_BROWSER") == "1":
            pytest.fail("GGUF_JAX_REQUIRE_BROWSER=1, and chromium or chromedriver is not on the PATH")
        pytest.skip("chromium or chromedriver is not on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


class Page:
    """What a user sees and does."""

    def __init__(self, browser, address, width=1280, height=800, dark=False, key=None, **settings):
        self.browser, self.address = browser, address
        browser.get("about:blank")
        for log in ("browser", "performance"):
            browser.get_log(log)
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.get(f"{address}page/icon.svg")
        self.script("void localStorage.setItem('gguf_jax.settings', arguments[0])", json.dumps(settings))
        self.script("void sessionStorage.clear()")
        if key is not None:
            self.script("void sessionStorage.setItem('gguf_jax.key', arguments[0])", key)
        browser.get(address)

    def script(self, code, *arguments):
        return self.browser.execute_script(f"return {code}", *arguments)

    def __call__(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, condition, seconds=20):
        return WebDriverWait(self.browser, seconds, poll_frequency=0.02).until(lambda _: condition())

    def ready(self):
        self.wait(lambda: self("#model").text)
        return self

    def send(self, text):
        self("#input").send_keys(text, Keys.ENTER)
        return self

    def answered(self):
        self.wait(lambda: self("#stop").is_displayed() or self.all("footer .again"))
        self.wait(lambda: not self("#stop").is_displayed())
        return self

    def set(self, name, value):
        field = self(f"#settings [name={name}]")
        self.script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.clear()
        field.send_keys(str(value))

    def shifts(self):
        """Layout shifts that nobody's input explains: of each what moved."""
        return self.browser.execute_async_script(
            """const done = arguments[0], found = [];
            new PerformanceObserver(list => {
              for (const entry of list.getEntries())
                if (!entry.hadRecentInput)
                  found.push(entry.sources.map(each => each.node?.id || each.node?.nodeName || ''));
            }).observe({type: 'layout-shift', buffered: true});
            setTimeout(() => done(found), 100);"""
        )

    def checked(self):
        """Nothing was complained about, and nobody else was asked for anything."""
        complaints = [each for each in self.browser.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]
        events = (json.loads(each["message"])["message"] for each in self.browser.get_log("performance"))
        urls = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
        assert urls
        assert [url for url in urls if not url.startswith((self.address, "about:"))] == []
        return complaints


def test_files_of_the_page_are_safe_to_serve():
    files = {
        entry.name: entry.read_text("utf-8") for entry in resources.files("gguf_jax.server").joinpath("page").iterdir()
    }
    assert {name.rpartition(".")[2] for name in files} == TYPES.keys()
    assert "unsafe" not in POLICY
    for name, text in files.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), name
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}, name
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", files["index.html"])
    assert set(re.findall(r'(?:src|href)="page/([^"]+)"', files["index.html"])) <= files.keys()


def test_a_text_is_gone_on_with(browser, text_server):
    page = Page(browser, text_server, max_tokens=120, temperature=0).ready()
    assert "llama · 23.1 M · Q4_K_M · context 256" in page("#model").text
    assert page.script("document.querySelector('#modes [value=chat]').disabled")
    assert len(page.all("#examples button")) == 3
    page.wait(lambda: len(page.all(".slot")) == 2)
    still = page.shifts()
    page.send(BEGINNING)
    page.wait(lambda: len(page.all(".token")) > 3)
    assert page("#stop").is_displayed()  # it streams: there are tokens before there are all
    page.answered()
    assert len(page.all(".token")) == 120
    text = page("#transcript .answer").get_attribute("textContent")
    asked = {"prompt": BEGINNING, "max_tokens": 120, "temperature": 0, "logprobs": 5}
    expected = httpx.post(f"{text_server}v1/completions", json=asked, timeout=60).json()["choices"][0]["text"]
    assert text == expected
    assert "120 tokens" in page("footer").text
    # nothing has moved but words that went on with themselves, and so to the next line
    moved = page.shifts()
    assert moved[: len(still)] == still
    assert {node for nodes in moved[len(still) :] for node in nodes} <= {"#text", "SPAN", ""}
    # another answer in its place, the same; then from where it ends
    page("footer .again").click()
    page.answered()
    assert page("#transcript .answer").get_attribute("textContent") == expected
    page.set("max_tokens", 5)
    page.send(" And then")
    page.answered()
    assert page.script("document.querySelectorAll('#transcript .user').length") == 2
    assert len(page.all(".token")) == 125
    assert page.checked() == []


def test_slots_are_live(browser, text_server):
    page = Page(browser, text_server).ready()
    page.wait(lambda: [each.text for each in page.all(".slot .state")] == ["free"] * 2)
    over = threading.Event()

    def others():
        while not over.is_set():
            asked = {"prompt": BEGINNING, "max_tokens": 200}
            httpx.post(f"{text_server}v1/completions", json=asked, timeout=60)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        page.wait(lambda: page.all(".slot[data-state=answer]"))
        page.wait(lambda: re.fullmatch(r"\d+ \+ \d+ · \d+\.\d/s", page.script(WRITING) or ""))
        page.wait(lambda: float(page("#rate").text) > 0)
        assert page("#queue").text.startswith("1 running · 0 waiting")
        assert page("#spark .edge").get_attribute("d").count("L") >= 1
        assert "at most" in page("#spark").get_attribute("aria-label")
    finally:
        over.set()
        thread.join()
    page.wait(lambda: [each.text for each in page.all(".slot .state")] == ["free"] * 2)
    assert any(each.text.startswith("holds") for each in page.all(".slot .what"))
    assert page.checked() == []


def test_an_answer_is_stopped(browser, text_server):
    page = Page(browser, text_server, max_tokens=200).ready()
    page.send(BEGINNING)
    page.wait(lambda: len(page.all(".token")) > 3)
    page("#input").send_keys(Keys.ESCAPE)
    page.wait(lambda: "stopped" in page("footer").text)
    assert 3 < len(page.all(".token")) < 200
    page.wait(lambda: page("#queue").text.startswith("0 running · 0 waiting"))
    page("#new").click()
    assert page.all(".token") == []
    assert page.all("#examples button")[0].is_displayed()
    assert page.checked() == []


def test_what_is_refused_can_be_changed(browser, text_server):
    page = Page(browser, text_server, max_tokens=3).ready()
    long = "word " * 300
    page.script("void (document.getElementById('input').value = arguments[0])", long)
    page.send("")
    page.wait(lambda: "expected at most 255 tokens" in page("#line").text)
    assert page("#line").get_attribute("class") == "bad"
    assert page("#input").get_attribute("value") == long
    assert page.all("#transcript .user") == []
    page("#input").clear()
    page("#input").send_keys("One", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two")
    assert page("#input").get_attribute("value") == "One\ntwo"
    page.send("").answered()
    assert page("#line").text.startswith("Enter sends")
    assert page("#transcript .user").text == "One\ntwo"
    assert all("400" in each["message"] for each in page.checked())


def test_probabilities_of_a_token(browser, text_server):
    page = Page(browser, text_server, max_tokens=8).ready()
    page.send(BEGINNING)
    page.answered()
    tokens = page.all(".token")
    webdriver.ActionChains(browser).move_to_element(tokens[3]).perform()
    page.wait(lambda: page("#popup").is_displayed())
    shares = [float(each.text.removesuffix(" %").removeprefix("<")) for each in page.all("#popup li span")]
    assert len(shares) in (5, 6)  # the best ones, and the token itself where it is none of them
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100 + 0.05 * len(shares)  # each is rounded to a tenth
    chosen = page("#popup .chosen code").text
    assert chosen.replace("␣", " ").replace("↵", "\n") == tokens[3].get_attribute("textContent")
    assert page("#popup .own code").text == chosen
    assert page("#popup .own span").text == page("#popup .chosen b").text
    box = page.script("document.getElementById('popup').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0
    assert box["right"] <= 1280
    # by keys, as far as the last one, and away
    page.script("document.querySelector('.answer').focus()")
    for _ in range(9):
        webdriver.ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
        time.sleep(0.03)
    page.wait(lambda: "current" in page.all(".token")[-1].get_attribute("class").split())
    webdriver.ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not page("#popup").is_displayed()
    # colours, which a switch turns on
    colours = "[...document.querySelectorAll('.token')].map(each => getComputedStyle(each).backgroundColor)"
    assert len(set(page.script(colours))) <= 2  # the mouse may rest on one
    page("#colour").click()
    assert len(set(page.script(colours))) > 3
    page("#colour").click()
    # asked for none, there are none
    page.script("document.querySelector('[name=scores]').click()")
    page("footer .again").click()
    page.answered()
    assert page.all(".token") == []
    assert page("footer").text.startswith("8 tokens")
    assert page.checked() == []


def test_settings_are_kept(browser, text_server):
    page = Page(browser, text_server).ready()
    page.set("temperature", 0.3)
    page.set("stop", "night")
    page.set("top_p", 7)  # is none, and is not kept
    assert page("[name=top_p]").get_attribute("aria-invalid") == "true"
    page("#themes [value=dark] + span").click()
    browser.refresh()
    page.ready()
    assert page("[name=temperature]").get_attribute("value") == "0.3"
    assert page("[name=stop]").get_attribute("value") == "night"
    assert page("[name=top_p]").get_attribute("value") == "0.95"
    assert page.script("document.documentElement.dataset.theme") == "dark"
    page.script("document.getElementById('reset').click()")
    page("#themes [value=auto] + span").click()
    assert page("[name=temperature]").get_attribute("value") == "0.8"
    browser.refresh()
    page.ready()
    assert page("[name=temperature]").get_attribute("value") == "0.8"
    assert page.script("document.documentElement.dataset.theme") == "auto"
    assert page.checked() == []


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_nothing_is_wider_than_the_window(width, browser, text_server):
    page = Page(browser, text_server, width=width, height=640, max_tokens=3).ready()
    wide = "[document.documentElement.scrollWidth, document.getElementById('scroller').scrollWidth]"
    assert max(page.script(wide)) <= width
    page.script("void (document.getElementById('input').value = 'w'.repeat(120))")
    page.send("")
    page.answered()
    assert max(page.script(wide)) <= width
    if width < 960:
        page("#opener").click()
        page.wait(lambda: page("#panel").is_displayed())
        assert max(page.script(wide)) <= width
        assert page.script("document.getElementById('panel').scrollWidth") <= width
        page.wait(lambda: len(page.all(".slot")) == 2)
        page("#closer").click()
        assert not page("#panel").is_displayed()
    assert page.checked() == []


def test_dark_and_light_differ(browser, text_server):
    def colours(**options):
        page = Page(browser, text_server, **options).ready()
        style = "getComputedStyle(document.body)"
        return [
            [int(each) for each in re.findall(r"\d+", page.script(f"{style}.{name}"))[:3]]
            for name in ("backgroundColor", "color")
        ]

    light, dark = colours(), colours(dark=True)
    for (paper, ink), brighter in ((light, True), (dark, False)):
        assert (luminance(paper) > luminance(ink)) == brighter
        low, high = sorted((luminance(paper), luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 7  # WCAG's contrast, level AAA


def luminance(colour):
    """WCAG 2's relative luminance of an sRGB colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (each / 255 for each in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_chat_behind_a_key(browser, chat_server, scripted):
    page = Page(browser, chat_server)
    page.wait(lambda: page("#key").is_displayed())
    assert page("#line").text.startswith("Enter sends")
    page("#key-input").send_keys("wrong", Keys.ENTER)
    page.wait(lambda: "API key" in page("#line").text and page("#key").is_displayed())
    page("#key-input").clear()
    page("#key-input").send_keys(KEY, Keys.ENTER)
    page.ready()
    assert not page("#key").is_displayed()
    page.set("system", "Be brief.")
    page.send(f"Say {HOSTILE}").answered()
    asked = f"system: Be brief.\nuser: Say {HOSTILE}\n"
    assert scripted.prompts[-1].removeprefix("<|endoftext|>") == asked
    # what a model or a user says stays text
    assert HOSTILE in page(".user").text
    assert page.all("#transcript img") == []
    assert browser.title == "chatty · gguf_jax"
    assert page(".code code").get_attribute("textContent") == f"print({HOSTILE!r})\n"
    assert page(".code figcaption").text.startswith("python")
    assert page.all(".prose")[-1].get_attribute("textContent") == f"{HOSTILE} and **naïve** ✓."
    assert "```" not in page(".answer").text
    page.send("And then?").answered()
    assert scripted.prompts[-1].removeprefix("<|endoftext|>") == f"{asked}assistant: {SAID}\nuser: And then?\n"
    assert len(page.all(".again")) == 1
    # the only complaints are the browser's own, of the answers that asked for the key
    assert all("401" in each["message"] for each in page.checked())


def test_thoughts_stand_apart(browser, chat_server, scripted, monkeypatch):
    template = "{{ messages[-1].content }}{% if messages | length > 9 %}<think>{% endif %}"
    monkeypatch.setattr(scripted.model.tokenizer, "chat_templates", {"": template})
    monkeypatch.setattr(scripted, "text", "<think>\nLet me see.\n</think>\n\nFour.")
    page = Page(browser, chat_server, key=KEY).ready()
    page.send("2 + 2?").answered()
    assert page(".thoughts summary").text.startswith("Thought · ")
    assert not page(".thoughts .answer").is_displayed()
    assert page("article > .answer").text == "Four."
    page(".thoughts summary").click()
    assert page(".thoughts .answer").text.strip() == "Let me see."
    monkeypatch.setattr(scripted.model.tokenizer, "chat_templates", {"": "{{ messages[1].content }}"})
    page.send("And then?").answered()
    assert scripted.prompts[-1].removeprefix("<|endoftext|>") == "Four."
    assert page.checked() == []


def test_following_stops_where_somebody_reads(browser, chat_server, scripted, monkeypatch):
    monkeypatch.setattr(scripted, "text", "line\n" * 150)
    monkeypatch.setattr(scripted, "pause", 0.002)
    page = Page(browser, chat_server, height=500, key=KEY).ready()
    page.send("go on")
    left = "(e => e.scrollHeight - e.scrollTop - e.clientHeight)(document.getElementById('scroller'))"
    page.wait(lambda: page.script("document.getElementById('scroller').scrollTop") > 200)
    assert page.script(left) < 40
    page.script("void (document.getElementById('scroller').scrollTop = 50)")
    page.answered()
    assert page.script("document.getElementById('scroller').scrollTop") == 50
    assert page.checked() == []


def test_while_a_model_is_loaded(browser, servers):
    go = threading.Event()

    def load(told):
        told(0.42)
        go.wait(20)
        raise gj.GGUFJaxError("no such file: x.gguf")

    page = Page(browser, servers(Worker(load), Settings("none")))
    page.wait(lambda: "42 %" in page("#loading").text)
    assert page.script("document.querySelector('progress').value") == pytest.approx(0.42)
    assert not page("#send").is_enabled()
    go.set()
    page.wait(lambda: "no such file: x.gguf" in page("#loading").text)
    assert page.all("progress:not([hidden])") == []
    assert all("503" in each["message"] for each in page.checked())
