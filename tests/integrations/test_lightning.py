"""Pruning during training as a Lightning callback."""

from __future__ import annotations

import logging
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rmtcli.errors import TrainingError, UsageError
from rmtcli.layouts.split import SplitLinear
from rmtcli.training import read_log
from tests.training.networks import network, task

lightning = pytest.importorskip("lightning.pytorch")
from rmtcli.integrations.lightning import RMTPruning  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:lightning.fabric.utilities.warnings.PossibleUserWarning"),
]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.net = network(48, 64, 64, 4)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)]


def trainer(folder: Path, callback: RMTPruning, epochs: int, **options: Any) -> Any:
    return lightning.Trainer(
        max_epochs=epochs,
        callbacks=[callback],
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*task()), batch_size=64)


def pruning(**options: Any) -> RMTPruning:
    return RMTPruning(
        edge="bema",
        keep="edge:at_least=4",
        schedule="linear:until=6",
        show=lambda _: None,
        **options,
    )


def test_a_run_is_pruned_logged_and_resumed(tmp_path: Path) -> None:
    whole = Module()
    callback = pruning(log=tmp_path / "log.csv")
    trainer(tmp_path, callback, 8, enable_checkpointing=False).fit(whole, loader())
    assert isinstance(whole.net.fc1, SplitLinear)
    rows = read_log(tmp_path / "log.csv")
    assert rows[-1]["time"] == 7
    assert rows[-2]["layer"] == "net.fc1.weight"
    assert rows[-2]["rank"] == whole.net.fc1.left.in_features
    assert rows[-1]["train_loss"] < rows[2]["train_loss"]

    first = trainer(tmp_path, pruning(), 4)
    first.fit(Module(), loader())
    file = tmp_path / "half.ckpt"
    first.save_checkpoint(file)
    resumed = Module()
    with torch.no_grad():
        resumed.net.fc1.weight.zero_()  # the weights of the checkpoint replace it
    again = pruning()
    fit = trainer(tmp_path, again, 8).fit
    # Lightning 2.6 added this argument; its default is torch's own.
    safely = {"weights_only": True} if "weights_only" in signature(fit).parameters else {}
    fit(resumed, loader(), ckpt_path=file, **safely)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert again.session.pruner is not None
    assert callback.session.pruner is not None
    assert again.session.pruner.ranks == callback.session.pruner.ranks


def test_pruning_after_steps_with_penalties(tmp_path: Path) -> None:
    module = Module()
    callback = pruning(interval="step", start=4, every=4, l1=1e-4, l2=1e-4)
    trainer(tmp_path, callback, 2, enable_checkpointing=False).fit(module, loader())
    assert callback.session.pruner is not None
    assert callback.session.pruner.time == 16
    assert isinstance(module.net.fc1, SplitLinear)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Diverging(Module):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(batch, index) * float("nan")
            self.log("train_loss", loss, on_epoch=True, on_step=False)
            return loss

    with pytest.raises(TrainingError, match="train_loss is nan at time 1"):
        trainer(tmp_path, pruning(), 2, enable_checkpointing=False).fit(Diverging(), loader())


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match="interval must be 'epoch' or 'step', not 'day'"):
        RMTPruning(interval="day")
    with pytest.raises(UsageError, match="a log's name must end in"):
        RMTPruning(log="log.txt")
