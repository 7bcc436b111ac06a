"""The margin's figures: a correct file is right, a planted fault is caught, small ones are not."""

import copy
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def margin():
    path = Path(__file__).with_name("margin.py")
    spec = importlib.util.spec_from_file_location("margin", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["margin"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_correct_networks_pass_and_planted_faults_are_caught(margin):
    uses, planted = [], []
    for number in (0, 1):
        given = margin.network_at(number, 0)
        verdicts = margin.correct(given, draws=1, seed=0)
        assert (verdicts.count, verdicts.alarms) == (6, [])
        uses += verdicts.uses
        planted += margin.faults(given, places=1, seed=0)
    assert {use.format for use in uses} == {"onnx", "torchscript", "pt2"}
    assert {use.output for use in uses} == {"lengths", "capsules", "reconstruction", "hard inputs"}
    assert all(0 < use.share <= 1 for use in uses)
    large = [fault for fault in planted if fault.scope == "whole tensor" and fault.size >= 1e-4]
    assert len(large) == 2 * 4
    assert all(fault.caught for fault in large)
    single = [fault for fault in planted if fault.scope == "one weight"]
    assert not any(fault.caught for fault in single if fault.size == margin.SIZES[-1])
    table = margin.use_table(uses).splitlines()
    assert len(table) == 2 + 3 * 4
    assert all(len(row.split("|")) == 7 for row in table)
    assert len(margin.fault_table(planted).splitlines()) == 2 + 3


@pytest.mark.parametrize(("scope", "changed"), [("whole tensor", 1), ("one channel", 0.5)])
def test_a_fault_has_the_size_that_it_was_given(margin, scope, changed):
    given = margin.network_at(1, 0).model
    before = [p.detach().clone() for p in given.parameters()]
    margin.plant(given, scope, 0.01, 3)
    pairs = zip(before, given.parameters(), strict=True)
    differing = [(old, new) for old, new in pairs if not torch.equal(old, new)]
    assert len(differing) == 1
    [(old, new)] = differing
    relative = ((new - old).abs() / old.abs()).detach()[old != 0].numpy()
    touched = relative > 0
    np.testing.assert_allclose(relative[touched], 0.01, rtol=1e-3)
    assert touched.mean() == 1 if changed == 1 else 0 < touched.mean() <= changed


def test_a_wrong_network_is_a_false_alarm_if_it_is_called_correct(margin):
    given = margin.network_at(1, 0)
    golden, baseline = margin._references(given.model)
    images = margin.images_for(given.model.config, 0)
    model = copy.deepcopy(given.model)
    margin.plant(model, "whole tensor", 0.01, 0)
    wrong = margin._lowered(model, given.forms)
    shares, failures = margin.shares_of(
        golden, baseline, margin.InMemory(margin._metadata(wrong), wrong), images
    )
    assert failures
    assert max(share for share, _ in shares.values()) > 1


def test_every_preset_is_among_the_networks(margin):
    from capsnet.presets import PRESETS

    assert set(PRESETS) <= set(margin.CONFIGS)
    names = {margin.network_at(number, 0).name for number in range(0, len(margin.ROUND), 9)}
    assert len(names) == len(range(0, len(margin.ROUND), 9))
