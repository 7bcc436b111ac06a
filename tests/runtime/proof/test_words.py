"""The words of a certificate: of the precision, each cause once, images by their own index."""

import dataclasses

import pytest
from support.proof import fill_folder, request_in

from capsnet.precision import find_precision
from capsnet.runtime.proof.proof import prove
from capsnet.runtime.proof.results import Accuracy, HardInput, ImageSet
from capsnet.runtime.proof.words import (
    budget_words,
    causes,
    share_words,
    used_words,
    verdict_words,
    worst_checks,
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = fill_folder(tmp_path_factory.mktemp("words"))
    return prove(folder / "model.onnx", request_in(folder)).certificate


def with_(certificate, *, precision="fp32", verdict="pass", **parity):
    metadata = dataclasses.replace(certificate.artifact.metadata, precision=precision)
    return dataclasses.replace(
        certificate,
        verdict=verdict,
        artifact=dataclasses.replace(certificate.artifact, metadata=metadata),
        parity=dataclasses.replace(
            certificate.parity, budget=find_precision(precision).budget, **parity
        ),
    )


def beyond(certificate, outputs):
    """The certificate with errors of these outputs 1000 times the limit, as judged."""
    checks, failures = [], []
    for check in certificate.parity.checks:
        if check.output in outputs:
            errors = {key: 1000 * limit for key, limit in check.allowed.items()}
            changed = dataclasses.replace(check.errors, worst_image=3, **errors)
            check = dataclasses.replace(check, errors=changed, passed=False)
            failures += [
                f"batch {check.batch_size}: {check.output}: {key} error {error:.3g} is above the "
                f"budget of {error / 1000:.3g} (worst image 3)"
                for key, error in errors.items()
            ]
        checks.append(check)
    return with_(certificate, verdict="fail", checks=tuple(checks), failures=tuple(failures))


def test_verdict_is_in_the_terms_of_the_precision(certificate):
    assert verdict_words(certificate) == "computes the same numbers: 0 flips"
    wrong = with_(certificate, verdict="fail", flips={1: 0.5, 3: 0.25})
    assert verdict_words(wrong) == "computes WRONG numbers: 2 flips"
    accuracy = Accuracy(0.996, 0.996, 0.992)
    int8 = with_(certificate, precision="int8", flips={1: 0.1, 4: 0.2}, accuracy=accuracy)
    assert verdict_words(int8) == "within the int8 budget: 2 flips, -0.40 points"
    failed = dataclasses.replace(int8, verdict="fail")
    assert verdict_words(failed).startswith("NOT within the int8 budget: ")
    own = with_(certificate, precision="fp16", overridden=True, agreement=None)
    assert verdict_words(own) == "within the limits of --atol and --rtol"


def test_few_images_are_counted_and_many_are_a_percentage():
    assert share_words(0.984375, 64) == "63 of 64"
    assert share_words(0.9953, 10_000) == "9,953 of 10,000 (99.53%)"
    assert used_words(0.28) == "28%"
    assert used_words(86045.99) == "8.6e+04 times"


def test_budget_is_explained_by_its_own_numbers():
    assert "4 times the baseline's own, plus float32's rounding" in budget_words(
        find_precision("fp32").budget, "fp32"
    )
    words = budget_words(find_precision("int8").budget, "int8")
    assert "plus 25 % of the largest golden value" in words
    assert "at most 1 % of them may flip, and at most 0.1 % of accuracy" in words


def test_worst_check_of_each_output_comes_first(certificate):
    wrong = beyond(certificate, ["capsules"])
    assert list(worst_checks(wrong.parity)) == ["capsules", "lengths"]
    assert worst_checks(wrong.parity)["capsules"].used == pytest.approx(1000)
    own = [check.used for check in certificate.parity.checks if check.output == "lengths"]
    assert worst_checks(certificate.parity)["lengths"].used == max(own)


def test_all_that_is_above_the_budget_is_one_cause(certificate):
    assert causes(certificate) == []
    failure = "all ones: lengths: max error 0.5 is above the budget of 0.1"
    wrong = dataclasses.replace(
        beyond(certificate, ["lengths", "capsules"]),
        images=ImageSet("images.npy", 5, total=50),
        hard_inputs=(
            HardInput("all ones", 1, 0.5, 0.1, (failure,)),
            HardInput("all zeros", 1, 0.0, 0.1, ()),
        ),
    )
    [cause] = causes(wrong)
    assert cause.failures == 4 * 2 * 3 + 1  # batch sizes, outputs, kinds of error; a hard input
    assert "lengths, capsules are above the budget at batch 1, 2, 3, 5" in cause.text
    assert "on 1 of 2 hard inputs (all ones)" in cause.text
    assert "largest at image 30" in cause.text


def test_hard_inputs_alone_can_be_above_the_budget(certificate):
    failure = "all ones: lengths: max error 0.5 is above the budget of 0.1"
    hard = (HardInput("all ones", 1, 0.5, 0.1, (failure,)),)
    [cause] = causes(dataclasses.replace(certificate, hard_inputs=hard))
    assert cause.text == "the errors are above the budget on 1 of 1 hard inputs (all ones)"


def test_failures_that_differ_in_numbers_alone_are_one_cause(certificate):
    wrong = with_(
        certificate,
        verdict="fail",
        failures=(
            "batch 1: image 2 changes its class, although the gap, 0.2, is not below 1e-06",
            "batch 7: image 2 changes its class, although the gap, 0.2, is not below 3e-06",
            "batch 7: image 4 changes its class, although the gap, 0.3, is not below 3e-06",
            "lengths: the float32 model itself is off",
        ),
    )
    wrong = dataclasses.replace(wrong, images=ImageSet("images.npy", 5, total=10))
    flips, baseline = causes(wrong)
    assert flips.text.startswith("image 4 changes its class, although the gap, 0.2,")
    assert flips.text.endswith("(batch 1, batch 7)")
    assert flips.failures == 3
    assert (baseline.text, baseline.failures) == ("lengths: the float32 model itself is off", 1)
