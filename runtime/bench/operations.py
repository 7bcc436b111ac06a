"""The arithmetic of the readable network as it is written. Needs torch."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from capsnet.artifact import OUTPUT_NAMES, ArtifactMetadata
from capsnet.config import CapsNetConfig
from capsnet.model import CapsNet

__all__ = ["network_operations"]


def network_operations(metadata: ArtifactMetadata) -> int:
    """Floating-point operations of the readable network behind an artifact, for one image.

    Those of all convolutions and products, a multiplication and an addition each, counted by torch
    while the network runs on tensors without values. The agreement after the last iteration of a
    routing, which nothing uses, is computed by the network as it is written, and counted.

    Args:
        metadata: of the artifact; where it has a reconstruction, the decoder runs, too.

    Returns:
        The number of operations.
    """
    config = CapsNetConfig.from_dict(dict(metadata.config))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = CapsNet(config)
        lengths, capsules = network(torch.empty(1, *config.image_shape))
        if any(spec.name == OUTPUT_NAMES[2] for spec in metadata.outputs):
            network.reconstruct(capsules, lengths.argmax(dim=-1))
    return int(counter.get_total_flops())
