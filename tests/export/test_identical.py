"""The same bytes from every process, whatever its folder, locale, time zone, hashes and threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from capsnet.formats import FORMATS
from capsnet.precision import PRECISIONS

EXPORT = """
import hashlib, json, os, sys, warnings
os.umask(int(sys.argv[2], 8))
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(int(sys.argv[3]))
from pathlib import Path
from support.networks import SMALL, lively_model, random_images
from capsnet.export.lower import lower
from capsnet.export.options import ExportOptions
from capsnet.formats import FORMATS
from capsnet.precision import PRECISIONS
digests = {}
for precision, row in PRECISIONS.items():
    for name in row.formats or FORMATS:
        for reconstruction in (False, True):
            for batch in (None, 3):
                lowered = lower(
                    lively_model(SMALL), precision=precision, reconstruction=reconstruction
                )
                calibration = random_images(SMALL, 64) if row.calibrated else None
                path = Path(f"{name} {precision}.bin")
                options = ExportOptions(batch=batch, calibration=calibration)
                FORMATS[name].export(lowered, path, options)
                key = f"{name} {precision} {reconstruction} {batch}"
                digests[key] = hashlib.sha256(path.read_bytes()).hexdigest()
print(json.dumps(digests))
"""

PROCESSES = (  # umask, threads, environment
    ("022", "1", {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}),
    ("077", "2", {"LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}),
    ("000", "3", {"LC_ALL": "tr_TR.UTF-8", "TZ": "XST+11:30", "OMP_NUM_THREADS": "4"}),
)


@pytest.mark.slow
def test_every_format_and_precision_is_the_same_from_every_process(tmp_path):
    support = str(Path(__file__).parents[1])
    children = []
    for number, (mask, threads, environment) in enumerate(PROCESSES):
        folder = tmp_path / ("é " * number + "folder")
        folder.mkdir()
        children.append(
            subprocess.Popen(
                [sys.executable, "-P", "-c", EXPORT, support, mask, threads],
                cwd=folder,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    found = [json.loads(child.communicate(timeout=600)[0]) for child in children]
    pairs = sum(len(row.formats or FORMATS) for row in PRECISIONS.values())
    assert len(found[0]) == 4 * pairs
    assert len(set(found[0].values())) == len(found[0])  # that the digests tell files apart
    assert found[1] == found[0]
    assert found[2] == found[0]
