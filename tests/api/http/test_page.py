"""The page at `/` in chromium."""

import base64
import json
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from api_fakes import PATIENCE, FakeClassifier, make_service
from fakes import picture
from machine import CHROMIUM, WITHOUT_CHROMIUM, WITHOUT_CURL
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Request,
    Response,
    Route,
    expect,
    sync_playwright,
)

from api.http.app import create_app
from api.http.service import Service
from api.model.prediction import Meme
from api.schema import MAX_BODY_BYTES, Explanation, Neighbour
from api.transport.listener import listen

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT_CHROMIUM)

_KEY = "0123456789abcdefghij"
_WORDS = "the words"  # 9 letters: a probability of 0.9
_WHY = Explanation(
    image_alone=0.25,
    text_alone=0.75,
    both=0.9,
    neighbours=[
        Neighbour("<b>a.png</b>", "offensive", 0.875, 0.9, 0.85),
        Neighbour("b.png", "non-offensive", -0.125, 0.1, -0.35),
    ],
)


class Site:
    """A page in a browser, its service, and the errors and requests of the browser."""

    def __init__(self, context: BrowserContext, service: Service, classifier: FakeClassifier, url: str) -> None:
        self.service, self.classifier, self.url = service, classifier, url
        self.page = context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.complaints: list[str] = []
        self.requests: list[Request] = []
        self.memes: list[Meme] = []  # that the service was asked to judge
        begin = service.begin
        service.begin = lambda meme, *more: (self.memes.append(meme), begin(meme, *more))[1]  # type: ignore[method-assign]
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        context.on("request", lambda request: self.requests.append(request))
        self.page.goto(url)

    @property
    def posts(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    def at(self, name: str) -> Locator:
        return self.page.locator(f"#{name}")

    def choose(self, data: bytes | None = None, name: str = "meme.png", kind: str = "image/png") -> None:
        data = picture() if data is None else data
        self.at("image").set_input_files({"name": name, "mimeType": kind, "buffer": data})

    def classify(self, words: str) -> None:
        """Change the text and submit; returns after the response."""
        with self.answer():
            self.at("text").fill(words)
            self.at("send").click()
        expect(self.at("result")).to_have_attribute("aria-busy", "false")

    def answer(self) -> Any:
        return self.page.expect_response("**/predict")

    def hand_over(self, kind: str, target: str, files: list[tuple[str, str]], words: str = "") -> None:
        """A paste or a drop of files (name, type) and a text, as a browser would report it."""
        self.page.evaluate(
            """([kind, target, files, words, data]) => {
                const transfer = new DataTransfer();
                const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
                for (const [name, type] of files) transfer.items.add(new File([bytes], name, {type}));
                if (words) transfer.setData("text/plain", words);
                const init = {bubbles: true, cancelable: true};
                const event = kind === "paste" ? new ClipboardEvent(kind, {...init, clipboardData: transfer})
                                               : new DragEvent(kind, {...init, dataTransfer: transfer});
                document.querySelector(target).dispatchEvent(event);
            }""",
            [kind, target, files, words, base64.b64encode(picture()).decode()],
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=1000 * PATIENCE)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=1000 * PATIENCE)
        yield browser
        browser.close()


Visit = Callable[..., Site]


