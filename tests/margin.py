"""How much of the error budget correct networks use, and how small a fault is still caught.

    python -m tests.margin [--networks 74] [--draws 20] [--places 3] [--seed 0] [--json FILE]

Run it in the root of the source. Every network is exported to every format, and each file is judged
on draws of 64 images, and once on the hard inputs: none may be called wrong. Then weights of the
network are changed, and what is made of them is judged by the network as it was, at one batch size.
Networks are spread over the CPUs, one thread each. It exits with 1 where a correct file was called
wrong, or used more than 60 % of the budget.
"""

import copy
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch

from capsnet.artifact import ArtifactMetadata
from capsnet.bundled import checkpoint_file
from capsnet.checkpoint import load_checkpoint
from capsnet.config import CapsNetConfig, preset
from capsnet.data.idx import mnist_test_set
from capsnet.export.lower import LoweredCapsNet, lower
from capsnet.export.options import ExportOptions
from capsnet.formats import FORMATS
from capsnet.layers.primary import PrimaryConfig
from capsnet.model import CapsNet
from capsnet.presets import PRESETS
from capsnet.runtime.proof.collect import LARGE_BATCH, Artifact, collect
from capsnet.runtime.proof.hard_inputs import HardInputs
from capsnet.runtime.proof.judge import judge
from capsnet.runtime.proof.reference import EagerModel
from capsnet.runtime.sessions.opening import open_session
from capsnet.runtime.sessions.threads import usable_cpus

sys.path.insert(0, str(Path(__file__).parent))
from support.family import family_member
from support.networks import SMALL, TINY, altered, lively_model, network, with_layers

IMAGES = 64  # of a draw
MOST_USED = 0.6  # of the budget, by a correct file
SIZES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Relative errors of weights."""
SCOPES = ("whole tensor", "one channel", "one weight")

Images = npt.NDArray[np.float32]


# Networks

CONFIGS: Mapping[str, CapsNetConfig] = {
    "tiny": TINY,
    "small": SMALL,
    "squash": altered(TINY, primary_activation="squash"),
    **{f"{n} iterations": with_layers(TINY, (10, 8, n)) for n in (1, 2, 4, 5)},
    "2 layers": with_layers(TINY, (8, 8, 3), (10, 8, 3)),
    "3 layers": with_layers(TINY, (12, 6, 2), (8, 8, 3), (10, 8, 4)),
    "wide": network(stem_channels=128, primary_groups=16),
    "mnist": preset("mnist"),
    "cifar10": preset("cifar10"),
    "efficient": preset("efficient"),
    "paper": preset("paper"),
    "self-routing": preset("self-routing"),
}
"""Every preset, and what differs from them; ``wide`` and more take Winograd's convolution."""

TRAINED = {"mnist": "mnist", "efficient": "efficient-mnist"}
"""The bundled checkpoint of a configuration."""

WEIGHTS = ("as they are", "float16", "doubled", "halved", "3 % noise", "fresh")
"""What becomes of weights that were trained, or scaled to lively capsules."""

ROUND = [
    (name, weights)
    for weights in WEIGHTS
    for name in CONFIGS
    if name != "cifar10" or weights in WEIGHTS[:2]  # it takes minutes
    # Its lengths are 1e-23, whose squares float32 does not have: there is nothing to judge by.
    if (name, weights) != ("3 layers", "fresh")
]
"""Configuration and weights of each network; what comes after them differs in the seed."""


@dataclass(frozen=True)
class Network:
    """A correct network, and the forms that it is lowered to."""

    name: str
    model: CapsNet
    forms: Mapping[str, str]


def network_at(number: int, seed: int) -> Network:
    """One of the networks, of which there is no end."""
    round_, place = divmod(number, len(ROUND))
    name, weights = ROUND[place]
    kind = WEIGHTS.index(weights)
    # Narrow networks are convolved directly unless they are told otherwise.
    narrow = name not in ("small", "wide", *PRESETS) or name == "tiny"
    forms = {"convolution": "winograd", "routing": "votes"} if narrow and kind % 2 else {}
    seed += 1000 * round_ + kind
    return Network(f"{name}, {weights}", _with_weights(name, weights, seed), forms)


def _with_weights(name: str, weights: str, seed: int) -> CapsNet:
    if weights == "fresh":
        torch.manual_seed(seed)
        return CapsNet(CONFIGS[name]).eval()
    if name in TRAINED:
        model = load_checkpoint(checkpoint_file(TRAINED[name]))
    else:
        primary = isinstance(CONFIGS[name].primary, PrimaryConfig)
        model = lively_model(CONFIGS[name], seed) if primary else family_member(CONFIGS[name])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            match weights:
                case "float16":
                    weight.copy_(weight.half())
                case "doubled":
                    weight *= 2
                case "halved":
                    weight *= 0.5
                case "3 % noise":
                    weight *= 1 + 0.03 * torch.randn(weight.shape, generator=generator)
    return model


