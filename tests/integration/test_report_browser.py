"""Pages of runs in a real browser, wide and narrow, light and dark: no error, nothing cut, nothing over anything."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import guess, make_run, with_settings
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from fashion_dist.paths import RunDir
from fashion_dist.report import make
from fashion_dist.report.dataset_card import write_card
from fashion_dist.report.run_data import RunData, read_facts
from fashion_dist.tasks import deepfashion
from shards import ShardSet

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
RECIPE = with_settings(deepfashion.RECIPE)
pytestmark = pytest.mark.timeout(1800)  # a browser on a busy machine

# What stands outside the page or its scrolling part, is cut, or lies over something else, as sentences.
LOOK = """
const found = [], page = document.documentElement, width = page.clientWidth;
if (page.scrollWidth > width) found.push(`the page is ${page.scrollWidth} px wide`);
const name = e => `${e.tagName} ${e.className.baseVal ?? e.className} "${e.textContent.trim().slice(0, 40)}"`;
const outside = (a, b) => a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
for (const e of document.querySelectorAll('h1, h2, h3, p, dt, dd, figure, figcaption, nav a, .shot, .cloud')) {
  const box = e.getBoundingClientRect();
  if (box.width && (box.right > width + 1 || box.left < -1)) found.push(`${name(e)} leaves the page`);
}
for (const e of document.querySelectorAll('*'))
  if (!e.closest('svg') && getComputedStyle(e).overflowX === 'hidden' && e.scrollWidth > e.clientWidth + 1)
    found.push(`${name(e)} is cut`);
for (const e of document.querySelectorAll('figure:not(.whole) .scroll'))
  if (e.scrollWidth > e.clientWidth + 1) found.push(`${e.closest('figure').textContent.trim().slice(0, 40)} scrolls`);
for (const svg of document.querySelectorAll('figure svg')) {
  const whole = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll('use')].map(e => e.getBoundingClientRect());
  const cut = boxes.filter(box => box.width && outside(box, whole));
  if (cut.length) found.push(`a label of "${svg.closest('figure').querySelector('h3').textContent}" is cut`);
}
const parts = [...document.querySelectorAll('.grid > *')].map(e => [e, e.getBoundingClientRect()]);
parts.forEach(([e, a], i) => parts.slice(i + 1).forEach(([f, b]) => {
  const apart = a.left >= b.right - 1 || b.left >= a.right - 1 || a.top >= b.bottom - 1 || b.top >= a.bottom - 1;
  if (a.height && b.height && !apart) found.push(`${name(e)} lies over ${name(f)}`);
}));
for (const e of document.querySelectorAll('img'))
  if (!e.naturalWidth) found.push('an image is broken');
return found;
"""
# The contrast of texts with the paper, as WCAG counts it.
CONTRAST = """
const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => c.match(/[\\d.]+/g).slice(0, 3).map((v, i) => linear(v / 255) * [.2126, .7152, .0722][i])
  .reduce((a, b) => a + b);
const paper = light(getComputedStyle(document.body).backgroundColor);
return ['h1', '.soft', 'dd', 'th'].map(s => light(getComputedStyle(document.querySelector(s)).color))
  .map(ink => (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05));
"""


def programs() -> tuple[str, str]:
    """Chromium and its driver; skips the test with the reason where one is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium with chromedriver here; as root on Debian tests/run.sh installs both")
    return browser, driver


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    binary, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options, Service(driver, env={**os.environ, "SE_OFFLINE": "true"}))
    started.set_page_load_timeout(300)
    yield started
    started.quit()


@pytest.fixture(scope="module")
def pages(packed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one run with labels, of one that failed, of several, and the card of a data set."""
    shard_set = ShardSet.open(packed_home / "shards" / "deep_fashion")
    folder = tmp_path_factory.mktemp("pages") / "runs"
    runs = [
        make_run(folder / f"deepfashion-{n}", with_settings(RECIPE, f"optim.lr=0.0{n + 1}", f"train.seed={n % 2}"),
                 shard_set, {"val": guess(shard_set, "val", seed=n)}, scores=(0.1, 0.3 + n / 20))
        for n in range(4)
    ]  # fmt: skip
    message = "rank 1 on a-node-with-a-long-name.cluster.example.org: the loss is not finite at epoch 1, step 10"
    failed = make_run(folder / "deepfashion-failed", RECIPE, shard_set, {}, state="failed", message=message)

    def facts(*chosen: RunDir) -> list[RunData]:
        return read_facts(list(chosen))

    names = ("a shirt " * 25, "\u05e9\u05de\u05dc\u05d4 12 (\u05e7\u05e6\u05e8\u05d4)", "x" * 200)
    schema = shard_set.schema
    schema = replace(schema, names={**schema.names, "category": (*names, *schema.names["category"][3:])})
    renamed = replace(shard_set, manifest=replace(shard_set.manifest, schema=schema))
    answers = {"val": guess(shard_set, "val", right=0.3)}
    named = replace(facts(make_run(folder / "deepfashion-named", RECIPE, shard_set, answers))[0], shard_set=renamed)
    card = folder.parent / "set"
    shutil.copytree(shard_set.path, card)
    return {
        "card": write_card(card),
        "one": make.report_run(facts(runs[0])[0], quick=True).page,
        "names": make.report_run(named, quick=True).page,
        "failed": make.report_run(facts(failed)[0], quick=True).page,
        "several": make.report_runs(facts(*runs), folder.parent / "several", quick=True).page,
    }


@pytest.mark.parametrize("name", ["one", "names", "failed", "several", "card"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_a_page_is_whole(browser: webdriver.Chrome, pages: dict[str, Path], name: str, scheme: str, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(pages[name].as_uri())
    assert browser.execute_script("return document.documentElement.clientWidth") == width
    assert browser.execute_script(LOOK) == []
    assert min(browser.execute_script(CONTRAST)) >= 4.5
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    told = [json.dumps(entry) for entry in browser.get_log("browser") if entry["level"] != "INFO"]
    assert told == []


@pytest.mark.parametrize("name", ["one", "names", "failed", "several", "card"])
def test_a_page_fits_on_paper(browser: webdriver.Chrome, pages: dict[str, Path], name: str) -> None:
    a4 = {"width": 672, "height": 1002, "deviceScaleFactor": 1, "mobile": False}  # less the page's margins
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", a4)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [dark]})
    try:
        browser.get(pages[name].as_uri())
        assert browser.execute_script(LOOK) == []
        assert min(browser.execute_script(CONTRAST)) >= 4.5
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen"})