def below(prefix: str, application: Callable[..., Any]) -> Callable[..., Any]:
    """The application behind a proxy that takes a prefix off the path, and knows no other paths."""

    def proxy(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        if path != prefix and not path.startswith(f"{prefix}/"):
            start_response("502 Bad Gateway", [("Content-Length", "0")])
            return []
        return application({**environ, "PATH_INFO": path.removeprefix(prefix) or "/"}, start_response)

    return proxy


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """visit(reads=OCR text, why=explanation, context={...}, path=of a proxy, server settings) opens the page. At the end there must be no
    errors and no requests to other hosts."""
    with ExitStack() as cleanup:
        sites: list[Site] = []

        def open_page(
            reads: str | None = _WORDS,
            why: Explanation | None = None,
            context: dict[str, Any] | None = None,
            path: str = "/",
            **settings: Any,
        ) -> Site:
            classifier = FakeClassifier()
            service = make_service(classifier, None if reads is None else lambda data: reads, cache=0, **settings)
            cleanup.callback(service.predictor.close)
            if why is not None:
                service.predictor._explainer.explain = lambda *_: why  # type: ignore[method-assign]
            application = below(path.rstrip("/"), create_app(service).wsgi_app)
            listener = listen(application, "127.0.0.1", 0, 8, MAX_BODY_BYTES)
            thread = threading.Thread(target=listener.run)
            thread.start()
            cleanup.callback(thread.join, PATIENCE)
            cleanup.callback(listener.stop)
            cleanup.callback(classifier.may_run.set)
            tab = browser.new_context(**(context or {}))
            cleanup.callback(tab.close)
            sites.append(Site(tab, service, classifier, f"http://127.0.0.1:{listener.port}{path}"))
            return sites[-1]

        yield open_page
        for site in sites:
            # the browser itself notes every status above 399; anything else is a fault of the page
            assert [said for said in site.complaints if not said.startswith("Failed to load resource")] == []
            strangers = [one.url for one in site.requests if not one.url.startswith((site.url, "blob:", "data:"))]
            assert strangers == []


@pytest.fixture
def keys_file(tmp_path: Path) -> str:
    path = tmp_path / "keys"
    path.write_text(_KEY)
    return str(path)


@pytest.mark.parametrize("headers", [{}, {"X-Forwarded-Prefix": "/memes"}], ids=["silent", "told"])
@pytest.mark.parametrize("path", ["/memes/", "/memes", "/a/b/"])
def test_the_page_works_below_a_path_of_a_proxy(visit: Visit, path: str, headers: dict[str, str]) -> None:
    site = visit(path=path, context={"extra_http_headers": headers})
    site.choose()
    expect(site.at("verdict")).to_have_text("Offensive")
    root = site.url.rstrip("/")
    assert [post.url for post in site.posts] == [f"{root}/predict"]
    assert site.at("command").inner_text().endswith(f" {root}/predict")
    links = site.page.locator("a").evaluate_all("links => links.map(link => link.href)")
    assert links == [f"{root}/model", f"{root}/openapi.json"]
    for link in links:
        assert site.page.request.get(link).json()


# The ways in


def test_a_chosen_picture_is_classified_at_once(visit: Visit) -> None:
    site = visit()
    site.choose()
    expect(site.at("verdict")).to_have_text("Offensive")
    expect(site.at("sentence")).to_have_text(
        "The probability that it is offensive is 90.0 %, not below the threshold of 40.0 %."
    )
    expect(site.at("picture")).to_be_visible()
    assert site.at("picture").evaluate("image => image.decode().then(() => image.naturalWidth)") == 24
    assert site.memes == [Meme(picture(), "", ocr=True, explain=True)]


@pytest.mark.parametrize("kind", ["paste", "drop"])
@pytest.mark.parametrize("files", [[("a.png", "image/png")], [("notes.txt", "text/plain"), ("a.png", "image/png")]])
def test_a_picture_can_be_pasted_and_dropped_anywhere(visit: Visit, kind: str, files: list[tuple[str, str]]) -> None:
    site = visit()
    site.hand_over(kind, "h1", files)
    expect(site.at("verdict")).to_have_text("Offensive")
    assert site.at("image").evaluate("input => [...input.files].map(file => file.name)") == ["a.png"]


def test_a_pasted_text_goes_to_the_field(visit: Visit) -> None:
    site = visit()
    site.hand_over("paste", "#text", [("preview.png", "image/png")], words="typed elsewhere")
    site.hand_over("paste", "h1", [], words="nothing to judge")
    site.hand_over("drop", "h1", [], words="nothing to judge")
    assert site.posts == [] and site.at("picture").is_hidden()


def test_keyboard_only(visit: Visit) -> None:
    site = visit()
    site.page.on("filechooser", lambda _: None)  # or the browser learns too late that no window is to open
    keyboard = site.page.keyboard
    keyboard.press("Tab")
    assert site.page.evaluate("document.activeElement.id") == "image"
    assert site.at("drop").evaluate("label => getComputedStyle(label).outlineStyle") == "solid"
    with site.page.expect_file_chooser() as chooser:
        keyboard.press("Enter")
    chooser.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": picture()})
    expect(site.at("text")).to_have_value(_WORDS)
    keyboard.press("Tab")
    keyboard.press("Control+a")
    keyboard.type("ab")
    keyboard.press("Control+Enter")
    expect(site.at("verdict")).to_have_text("Not offensive")
    visited = []
    for _ in range(6):
        keyboard.press("Tab")
        visited.append(site.page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert site.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert visited == ["wordless", "send", "command", "copy", "The whole model card", "the API's description"]


# The words


def test_ocr_text_can_be_corrected(visit: Visit) -> None:
    site = visit()
    site.choose()
    expect(site.at("text")).to_have_value(_WORDS)
    expect(site.at("origin")).to_have_text("Read from the picture – correct it if it is wrong.")
    site.at("text").fill("abc")
    expect(site.at("origin")).to_have_text("Changed since the answer: press Classify to ask again.")
    site.at("send").click()
    expect(site.at("origin")).to_be_hidden()
    expect(site.at("verdict")).to_have_text("Not offensive")
    expect(site.at("origin")).to_be_hidden()
    assert [meme.text for meme in site.memes] == ["", "abc"]


def test_an_empty_field_runs_ocr_unless_disabled(visit: Visit) -> None:
    site = visit()
    site.choose()
    expect(site.at("text")).to_have_value(_WORDS)
    site.classify("  ")
    expect(site.at("text")).to_have_value(_WORDS)
    site.page.get_by_label("Judge without words").check()
    assert site.at("text").is_disabled()
    site.at("send").click()
    expect(site.at("sentence")).to_contain_text(re.compile(r"is 0\.0\s%, below"))
    assert [(meme.text, meme.ocr) for meme in site.memes] == [("", True), ("", True), ("", False)]


def test_a_picture_without_words_says_so(visit: Visit) -> None:
    site = visit(reads="")
    site.choose()
    expect(site.at("origin")).to_contain_text("No words were found on it")


def test_a_server_without_ocr(visit: Visit) -> None:
    site = visit(reads=None)
    expect(site.at("hint")).to_contain_text("This server does not read pictures")
    assert site.at("wordless").count() == 0
    site.at("text").fill("abcde")
    site.choose()
    expect(site.at("sentence")).to_contain_text("50.0")
    assert site.at("text").input_value() == "abcde"


def test_another_picture_clears_the_text(visit: Visit) -> None:
    site = visit(reads=None)
    site.choose()
    site.classify("abcde")
    with site.answer():
        site.choose()
    assert [meme.text for meme in site.memes] == ["", "abcde", ""] and site.at("text").input_value() == ""


def test_text_typed_during_ocr_is_kept(visit: Visit) -> None:
    site = visit()
    site.classifier.may_run.clear()
    site.choose()
    expect(site.at("status")).to_have_text("Reading the words and judging …")
    expect(site.at("result")).to_have_attribute("aria-busy", "true")
    site.at("text").fill("mine")
    site.classifier.may_run.set()
    expect(site.at("verdict")).to_have_text("Offensive")
    expect(site.at("result")).to_have_attribute("aria-busy", "false")
    assert site.at("text").input_value() == "mine"
    expect(site.at("origin")).to_contain_text("Changed since the answer")


def test_a_late_answer_does_not_replace_a_newer_one(visit: Visit) -> None:
    site = visit()
    held: list[Route] = []
    site.page.route("**/predict", lambda route: held.append(route), times=1)
    site.choose()
    site.page.wait_for_function("document.getElementById('status').textContent !== ''")
    site.classify("ab")
    assert len(held) == 1
    held[0].fulfill(json={"label": "offensive", "probability": 1})
    site.page.wait_for_timeout(50)
    expect(site.at("verdict")).to_have_text("Not offensive")
    assert site.at("text").input_value() == "ab"


# The answer


def test_the_review_band_is_shown(visit: Visit) -> None:
    site = visit()
    site.classifier.review = {"low": 0.3, "high": 0.95}
    site.choose()
    expect(site.at("verdict")).to_have_text("For a person to decide")
    bar = site.page.get_by_role("img", name="Probability of offensive: 90.0 %")
    expect(bar).to_have_accessible_name(re.compile(r"threshold 40\.0\s%, a person decides from 30\.0\s% to 95\.0\s%$"))
    band, whole = bar.locator(".band").bounding_box(), bar.bounding_box()
    assert band and whole
    assert (band["x"] - whole["x"]) / whole["width"] == pytest.approx(0.3, abs=0.01)
    assert band["width"] / whole["width"] == pytest.approx(0.65, abs=0.01)
    site.classifier.review = {"low": 0.4, "high": 0.4}
    site.classify("abcde")
    expect(bar).to_have_count(0)
    assert site.page.locator(".band").count() == 0


def test_an_explanation_is_shown(visit: Visit) -> None:
    site = visit(why=_WHY)
    site.choose()
    expect(site.at("why")).to_be_visible()
    assert site.page.locator("#sides dt").all_inner_texts() == [
        "The picture alone\n25.0\xa0%", "The words alone\n75.0\xa0%", "Both together\n90.0\xa0%",
    ]  # fmt: skip
    expect(site.page.get_by_role("img", name="The words alone: 75.0 %")).to_be_visible()
    rows = [row.locator("td").all_inner_texts() for row in site.page.locator("#rows tr").all()]
    assert rows == [["<b>a.png</b>", "Offensive", "0.88"], ["b.png", "Not offensive", "-0.13"]]
    assert site.at("note").is_hidden()


def test_the_note_of_a_missing_explanation_is_shown(visit: Visit) -> None:
    site = visit(why=Explanation(None, None, 0.9, [], "the training index is gone"))
    site.choose()
    expect(site.at("note")).to_have_text("the training index is gone")
    assert site.at("neighbours").is_hidden() and site.page.locator("#sides *").count() == 0


def test_an_answer_without_an_explanation_is_shown(visit: Visit) -> None:
    site = visit(why=_WHY)

    def without(route: Route) -> None:
        answer = route.fetch().json()
        route.fulfill(json={name: value for name, value in answer.items() if name != "explanation"})

    site.page.route("**/predict", without)
    site.choose()
    expect(site.at("verdict")).to_be_visible()
    assert site.at("why").is_hidden()


def test_ocr_text_is_escaped(visit: Visit) -> None:
    hostile = '</textarea><img src=x onerror="document.title = 1">'
    site = visit(reads=hostile)
    site.choose()
    expect(site.at("text")).to_have_value(hostile)
    site.classify(hostile)
    expect(site.at("command")).to_contain_text("onerror")
    assert site.page.locator("img").count() == 1 and site.page.title() == "Is this meme offensive?"


# The same in a shell

_STRANGE = 'it\'s "quoted" $HOME `id` \\\n;type=x @file <in> 🤷 مرحبا'


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.png", ""),
        ("a.png", "@/etc/passwd"),
        ("a.png", "<file;type=text/html"),
        ('my "best" meme, #1; it\'s $new\\.png', _STRANGE),
    ],
)
def test_the_curl_command_gets_the_same_response(visit: Visit, tmp_path: Path, name: str, words: str) -> None:
    site = visit(reads=None)
    site.choose(picture(), name)
    site.classify(words)
    command = site.at("command").inner_text()
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    given = ["--form-string", f"text={words}"] if words else []
    expected = ["curl", "-F", f'image=@"{escaped}"', *given, "-F", "explain=true", f"{site.url}predict"]
    assert shlex.split(command) == expected
    if shutil.which("curl") is None:
        pytest.skip(WITHOUT_CURL)
    (tmp_path / name).write_bytes(picture())
    run = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=PATIENCE, check=True)
    answer = json.loads(run.stdout)
    assert answer["text"] == {"value": words, "source": "request" if words else "none"}


