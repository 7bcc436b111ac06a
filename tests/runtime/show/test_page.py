"""The page and the pictures show every part that is there, and say why another is not."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from support.browser import layout_of, needs_browser
from support.networks import SMALL, lively_model, random_images

from capsnet.runtime.markup import png
from capsnet.runtime.proof.images import ProofImages
from capsnet.runtime.show.collect import collect
from capsnet.runtime.show.drawing import coupling_pictures, strip
from capsnet.runtime.show.page import render
from capsnet.runtime.show.sheets import SHEETS, sheets

NAMES = ("<b>cat", "dog", "猫", "emu", "fox")


def collected(labels, whole=True):
    model = lively_model(SMALL)

    def run(images):
        with torch.no_grad():
            outputs = model.outputs_by_name(torch.from_numpy(images))
        names = outputs if whole else ["lengths"]
        return {name: outputs[name].numpy() for name in names}

    given = ProofImages("animals", random_images(SMALL, 12), labels, 24)
    own = model if whole else None
    return collect("model.safetensors", run, "lengths", given, names=NAMES, model=own)


@pytest.fixture(scope="module")
def shown():
    return collected(np.arange(12) % 5)


def test_page_shows_every_part(shown):
    page = render(shown)
    classes = len(shown.tweaks)
    pictures = (
        2 * len(shown.examples)  # with its reconstruction
        + 2 * len(shown.mistakes)
        + 6 * classes  # a row for each value of a capsule
        + 3 * classes  # a heat map for each iteration
    )
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == pictures
    assert page.count("Not shown") == 0
    assert "of 24, animals" in page
    assert f"{12 - shown.right} wrong" in page
    for confusion in shown.confusions:
        assert all(str(index) in page for index in confusion.indices)


def test_page_needs_no_network_runs_no_script_and_trusts_no_name(shown):
    page = render(shown)
    assert not re.search(r"<script|https?://|url\(|@import| href=", page)
    assert "<b>cat" not in page
    assert "&lt;b&gt;cat" in page


def test_confusion_matrix_has_a_row_for_each_class_with_its_accuracy(shown):
    matrix = render(shown).split("class='scroll confusion'>")[1].split("</table>")[0]
    rows = matrix.split("<tr>")[2:]
    assert len(rows) == 5
    for label, row in enumerate(rows):
        cells = [re.sub(r"^[^>]*>", "", cell) for cell in row.split("<td")[1:]]
        assert [int(cell or 0) for cell in cells[:5]] == shown.counts[label].tolist()
        total = shown.counts[label].sum()
        assert cells[5:] == [f"{shown.counts[label, label] / total:.1%}", str(total)]


def test_missing_parts_have_a_reason():
    bare = collected(None, whole=False)
    page = render(bare)
    assert page.count("Not shown: ") == 4
    assert "the true classes of these images are not known" in page
    assert "classified right" not in page
    assert sheets(bare) == {}


def test_every_part_is_a_picture(shown):
    drawn = sheets(shown)
    assert set(drawn) == set(SHEETS)
    for picture in drawn.values():
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert picture.std() > 1
        restored = np.asarray(Image.open(io.BytesIO(png(picture))).convert("RGB"))
        np.testing.assert_array_equal(restored, picture)


def test_figures_hold_the_pictures(shown):
    pytest.importorskip("matplotlib")
    from capsnet.runtime.show.figures import figures

    drawn, pictures = figures(shown), sheets(shown)
    assert set(drawn) == set(pictures)
    file = io.BytesIO()
    drawn["tweaks"].savefig(file)
    with Image.open(file) as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), pictures["tweaks"])


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_browser_shows_every_picture_within_its_width(shown, tmp_path, width):
    page = render(shown)
    layout = layout_of(page.replace("<details>", "<details open>"), tmp_path, width)
    assert layout.page <= layout.window
    assert layout.pictures == page.count("<img ")


def test_strip_puts_images_side_by_side():
    picture = strip([np.zeros((1, 4, 5)), np.ones((3, 4, 5))])
    assert picture.shape == (4, 11, 3)
    assert picture[:, :5].max() == 0
    assert picture[:, 6:].min() == 255


def test_heat_map_is_red_above_uniform_and_blue_below_at_the_middle_of_the_field(shown):
    couplings = shown.couplings[0]
    first, *_, last = coupling_pictures(shown, couplings)
    assert first.shape == last.shape == (96, 96, 3)
    difference = last.astype(int) - first
    row, column = np.unravel_index(couplings.maps[-1].argmax(), (3, 3))
    middle = 8 * (3 + 2 * row) + 4, 8 * (3 + 2 * column) + 4  # eight pixels for each of the image
    red, _, blue = difference[middle]
    assert red > blue
    row, column = np.unravel_index(couplings.maps[-1].argmin(), (3, 3))
    red, _, blue = difference[8 * (3 + 2 * row) + 4, 8 * (3 + 2 * column) + 4]
    assert blue > red
    assert np.abs(difference[:16]).max() == 0  # outside the grid
