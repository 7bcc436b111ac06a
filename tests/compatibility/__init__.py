"""Which runtimes compute the artifacts' numbers: one table.

    python -m tests.compatibility [--json FILE] [--work FOLDER] [--runtime NAME]

Run it in the root of the source. It exports the bundled networks in every precision, and a small
network of every kind of layer, installs each runtime from the package registry into an environment
of its own, and prints the largest error of all outputs at batches of 5, 1 and 3 against the
readable network in float64. A runtime that does not install is named, and is no error. With
``--work`` environments are kept and used again.
"""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).parents[1])
if _TESTS not in sys.path:  # as pytest does it: these modules, and what tests share
    sys.path.insert(0, _TESTS)
