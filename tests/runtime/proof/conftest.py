"""The folder that proofs are tested in."""

import pytest
from support.proof import fill_folder


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of the small network, its artifact, and five images."""
    return fill_folder(tmp_path)
