"""A directory without the tokens that a text does not use, as the input of everything else."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmtcli.checkpoint import Checkpoint, open_checkpoint, staged, write_checkpoint
from rmtcli.checkpoint.huggingface.read import HuggingFaceDirectory
from rmtcli.checkpoint.huggingface.vocabulary import check, make_cut, rewrite_files, without_rows
from rmtcli.errors import UsageError
from rmtcli.evaluation import Evaluation
from rmtcli.files import as_path, check_target
from rmtcli.files.path import inside
from rmtcli.options import option
from rmtcli.pipeline.contents import tensors_of
from rmtcli.pipeline.request import default_output, goal_of
from rmtcli.pipeline.stages import describe, described
from rmtcli.pipeline.written import onnx_writer
from rmtcli.planning import Budget, Goal
from rmtcli.report.base import Report, Source, Tensor
from rmtcli.report.card import read_card, with_section

_LOGGER = logging.getLogger(__name__)

#: Texts that are divided into tokens at a time.
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A checkpoint with fewer tokens, in a temporary directory.

    Attributes:
        path: the directory.
        source: the checkpoint that it was made from.
        before: number of tokens of that checkpoint.
        after: number of tokens that are left.
        tensors: bytes of each tensor, before and after.
    """

    path: Path
    source: Source
    before: int
    after: int
    tensors: tuple[Tensor, ...]

    def rest(self, goal: Goal, left: Checkpoint) -> Goal | None:
        """The goal for what is left, whose shares are shares of the whole; None if it is met.

        The default rule is none: without a goal, tokens are all that goes.
        """
        if goal.tries:
            return None
        budget = goal.budget
        if budget is None or budget.unit not in ("parameters", "bytes"):
            return goal
        counts = budget.unit == "parameters"
        amount = budget.amount(self.source.parameters if counts else self.source.tensor_bytes)
        if amount >= (left.parameters if counts else left.bytes):
            return None
        return replace(goal, budget=Budget(str(amount), budget.unit))

    def reported(self, report: Report) -> Report:
        """A report of what was done to the rest, as one of what was done to the whole."""
        left = {tensor.name: tensor.after for tensor in report.tensors}
        tensors = (replace(x, after=left.get(x.name, x.after)) for x in self.tensors)
        counts = self.before, self.after
        return replace(report, source=self.source, vocabulary=counts, tensors=tuple(tensors))


def prune_vocabulary(text: Path, prune: Callable[..., Report], given: Mapping[str, Any]) -> Report:
    """Drop the tokens that a text does not use, and prune what is left.

    Args:
        text: a file of texts.
        prune: prunes a checkpoint.
        given: the arguments with which to call it.

    Raises:
        RmtcliError: as :func:`with_fewer_tokens`, and as ``prune``.
    """
    goal, checkpoint = goal_of(given), open_checkpoint(given["model"], key=given["key"])
    output, bits = given["output"], given["bits"]
    target = default_output(checkpoint.path) if output is None else as_path(output)
    if not given["dry_run"]:
        check_target(target, inputs=[checkpoint.path, text], force=given["force"], directory=True)
    with with_fewer_tokens(checkpoint, text, describe(checkpoint)) as small:
        left = open_checkpoint(small.path)
        rest = small.rest(goal, left) if bits is None else goal
        report = Report("prune", small.source, left=left.parameters, bytes_left=left.bytes)
        report = small.reported(report)
        if rest is not None:
            new = {"model": small.path, "output": target, "budget": rest.budget, "plan": rest.plan}
            refuse = {"refuse": lambda report: given["refuse"](small.reported(report))}
            made = prune(**{**given, **new, **refuse})
            report = small.reported(made)
            if made.changes or bits is not None:
                return report
        if given["dry_run"] or given["refuse"](report):
            return report
        card = with_section(read_card(left), report, loaded=False)
        harness = (given["evaluation"] or Evaluation()).resolve(left)
        also = onnx_writer(harness, left, wanted=given["onnx"])
        options = {"force": given["force"], "verify": given["verify"]}
        with staged(left, target, card=card, also=also, **options):
            pass
        return replace(report, output=described(target, left))


