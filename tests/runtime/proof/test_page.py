"""The report page: complete, self-contained, and as wide as the screen it is on."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from support.artifacts import edited, onnx_bytes, with_weight
from support.browser import layout_of, needs_browser
from support.networks import SMALL, lively_model, random_images
from support.proof import request_in

from capsnet.checkpoint import save_checkpoint
from capsnet.runtime.proof.page import render
from capsnet.runtime.proof.proof import Prover
from capsnet.runtime.proof.results import ImageSet
from capsnet.runtime.proof.words import causes, verdict_words


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
    prover = Prover(request_in(folder, details=True))
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
    assert "model.onnx computes the same numbers: 0 flips" in page.words
    assert f"<b>wrong.onnx {verdict_words(proofs[1].certificate)}" in page.words
    assert all(cause.text in page.words for cause in causes(proofs[1].certificate))
    assert page.tags.count("h1") == page.tags.count("header") == 2
    assert page.tags.count("svg") == 2 * 3  # a histogram for each output
    assert page.tags.count("img") == 2 * 8 * 2  # the worst images and their reconstructions
    for proof in proofs:
        assert proof.certificate.artifact.sha256 in page.words
        for check in proof.certificate.parity.checks:
            assert f"{check.errors.max:.2e}" in page.words


def test_page_shows_the_worst_first_and_folds_the_rest(proofs):
    text = render(proofs[1:])
    parity = proofs[1].certificate.parity
    worst = max(parity.checks, key=lambda check: check.used)
    shown, folded = text.split("<summary>All ")[0], text.split("<summary>All ")[1]
    assert shown.count("<tr>") == 1 + 3  # an output each
    rows = re.findall(r"<tr><td>(\w+).*?([\d.e+-]+)<td>", shown.partition("<table>")[2])
    assert rows[0] == (worst.output, f"{worst.errors.max:.2e}")
    assert folded.partition("</details>")[0].count("<tr>") == 1 + len(parity.checks)


def test_images_are_those_of_the_source(folder, proofs):
    """Five of the ten images, the even ones, with a label each."""
    np.save(folder / "labels.npy", np.arange(10) % 5)
    request = dataclasses.replace(
        request_in(folder, details=True),
        samples=5,
        labels=folder / "labels.npy",
    )
    proof = Prover(request).prove(folder / "model.onnx")
    assert proof.certificate.images == ImageSet("images.npy", 5, total=10)
    shown = re.findall(r"<b>image (\d+)</b>, true class (\d)", render([proof]))
    assert sorted(shown) == [(str(n), str(n % 5)) for n in range(0, 10, 2)]


def test_histograms_count_every_element(proofs):
    histograms = proofs[0].details.histograms
    for name, elements in (("lengths", 10 * 5), ("capsules", 10 * 5 * 6)):
        assert sum(histograms[name].baseline) == sum(histograms[name].artifact) == elements


def test_page_needs_no_network_and_runs_no_script(proofs):
    text = render(proofs)
    page = Page(text)
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "#artifact")) for link in page.links)
    assert "script" not in page.tags
    assert not re.search(r"https?://|url\(|@import", text)


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_browser_shows_the_verdict_first_and_every_picture_within_its_width(
    proofs, tmp_path, width
):
    layout = layout_of(render(proofs), tmp_path, width)
    assert layout.page <= layout.window
    assert layout.pictures == 32
    assert layout.header < 800  # of 900 pixels, below the verdicts of both files
