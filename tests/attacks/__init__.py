"""Hostile files. Each attack builds its own; ``test_attacks.py`` says what must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: What a payload makes, if anything runs it.
CANARY = "owned"
#: Most resident memory in MiB, that of the program (some 250, with transformers 450) included.
MEMORY = 1024


@dataclass(frozen=True)
class Attack:
    """A hostile file and the command that meets it.

    Attributes:
        name: what it tries.
        build: writes the files into an empty folder, and gives the command line.
        code: exit code: 0 where the file is read and does no harm.
        named: a word of the line that names the file; the file the command line begins with if
            empty.
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
