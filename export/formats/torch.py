"""What the exporters of torch's own formats share."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from capsnet.artifact import METADATA_KEY, ArtifactMetadata
from capsnet.errors import (
    CapsNetError,
    ConfigError,
    ExportError,
    first_line,
    raise_interruption,
)
from capsnet.export.formats.description import describe, require_format
from capsnet.export.lower import LoweredNetwork
from capsnet.export.options import TRACE_BATCH, ExportOptions

__all__ = ["write_torch_artifact"]


def write_torch_artifact(
    lowered: LoweredNetwork,
    path: Path,
    options: ExportOptions,
    *,
    name: str,
    exporter: str,
    capture: Callable[[LoweredNetwork, tuple[Tensor, ...]], Any],
    save: Callable[[Any, dict[str, str]], io.BytesIO],
) -> ArtifactMetadata:
    """Capture a network, and write it with its metadata in an extra file.

    Args:
        lowered: the network.
        path: the file to write.
        options: how to write it.
        name: of the format.
        exporter: what captures the network, for the metadata and for errors.
        capture: gives what torch saves, from the network and an example of its inputs.
        save: an archive of it with extra files.

    Returns:
        The metadata that was written.

    Raises:
        ConfigError: if the format does not have the network's precision, or another input than the
            usual one is asked for.
        ExportError: if torch cannot capture the network.
    """
    require_format(lowered, name)
    if (options.input_dtype, options.layout) != ("float32", "nchw"):
        raise ConfigError(
            f"{name} takes float32 images in the layout nchw alone: leave the type and the layout "
            "of the input out, or export to onnx"
        )
    metadata = describe(lowered, options, exporter=exporter, libraries=("torch",))
    example = lowered.example(options.batch or TRACE_BATCH)
    try:
        captured = capture(lowered, example)
    except CapsNetError:
        raise
    except Exception as error:  # the exporters' own errors have many kinds
        raise_interruption(error)
        raise ExportError(
            f"{exporter} could not capture the network: {first_line(error)}"
        ) from error
    path.write_bytes(save(captured, {METADATA_KEY: metadata.to_json()}).getvalue())
    return metadata
