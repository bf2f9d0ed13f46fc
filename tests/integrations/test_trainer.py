"""Pruning during training as a callback of the transformers Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmtcli.errors import UsageError
from rmtcli.layouts.split import SplitLinear

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from rmtcli.integrations.trainer import RMTCallback  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore")]


def model() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=16,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


def samples() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 50, (96, 12))
    return [{"input_ids": row, "labels": int(row[0] % 3)} for row in rows]


def run(
    folder: Path, callback: RMTCallback, net: Any, epochs: int, resume: str | None = None
) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        save_strategy="epoch",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        restore_callback_states_from_checkpoint=resume is not None,
        logging_strategy="epoch",
    )
    trainer = transformers.Trainer(net, arguments, train_dataset=samples(), callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def pruning(**options: Any) -> RMTCallback:
    return RMTCallback(keep="rank:k=12", schedule="linear:until=3", show=_quiet, **options)


def _quiet(step: object) -> None:
    """Print nothing."""


def test_a_run_is_pruned_saved_and_resumed(tmp_path: Path) -> None:
    whole = model()
    callback = pruning(log=tmp_path / "log.json")
    run(tmp_path / "whole", callback, whole, 4)
    assert isinstance(whole.bert.encoder.layer[0].intermediate.dense, SplitLinear)
    assert (tmp_path / "log.json").exists()

    checkpoints = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    assert len(checkpoints) == 4
    resumed = model()
    run(tmp_path / "again", pruning(), resumed, 4, resume=str(checkpoints[1]))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name

    # The saved directory opens like any factored directory.
    loaded, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoints[-1], output_loading_info=True
    )
    assert not info["missing_keys"]
    ids = torch.from_numpy(np.stack([row["input_ids"] for row in samples()]))
    torch.testing.assert_close(loaded.eval()(ids).logits, whole.eval()(ids).logits)


def test_pruning_after_steps(tmp_path: Path) -> None:
    net = model()
    callback = pruning(interval="step", start=2, l1=1e-5)
    run(tmp_path, callback, net, 1)
    assert callback.session.pruner is not None
    assert callback.session.pruner.time == 6


def test_resuming_without_the_saved_state_is_refused(tmp_path: Path) -> None:
    run(tmp_path, RMTCallback(keep="rank:k=12", start=0, show=_quiet), model(), 2)
    (last,) = sorted(tmp_path.glob("checkpoint-12"))
    arguments = {"resume_from_checkpoint": str(last)}
    trainer = transformers.Trainer(
        model(),
        transformers.TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=3,
            report_to=[],
            use_cpu=True,
            per_device_train_batch_size=16,
            disable_tqdm=True,
        ),
        train_dataset=samples(),
        callbacks=[pruning()],
    )
    with pytest.raises(UsageError, match="restore_callback_states_from_checkpoint=True"):
        trainer.train(**arguments)
