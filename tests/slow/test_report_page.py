"""The page of a report in a real browser: no script fails, and what is clicked does what it says."""

import functools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_ckaad.study.report import write_report
from tests.test_study_report import write_study

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: `apt-get install chromium`"),
]
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
# Runs after the page's own script, and writes what it sees where --dump-dom shows it.
WATCH = """<script>window.failures = [];
window.addEventListener("error", event => failures.push(event.message));</script>"""
ASK = """<script>
const answers = {};
const table = document.querySelectorAll("table.sortable")[2];
const column = () => [...table.tBodies[0].rows].map(row => row.cells[2].textContent);
const heading = table.querySelectorAll("th button")[2];
answers.heading = heading.textContent;
heading.click(); answers.falling = column();
heading.click(); answers.rising = column();
answers.sort = heading.parentElement.getAttribute("aria-sort");
const shown = () => [...document.querySelectorAll(".card")].filter(card => card.offsetParent !== null);
const worst = name => shown().map(card => JSON.parse(card.dataset.badness)[name]);
answers.misses = shown().map(card => card.dataset.kind);
for (const name of ["fine", "poor"]) {
  const method = document.getElementById("method");
  method.value = name; method.dispatchEvent(new Event("change")); answers[name] = worst(name);
}
const kind = document.getElementById("kind");
kind.value = "false alarm"; kind.dispatchEvent(new Event("change"));
answers.alarms = shown().map(card => card.dataset.kind);
answers.count = document.getElementById("count").textContent;
const data = document.getElementById("data");
answers.sets = [...data.options].map(option => option.textContent);
data.selectedIndex = 1; data.dispatchEvent(new Event("change"));
answers.other = shown().map(card => card.dataset.data);
answers.broken = [...document.images].filter(image => image.complete && image.naturalWidth === 0).length;
answers.wide = document.documentElement.scrollWidth > window.innerWidth;
answers.failures = failures;
document.body.insertAdjacentHTML("beforeend", '<pre id="answers"></pre>');
document.getElementById("answers").textContent = JSON.stringify(answers);
</script>"""


def chromium(profile: Path, *arguments: str) -> str:
    command = [CHROMIUM, "--headless", "--no-sandbox", *QUIET, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    return write_report(write_study(root), root / "out")[1]


@functools.cache
def answers_of(page: Path) -> dict[str, object]:
    asked = page.with_name("asked.html")
    text = page.read_text().replace("<head>", f"<head>{WATCH}", 1).replace("</body>", f"{ASK}</body>", 1)
    asked.write_text(text)
    dom = chromium(page.parent / "profile", "--dump-dom", "--virtual-time-budget=5000", asked.as_uri())
    rest = dom.rpartition('<pre id="answers">')[2]  # the script has the words as well
    answers = rest.partition("</pre>")[0].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">")
    found: dict[str, object] = json.loads(answers.replace("&amp;", "&"))
    return found


def test_no_script_fails_and_no_picture_is_broken(page: Path) -> None:
    found = answers_of(page)
    assert found["failures"] == []
    assert found["broken"] == 0
    assert found["wide"] is False  # tables scroll by themselves


def test_headings_sort(page: Path) -> None:
    found = answers_of(page)
    assert found["heading"] == "image AUROC"
    assert found["falling"] == ["91.0 ± 1.4", "61.0 ± 1.4"]
    assert found["rising"] == ["61.0 ± 1.4", "91.0 ± 1.4"]
    assert found["sort"] == "ascending"


def test_the_gallery_shows_what_is_asked_for_the_worst_first(page: Path) -> None:
    found = answers_of(page)
    assert set(found["misses"]) == {"miss"}  # type: ignore[call-overload]
    assert set(found["alarms"]) == {"false alarm"}  # type: ignore[call-overload]
    for name in ("fine", "poor"):
        badness = list(found[name])  # type: ignore[call-overload]
        assert badness == sorted(badness, reverse=True)
        assert all(value > 0 for value in badness)
        assert badness or name == "fine"  # which makes no mistake
    assert found["count"] == f"{len(found['alarms'])} images"  # type: ignore[arg-type]
    assert found["sets"] == ["tile", "<script>alert(1)</script>"]
    assert set(found["other"]) <= {"<script>alert(1)</script>"}  # type: ignore[call-overload]


@pytest.mark.parametrize("width", [1250, 400])
def test_screenshots(width: int, page: Path) -> None:
    picture = page.with_name(f"{width}.png")
    chromium(page.parent / "shots", f"--window-size={width},3000", f"--screenshot={picture}", page.as_uri())
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L")).astype(float)
    assert pixels.shape[1] >= width - 20
    thirds = np.array_split(pixels, 3)
    assert all(third.std() > 5 for third in thirds)  # text, plots, pictures