def test_the_command_can_be_copied(visit: Visit) -> None:
    site = visit(context={"permissions": ["clipboard-read", "clipboard-write"]})
    site.choose()
    site.at("copy").click()
    expect(site.at("copied")).to_have_text("Copied")
    assert site.page.evaluate("navigator.clipboard.readText()") == site.at("command").inner_text()


def test_without_clipboard_access_the_command_is_selected(visit: Visit) -> None:
    site = visit()
    site.page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    site.choose()
    site.at("copy").click()
    expect(site.at("copied")).to_have_text("Selected: copy it with Ctrl+C")
    assert site.page.evaluate("getSelection().toString()") == site.at("command").inner_text()


# What can fail


def test_an_error_shows_the_servers_detail_and_the_request_id(visit: Visit) -> None:
    site = visit()
    with site.answer() as answered:
        site.choose(b"hello", "a.txt", "text/plain")
    problem = answered.value.json()
    lines = site.at("error").locator("p")
    expect(lines).to_have_text([problem["detail"], f"Request {problem['request_id']}"])
    expect(site.at("unseen")).to_be_visible()
    assert site.at("answer").is_hidden() and site.at("shell").is_hidden() and site.at("picture").is_hidden()
    site.choose()
    expect(site.at("verdict")).to_be_visible()
    expect(site.at("error")).to_be_hidden()


