"""The most that a whole model may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rmtcli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that the whole model may cost.

    Attributes:
        text: a share such as ``10%``, or a number such as ``200000``.
        unit: ``parameters``; ``bytes`` of all tensors; ``macs``, the multiply-adds of the fully
            connected layers for one sample; or ``ms``, the milliseconds of their forward passes.
    """

    text: str
    unit: str = "parameters"

    @staticmethod
    def of(given: Budget | str | int | None) -> Budget | None:
        """A budget as it is given: as one, as its text such as ``"20%"``, or as a number.

        Raises:
            UsageError: it is something else.
        """
        if given is None or isinstance(given, Budget):
            return given
        if isinstance(given, str | int):
            return Budget(str(given))
        share = f": for a share of the model, write '{100 * given:g}%'" if _is_share(given) else ""
        raise UsageError(f"a budget is a text such as '20%', not {given!r}{share}")

    @property
    def words(self) -> str:
        """The budget as a user reads it."""
        if self.unit == "ms":
            amount = self.text if "%" in self.text else f"{self.text} ms"
            return f"{amount} of the linear layers' time"
        return f"{self.text} of {self.unit}"

    @property
    def may_be_percent(self) -> bool:
        """Whether the text is a number up to 100, from which a sign of percent may be missing."""
        return self.text.isdecimal() and int(self.text) <= 100

    def amount(self, total: int) -> int:
        """The budget as a cost, in nanoseconds for a time; ``total`` is the dense model's cost.

        Raises:
            UsageError: neither a share nor a number, or not above 0, or above ``total``.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", self.text.strip())
        if not match:
            raise UsageError(
                f"a budget is a share such as 10% or a number of {self.unit}, not '{self.text}'"
            )
        number = float(match[1])
        if "." in self.text and not match[2] and self.unit != "ms" and _is_share(number):
            raise UsageError(
                f"a budget of {self.text} {self.unit} is less than one: for a share of the model, "
                f"write {100 * number:g}%"
            )
        scale = 1e6 if self.unit == "ms" else 1
        share = number / 100 * total if match[2] else number * scale
        if not 0 < round(share) <= total:
            raise UsageError(
                f"a budget of {self.text} is not between 0 and the model's {self.spell(total)}"
            )
        return round(share)

    def spell(self, cost: int) -> str:
        """A cost as a user reads it."""
        return f"{cost / 1e6:.4g} ms" if self.unit == "ms" else f"{cost:,} {self.unit}"


def _is_share(value: object) -> bool:
    return isinstance(value, float) and 0 < value <= 1
