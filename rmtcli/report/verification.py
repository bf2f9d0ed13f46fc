"""The result of verifying a directory."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rmtcli.report.record import as_text, header


@dataclass(frozen=True, slots=True)
class Distance:
    """The distance between the outputs of two models.

    Attributes:
        path: the other model's directory.
        output: name of the output that was compared.
        cosine: mean cosine of the output vectors.
        divergence: mean Kullback–Leibler divergence from the other model in nats; None where the
            outputs are not logits.
        largest: largest difference of two entries, as a share of the other model's largest entry.
    """

    path: str
    output: str
    cosine: float
    divergence: float | None
    largest: float


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of verifying a directory; anything wrong with it raises an error instead.

    Attributes:
        path: the directory.
        kind: class of the model.
        auto: the Auto class that opens it.
        transformers: version of transformers that opened it.
        layers: number of factored layers.
        tolerance: largest difference allowed.
        difference: largest difference from the outputs of the dense product, over both ways of
            loading, as a share of the largest entry; None if the model could not be run.
        refused: whether transformers refuses the directory without either of them, and says how to
            load it.
        random: number of weights that transformers would draw at random without either of them.
        against: distance from the dense model; None if none was given.
        notes: sentences that a user should read.
    """

    path: str
    kind: str
    auto: str
    transformers: str
    layers: int
    tolerance: float
    difference: float | None
    refused: bool
    random: int
    against: Distance | None = None
    notes: tuple[str, ...] = ()

    def to_json(self, command: str | None = None, *, ascii_only: bool = False) -> str:
        """The result as JSON text.

        Args:
            command: the command line that made it, or None from Python.
            ascii_only: whether to write every other character as an escape.
        """
        record = header() | {"command": command, "action": "verify"} | asdict(self)
        return as_text(record, ascii_only=ascii_only)

    def summary(self) -> list[tuple[str, str]]:
        """The lines that a terminal shows: label and text."""
        whole = "no weight of the model is missing or unused"
        lines = [
            ("opens as", f"{self.kind} ({self.auto}, transformers {self.transformers})"),
            ("factored", f"{self.layers} layers; {whole}") if self.layers else ("weights", whole),
            ("load with", "import rmtcli.integrations.transformers"),
            ("or with", "from_pretrained(…, trust_remote_code=True)"),
        ]
        if self.refused:
            text = "transformers refuses the directory, and says how to load it"
            lines.append(("with neither", text))
        elif self.random:
            text = f"{self.random} weights would be random, and transformers only warns"
            lines.append(("with neither", text))
        if self.difference is not None:
            text = f"{self.difference:.1e} of the largest output, from the product of the factors"
            lines.append(("difference", text))
        if self.against is not None:
            lines.append((f"{self.against.output}", _text(self.against)))
        return [*lines, *(("note", note) for note in self.notes)]


def _text(distance: Distance) -> str:
    parts = [f"mean cosine {distance.cosine:.4f}"]
    if distance.divergence is not None:
        parts.append(f"divergence {distance.divergence:.3g} nats")
    parts.append(f"largest difference {distance.largest:.3g} of the largest output")
    return f"{', '.join(parts)}, against {distance.path}"