def test_an_error_removes_the_old_answer(visit: Visit) -> None:
    site = visit()
    site.choose()
    expect(site.at("verdict")).to_be_visible()
    site.classifier.broken = RuntimeError("inside")
    site.classify("abc")
    expect(site.at("error")).to_contain_text("Request ")
    assert site.at("answer").is_hidden() and site.at("shell").is_hidden()


def test_503_is_retried_after_retry_after(visit: Visit) -> None:
    site = visit(queue=1)
    site.page.clock.install()
    with site.service.admission.admit():
        site.choose()
        expect(site.at("status")).to_have_text("The server is busy. Asking again in 1 s (1 of 2) …")
    site.page.clock.run_for(1000)
    expect(site.at("verdict")).to_have_text("Offensive")
    assert len(site.posts) == 2


def test_503_is_retried_twice(visit: Visit) -> None:
    site = visit(queue=1)
    site.page.clock.install()
    with site.service.admission.admit():
        site.choose()
        for retry in (1, 2):
            expect(site.at("status")).to_contain_text(f"({retry} of 2)")
            assert len(site.posts) == retry
            site.page.clock.run_for(1000)
        expect(site.at("error")).to_contain_text("memes are being processed")
        site.page.clock.run_for(10_000)
    assert len(site.posts) == 3


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (lambda route: route.abort(), "The server could not be reached"),
        (lambda route: route.fulfill(status=502, content_type="text/html", body="<b>Bad gateway</b>"), "(status 502)"),
        (lambda route: route.fulfill(status=200, body=""), "(status 200)"),
        (lambda route: route.fulfill(json={"probability": "high"}), "(status 200)"),
        (lambda route: route.fulfill(status=500, json=None), "(status 500)"),
    ],
)
def test_unexpected_responses_show_an_error(visit: Visit, reply: Any, sentence: str) -> None:
    site = visit()
    site.page.route("**/predict", reply)
    site.choose()
    expect(site.at("error")).to_contain_text(sentence)
    expect(site.at("result")).to_have_attribute("aria-busy", "false")
    site.page.unroute("**/predict")
    site.at("send").click()
    expect(site.at("verdict")).to_have_text("Offensive")