def images_for(config: CapsNetConfig, seed: int) -> Images:
    """MNIST test images, with rows and columns left out or repeated, and coloured at random."""
    channels, height, width = config.image_shape
    random = np.random.default_rng(seed)
    digits = mnist_test_set().images
    chosen = digits[random.choice(len(digits), IMAGES, replace=False)]
    rows, columns = (np.arange(size) * 28 // size for size in (height, width))
    grey = chosen[:, :, rows][..., columns].astype(np.float32) / 255
    colours = random.uniform(0.5, 1, (IMAGES, channels, 1, 1)) if channels > 1 else np.ones(1)
    return np.asarray(grey * colours, np.float32)


# Correct networks


@dataclass(frozen=True)
class Use:
    """The largest share of the budget that one output used in one verdict, and where."""

    format: str
    output: str
    share: float
    where: str


@dataclass(frozen=True)
class Verdicts:
    """What files of correct networks were judged to be.

    Attributes:
        uses: of the error budget.
        count: how many verdicts there were.
        alarms: what was called wrong, in words.
    """

    uses: list[Use]
    count: int
    alarms: list[str]


def correct(given: Network, draws: int, seed: int) -> Verdicts:
    """Export a network to every format, and judge the files."""
    golden, baseline = _references(given.model)
    hard = HardInputs(golden, baseline, images_for(given.model.config, seed), golden.decision)
    uses, alarms = [], []
    for name, row in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, row.file)
            row.export(_lowered(given.model, given.forms, name), path, ExportOptions())
            session = open_session(path, "cpu", threads=1)
        session.largest_batch = LARGE_BATCH
        failures = []
        for draw in range(draws):
            images = images_for(given.model.config, seed + draw)
            found, problems = shares_of(golden, baseline, session, images)
            where = f"{given.name}, draw {draw}"
            uses += [Use(name, o, share, f"{where}, {at}") for o, (share, at) in found.items()]
            failures += [f"{where}: {problem}" for problem in problems]
        for result in hard.check(session):
            if result.max_error is not None and result.allowed:
                share = result.max_error / result.allowed
                uses.append(Use(name, "hard inputs", share, f"{given.name}, {result.name}"))
            failures += [f"{given.name}: {failure}" for failure in result.failures]
        alarms += [f"{name}: {failure}" for failure in failures]
    return Verdicts(uses, len(FORMATS) * (draws + 1), alarms)


def shares_of(
    golden: EagerModel, baseline: EagerModel, artifact: Artifact, images: Images
) -> tuple[dict[str, tuple[float, str]], tuple[str, ...]]:
    """The largest share of the budget by output, with its place in words, and the failures."""
    found = judge(collect(golden, baseline, artifact, images), artifact.metadata)
    shares: dict[str, tuple[float, str]] = {}
    for check in found.checks:
        for key, limit in check.allowed.items():
            here = (getattr(check.errors, key) / limit, f"batch {check.batch_size}, {key}")
            shares[check.output] = max(shares.get(check.output, here), here)
    return shares, found.failures


def _references(model: CapsNet) -> tuple[EagerModel, EagerModel]:
    return EagerModel(model, torch.float64), EagerModel(model, torch.float32)


def _lowered(model: CapsNet, forms: Mapping[str, str], name: str = "onnx") -> LoweredCapsNet:
    return lower(
        model,
        reconstruction=model.decoder is not None,
        forms=forms,
        preferred=FORMATS[name].preferred,
    )


# Planted faults


@dataclass(frozen=True)
class InMemory:
    """A lowered network as an artifact: what is exported, without the file."""

    metadata: ArtifactMetadata
    network: LoweredCapsNet

    def run(self, images: Images) -> Mapping[str, Images]:
        """Outputs by name."""
        with torch.inference_mode():
            outputs = self.network.outputs_by_name(torch.from_numpy(images))
        return {name: values.numpy() for name, values in outputs.items()}


@dataclass(frozen=True)
class Fault:
    """A relative error of weights, and whether it was caught."""

    scope: str
    size: float
    caught: bool


def faults(given: Network, places: int, seed: int) -> list[Fault]:
    """Change weights in random places by every relative size, and judge what is made of them."""
    golden, baseline = _references(given.model)
    images = images_for(given.model.config, seed)
    metadata = _metadata(_lowered(given.model, given.forms))
    planted = []
    for scope, place, size in itertools.product(SCOPES, range(places), SIZES):
        model = copy.deepcopy(given.model)
        plant(model, scope, size, seed + place)
        faulty = InMemory(metadata, _lowered(model, given.forms))
        found = collect(golden, baseline, faulty, images, batch_sizes=(IMAGES,))
        planted.append(Fault(scope, size, not judge(found, metadata).passed))
    return planted


