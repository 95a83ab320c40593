"""The live experiments in a real browser with the network cut: the numbers of Python, and the manners of a page."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import pytest
import torch
from bookpages import PHONE, ROOT, Watched, watched
from playwright.sync_api import Browser, Locator, Page
from test_pages import MAX_TRANSFER, assert_quiet, barriers, too_wide

from ddim_core import generate, image_generators, image_noise, load_pretrained

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import live

pytestmark = pytest.mark.alone
NAME = "book/try_it"
SAMPLE = "async options => [...await ddim.sample(options)]"
SETTINGS = [
    {"steps": 10, "eta": 0, "n": 1},
    {"steps": 10, "eta": 1, "n": 1},
    {"steps": 50, "eta": 0, "n": 1},
    {"steps": 50, "eta": 1, "n": 1},
    {"steps": 10, "eta": 0.5, "n": 1, "spacing": "quadratic", "clip": True},
    {"steps": 4, "eta": "sigma-hat", "n": 2, "spacing": "logsnr", "first": 7},
]


@pytest.fixture(scope="module")
def network():
    return load_pretrained("mnist")


@pytest.fixture(scope="module")
def tab(browser: Browser, site: str) -> Iterator[Watched]:
    """The page by http, as a reader finds it; the tests that follow each other here load the network once."""
    with watched(browser, site) as one:
        one.open(NAME)
        yield one


@pytest.fixture
def page(tab: Watched) -> Iterator[Page]:
    yield tab.page
    assert_quiet(tab)


@pytest.fixture
def phone(browser: Browser, site: str) -> Iterator[Watched]:
    with watched(browser, site, viewport=PHONE, has_touch=True, is_mobile=True, color_scheme="dark") as one:
        one.open(NAME)
        yield one
        assert_quiet(one)


def part(page: Page, name: str) -> Locator:
    return page.locator(f'.ddim-live[data-part="{name}"]')


def pixels(canvas: Locator) -> list[int]:
    return canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")


def ink(canvas: Locator) -> int:
    """How many pixels of a drawn image are bright."""
    return sum(value > 128 for value in pixels(canvas)[::4])


def close_to_python(page: Page, network, seed: int, **options) -> None:
    got = torch.tensor(page.evaluate(SAMPLE, {"seed": seed, **options})).view(-1, 1, 28, 28)
    chosen = {"n": 1, **options}
    wanted = generate(*network, chosen.pop("n"), seed=seed, noise="js", **chosen)
    assert got.shape == wanted.shape
    assert wanted.std() > 0.3, "or there is nothing to compare"
    assert (got.clamp(-1, 1) - wanted).abs().max() < 1e-3


# --- before the first click ------------------------------------------------------------------------------------------


def test_nothing_heavy_is_loaded_before_the_first_click(tab: Watched, book: Path, page: Page) -> None:
    parts = book / "_static" / "live" / "parts"
    asked = [url for url in tab.loaded if "/live/parts/" in url]
    assert [re.search(r"([^/?]+)(\?|$)", url)[1] for url in asked] == ["parts.js"]
    ours = [p for p in (parts.parent).iterdir() if p.is_file()] + [parts / "parts.js"]
    assert sum(p.stat().st_size for p in ours) < 100_000 < MAX_TRANSFER
    listed = json.loads((parts / "parts.js").read_text(encoding="utf-8").partition("=")[2].rstrip(";\n"))
    assert {file["build"] for file in listed["files"]} == {None, *live.BUILDS}
    assert all((parts / file["name"]).stat().st_size == file["bytes"] for file in listed["files"])
    size = sum(file["bytes"] for file in listed["files"] if file["build"] in (None, "relaxed"))
    go = part(page, "sample").get_by_role("button", name="Load the network")
    assert go.inner_text() == f"Load the network ({size / 1e6:.1f} MB) · Sample"


def test_the_noise_is_there_before_the_network(page: Page) -> None:
    canvas = part(page, "sample").locator("canvas").first
    before = pixels(canvas)
    assert canvas.get_attribute("aria-label") == "xₜ, the state: noise, t = 1000"
    part(page, "sample").get_by_role("button", name="Next seed").click()
    assert pixels(canvas) != before
    part(page, "sample").get_by_label("seed").fill("0")
    assert pixels(canvas) == before


def test_noise_is_that_of_python(page: Page) -> None:
    draw = "([seed, n, first]) => { const d = ddimCore.imageNoise(seed, n, 784, first); return [[...d()], [...d()]]; }"
    for seed, n, first in ((0, 2, 0), (1, 1, 5), (2**32 - 1, 2, 70_000)):
        generators = image_generators(seed, n, first, "js")
        for got in page.evaluate(draw, [seed, n, first]):
            wanted = image_noise(generators, (784,)).flatten()
            differ = (torch.tensor(got) - wanted).abs()
            assert differ.max() < 1e-6
            assert (differ > 0).sum() <= 1, "rounding to float32 hides the last bit of float64, nearly always"


def test_times_are_those_of_python(page: Page, network) -> None:
    _, schedule = network
    alpha = torch.tensor(page.evaluate("[...ddimLive.schedule.alpha]"), dtype=torch.float64)
    assert torch.allclose(alpha, schedule.alpha, rtol=1e-12, atol=0)
    counts = [*range(1, 41), 50, 99, 100, 250, 333, 500, 750, 999, 1000]
    every = "([spacing, counts]) => counts.map(steps => ddimLive.schedule.timesteps({steps, spacing}))"
    for spacing in ("uniform", "quadratic", "logsnr"):
        assert page.evaluate(every, [spacing, counts]) == [schedule.timesteps(S, spacing=spacing) for S in counts]
    strides = page.evaluate("counts => counts.map(every => ddimLive.schedule.timesteps({every}))", counts)
    assert strides == [schedule.timesteps(every=k) for k in counts]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 to 1000"),
        ({"steps": 2.5}, "steps must be"),
        ({"eta": 1.5}, "eta must lie in"),
        ({"n": 0}, "n must be"),
        ({"seed": -1}, "seed must be"),
        ({"spacing": "cubic"}, "spacing must be"),
        ({"steps": 5, "every": 5}, "either steps or every"),
    ],
    ids=str,
)
def test_what_cannot_be_sampled_is_said_at_once(page: Page, options: dict, says: str) -> None:
    assert says in page.evaluate("options => ddim.sample(options).catch(error => error.message)", options)
    assert not page.evaluate("ddimLive.ready")


# --- with the network ------------------------------------------------------------------------------------------------


def test_the_first_click_loads_and_samples(page: Page) -> None:
    box = part(page, "sample")
    box.get_by_role("button", name="η = 0 against 1").click()
    box.get_by_label("digits").select_option("1")
    for lane in box.locator(".ddim-lane").all():
        lane.get_by_label("steps S, exactly").fill("4")
    box.get_by_role("button", name="Load the network").click()
    page.wait_for_function("document.querySelector('.ddim-told').textContent.startsWith('Done: 4 calls')")
    state, guess = box.locator(".ddim-lane").first.locator("canvas").all()
    assert state.get_attribute("aria-label") == "xₜ, the state: the result, t = 0"
    assert pixels(state) == pixels(guess)
    assert ink(state) > 30
    other = box.locator(".ddim-lane").last.locator("canvas").first
    assert pixels(other) != pixels(state), "noise on the way leads elsewhere"
    assert box.locator(".ddim-go").inner_text() == "Sample"
    assert part(page, "pad").locator(".ddim-go").inner_text() == "Start"


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_samples_are_those_of_python(page: Page, network, options: dict) -> None:
    close_to_python(page, network, 3, **options)


def test_every_step_is_shown(page: Page) -> None:
    seen = page.evaluate(
        """async () => { const seen = [];
           await ddim.sample({steps: 4, onStep: s => seen.push([s.t, s.s, s.call, s.calls, s.xt.length, s.x0.length])});
           return seen; }"""
    )
    assert seen == [[1000 - 250 * k, 750 - 250 * k, k + 1, 4, 784, 784] for k in range(4)]


def test_stop_stops(page: Page) -> None:
    box = part(page, "sample")
    box.get_by_role("button", name="Every step, one digit").click()  # which starts it, now that the network is there
    status = box.locator(".ddim-status").first
    page.wait_for_function("/call [1-9]/.test(document.querySelector('.ddim-status').textContent)")
    box.get_by_role("button", name="Stop").click()
    page.wait_for_function("document.querySelector('.ddim-told').textContent === 'Stopped.'")
    page.wait_for_timeout(300)
    stopped = status.inner_text()
    page.wait_for_timeout(1500)
    assert status.inner_text() == stopped
    assert int(re.search(r"call (\d+) of 1000", stopped)[1]) < 1000
    assert len(page.evaluate(SAMPLE, {"steps": 1})) == 784, "the worker is free again"


def test_stop_does_not_wait_for_a_call_of_many_images(page: Page) -> None:
    """Stopped in the middle of a call for 256 images, of which each takes as long as a call for one."""
    each, stopped = page.evaluate(
        """async () => {
          await ddimLive.load();
          const now = () => performance.now();
          let began = now();
          await ddim.sample({ n: 8, steps: 2 });
          const each = (now() - began) / 16;
          const controller = new AbortController();
          const all = ddim.sample({ n: 256, steps: 2, signal: controller.signal }).catch((error) => error.name);
          await new Promise((resolve) => setTimeout(resolve, 10 * each));
          began = now();
          controller.abort();
          return [each, (await all) === "AbortError" ? now() - began : NaN];
        }"""
    )
    assert stopped < 60 * each


def test_what_throws_at_a_step_ends_the_sample(page: Page) -> None:
    said = page.evaluate(
        "ddim.sample({steps: 100, onStep: () => { throw new Error('mine') }}).catch(error => error.message)"
    )
    assert said == "mine"


def test_it_is_quick_and_leaves_the_page_alone(page: Page, network) -> None:
    """Some 2.5 times what PyTorch takes on the same core (ONNX Runtime took 5), and more where that has matrix units."""
    asked = """async ({ n }) => {
      let first = 0;
      const began = performance.now();
      await ddim.sample({ n, steps: 10, onStep: () => (first ||= performance.now() - began) });
      return [first, performance.now() - began];
    }"""

    def in_python(n: int) -> float:
        began = perf_counter()
        generate(*network, n, steps=10, seed=0)
        return 1000 * (perf_counter() - began)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for n in (1, 16):
            tries = [(page.evaluate(asked, {"n": n}), in_python(n)) for _ in range(5)]
            first, whole = (min(value[k] for value, _ in tries) for k in (0, 1))
            assert whole < 8 * min(mine for _, mine in tries)
            assert first < 0.3 * whole, "there is something to see after the first of ten calls"
    finally:
        torch.set_num_threads(threads)
    longest = """async () => {
      const long = [];
      const watch = new PerformanceObserver((list) => long.push(...list.getEntries().map((entry) => entry.duration)));
      watch.observe({ type: "longtask" });
      await ddim.sample({ n: 16, steps: 10 });
      await new Promise((resolve) => setTimeout(resolve, 100));
      watch.disconnect();
      return Math.max(0, ...long);
    }"""
    assert min(page.evaluate(longest) for _ in range(3)) < 50


def test_between_two_seeds(page: Page) -> None:
    box = part(page, "between")
    slider = box.get_by_role("slider", name="λ")
    box.get_by_role("slider", name="steps S").fill("1")
    lengths = {}
    for way in ("line", "circle"):
        box.get_by_label("way").select_option(way)
        lengths[way] = float(re.match(r"length of xT: ([\d.]+) times", box.locator(".ddim-status").inner_text())[1])
    assert lengths["line"] == pytest.approx(0.5**0.5, abs=0.05), "halfway on the line, too little noise"
    assert lengths["circle"] == pytest.approx(1, abs=0.05)
    end = box.get_by_role("img", name="x₀ at λ")
    slider.press("Home")
    page.wait_for_function("document.querySelector('[aria-label=\"x₀ at λ: λ = 0.00\"]')")
    first = pixels(end)
    slider.press("End")
    page.wait_for_function("document.querySelector('[aria-label=\"x₀ at λ: λ = 1.00\"]')")
    assert pixels(end) != first
    box.get_by_role("button", name="Draw the row").click()
    page.wait_for_function("document.querySelector('[data-part=between] [aria-label$=\"between the two\"]')")


def test_the_pad_by_mouse(page: Page) -> None:
    box = part(page, "pad")
    pad, yours = box.get_by_role("application"), box.get_by_role("img", name="your digit")
    assert ink(yours) == 0
    pad.scroll_into_view_if_needed()
    frame = pad.bounding_box()
    page.mouse.move(frame["x"] + 140, frame["y"] + 50)
    page.mouse.down()
    page.mouse.move(frame["x"] + 150, frame["y"] + 140, steps=4)
    page.mouse.move(frame["x"] + 140, frame["y"] + 230, steps=4)
    page.mouse.up()
    assert ink(yours) > 20
    page.wait_for_function("document.querySelector('[data-part=pad] .ddim-told').textContent === 'Done.'")
    assert re.match(r"t = 500 · 10 calls · ", box.locator(".ddim-status").inner_text())
    noised, result = box.get_by_role("img", name="xₜ, noised"), box.get_by_role("img", name="x₀, denoised")
    before = pixels(noised)
    assert ink(result) > 20
    box.get_by_role("slider", name="time t").fill("20")  # it starts by itself
    page.wait_for_function("/^t = 20 · /.test(document.querySelector('[data-part=pad] .ddim-status').textContent)")
    assert pixels(noised) != before
    alike = sum(abs(a - b) for a, b in zip(pixels(result), pixels(yours), strict=True)) / len(pixels(yours))
    assert alike < 12, "from a little noise the digit comes back, in grey levels"


def test_the_pad_encodes_and_fills(page: Page) -> None:
    box = part(page, "pad")
    box.get_by_role("slider", name="steps S").fill("4")
    box.get_by_role("button", name="Encode, decode").click()
    page.wait_for_function(
        "/4 calls up, 4 down/.test(document.querySelector('[data-part=pad] .ddim-status').textContent)"
    )
    assert float(re.search(r"error (\d\.\d+)", box.locator(".ddim-status").inner_text())[1]) < 0.2
    box.get_by_role("button", name="Erase half").click()
    box.get_by_role("slider", name="steps S").fill("3")
    box.get_by_role("slider", name="visits").fill("2")
    page.wait_for_function("/^5 calls/.test(document.querySelector('[data-part=pad] .ddim-status').textContent)")
    known = pixels(box.get_by_role("img", name="what is known"))[::4]
    filled = pixels(box.get_by_role("img", name="filled in", exact=True))[::4]
    assert known[: 14 * 28] == filled[: 14 * 28], "what is known stays"
    assert set(known[14 * 28 :]) == {128}, "what is erased is grey"
    assert len(set(filled[14 * 28 :])) > 20


def test_axe_finds_no_barrier_while_it_works(page: Page) -> None:
    part(page, "sample").get_by_role("button", name="Every step, one digit").click()
    assert not barriers(page)
    part(page, "sample").get_by_role("button", name="Stop").click()


# --- other readers ---------------------------------------------------------------------------------------------------


def test_the_pad_by_touch_in_the_dark(phone: Watched) -> None:
    page = phone.page
    pad = part(page, "pad").get_by_role("application")
    pad.scroll_into_view_if_needed()
    scrolled = page.evaluate("scrollY")
    frame = pad.bounding_box()
    touch = phone.page.context.new_cdp_session(page)
    for kind, share in (
        ("touchStart", 0.2),
        ("touchMove", 0.4),
        ("touchMove", 0.6),
        ("touchMove", 0.8),
        ("touchEnd", None),
    ):
        at = {"x": frame["x"] + frame["width"] / 2, "y": frame["y"] + frame["height"] * (share or 0)}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [] if share is None else [at]})
    assert ink(part(page, "pad").get_by_role("img", name="your digit")) > 20
    assert page.evaluate("scrollY") == scrolled, "the finger draws, it does not scroll"
    assert not too_wide(page)
    assert not barriers(page)
    small = page.evaluate(
        """[...document.querySelectorAll('.ddim-box :is(button, select, input)')].filter(e => e.checkVisibility())
           .map(e => [e.outerHTML.slice(0, 80), e.closest('.ddim-tick')?.getBoundingClientRect() ?? e.getBoundingClientRect()])
           .filter(([, r]) => r.height < 40).map(([e]) => e)"""
    )
    assert not small, "too small for a finger"


def test_the_pad_by_keyboard(phone: Watched) -> None:
    page = phone.page
    pad = part(page, "pad").get_by_role("application")
    yours = part(page, "pad").get_by_role("img", name="your digit")
    for key in ("ArrowUp", "ArrowUp", " ", *["ArrowDown"] * 6, " ", *["ArrowRight"] * 3):
        pad.press(key)
    assert ink(yours) > 15
    part(page, "pad").get_by_role("button", name="Clear").click()
    assert ink(yours) == 0


def test_from_a_file_in_a_folder_that_was_moved(book: Path, browser: Browser, network, tmp_path: Path) -> None:
    moved = tmp_path / "a copy, élsewhere"
    shutil.copytree(book, moved)
    with watched(browser, moved.as_uri()) as one:
        page = one.open(NAME)
        close_to_python(page, network, 8, steps=5, eta=1)
        assert not one.outside
        assert not one.errors


def test_without_relaxed_simd_the_other_build_is_loaded(browser: Browser, site: str, network) -> None:
    with watched(browser, site) as one:
        one.page.add_init_script("WebAssembly.validate = bytes => bytes.length < 30")  # SIMD, but nothing beyond
        page = one.open(NAME)
        close_to_python(page, network, 8, steps=10, eta=1)
        asked = {re.search(r"/parts/([^/?]+)", url)[1] for url in one.loaded if "/live/parts/" in url}
        assert {"wasm-compat-0.js", "runtime-compat-0.js", "model-0.js"} < asked
        assert not [name for name in asked if "relaxed" in name]
        assert_quiet(one)


def test_where_it_cannot_run_it_says_so(browser: Browser, site: str) -> None:
    with watched(browser, site) as one:
        one.page.add_init_script("delete window.DecompressionStream; WebAssembly.validate = () => false")
        page = one.open(NAME)
        says = part(page, "sample").get_by_role("alert").inner_text()
        assert says.startswith("This browser lacks DecompressionStream and SIMD: ")
        assert part(page, "sample").locator(".ddim-go").is_disabled()
        assert "lacks DecompressionStream" in page.evaluate("ddim.sample({}).catch(error => error.message)")
        assert_quiet(one)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (None, "model-1.js could not be loaded"),
        ("/* the page of a proxy */", "model-1.js is damaged"),
        ('self.ddimPart("AAAA");', "its part “model” is damaged"),
    ],
    ids=["missing", "something else", "other bytes"],
)
def test_a_part_that_is_missing_or_damaged_is_named(browser: Browser, site: str, body: str | None, says: str) -> None:
    with watched(browser, site) as one:
        page = one.open(NAME)

        def answer(route):
            return route.abort() if body is None else route.fulfill(body=body, content_type="text/javascript")

        page.route("**/model-1.js*", answer)
        part(page, "sample").get_by_role("button", name="Load the network").click()
        alert = part(page, "sample").get_by_role("alert")
        alert.wait_for()
        assert alert.inner_text() == f"The network could not be run: {says}."
        assert part(page, "sample").locator(".ddim-go").is_enabled(), "to be tried again"


@pytest.mark.parametrize(
    "event",
    [
        'new ErrorEvent("error", { message: "out of memory" })',
        'new MessageEvent("message", { data: { kind: "broken", message: "out of memory" } })',
    ],
    ids=["the worker", "the runtime"],
)
def test_a_worker_that_fails_is_replaced(browser: Browser, site: str, network, event: str) -> None:
    """What waits for it is told so, and the next request starts another, whatever else the first one says."""
    with watched(browser, site) as one:
        one.page.add_init_script(
            "self.made = []; self.Worker = class extends Worker { constructor(...all) { super(...all); made.push(this); } };"
        )
        page = one.open(NAME)
        said = page.evaluate(
            """async () => {
              const fail = () => made[0].dispatchEvent(EVENT);
              const waiting = [1, 2].map((seed) => ddim.sample({ seed, steps: 100, onStep: seed === 1 ? fail : null }));
              return Promise.all(waiting.map((one) => one.catch((error) => error.message)));
            }""".replace("EVENT", event)
        )
        assert said == ["out of memory"] * 2
        assert not page.evaluate("ddimLive.ready")
        close_to_python(page, network, 8, steps=5)
        page.evaluate(f"made[0].dispatchEvent({event})")
        assert page.evaluate("ddimLive.ready")
        assert page.evaluate("made.length") == 2


def test_another_version_of_the_runtime_is_refused() -> None:
    module, loader = (path.read_text(encoding="utf-8") for path in (live.RUNTIME / "dist" / "index.js", live.LOADER))
    script = live.as_script(module, loader)
    assert "\nself.litert = {" in script
    assert not re.search(r"^(import|export)\b", script, flags=re.M)
    for other in (
        module.replace("Environment.create()", "Environment.create(gpu)"),
        module.replace("export {", "import x from 'y';\nexport {"),
        module.replace("  CompiledModel,\n", "  CompiledModel as Model,\n"),
    ):
        assert other != module
        with pytest.raises(ValueError, match="@litertjs/core is another version"):
            live.as_script(other, loader)


# --- the build -------------------------------------------------------------------------------------------------------


def test_a_book_built_without_the_network_says_so(browser: Browser, site: str) -> None:
    with watched(browser, site) as one:
        one.page.route("**/parts.js*", lambda route: route.fulfill(body=live.WITHOUT, content_type="text/javascript"))
        page = one.open(NAME)
        for name in ("sample", "between", "pad"):
            assert "built without the network" in part(page, name).get_by_role("alert").inner_text()
            assert part(page, name).locator(".ddim-go").is_disabled()
        assert_quiet(one)


def test_what_is_lacking_is_said_in_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(live, "WEIGHTS", "kanjii")
    monkeypatch.setattr(live, "digest", lambda: "0")
    assert live.packed(tmp_path / "cache", said.append) is None
    monkeypatch.setattr(live, "RUNTIME", tmp_path / "nowhere")
    assert live.packed(tmp_path / "cache", said.append) is None
    assert said[0].startswith("The live experiments stay empty: ddim: unknown weights 'kanjii'")
    assert said[1] == "No LiteRT.js: the live experiments stay empty."
    assert not list(tmp_path.glob("cache/*/parts.js"))


def test_the_licenses_of_what_is_packed_are_there(book: Path) -> None:
    text = (book / "_static" / "live" / "parts" / "LICENSES.txt").read_text(encoding="utf-8")
    for said in (
        "Copyright 2025 Google LLC",
        "Changed: ",
        "XNNPACK",
        "Eigen",
        "Apache License\n",
        "Redistributions in binary",
    ):
        assert said in text