def test_a_picture_over_the_limit_is_not_sent(visit: Visit, tmp_path: Path) -> None:
    site = visit()
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(MAX_BODY_BYTES + 100_000)
    site.at("image").set_input_files(large)
    expect(site.at("error")).to_have_text("The picture has 20.1 MB, the limit is 20 MB; choose a smaller one.")
    assert site.posts == []


def test_the_api_key_is_sent_and_not_stored(visit: Visit, keys_file: str) -> None:
    site = visit(keys_file=keys_file)
    key, error = site.page.get_by_label("API key"), site.at("key-error")
    site.choose()
    expect(error).to_have_text("The server asks for an API key.")
    assert site.posts == []
    key.fill("wrong")
    key.press("Enter")
    expect(error).to_contain_text("The server does not know this key (request ")
    expect(key).to_be_focused()
    assert key.get_attribute("aria-invalid") == "true" and site.at("answer").is_hidden()
    key.fill(_KEY)
    key.press("Enter")
    expect(site.at("verdict")).to_have_text("Offensive")
    assert error.is_hidden() and key.get_attribute("aria-invalid") == "false"
    command = shlex.split(site.at("command").inner_text())
    assert command[:3] == ["curl", "-H", "Authorization: Bearer $API_KEY"] and _KEY not in site.page.content()
    assert site.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


