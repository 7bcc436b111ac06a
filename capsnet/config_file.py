"""A network's configuration as a TOML file that people write: read, changed by key, printed.

Every field is documented in what is printed, by the docstring of its class.
"""

import dataclasses
import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from capsnet.config import CapsNetConfig
from capsnet.data.source import reading
from capsnet.documents import from_values, to_values
from capsnet.errors import CapsNetError, ConfigError
from capsnet.files import open_regular
from capsnet.layers.base import AnyDecoderConfig, LayerConfig

__all__ = ["changed", "config_values", "network_of", "read_values", "to_toml"]

_LARGEST = 1 << 20  # bytes
_WIDTH = 100
_NO_DECODER = "none"  # TOML has no word for nothing


def config_values(config: CapsNetConfig) -> dict[str, Any]:
    """A configuration as values that :func:`changed` changes and :func:`network_of` reads."""
    values: dict[str, Any] = to_values(config)
    return values | ({"decoder": _NO_DECODER} if values["decoder"] is None else {})


def read_values(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The values of a file, and the line of each key.

    Raises:
        DataError: if it cannot be read.
        ConfigError: if it is not TOML; the message names the line.
    """
    with reading(str(path)), open_regular(path) as file:
        text = file.read(_LARGEST).decode()
    try:
        return tomllib.loads(text), _lines(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def changed(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """The values after settings such as ``stem.channels=128`` or ``capsule_layers[0].dim=8``.

    Raises:
        ConfigError: if one names no place in them, or has no value.
    """
    result: dict[str, Any] = _copied(values)
    for setting in settings:
        key, equals, word = setting.partition("=")
        names: list[Any] = [
            int(name) if name.isdecimal() else name for name in re.findall(r"[^.\[\]\s]+", key)
        ]
        if not equals or not names:
            raise ConfigError(f"{setting!r} sets nothing, expected KEY=VALUE: stem.channels=128")
        place: Any = result
        try:
            for name in names[:-1]:
                place = place[name]
            if isinstance(place, list):
                place[names[-1]]  # a list cannot become longer
            place[names[-1]] = _value(word.strip())
        except (KeyError, IndexError, TypeError) as error:
            raise ConfigError(
                f"{setting!r}: the network has no {key.strip()}; `capsnet config` prints its keys"
            ) from error
    return result


def network_of(
    values: Mapping[str, Any], where: str = "", lines: Mapping[str, int] | None = None
) -> CapsNetConfig:
    """The network that values describe.

    Args:
        values: of a file, or of :func:`config_values`.
        where: the file, for messages.
        lines: the line of each key, for messages.

    Raises:
        ConfigError: if they describe none; the message names the key, and its line in the file.
    """
    try:
        none = values.get("decoder") == _NO_DECODER
        return CapsNetConfig.from_dict({**values, **({"decoder": None} if none else {})})
    except ConfigError as error:
        section, problem = _culprit(values) or ("", str(error))
        key = _named_key(section, problem, lines or {})
        start = f"{where}, line {lines[key]}: {key}: " if lines and key in lines else ""
        if not start and where:
            start = f"{where}: "
        raise ConfigError(f"{start}{problem}") from error


def _culprit(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """The part that describes nothing on its own, and why; None where all of them do."""
    sections: dict[str, tuple[type, Any]] = {
        name: (LayerConfig, values[name]) for name in ("stem", "primary") if name in values
    }
    stack = values.get("capsule_layers")
    for number, layer in enumerate(stack if isinstance(stack, list) else ()):
        sections[f"capsule_layers[{number}]"] = (LayerConfig, layer)
    if values.get("decoder") not in (None, _NO_DECODER):
        sections["decoder"] = (AnyDecoderConfig, values["decoder"])
    for name, (kind, section) in sections.items():
        try:
            from_values(kind, section, name)
        except (ValueError, TypeError, CapsNetError) as error:
            return name, str(error)
    return None


def _named_key(section: str, problem: str, lines: Mapping[str, int]) -> str:
    """The key that a message is about: the longest that it names, in the section if it has one."""
    own = [key for key in lines if key.startswith(section)]
    named = [key for key in own if key in problem and key != section]
    if not named:
        named = [key for key in own if re.search(rf"\b{re.escape(_last(key))}\b", problem)]
    return max(named, key=len, default=section)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _lines(text: str) -> dict[str, int]:
    """The line of each key and each table of a TOML text, such as ``capsule_layers[0].dim``."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if many := re.match(r"\s*\[\[\s*([\w.]+)\s*\]\]", line):
            index = counts.setdefault(many[1], 0)
            counts[many[1]] += 1
            table = f"{many[1]}[{index}]"
            found[table] = number
        elif one := re.match(r"\s*\[\s*([\w.]+)\s*\]", line):
            table = one[1]
            found[table] = number
        elif key := re.match(r"\s*([\w.]+)\s*=", line):
            found[f"{table}.{key[1]}" if table else key[1]] = number
    return found


def _copied(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _copied(value) for key, value in values.items()}
    return [_copied(value) for value in values] if isinstance(values, list | tuple) else values


def _value(word: str) -> Any:
    """A value as TOML writes it; anything else is text."""
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        return word


def to_toml(config: CapsNetConfig) -> str:
    """A configuration as a TOML file, every field with what it means above it."""
    lines = _comment(
        "A network for `capsnet train --config`. Without image_shape it takes that of the images."
    )
    return "\n".join([*lines, "", *_table("", config, set())]) + "\n"


def _table(name: str, document: Any, seen: set[tuple[str, type]]) -> list[str]:
    """The fields of a dataclass; tables come after plain values, as TOML wants it."""
    kind = type(document)
    words = {} if (name, kind) in seen else _documentation(kind)
    seen.add((name, kind))
    lines: list[str] = []
    tables: list[str] = []
    if hasattr(kind, "kind"):
        lines += [*_comment("Kind of the layer."), f'kind = "{kind.kind}"']
    for field in dataclasses.fields(document):
        value = getattr(document, field.name)
        key = f"{name}.{field.name}" if name else field.name
        comment = _comment(words.get(field.name, ""))
        if dataclasses.is_dataclass(value):
            tables += ["", *comment, f"[{key}]", *_table(key, value, seen)]
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for place, item in enumerate(value):
                head = ["", *(comment if place == 0 else []), f"[[{key}]]"]
                tables += [*head, *_table(key, item, seen)]
        else:
            lines += [*comment, f"{field.name} = {_text(value)}"]
    return [*lines, *tables]


def _text(value: Any) -> str:
    if value is None:
        return f'"{_NO_DECODER}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    return repr(value)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2)]


def _documentation(kind: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each of its attributes."""
    found: list[tuple[str, str]] = []
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")
        section = re.search(r"Attributes:\n(.*?)(\n\n\S|\Z)", text, re.DOTALL)
        found += re.findall(
            r"^    (\w+): (.*(?:\n {8,}.*)*)", section[1] if section else "", re.MULTILINE
        )
    plain = {name: " ".join(text.replace("``", "").split()) for name, text in found}
    return {name: re.sub(r"\bNone\b", f'"{_NO_DECODER}"', text) for name, text in plain.items()}
