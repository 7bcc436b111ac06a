"""The report page: complete, self-contained, and as wide as the screen it is on."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from support.artifacts import edited, onnx_bytes, with_weight
from support.networks import SMALL, lively_model, random_images

from capsnet.checkpoint import save_checkpoint
from capsnet.networks import NetworkSource
from capsnet.runtime.proof.page import render
from capsnet.runtime.proof.proof import Prover
from capsnet.runtime.proof.request import Request

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    save_checkpoint(lively_model(SMALL), folder / "model.safetensors")
    np.save(folder / "images.npy", random_images(SMALL, 10))
    content = onnx_bytes(reconstruction=True)
    (folder / "model.onnx").write_bytes(content)

    def perturb(weights):
        weights.reshape(-1)[0] += 0.01

    (folder / "<b>wrong.onnx").write_bytes(
        edited(content, with_weight("primary_capsules.conv.bias", perturb))
    )
    return folder


@pytest.fixture(scope="module")
def proofs(folder):
    request = Request(
        NetworkSource(folder / "model.safetensors"),
        folder / "images.npy",
        device="cpu",
        details=True,
    )
    prover = Prover(request)
    return [prover.prove(folder / name) for name in ("model.onnx", "<b>wrong.onnx")]


class Page(HTMLParser):
    """Counts elements, and keeps what they link to and say."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words += data


def test_page_says_all_that_was_found(proofs):
    page = Page(render(proofs))
    assert "model.onnx computes the same numbers" in page.words
    assert "<b>wrong.onnx computes WRONG numbers" in page.words
    assert all(failure in page.words for failure in proofs[1].certificate.parity.failures)
    assert page.tags.count("h1") == 2
    assert page.tags.count("svg") == 2 * 3  # a histogram for each output
    assert page.tags.count("img") == 2 * 8 * 2  # the worst images and their reconstructions
    for proof in proofs:
        assert proof.certificate.artifact.sha256 in page.words
        for check in proof.certificate.parity.checks:
            assert f"{check.errors.max:.2e}" in page.words


def test_histograms_count_every_element(proofs):
    histograms = proofs[0].details.histograms
    for name, elements in (("lengths", 10 * 5), ("capsules", 10 * 5 * 6)):
        assert sum(histograms[name].baseline) == sum(histograms[name].artifact) == elements


def test_page_needs_no_network_and_runs_no_script(proofs):
    text = render(proofs)
    page = Page(text)
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "script" not in page.tags
    assert not re.search(r"https?://|url\(|@import", text)


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1000, 420])
def test_browser_shows_every_picture_within_its_width(proofs, tmp_path, width):
    # The browser fills in the title: how wide the page became, and how many pictures it could draw.
    measure = """<script>onload = () => { const images = [...document.images];
    document.title = [innerWidth, document.documentElement.scrollWidth,
      images.filter(i => i.complete && i.naturalWidth > 0).length].join(" ") }</script>"""
    page = tmp_path / "page.html"
    page.write_text(render(proofs) + measure, encoding="utf-8")
    found = subprocess.run(
        [
            BROWSER,
            *("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'p'}"),
            *(f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom"),
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    inner, scroll, drawn = map(int, re.search(r"<title>([\d ]+)</title>", found.stdout)[1].split())
    assert scroll <= inner
    assert inner <= max(width, 500)  # browsers have a least width for their windows
    assert drawn == 32
