"""The examples in documents, run as they are written."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")


def python_blocks(text):
    """The Python blocks of a document, in order."""
    return _BLOCK.findall(text)


def run_blocks(document, folder):
    """Run the Python blocks of a document in order, in one namespace, in a fresh process.

    A block whose first line is the name of a file, such as ``# my_layer.py``, is written to that
    file instead: others import it.

    Args:
        document: its path.
        folder: where to run, and to write files.

    Returns:
        What the blocks print.
    """
    code = []
    for block in python_blocks(document.read_text(encoding="utf-8")):
        file = _FILE.match(block)
        if file:
            (folder / file[1]).write_text(block, encoding="utf-8")
        else:
            code.append(block)
    return run_python(folder, "-c", "\n".join(code))


def run_python(folder, *arguments):
    """What a fresh interpreter prints, started in a folder as a user would; warnings are errors."""
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    child = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout
