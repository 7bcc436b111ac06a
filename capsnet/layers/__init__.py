"""The kinds of layers and decoders that a capsule network is composed of: one module each."""

__all__ = ["KINDS"]

KINDS = {
    "conv": "stem",
    "primary": "primary",
    "dynamic": "dynamic",
    "convolutions": "convolutions",
    "depthwise": "depthwise",
    "attention": "attention",
    "activated": "activated",
    "self-routing": "self_routing",
    "em": "em",
    "convolutional": "convolutional",
    "dense": "decoder",
    "transposed": "transposed",
}
"""Module of each kind: ``capsnet.layers.NAME`` holds its configuration and its readable form, and
``capsnet.export.lowering.NAME``, where it exists, its faster form for inference."""
