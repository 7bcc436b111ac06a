"""fp16: weights, convolutions and decoder in float16, the routing in float32.

A sum of votes can leave float16's range, and the square of a short capsule vanishes in it: each
lowered layer says what it computes in (``LoweredLayer.in_half``).
"""

from capsnet.export.lower import LoweredNetwork

__all__ = ["convert"]


def convert(network: LoweredNetwork) -> LoweredNetwork:
    """Store a lowered network's weights in float16, and compute in it what keeps its accuracy.

    Args:
        network: in float32; it is changed.

    Returns:
        The same network. Its inputs and outputs stay float32.
    """
    network.in_half()
    return network
