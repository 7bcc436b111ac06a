"""The examples: short, run as they stand, and proven."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from capsnet.own import OwnNetwork
from capsnet.vetting import vet

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_network_of_your_own_takes_25_lines():
    code = (EXAMPLES / "your_network.py").read_text().splitlines()
    assert len([line for line in code if line]) <= 25


@pytest.mark.slow
@pytest.mark.parametrize("name", ["your_network", "segcaps"])
def test_example_runs_and_is_proven(name, tmp_path):
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pass")
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx", ".json"}


def routed_by_loops(children, weight, bias, iterations):
    """One layer of SegCaps at stride 1, written as loops over everything: float64 arrays.

    Args:
        children: ``[types, dim, height, width]``.
        weight: ``[types, parents, out_dim, dim, kernel, kernel]``.
        bias: ``[parents, out_dim]``.
    """
    types, _, height, width = children.shape
    _, parents, out_dim, _, kernel, _ = weight.shape
    half = kernel // 2
    padded = np.pad(children, ((0, 0), (0, 0), (half, half), (half, half)))
    found = np.zeros((parents, out_dim, height, width))
    for y in range(height):
        for x in range(width):
            window = padded[:, :, y : y + kernel, x : x + kernel]
            votes = np.array(
                [
                    [(weight[i, o] * window[i]).sum(axis=(1, 2, 3)) for o in range(parents)]
                    for i in range(types)
                ]
            )
            logits = np.zeros((types, parents))
            for _ in range(iterations):
                poses = bias.copy()
                for i in range(types):
                    coupling = np.exp(logits[i]) / np.exp(logits[i]).sum()
                    for o in range(parents):
                        poses[o] += coupling[o] * votes[i, o]
                for o in range(parents):
                    length = np.sqrt((poses[o] ** 2).sum())
                    poses[o] *= length / (1 + length**2)
                    for i in range(types):
                        logits[i, o] += votes[i, o] @ poses[o]
            found[:, :, y, x] = poses
    return found


def test_capsules_of_segcaps_are_those_of_the_formulas():
    torch.manual_seed(0)
    layer = runpy.run_path(str(EXAMPLES / "segcaps.py"))["LocalCapsules"]((3, 4), (2, 5)).double()
    capsules = torch.rand(2, 12, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        found = layer(capsules).unflatten(1, (2, 5)).numpy()
    weight = layer.votes.weight.detach().unflatten(0, (3, 2, 5)).numpy()
    for grid, expected in zip(found, capsules.unflatten(1, (3, 4)).numpy(), strict=True):
        loops = routed_by_loops(expected, weight, layer.bias.detach().numpy(), 3)
        np.testing.assert_allclose(grid, loops, atol=1e-12)


def test_segcaps_gives_a_mask_and_can_be_proven():
    network = runpy.run_path(str(EXAMPLES / "segcaps.py"))["make"]()
    scans = {"image": torch.rand(3, 1, 16, 24)}
    own = OwnNetwork(network, scans)
    vet(own, list(scans.values()))
    assert own.output_shapes == {"mask": (16, 24)}
    assert own.decision is None
