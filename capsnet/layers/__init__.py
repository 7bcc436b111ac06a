"""The kinds of layers and decoders that a capsule network is composed of: one module each."""

__all__ = ["KINDS"]

KINDS = {
    "conv": "capsnet.layers.stem",
    "primary": "capsnet.layers.primary",
    "dynamic": "capsnet.layers.dynamic",
    "convolutions": "capsnet.layers.convolutions",
    "depthwise": "capsnet.layers.depthwise",
    "attention": "capsnet.layers.attention",
    "activated": "capsnet.layers.activated",
    "self-routing": "capsnet.layers.self_routing",
    "em": "capsnet.layers.em",
    "convolutional": "capsnet.layers.convolutional",
    "dense": "capsnet.layers.decoder",
    "transposed": "capsnet.layers.transposed",
    "trained-logits": "capsnet.importers.adambielski",
    "input-coupled": "capsnet.importers.gram_ai",
    "softmax-lengths": "capsnet.importers.gram_ai",
    "normalised": "capsnet.importers.cedrickchee",
    "across-capsules": "capsnet.importers.cedrickchee",
    "keras-primary": "capsnet.importers.keras",
    "keras-dynamic": "capsnet.importers.keras",
    "keras-lengths": "capsnet.importers.keras",
}
"""Module of each kind, which holds its configuration and its readable form; what is odd about a
network of another project is in its importer. ``capsnet.export.lowering`` has a module of the same
last name where there is a faster form for inference."""
