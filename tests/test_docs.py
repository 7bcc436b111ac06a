"""The documents: their Python blocks run, their links lead somewhere."""

import re

import pytest
from support.blocks import ROOT, python_blocks, run_blocks

DOCUMENTS = sorted([*ROOT.glob("docs/*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
TEXTS = {document: document.read_text(encoding="utf-8") for document in DOCUMENTS}


def name(document):
    return document.name


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if python_blocks(TEXTS[d])], ids=name)
def test_python_blocks_run_as_written(document, tmp_path):
    run_blocks(document, tmp_path)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_to_files(document):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", TEXTS[document]):
        assert (document.parent / link).is_file(), link


def test_recipes_of_all_extensions_are_there():
    headings = re.findall(r"^## (.+)$", TEXTS[ROOT / "docs" / "extending.md"], re.MULTILINE)
    assert headings == [
        "A kind of layer",
        "A lowering",
        "A precision",
        "A format",
        "A layout of foreign weights",
        "A network of your own layers",
        "A network of your own",
    ]


def test_map_of_the_source_names_every_folder():
    text = TEXTS[ROOT / "docs" / "architecture.md"]
    folders = {
        path.parent.relative_to(ROOT).as_posix()
        for part in ("capsnet", "export", "runtime")
        for path in (ROOT / part).rglob("*.py")
    }
    assert {folder for folder in folders if f"`{folder}/`" not in text} == set()


def test_files_that_the_map_names_exist():
    text = TEXTS[ROOT / "docs" / "architecture.md"]
    named = re.findall(r"`((?:capsnet|export|runtime)/[\w/]+\.py)`", text)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).is_file()] == []
