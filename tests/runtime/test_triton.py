"""A model repository for Triton: what its own schema reads from the configuration."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
from support.artifacts import metadata_for, onnx_bytes
from support.networks import SMALL

from capsnet.artifact import TensorSpec
from capsnet.cli.commands import cli
from capsnet.errors import ArtifactError, ConfigError, OutputError
from capsnet.files import file_sha256
from capsnet.runtime.certificate import SCHEMA_VERSION, certificate_path, environment
from capsnet.runtime.serving.triton import model_config, write_repository


def certify(path, device="cpu"):
    """A certificate with what is read of it."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "verdict": "pass",
        "artifact": {"sha256": file_sha256(path)},
        "parity": {},
        "device": device,
        "environment": environment(),
    }
    certificate_path(path).write_text(json.dumps(document))


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "digits.v2.onnx"
    path.write_bytes(onnx_bytes(SMALL))
    certify(path)
    return path


def session_of(metadata, format_name="onnx"):
    return SimpleNamespace(metadata=metadata, format=format_name)


def parsed(text):
    """The configuration as Triton's own message."""
    pytest.importorskip("tritonclient.grpc")
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return text_format.Parse(text, ModelConfig())


def test_configuration_is_one_for_triton():
    config = parsed(model_config(session_of(metadata_for(SMALL)), "digits", "cuda", True))
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 32)
    assert [(v.name, v.data_type, list(v.dims)) for v in (*config.input, *config.output)] == [
        ("image", config.input[0].data_type, [1, 12, 12]),
        ("lengths", config.input[0].data_type, [5]),
        ("capsules", config.input[0].data_type, [5, 6]),
    ]
    assert [value.label_filename for value in config.output] == ["labels.txt", ""]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert not config.response_cache.enable
    [group] = config.instance_group
    assert group.Kind.Name(group.kind) == "KIND_GPU"
    [warm_up] = config.model_warmup
    assert (warm_up.batch_size, list(warm_up.inputs["image"].dims)) == (1, [1, 12, 12])
    assert warm_up.inputs["image"].zero_data


def test_bytes_and_a_fixed_batch_are_as_the_metadata_says():
    metadata = metadata_for(SMALL, batch=4)
    spec = TensorSpec("image", "uint8", (4, 12, 12, 1))
    metadata = dataclasses.replace(metadata, inputs=(spec,), layout="nhwc")
    config = parsed(model_config(session_of(metadata), "digits", "cpu"))
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert list(config.input[0].dims) == [4, 12, 12, 1]
    assert config.input[0].data_type != config.output[0].data_type
    assert list(config.output[1].dims) == [4, 5, 6]


def test_torchscript_has_numbers_for_names():
    text = model_config(session_of(metadata_for(SMALL), "torchscript"), "digits", "cpu")
    config = parsed(text)
    assert config.backend == "pytorch"
    assert [value.name for value in config.input] == ["image__0"]
    assert [value.name for value in config.output] == ["lengths__0", "capsules__1"]


def test_repository_holds_the_model_and_its_proof(artifact, tmp_path):
    arguments = ["deploy", "triton", str(artifact), str(tmp_path / "models")]
    cli.main(arguments, standalone_mode=False)
    folder = tmp_path / "models" / "digits"
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == ["1/model.onnx", "1/model.onnx.parity.json", "config.pbtxt"]
    assert (folder / "1/model.onnx").read_bytes() == artifact.read_bytes()
    assert parsed((folder / "config.pbtxt").read_text()).name == "digits"
    with pytest.raises(OutputError, match="is there already"):
        write_repository(artifact, tmp_path / "models")


def test_what_is_not_proven_is_not_deployed(artifact, tmp_path):
    certify(artifact, "openvino")
    with pytest.raises(ArtifactError, match="proven on openvino"):
        write_repository(artifact, tmp_path / "models")
    certificate_path(artifact).unlink()
    with pytest.raises(ArtifactError, match="has no certificate"):
        write_repository(artifact, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_name_that_leads_elsewhere_is_refused(artifact, tmp_path):
    for name in ("../elsewhere", "", ".", "a b"):
        with pytest.raises(ConfigError, match="no name of a model"):
            write_repository(artifact, tmp_path / "models", name)


def test_writing_it_needs_nothing_of_triton(artifact, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    assert len(write_repository(artifact, tmp_path / "models", "other")) == 3