@contextmanager
def with_fewer_tokens(checkpoint: Checkpoint, text: Path, source: Source) -> Iterator[Vocabulary]:
    """Drop the tokens that a text does not use, in a copy that lives as long as the block.

    Args:
        checkpoint: a Hugging Face directory, opened.
        text: a file of texts, such as calibration reads.
        source: the checkpoint, described.

    Raises:
        UsageError: the checkpoint is no directory, its tokenizer cannot be cut, or it would divide
            the text in another way.
        EvaluationError: the tokenizer or the text cannot be read.
    """
    if not isinstance(checkpoint, HuggingFaceDirectory):
        raise UsageError(
            f"{checkpoint.path}: {option('vocab')} needs a tokenizer and its embedding table: name "
            "a Hugging Face directory"
        )
    check(checkpoint)
    from rmtcli.evaluation.text import texts_of, tokenizer_of

    texts, home = texts_of(text), checkpoint.home
    tokenizer = tokenizer_of(home)
    _check_fast(home, tokenizer)
    used = {n for ids in _divided(tokenizer, texts) for n in ids}
    cut = make_cut(checkpoint, used)
    if tokenizer.get_vocab() != dict(cut.tokens):
        raise UsageError(
            f"{home}: transformers reads other tokens than those of its tokenizer.json, so "
            f"{option('vocab')} cannot cut it: save the tokenizer again with save_pretrained"
        )
    _LOGGER.info("%s uses %d of %d tokens", text, len(cut.kept), cut.rows)
    with tempfile.TemporaryDirectory(prefix="rmtcli-vocab-") as folder:
        small = Path(folder) / checkpoint.path.resolve().name
        write_checkpoint(without_rows(checkpoint, cut), small)
        new = small / inside(home, checkpoint.path)
        rewrite_files(new, cut)
        _check_shapes(open_checkpoint(small), new)
        _check_same(tokenizer, tokenizer_of(new), texts, text)
        tensors = tensors_of(checkpoint, open_checkpoint(small))
        yield Vocabulary(small, source, cut.rows, len(cut.kept), tensors)


def _check_fast(home: Path, tokenizer: Any) -> None:
    """Make sure that a tokenizer is described by its ``tokenizer.json``.

    Raises:
        UsageError: it is computed in Python.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{home}: its tokenizer, {type(tokenizer).__name__}, is not one of the tokenizers "
            f"package, so {option('vocab')} cannot cut it"
        )


def _divided(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    """The numbers of the tokens of texts; then those of all texts as one, with ends of lines."""
    for start in range(0, len(texts), _BATCH):
        yield from tokenizer(list(texts[start : start + _BATCH]), verbose=False)["input_ids"]
    yield tokenizer("\n".join(texts), verbose=False)["input_ids"]


def _check_same(old: Any, new: Any, texts: Sequence[str], file: Path) -> None:
    """Make sure that two tokenizers divide texts into the same tokens.

    Raises:
        UsageError: they do not.
    """
    for i, (a, b) in enumerate(zip(_divided(old, texts), _divided(new, texts), strict=True)):
        if old.convert_ids_to_tokens(a) != new.convert_ids_to_tokens(b):
            where = f"text {i + 1}" if i < len(texts) else "the whole text"
            raise UsageError(
                f"{file}: without the tokens that it does not use, {where} would be divided in "
                f"another way, so {option('vocab')} cannot cut this tokenizer: nothing was written"
            )


def _check_shapes(checkpoint: Checkpoint, home: Path) -> None:
    """Make sure that the class of the network expects the shapes of the cut tensors.

    Raises:
        UsageError: it expects another.
    """
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(home, local_files_only=True)
    kind = getattr(transformers, (getattr(config, "architectures", None) or [""])[0], None)
    if kind is None:
        return
    with torch.device("meta"):
        state = kind(config).state_dict()
    for name, info in checkpoint.infos.items():
        if name in state and tuple(state[name].shape) != info.shape:
            raise UsageError(
                f"{checkpoint.path.name}: with {config.vocab_size} tokens, {name} would have the "
                f"shape {info.shape}, and {kind.__name__} expects {tuple(state[name].shape)}: "
                f"{option('vocab')} cannot cut this network"
            )
