"""Damage: what happens to the bytes of a file on a bad disk, or under an editor."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from campaign.trial import File

__all__ = ["damaged_files", "mutate"]


def mutate(content: bytes, random_: random.Random) -> bytes:
    """Damage: bits, runs of zeros or of noise, cuts, insertions, parts that change places."""
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 1, 2, 5, 20))):
        at = random_.randrange(len(data) + 1)
        size = random_.choice((1, 2, 4, 16, 256))
        match random_.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << random_.randrange(8)
            case 1 if at < len(data):
                data[at] = random_.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = random_.randbytes(size)
            case 4:
                data[at : at + size] = bytes(size)
            case 5:
                del data[random_.randrange(len(data) + 1) :]
            case _:
                other = random_.randrange(len(data) + 1)
                data[at : at + size] = data[other : other + size]
        if not data:
            break
    return bytes(data)


def damaged_files(folder: Path, names: list[str], seed: int, first: int) -> Iterator[File]:
    """Damaged copies of the sound files of these names in turn, without end, from a number on."""
    sound = {name: (folder / name).read_bytes() for name in names}
    for number in itertools.count(first):
        name = names[number % len(names)]
        random_ = random.Random(f"{name} {seed} {number}")
        what = f"{name}, seed {seed}, number {number}"
        yield File(what, name, mutate(sound[name], random_))
