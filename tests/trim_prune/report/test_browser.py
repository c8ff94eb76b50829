"""The pages in a real browser, wide and narrow, light and dark: skipped where there is no Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from trim_prune.report.compare import compare_runs
from trim_prune.report.compare_page import compare_page
from trim_prune.report.write import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)")

# Opens all details, and tells the frame around the page what can be seen to be wrong in it.
PROBE = """
<script>
for (const part of document.querySelectorAll("details")) part.open = true;
const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const channels = color => color.match(/[\\d.]+/g).slice(0, 3).map(v => linear(v / 255));
const luminance = color => { const [r, g, b] = channels(color); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const contrast = (a, b) => {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
const inside = (a, frame) =>
  a.left > frame.left - 1 && a.right < frame.right + 1 && a.top > frame.top - 1 && a.bottom < frame.bottom + 1;
const meet = (a, b) =>
  a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2;
const overlaps = [], outside = [], faint = [];
for (const svg of document.querySelectorAll("figure svg")) {
  const figure = svg.closest("figure"), frame = svg.getBoundingClientRect();
  const ground = getComputedStyle(figure).backgroundColor;
  const texts = [...svg.querySelectorAll("text")];
  const boxes = texts.map(text => text.getBoundingClientRect());
  texts.forEach((text, i) => {
    if (!inside(boxes[i], frame)) outside.push(text.textContent);
    if (contrast(getComputedStyle(text).fill, ground) < 4.5) faint.push(text.textContent);
    texts.slice(i + 1).forEach((other, k) => {
      if (meet(boxes[i], boxes[i + 1 + k])) overlaps.push(text.textContent + " / " + other.textContent);
    });
  });
  for (const line of svg.querySelectorAll("path"))
    if (line.style.stroke.includes("--line") && contrast(getComputedStyle(line).stroke, ground) < 3)
      faint.push(line.style.stroke);
}
const broken = [];
for (const cell of document.querySelectorAll("th, td.number, td:first-child")) {
  const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  while (texts.nextNode())
    for (const word of texts.currentNode.data.matchAll(/[\\w.%]+/g)) {
      const range = document.createRange();
      range.setStart(texts.currentNode, word.index);
      range.setEnd(texts.currentNode, word.index + word[0].length);
      if (range.getClientRects().length > 1) broken.push(word[0]);
    }
}
const body = getComputedStyle(document.body);
parent.postMessage(JSON.stringify({
  width: document.documentElement.clientWidth, scroll: document.documentElement.scrollWidth,
  ink: contrast(body.color, body.backgroundColor), dark: luminance(body.backgroundColor) < 0.2,
  figures: document.querySelectorAll("figure svg").length, overlaps, outside, faint, broken,
}), "*");
</script>
"""
# A window of Chromium cannot be as narrow as a phone; a frame can.
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><pre></pre>
<script>onmessage = event => { document.querySelector("pre").textContent = event.data; };</script>
<iframe src="%s" width="%d" height="1500" style="border: 0"></iframe>
"""


def browse(page, folder, dark, *options):
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,2000",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def page_files(runs, smaller, tmp_path_factory):
    """A report with long names and what was evaluated, and a comparison; each with the probe at its end."""
    folder = tmp_path_factory.mktemp("pages")
    run = shutil.copytree(runs / "trim", folder / "run")
    facts = json.loads((run / "run.json").read_text())
    protocol = {"data": "/a/very/long/path/" + "x" * 80 + ".txt", "text_sha256": "ab" * 32, "seqlen": 512}
    facts["evaluations"] = [
        {"kind": "perplexity", "of": of, "model": of, "protocol": protocol, "results": {"perplexity": 15.25}}
        for of in ("dense", "pruned")
    ]
    facts["model"] = "organisation/" + "A-model-with-a-name-that-does-not-end-" * 3
    facts["warnings"] = ["w" * 300]
    (run / "run.json").write_text(json.dumps(facts))
    write_report(run)
    long_name = shutil.copytree(smaller / "masked", folder / "a_name_without_any_place_to_break_it")
    pages = {
        "report": (run / "report.html").read_text(encoding="utf-8"),
        "compare": compare_page(compare_runs([runs / "trim", runs / "best", runs / "nm"])),
        "smaller": compare_page(compare_runs([smaller / "ragged", smaller / "masked", long_name])),
        "structured": (smaller / "ragged" / "report.html").read_text(encoding="utf-8"),
    }
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    return folder


def probed(page, folder, width, dark):
    frame = folder / "frame.html"
    frame.write_text(FRAME % (page.as_uri(), width))
    dumped = browse(frame, folder, dark, "--dump-dom", "--virtual-time-budget=5000")
    return json.loads(unescape(re.search(r"<pre>(.*?)</pre>", dumped, flags=re.DOTALL)[1]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["report", "compare", "smaller", "structured"])
def test_nothing_is_cut_off_covered_or_faint(name, width, dark, page_files, tmp_path):
    found = probed(page_files / f"{name}.html", tmp_path, width, dark)
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["dark"] == dark
    assert found["ink"] > 10
    assert found["figures"] == {"report": 13, "compare": 4, "smaller": 4, "structured": 4}[name]
    assert (found["overlaps"], found["outside"], found["faint"]) == ([], [], [])
    assert [word for word in found["broken"] if "a_name_without" not in word] == []


def test_the_probe_sees_what_is_wrong(page_files, tmp_path):
    text = "figure svg text { fill: #999 !important; font-size: 30px !important }"
    wrong = f"<style>main {{ min-width: 700px }} td.number {{ width: 8ch }} {text}</style></head>"
    page = (page_files / "report.html").read_text(encoding="utf-8").replace("</head>", wrong)
    (tmp_path / "wrong.html").write_text(page, encoding="utf-8")
    found = probed(tmp_path / "wrong.html", tmp_path, 400, False)
    assert found["scroll"] > 400
    assert min(len(found[fault]) for fault in ("overlaps", "outside", "faint", "broken")) > 0


def test_a_screenshot_shows_the_page(page_files, tmp_path):
    import numpy
    from PIL import Image

    shot = tmp_path / "shot.png"
    browse(page_files / "report.html", tmp_path, False, f"--screenshot={shot}")
    with Image.open(shot) as image:
        pixels = numpy.asarray(image.convert("L"))
    assert pixels.shape == (2000, 1400)
    shown = (pixels < 128).mean(axis=1)
    assert 0.005 < shown.mean() < 0.3  # letters and lines on a light ground
    assert (shown[:1900].reshape(-1, 100).max(axis=1) > 0).mean() > 0.9  # all the way down
