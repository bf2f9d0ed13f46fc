"""Inputs that a program has in hand, read once into arrays: loaders, batches, data sets, texts.

Nothing here needs torch: its tensors are told by their methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.calibration.source import GivenInputs
from rmtcli.errors import EvaluationError, UsageError, first_line

Array = NDArray[Any]

#: What is accepted, for messages.
_ACCEPTED = (
    "give arrays or tensors of shape (samples, …), a DataLoader or another iterable of batches, "
    "dictionaries of a tokenizer, or texts"
)
#: Fields of a tokenizer's dictionary, in the order in which a sample holds them.
_TOKENS = ("input_ids", "attention_mask", "token_type_ids")
_PIXELS = "pixel_values"
_LABELS = ("labels", "label")


def given_inputs(source: object) -> GivenInputs:
    """Read inputs, and labels beside them, once.

    Args:
        source: an array or tensor, shape (samples, …); a pair of inputs and labels; a dictionary
            with ``input_ids`` or ``pixel_values``; a list of texts; or an iterable of any of these,
            such as a DataLoader. Also a data set, whose items are samples.

    Raises:
        UsageError: it is nothing of this kind.
        EvaluationError: it has no samples, they do not fit together, or are not numbers.
    """
    words = type(source).__name__
    read = _Batches(words)
    try:
        for batch in _batches(source, words):
            read.add(batch)
    except (UsageError, EvaluationError):
        raise
    except Exception as error:  # a user's loader may raise anything
        raise EvaluationError(
            f"{words}: its batches cannot be read: {type(error).__name__}: {first_line(error)}"
        ) from None
    return read.whole(used_up=iter(source) is source if isinstance(source, Iterable) else False)


@dataclass
class _Batches:
    """The batches that were read.

    Attributes:
        words: what they come from, for messages.
        inputs: arrays; of tokens, shape (samples, 2 or 3, positions).
        labels: the labels of each batch, or None.
        texts: texts.
        kinds: ``arrays``, ``tokens``, ``images`` and ``texts``, as far as they occur.
    """

    words: str
    inputs: list[Array] = field(default_factory=list)
    labels: list[Array | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)

    def add(self, batch: object) -> None:
        """Add one batch.

        Raises:
            UsageError: it is not a batch.
        """
        inputs, labels = batch, None
        if isinstance(batch, tuple | list) and not _all_texts(batch):
            inputs, labels = (batch[0] if batch else None), (batch[1] if len(batch) > 1 else None)
        if isinstance(inputs, Mapping):
            own = (inputs[name] for name in _LABELS if name in inputs)
            labels = next(own, None) if labels is None else labels
            kind, values = (
                ("images", _array(inputs[_PIXELS]))
                if _PIXELS in inputs
                else (
                    "tokens",
                    self._tokens(inputs),
                )
            )
        elif _all_texts(inputs):
            self.texts += inputs  # type: ignore[arg-type]
            kind, values = "texts", None
        elif _is_array(inputs):
            kind, values = "arrays", _array(inputs)
        else:
            raise UsageError(f"{self.words}: a {type(inputs).__name__} is no batch: {_ACCEPTED}")
        self.kinds.add(kind)
        if values is not None:
            self._check(values)
            self.inputs.append(values)
        self.labels.append(_array(labels) if _is_array(labels) else None)

    def _tokens(self, batch: Mapping[str, Any]) -> Array:
        """A tokenizer's dictionary as one array, padding last.

        Raises:
            UsageError: it has no token numbers.
        """
        if "input_ids" not in batch:
            raise UsageError(
                f"{self.words}: a dictionary needs 'input_ids' or '{_PIXELS}', and this one has "
                f"{', '.join(map(str, batch)) or 'nothing'}"
            )
        fields = [_rows(batch[name]) for name in _TOKENS if batch.get(name) is not None]
        if batch.get(_TOKENS[1]) is None:
            fields.insert(1, np.ones_like(fields[0]))
        if any(x.shape != fields[0].shape or x.ndim != 2 for x in fields):
            shapes = ", ".join(str(x.shape) for x in fields)
            raise UsageError(
                f"{self.words}: token numbers and mask must have shape (samples, positions), not "
                f"{shapes}: pad the batch"
            )
        return _padding_last(np.stack(fields, 1))

    def _check(self, values: Array) -> None:
        """Check that a batch holds numbers, and fits the ones before it.

        Raises:
            EvaluationError: it does not.
        """
        if values.dtype.kind not in "biuf":
            raise EvaluationError(f"{self.words}: holds {values.dtype}, not numbers")
        if values.ndim < 2:
            raise EvaluationError(
                f"{self.words}: a batch has shape {values.shape}: it must be (samples, features…)"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise EvaluationError(f"{self.words}: holds values that are NaN or infinite")
        first = self.inputs[0] if self.inputs else values
        equal = first.shape[1:] == values.shape[1:] and len(self.kinds) == 1
        if not equal and self.kinds != {"tokens"}:
            raise EvaluationError(
                f"{self.words}: batches of shapes {first.shape} and {values.shape}: samples must "
                "have one shape, apart from the length of texts"
            )

    def whole(self, *, used_up: bool) -> GivenInputs:
        """All batches together; texts by length, because batches of one length need no padding.

        Args:
            used_up: whether they come from an iterator, which gives its batches once.

        Raises:
            EvaluationError: there are none, or of several kinds.
        """
        count = sum(map(len, self.inputs)) + len(self.texts)
        if not count:
            why = ": it is an iterator, which may have been used up before" if used_up else ""
            raise EvaluationError(f"{self.words}: holds no samples{why}")
        if len(self.kinds) > 1:
            raise EvaluationError(f"{self.words}: holds {' and '.join(sorted(self.kinds))} at once")
        labels = [x for x in self.labels if x is not None]
        fits = len(labels) == len(self.labels) and len({x.shape[1:] for x in labels}) == 1
        targets = np.concatenate(labels) if fits and all(x.ndim for x in labels) else None
        if targets is not None and len(targets) != count:
            targets = None
        if self.texts:
            return GivenInputs(self.words, np.zeros((0, 1)), targets, tuple(self.texts))
        if self.kinds != {"tokens"}:
            images = self.kinds == {"images"}
            return GivenInputs(self.words, np.concatenate(self.inputs), targets, images=images)
        inputs = _padded(self.inputs)
        order = np.argsort(inputs[:, 1].sum(1), kind="stable")
        targets = None if targets is None else targets[order]
        return GivenInputs(self.words, inputs[order], targets, tokens=True)


def _batches(source: object, words: str) -> Iterator[Any]:
    """The batches of whatever holds them.

    Raises:
        UsageError: it holds none.
    """
    if _is_array(source) or isinstance(source, Mapping) or _all_texts(source) or _is_pair(source):
        yield source
    elif _is_dataset(source):
        yield from (_alone(source[i]) for i in range(len(source)))  # type: ignore[index, arg-type]
    elif isinstance(source, Iterable) and not isinstance(source, str | bytes):
        yield from source
    else:
        raise UsageError(f"a {words} is no source of inputs: {_ACCEPTED}")


def _is_pair(source: object) -> bool:
    """Whether an object is inputs and labels: a tuple of two, or a list with fewer axes second."""
    if not isinstance(source, tuple | list) or len(source) != 2 or not all(map(_is_array, source)):
        return False
    inputs, labels = source
    fits: bool = isinstance(source, tuple) or 0 < labels.ndim < inputs.ndim
    return fits and len(inputs) == len(labels)


def _is_dataset(source: object) -> bool:
    """Whether an object gives samples, not batches, by their numbers."""
    sized = hasattr(type(source), "__getitem__") and hasattr(type(source), "__len__")
    return sized and not isinstance(source, tuple | list | str | bytes)


def _alone(sample: Any) -> Any:
    """A batch of one sample."""
    if isinstance(sample, Mapping):
        return {key: _one(value) for key, value in sample.items()}
    if isinstance(sample, tuple | list) and not _all_texts(sample):
        return tuple(map(_one, sample))
    return _one(sample)


def _one(value: Any) -> Any:
    numbers = isinstance(value, int | float) or (isinstance(value, list) and not _all_texts(value))
    if numbers or _is_array(value):
        return _array(value)[None]
    return [value] if isinstance(value, str) else value


def _all_texts(value: object) -> bool:
    """Whether a value is texts."""
    listed = isinstance(value, tuple | list) and len(value) > 0
    return listed and all(isinstance(text, str) for text in value)  # type: ignore[attr-defined]


def _is_array(value: object) -> bool:
    """Whether a value is an array of NumPy or a tensor of torch."""
    return hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "ndim")


def _array(value: Any) -> Array:
    """A value as an array; bfloat16, which NumPy lacks, becomes float32."""
    detach: Callable[[], Any] | None = getattr(value, "detach", None)
    if detach is None:
        return np.asarray(value)
    tensor = detach().cpu()
    array: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return array


def _rows(value: Any) -> Array:
    """Rows of whole numbers; lists that a tokenizer has not padded are filled with zeros."""
    if not isinstance(value, list) or not value or not isinstance(value[0], Sequence):
        return np.asarray(_array(value), np.int64)
    longest = max(map(len, value))
    return np.array([[*row, *[0] * (longest - len(row))] for row in value], np.int64)


def _padding_last(inputs: Array) -> Array:
    """Samples of shape (samples, fields, positions) with their tokens first, in their order."""
    order = np.argsort(inputs[:, 1] == 0, axis=1, kind="stable")
    return np.take_along_axis(inputs, order[:, None, :], axis=2)


def _padded(batches: Sequence[Array]) -> Array:
    """Batches of texts together, as long as the longest; fields that some lack are left out."""
    longest = max(batch.shape[2] for batch in batches)
    fields = min(batch.shape[1] for batch in batches)
    return np.concatenate(
        [
            np.pad(batch[:, :fields], ((0, 0), (0, 0), (0, longest - batch.shape[2])))
            for batch in batches
        ]
    )
