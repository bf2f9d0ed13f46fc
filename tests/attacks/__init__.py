"""Hostile files. Each attack builds its own; ``test_attacks.py`` states the guarantees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Name of the folder that a payload creates if anything runs it.
CANARY = "owned"
#: Limit on resident memory in MiB, with that of the program (some 250, with transformers 450).
MEMORY = 1024


@dataclass(frozen=True)
class Attack:
    """A hostile file and the command that reads it.

    Attributes:
        name: the attempt, in words.
        build: writes the files into an empty folder, and returns the command line.
        code: exit code; 0 if the file is read without harm.
        named: text in the error message that names the file; if empty, the command's first
            argument.
    """

    name: str
    build: Callable[[Path], str]
    code: int
    named: str


ATTACKS: dict[str, Attack] = {}


def attack(name: str, code: int = 1, named: str = "") -> Callable[[Callable[[Path], str]], None]:
    """Register a builder."""

    def register(build: Callable[[Path], str]) -> None:
        assert name not in ATTACKS
        ATTACKS[name] = Attack(name, build, code, named)

    return register