def plant(model: CapsNet, scope: str, size: float, seed: int) -> None:
    """Change one weight tensor of the encoder: each chosen weight by +size or -size of itself."""
    random = np.random.default_rng(seed)
    weights = [p for p in (*model.stem.parameters(), *model.primary.parameters()) if p.ndim > 1]
    weights += [layer.weight for layer in model.capsule_layers]
    weight = weights[random.integers(len(weights))]
    signs = torch.from_numpy(random.choice([-1.0, 1.0], weight.shape).astype(np.float32))
    chosen = torch.zeros_like(weight)
    if scope == "whole tensor":
        chosen += 1
    elif scope == "one channel":
        chosen[random.integers(len(weight))] = 1
    else:
        chosen.view(-1)[random.integers(weight.numel())] = 1
    with torch.no_grad():
        weight *= 1 + size * signs * chosen


def _metadata(lowered: LoweredCapsNet) -> ArtifactMetadata:
    """The metadata of a file of this network, as far as its verdict depends on it."""
    inputs, outputs = lowered.interface("batch")
    return ArtifactMetadata(
        toolkit_version="",
        exporter="",
        versions={},
        checkpoint_sha256=None,
        config=dict(lowered.identity),
        precision=lowered.precision.name,
        inputs=inputs,
        outputs=outputs,
        decision=lowered.decision,
    )


# Results


def use_table(uses: Iterable[Use]) -> str:
    """Correct networks, as Markdown."""
    rows = defaultdict(list)
    for use in uses:
        rows[use.format, use.output].append(use)
    lines = ["| format | output | budget used, median | worst | where |", "|---|---|---|---|---|"]
    for (name, output), found in rows.items():
        worst = max(found, key=lambda use: use.share)
        median = statistics.median(use.share for use in found)
        lines.append(f"| {name} | {output} | {median:.0%} | {worst.share:.0%} | {worst.where} |")
    return "\n".join(lines)


def fault_table(planted: Iterable[Fault]) -> str:
    """Planted faults, as Markdown: the share that is caught."""
    rows = defaultdict(list)
    for fault in planted:
        rows[fault.scope, fault.size].append(fault.caught)
    lines = [
        f"| relative error of | {' | '.join(f'{size:.0e}' for size in SIZES)} | faults of a size |",
        "|" + "---|" * (len(SIZES) + 2),
    ]
    for scope in SCOPES:
        cells = " | ".join(f"{statistics.mean(rows[scope, size]):.0%}" for size in SIZES)
        lines.append(f"| {scope} | {cells} | {len(rows[scope, SIZES[0]])} |")
    return "\n".join(lines)


def _measure(number: int, draws: int, places: int, seed: int) -> tuple[Verdicts, list[Fault]]:
    """Everything about one network, with one thread; says so when it is done."""
    torch.set_num_threads(1)
    started = time.monotonic()
    given, images_seed = network_at(number, seed), seed + 1000 * number
    verdicts = correct(given, draws, images_seed)
    planted = faults(given, places, images_seed)
    worst = max(use.share for use in verdicts.uses)
    print(
        f"{number + 1}: {given.name}: {worst:.0%} of the budget, {len(verdicts.alarms)} false "
        f"alarms, {sum(fault.caught for fault in planted)} of {len(planted)} faults caught, "
        f"{time.monotonic() - started:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return verdicts, planted


@click.command()
@click.option("--networks", "count", type=click.IntRange(1), default=len(ROUND), show_default=True)
@click.option("--draws", type=click.IntRange(1), default=20, show_default=True)
@click.option("--places", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(count: int, draws: int, places: int, seed: int, json_file: Path | None) -> None:
    """Judge correct networks, and such with planted faults; print two tables."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cpus(), mp_context=context) as pool:
        futures = [pool.submit(_measure, n, draws, places, seed) for n in range(count)]
        results = [future.result() for future in futures]
    uses = [use for verdicts, _ in results for use in verdicts.uses]
    alarms = [alarm for verdicts, _ in results for alarm in verdicts.alarms]
    planted = [fault for _, faults_ in results for fault in faults_]
    judged = sum(verdicts.count for verdicts, _ in results)
    print(f"{count} correct networks, {judged} verdicts, {len(alarms)} false alarms:\n")
    print(use_table(uses), f"{len(planted)} planted faults, share caught:", sep="\n\n")
    print("\n" + fault_table(planted))
    for alarm in alarms:
        print(f"WRONG {alarm}")
    if json_file is not None:
        document = {
            "networks": count,
            "verdicts": judged,
            "alarms": alarms,
            "uses": [asdict(use) for use in uses],
            "faults": [asdict(fault) for fault in planted],
        }
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if alarms or max(use.share for use in uses) > MOST_USED else 0)


if __name__ == "__main__":
    main()
