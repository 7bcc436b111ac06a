"""Another order of summation: the same function in float64, other rounding in float32."""

import pytest
import torch
from einops import einsum
from torch import nn

from capsnet.runtime.proof.reordered import Reordered

CASES = {
    "linear": lambda x: nn.functional.linear(x, W),
    "convolution": lambda x: nn.functional.conv2d(x[:, :, None, None], W[:, :, None, None]),
    "grouped convolution": lambda x: nn.functional.conv2d(
        x[:, :, None, None], W[:, :24, None, None], groups=4
    ),
    "product": lambda x: x @ W.T,
    "batched product": lambda x: torch.bmm(x[None], W.T[None]),
    "sum of products": lambda x: torch.einsum("bi,oi->bo", x, W),
    "diagonal": lambda x: torch.einsum("ii,bi->b", W[:, :16], x[:, :16]),
    "two sums": lambda x: einsum(x.view(5, 48, 2), W.view(16, 48, 2), "b i d, o i d -> b o"),
}
W = torch.rand(16, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
X = torch.rand(5, 96, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_float64_gives_the_same(case):
    with Reordered(1):
        found = CASES[case](X)
    torch.testing.assert_close(found, CASES[case](X), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("case", [c for c in CASES if c not in ("grouped convolution", "diagonal")])
def test_float32_rounds_otherwise(case, monkeypatch):
    monkeypatch.setitem(globals(), "W", W.float())
    plain = CASES[case](X.float())
    found = []
    for order in (1, 2, 1):
        with Reordered(order):
            found.append(CASES[case](X.float()))
    assert torch.equal(found[0], found[2])
    assert any(not torch.equal(other, plain) for other in found)