# For everybody


def test_without_javascript_the_form_is_submitted(visit: Visit) -> None:
    site = visit(context={"java_script_enabled": False})
    site.choose()
    with site.page.expect_navigation():
        site.at("send").click()
    answer = json.loads(site.page.locator("body").inner_text())
    assert answer["label"] == "offensive" and answer["text"]["source"] == "ocr" and answer["explanation"]["both"] == 0.9


_UNNAMED = """() => [...document.querySelectorAll("input:not([type=hidden]), textarea, button")]
    .filter(one => !one.labels?.length && !one.textContent.trim()).map(one => one.outerHTML)"""

# WCAG 1.4.3, for every element with a text of its own
_FAINT = """() => {
    const rgba = color => { const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number); return {rgb: [r, g, b], a}; };
    const light = rgb => { const [r, g, b] = rgb.map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
    const behind = one => { while (one && rgba(getComputedStyle(one).backgroundColor).a === 0) one = one.parentElement;
        return rgba(getComputedStyle(one ?? document.body).backgroundColor).rgb; };
    const contrast = one => { const [low, high] = [light(rgba(getComputedStyle(one).color).rgb), light(behind(one))]
        .sort((a, b) => a - b); return (high + .05) / (low + .05); };
    const told = [...document.querySelectorAll("body *")].filter(one => one.checkVisibility()
        && (one.matches("textarea, input") || [...one.childNodes].some(n => n.nodeType === 3 && n.data.trim())));
    return [told.length, told.filter(one => contrast(one) < 4.5).map(one => [one.outerHTML, contrast(one)])];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(visit: Visit, keys_file: str, scheme: str) -> None:
    site = visit(why=_WHY, keys_file=keys_file, context={"color_scheme": scheme, "reduced_motion": "reduce"})
    assert site.page.evaluate(_UNNAMED) == []
    assert site.page.get_by_role("status").count() == 1 and site.page.locator("[role=alert]").count() == 2
    site.choose()
    expect(site.at("key-error")).to_be_visible()
    assert site.page.evaluate(_FAINT)[1] == []
    site.at("key").fill(_KEY)
    site.at("send").click()
    expect(site.at("why")).to_be_visible()
    expect(site.at("status")).to_have_text(
        "Offensive. The probability that it is offensive is 90.0 %, not below the threshold of 40.0 %. "
        "Read from the picture – correct it if it is wrong."
    )
    told, faint = site.page.evaluate(_FAINT)
    assert told > 40 and faint == []
    assert all(bar.get_attribute("aria-label") for bar in site.page.locator(".bar").all())


def test_a_phone_needs_no_horizontal_scrolling(visit: Visit, keys_file: str) -> None:
    long = "x" * 300
    why = Explanation(0.1, 0.2, 0.3, [Neighbour(long + ".png", "non-offensive", 0.5, 0.5, 0.5)])
    site = visit(reads=long, why=why, keys_file=keys_file, context={"viewport": {"width": 360, "height": 640}})
    site.classifier.review = {"low": 0.3, "high": 0.95}
    site.classifier.name = long
    site.at("key").fill(_KEY)
    site.choose(picture(size=(900, 300)), f"{long[:200]}.png")
    expect(site.at("why")).to_be_visible()
    assert site.page.evaluate("document.documentElement.scrollWidth") == 360
    wide = "[...document.querySelectorAll('body *:not(.quiet)')].filter(one => one.getBoundingClientRect().right > 360)"
    assert site.page.evaluate(f"{wide}.map(one => one.outerHTML)") == []


def test_the_page_loads_nothing_from_other_hosts(visit: Visit) -> None:
    site = visit()
    with site.page.expect_response(site.url) as answered:
        site.page.reload()
    response: Response = answered.value
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    html = response.text()
    assert (
        "http://" not in html and "https://" not in html and " style=" not in html and not re.search(r"\son\w+=", html)
    )
