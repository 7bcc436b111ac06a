"""Frozen dataclasses as JSON values, and back: what every document of the toolkit is made of.

Reading is strict: a missing or unknown key and a value of another type are errors that say where.
"""

import collections.abc
import dataclasses
import functools
import json
import types
import typing
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

__all__ = ["from_values", "parse_json", "to_values"]

T = TypeVar("T")


def to_values(document: Any) -> Any:
    """A dataclass, and everything in it, as JSON values: objects, lists, numbers, text.

    Args:
        document: a dataclass of numbers, text, paths, tuples, mappings and other dataclasses. One
            whose class has a ``kind`` says so under that key.
    """
    if dataclasses.is_dataclass(document):
        kind = getattr(type(document), "kind", None)
        tag = {} if kind is None else {"kind": kind}
        fields = dataclasses.fields(document)
        return tag | {f.name: to_values(getattr(document, f.name)) for f in fields}
    if isinstance(document, collections.abc.Mapping):
        return {str(key): to_values(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [to_values(value) for value in document]
    return str(document) if isinstance(document, Path) else document


def parse_json(text: str | bytes) -> Any:
    """JSON values.

    Raises:
        ValueError: if the text is not JSON, is nested too deeply, or names a key twice: readers
            would differ in which of the two they take.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"the key {twice!r} occurs more than once")
    return found


def from_values(kind: type[T], values: Any, where: str = "") -> T:
    """The document that :func:`to_values` gave.

    Args:
        kind: its type. A class with a class method ``of_kind`` is asked for the class of each
            document's ``kind``.
        values: parsed JSON.
        where: the path to these values, for messages.

    Returns:
        The document.

    Raises:
        ValueError: if the values are not such a document; the message has the path to the first
            value that is wrong.
    """
    parsed: T = _parse(kind, values, where)
    return parsed


def _parse(kind: Any, values: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return values
    if dataclasses.is_dataclass(kind) or hasattr(kind, "of_kind"):
        return _document(kind, values, where)
    if origin in (Union, types.UnionType):
        return _first_fitting(arguments, values, where)
    if origin is Literal:
        _require(values in arguments, f"one of {', '.join(map(str, arguments))}", values, where)
        return values
    if origin is tuple:
        _require(isinstance(values, list | tuple), "a list", values, where)
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(values)
        _require(len(values) == len(arguments), f"{len(arguments)} values", values, where)
        pairs = zip(arguments, values, strict=True)
        return tuple(_parse(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(pairs))
    if origin in (dict, collections.abc.Mapping):
        _require(isinstance(values, collections.abc.Mapping), "an object", values, where)
        key, value = arguments
        if key is int:
            odd = [k for k in values if not str(k).isdecimal()]
            _require(not odd, "whole numbers as keys", odd, where)
        return {key(k): _parse(value, v, f"{where}.{k}".lstrip(".")) for k, v in values.items()}
    if kind is Path:
        _require(_is(values, str), "a path", values, where)
        return Path(values)
    if kind is float:
        _require(_is(values, int | float), "a number", values, where)
        return float(values)
    expected = "nothing" if kind is types.NoneType else kind.__name__
    _require(_is(values, kind), expected, values, where)
    return values


def _document(kind: Any, values: Any, where: str) -> Any:
    _require(isinstance(values, collections.abc.Mapping), "an object", values, where)
    given = dict(values)
    if hasattr(kind, "kind") or hasattr(kind, "of_kind"):
        tag = given.pop("kind", None)
        if hasattr(kind, "of_kind"):
            try:
                kind = kind.of_kind(tag)
            except ValueError as error:
                raise ValueError(f"{where or 'the document'}: {error}") from error
        _require(tag == kind.kind, f"the kind {kind.kind}", tag, where)
    prefix = f"{where}." if where else ""
    unknown = sorted(given.keys() - {f.name for f in dataclasses.fields(kind)})
    if unknown:
        known = ", ".join(f.name for f in dataclasses.fields(kind))
        raise ValueError(f"{prefix}{unknown[0]} is not known, expected {known}")
    hints = _hints(kind)
    parsed = {name: _parse(hints[name], value, prefix + name) for name, value in given.items()}
    for field in dataclasses.fields(kind):
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in given:
            raise ValueError(f"{prefix}{field.name} is missing")
    return kind(**parsed)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _first_fitting(kinds: tuple[Any, ...], values: Any, where: str) -> Any:
    problems = []
    for kind in kinds:
        try:
            return _parse(kind, values, where)
        except ValueError as error:
            problems.append(error)
    # The last kind is None where a value may be missing: the first one says what was meant.
    raise problems[0]


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _require(holds: bool, expected: str, value: Any, where: str) -> None:
    if not holds:
        raise ValueError(f"{where or 'the document'}: expected {expected}, got {value!r}")
