"""Documents: dataclasses come back from JSON as they were; every error says where it is."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from capsnet.documents import from_values, to_values


@dataclass(frozen=True)
class Inner:
    name: str
    sizes: tuple[int, ...] = ()
    pair: tuple[str, float] | None = None


class Animal:
    """What a document's ``kind`` chooses from."""

    known: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, kind):
        cls.kind = kind
        Animal.known[kind] = cls

    @classmethod
    def of_kind(cls, kind):
        if kind not in cls.known:
            raise ValueError(f"{kind!r} is no animal")
        return cls.known[kind]


@dataclass(frozen=True)
class Cat(Animal, kind="cat"):
    lives: int = 9


@dataclass(frozen=True)
class Dog(Animal, kind="dog"):
    tricks: tuple[str, ...]


@dataclass(frozen=True)
class Tagged:
    kind: ClassVar[str] = "tagged"
    value: int


@dataclass(frozen=True)
class Outer:
    text: str
    number: int
    ratio: float
    flag: bool
    choice: Literal["left", "right"]
    path: Path
    inner: Inner
    inners: tuple[Inner, ...] = ()
    animals: tuple[Animal, ...] = ()
    tagged: Tagged | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    by_number: Mapping[int, float] = field(default_factory=dict)
    either: int | str | None = None
    anything: Any = None


FULL = Outer(
    text="a",
    number=3,
    ratio=0.5,
    flag=True,
    choice="left",
    path=Path("a/b"),
    inner=Inner("x", (1, 2), ("y", 1.5)),
    inners=(Inner("y"), Inner("z", (3,))),
    animals=(Dog(("sit",)), Cat()),
    tagged=Tagged(4),
    counts={"a": 1},
    by_number={7: 0.25},
    either="batch",
    anything={"free": [1, None]},
)
LEAST = Outer("", 0, 0.0, False, "right", Path(), Inner(""))


@pytest.mark.parametrize("document", [FULL, LEAST], ids=["full", "least"])
def test_document_comes_back_as_it_was(document):
    text = json.dumps(to_values(document), sort_keys=True)
    restored = from_values(Outer, json.loads(text))
    assert restored == document
    assert json.dumps(to_values(restored), sort_keys=True) == text


def test_values_are_plain_json():
    assert to_values(FULL) == {
        "text": "a",
        "number": 3,
        "ratio": 0.5,
        "flag": True,
        "choice": "left",
        "path": "a/b",
        "inner": {"name": "x", "sizes": [1, 2], "pair": ["y", 1.5]},
        "inners": [
            {"name": "y", "sizes": [], "pair": None},
            {"name": "z", "sizes": [3], "pair": None},
        ],
        "animals": [{"kind": "dog", "tricks": ["sit"]}, {"kind": "cat", "lives": 9}],
        "tagged": {"kind": "tagged", "value": 4},
        "counts": {"a": 1},
        "by_number": {"7": 0.25},
        "either": "batch",
        "anything": {"free": [1, None]},
    }


def test_what_has_a_default_may_be_missing():
    values = to_values(LEAST)
    for name in ("inners", "animals", "tagged", "counts", "by_number", "either", "anything"):
        del values[name]
    assert from_values(Outer, values) == LEAST


def test_a_whole_number_is_a_ratio_and_stays_a_float():
    restored = from_values(Outer, to_values(LEAST) | {"ratio": 2})
    assert restored.ratio == 2.0
    assert type(restored.ratio) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": 3}, "text: expected str, got 3"),
        ({"text": None}, "text: expected str, got None"),
        ({"number": 1.0}, "number: expected int, got 1.0"),
        ({"number": True}, "number: expected int, got True"),
        ({"number": "1"}, "number: expected int, got '1'"),
        ({"ratio": "1"}, "ratio: expected a number, got '1'"),
        ({"ratio": False}, "ratio: expected a number, got False"),
        ({"flag": 1}, "flag: expected bool, got 1"),
        ({"choice": "up"}, "choice: expected one of left, right, got 'up'"),
        ({"choice": ["left"]}, "choice: expected one of left, right, got ['left']"),
        ({"path": 1}, "path: expected a path, got 1"),
        ({"inner": "x"}, "inner: expected an object, got 'x'"),
        ({"inner": {}}, "inner.name is missing"),
        ({"inner": {"name": 1}}, "inner.name: expected str, got 1"),
        ({"inner": {"name": "", "colour": 1}}, "inner.colour is not known, expected name, sizes,"),
        ({"inner": {"name": "", "sizes": 1}}, "inner.sizes: expected a list, got 1"),
        ({"inner": {"name": "", "sizes": [1, "2"]}}, "inner.sizes[1]: expected int, got '2'"),
        ({"inner": {"name": "", "pair": ["a"]}}, "inner.pair: expected 2 values, got ['a']"),
        ({"inner": {"name": "", "pair": [1, 1]}}, "inner.pair[0]: expected str, got 1"),
        ({"inners": [{"name": ""}, 3]}, "inners[1]: expected an object, got 3"),
        ({"inners": {"name": ""}}, "inners: expected a list, got {'name': ''}"),
        ({"animals": [{"kind": "cow"}]}, "animals[0]: 'cow' is no animal"),
        ({"animals": [{"kind": "dog"}]}, "animals[0].tricks is missing"),
        ({"animals": [{"kind": "cat", "lives": "9"}]}, "animals[0].lives: expected int, got '9'"),
        ({"tagged": {"value": 1}}, "tagged: expected the kind tagged, got None"),
        (
            {"tagged": {"kind": "other", "value": 1}},
            "tagged: expected the kind tagged, got 'other'",
        ),
        ({"tagged": {"kind": "tagged"}}, "tagged.value is missing"),
        ({"counts": [1]}, "counts: expected an object, got [1]"),
        ({"counts": {"a": "1"}}, "counts.a: expected int, got '1'"),
        ({"by_number": {"7": None}}, "by_number.7: expected a number, got None"),
        ({"either": 1.5}, "either: expected int, got 1.5"),
        ({"more": 1}, "more is not known, expected text, number, ratio, flag"),
    ],
)
def test_wrong_value_is_refused_with_its_path(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        from_values(Outer, to_values(LEAST) | changes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["text", "number", "ratio", "flag", "choice", "path", "inner"])
def test_what_has_no_default_is_required(name):
    values = to_values(LEAST)
    del values[name]
    with pytest.raises(ValueError, match=f"^{name} is missing$"):
        from_values(Outer, values)


@pytest.mark.parametrize("values", [None, 3, "text", [1]])
def test_what_is_no_object_is_no_document(values):
    message = f"the document: expected an object, got {values!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        from_values(Outer, values)


def test_path_continues_from_the_outside():
    with pytest.raises(ValueError, match=r"^certificate\.inner\.name: expected str, got 1$"):
        from_values(Outer, to_values(LEAST) | {"inner": {"name": 1}}, "certificate")
