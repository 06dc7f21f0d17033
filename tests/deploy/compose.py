"""What the tests of what is deployed share: configurations as the commands read them, and command lines as the command understands them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from stream.cli.main import COMMANDS, _parser
from stream.config import Config, parse
from stream.tables import read_toml

FILE = "/etc/nowcart/nowcart.toml"


def environment_of(text: str) -> set[str]:
    """The variables that a configuration reads."""
    return set(re.findall(r"\$\{(\w+)\}", re.sub(r"(?m)^\s*#.*$", "", text)))


def loaded(path: Path, environment: Mapping[str, str]) -> Config:
    """A configuration, with these variables and no others."""
    values = read_toml(path, environment)
    return parse(values)


def commands_understood(arguments: Sequence[str]) -> None:
    """Fails for a command line that the command would refuse."""
    assert arguments[1] == FILE
    assert arguments[0] in COMMANDS
    _parser().parse_args(list(arguments))
