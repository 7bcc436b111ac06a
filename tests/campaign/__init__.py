"""A campaign against the toolkit: damaged and hostile files, killed processes, odd environments.

    python -m tests.campaign [--minutes 1] [--seed 0] [--json FILE]

Run it in the root of the source. It prints one table of figures, and exits with 1 if anything
happened that must not: code of a file that was executed, an error of an undocumented kind, a crash,
a hang, too much memory, a partial or left-over file, a process that outlives its parent, a
traceback, a wrong exit code. The same seed gives the same mutations; how many there are, and how
many kills, depends on the time. Hostile files and environments are fixed lists, beyond that time.
"""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).parents[1])
if _TESTS not in sys.path:  # as pytest does it: the modules of the campaign, and what tests share
    sys.path.insert(0, _TESTS)
