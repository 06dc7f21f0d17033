"""Writes TOML, and reads a TOML file's tables key by key: says by its full name which key is wrong, what is allowed and what comes near.

Nothing here knows what a key means; stream.config does.

    UserError                the user can mend it: the command ends with status 2 and the message
    └── ConfigError          the configuration cannot be used; the message names the key
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from stream.engine.time import parse_duration

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_KINDS: dict[type, str] = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "an array", dict: "a table"}


class UserError(Exception):
    """The user can mend it; the message says what must hold, what was got, what to do."""


class ConfigError(UserError):
    """The configuration cannot be used."""


def read_toml(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Reads a TOML file, with "${NAME}" in its strings replaced from the environment.

    Args:
        path: of the file.
        environ: variables by name.

    Raises:
        ConfigError: no such file, not TOML, or a variable that is not set.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the configuration must be a file that can be read; got {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be UTF-8 text: {error.reason} at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    expanded: dict[str, Any] = _expand(values, "", environ)
    return expanded


def join(name: str, key: str) -> str:
    """The full dotted name of a key in the table called `name`."""
    shown = key if _BARE.fullmatch(key) else f'"{key}"'
    return f"{name}.{shown}" if name else shown


def nearest(wrong: str, known: Sequence[str]) -> str | None:
    """The known name that a mistyped one was probably meant to be."""
    close = difflib.get_close_matches(wrong.lower(), known, n=1, cutoff=0.6)
    return close[0] if close else None


def _expand(value: Any, name: str, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(inner, join(name, key), environ) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, f"{name}[{index}]", environ) for index, inner in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(found: re.Match[str]) -> str:
        try:
            return environ[found[1]]
        except KeyError:
            raise ConfigError(f"{name} reads the environment variable {found[1]}, which is not set: set it, or write the value") from None

    return _VARIABLE.sub(variable, value)


class Table:
    """One table of the file. Each reader takes a key, checks what it holds and gives it typed; `...` as default: must be there."""

    def __init__(self, values: Any, name: str, keys: Sequence[str] | None) -> None:
        """
        Args:
            values: what the file holds there.
            name: the table's full dotted name, "" for the file.
            keys: that may stand here; None: any.

        Raises:
            ConfigError: not a table, or a key that is not allowed.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{name} must be a table; got {shown(values)}")
        self.values: dict[str, Any] = values
        self.name = name
        for key in values:
            if keys is not None and key not in keys:
                raise ConfigError(f"unknown key {join(name, key)}: allowed here are {', '.join(keys)}{self._hint(key, keys)}")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def full(self, key: str) -> str:
        """The full dotted name of a key."""
        return join(self.name, key)

    def text(self, key: str, default: Any = ..., allowed: Sequence[str] = (), pattern: str = "", form: str = "") -> str:
        """A string, one of `allowed`, or matching `pattern`, which `form` describes."""
        value = self._value(key, default, str)
        if allowed and value not in allowed:
            near = nearest(value, allowed)
            hint = f': did you mean "{near}"?' if near else ""
            raise ConfigError(f'{self.full(key)} must be one of {", ".join(allowed)}; got "{value}"{hint}')
        if pattern and not re.fullmatch(pattern, value):
            raise ConfigError(f'{self.full(key)} must be {form}; got "{value}"')
        return str(value)

    def flag(self, key: str, default: Any = ...) -> bool:
        """True or false."""
        return bool(self._value(key, default, bool))

    def whole(self, key: str, default: Any = ..., least: int = 0, most: int = 2**53) -> int:
        """A whole number in [least, most]."""
        value = self._value(key, default, int)
        self._within(key, value, least, most)
        return int(value)

    def wholes(self, key: str, default: Any = ..., least: int = 1, most: int = 1_000_000) -> tuple[int, ...]:
        """An ascending array of whole numbers in [least, most], without repeats."""
        values = self._value(key, default, list)
        for value in values:
            self._is(key, value, int)
            self._within(key, value, least, most)
        return tuple(self._ascending(key, values))

    def number(self, key: str, default: Any = ..., least: float = 0.0, most: float = 1e12) -> float:
        """A number within bounds, both included."""
        value = self._value(key, default, float)
        if not least <= value <= most:
            raise ConfigError(f"{self.full(key)} must be between {least:g} and {most:g}; got {shown(value)}")
        return float(value)

    def share(self, key: str, default: Any = ...) -> float:
        """A number between 0 and 1, neither included."""
        value = self._value(key, default, float)
        self._is_share(key, value)
        return float(value)

    def shares(self, key: str, default: Any = ...) -> tuple[float, ...]:
        """An ascending array of numbers between 0 and 1, neither included, without repeats."""
        values = self._value(key, default, list)
        for value in values:
            self._is(key, value, float)
            self._is_share(key, value)
        return tuple(float(value) for value in self._ascending(key, values))

    def duration(self, key: str, default_ms: Any = ..., least_ms: int = 0) -> int:
        """A duration such as "30s", in milliseconds."""
        if key not in self and default_ms is not ...:
            return int(default_ms)
        text = self._value(key, ..., str)
        try:
            value_ms = parse_duration(text)
        except ValueError as error:
            raise ConfigError(f"{self.full(key)}: {error}") from None
        if value_ms < least_ms:
            raise ConfigError(f'{self.full(key)} must be at least {least_ms} ms; got "{text}"')
        return value_ms

    def table(self, key: str, keys: Sequence[str] | None) -> Table:
        """The table under a key, empty where there is none; see __init__."""
        return Table(self.values.get(key, {}), self.full(key), keys)

    def tables(self, key: str, keys: Sequence[str]) -> list[Table]:
        """The array of tables under a key."""
        values = self._value(key, ..., list)
        return [Table(value, f"{self.full(key)}[{index}]", keys) for index, value in enumerate(values)]

    def _value(self, key: str, default: Any, kind: type) -> Any:
        if key not in self.values:
            if default is ...:
                raise ConfigError(f"{self.full(key)} is missing: it must be {_KINDS[kind]}")
            return default
        self._is(key, self.values[key], kind)
        return self.values[key]

    def _is(self, key: str, value: Any, kind: type) -> None:
        fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
        if not fits:
            raise ConfigError(f"{self.full(key)} must be {_KINDS[kind]}; got {shown(value)}")

    def _within(self, key: str, value: int, least: int, most: int) -> None:
        if not least <= value <= most:
            raise ConfigError(f"{self.full(key)} must be from {least} to {most}; got {value}")

    def _is_share(self, key: str, value: float) -> None:
        if not 0 < value < 1:
            raise ConfigError(f"{self.full(key)} must be between 0 and 1, neither included; got {value}")

    def _ascending(self, key: str, values: list[Any] | tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
        if any(after <= before for before, after in pairwise(values)):
            raise ConfigError(f"{self.full(key)} must ascend without repeats; got {list(values)}")
        return values

    def _hint(self, key: str, keys: Sequence[str]) -> str:
        near = nearest(key, keys)
        return f"; did you mean {join(self.name, near)}?" if near else ""


def shown(value: Any) -> str:
    """A value of the file in the words of a message."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the text "{value}"'
    if isinstance(value, (list, dict)):
        return _KINDS[type(value)]
    return str(value)


def as_toml(values: Mapping[str, Any]) -> str:
    """Nested values as a configuration file, an inline table a key: JSON's strings, numbers and arrays are TOML's too.

    Args:
        values: tables and values, none of them None.
    """

    def inline(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{json.dumps(key)} = {inline(inner)}" for key, inner in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(inline, value)) + "]"
        return json.dumps(value)

    return "".join(f"{key} = {inline(value)}\n" for key, value in values.items())
