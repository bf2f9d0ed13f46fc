"""``densify`` of networks that were loaded, trained and saved again, by torch or transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rmtcli
from rmtcli.checkpoint import Edited, Manifest, open_checkpoint, write_checkpoint
from rmtcli.checkpoint.hashes import checkpoint_sha256
from rmtcli.errors import LayerError, UsageError
from rmtcli.pipeline.request import default_output
from tests.conftest import model_directory, planted

NOTE = "the file was saved again without rmtcli's record, so the factors were told by their names: "


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("a.pruned.pt", "a.dense.pt"),
        ("b.safetensors", "b.dense.safetensors"),
        ("m.pruned", "m.dense"),
        ("models--org--name/snapshots/0f", "name.dense"),
    ],
)
def test_the_default_output_is_named_for_the_input(tmp_path: Path, name: str, output: str) -> None:
    path = tmp_path / name
    if "." not in name or name == "m.pruned":
        path.mkdir(parents=True)
    wanted = Path(output) if "snapshots" in name else tmp_path / output
    assert default_output(path, "dense") == wanted


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_state_dict_that_was_trained_and_saved_again(tmp_path: Path, ending: str) -> None:
    dense = net()
    with torch.no_grad():
        dense[0].weight.copy_(torch.from_numpy(planted((96, 64), 3, times=4)))
        dense[2].weight.copy_(torch.from_numpy(planted((64, 96), 3, times=4)))
    torch.save(dense.state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", keep="rank:k=3", output=tmp_path / "b.pt")
    tuned = rmtcli.load(net(), tmp_path / "b.pt")
    x = torch.randn(8, 64)
    tuned(x).mean().backward()
    torch.optim.SGD(tuned.parameters(), 1e-3).step()
    file = tmp_path / f"tuned.{ending}"
    save = save_file if ending == "safetensors" else torch.save
    save(tuned.state_dict(), file)
    report = rmtcli.densify(file, tmp_path / "new/c.pt")
    assert f"{NOTE}0, 2" in report.notes
    dense.load_state_dict(torch.load(tmp_path / "new/c.pt"))
    torch.testing.assert_close(dense(x), tuned(x), rtol=1e-4, atol=1e-3)


def test_a_directory_that_was_trained_and_saved_again(tmp_path: Path) -> None:
    """Also as another class, whose tensors have another prefix than the record."""
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    import rmtcli.integrations.transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    dense = BertModel(BertConfig(**sizes, intermediate_size=48, vocab_size=20))
    dense.save_pretrained(tmp_path / "a")
    rmtcli.prune(tmp_path / "a", keep="rank:k=3", output=tmp_path / "b")
    tokens = torch.arange(8)[None]
    for kind in (BertModel, BertForSequenceClassification):
        tuned, folder = kind.from_pretrained(tmp_path / "b").eval(), tmp_path / kind.__name__
        with torch.no_grad():
            for value in tuned.parameters():
                value += 0.01 * torch.randn_like(value)
        tuned.save_pretrained(folder)
        assert len(open_checkpoint(folder).manifest.factored) == 7  # type: ignore[union-attr]
        report = rmtcli.densify(folder, folder.with_suffix(".dense"))
        assert not [note for note in report.notes if note.startswith(NOTE)]
        opened = kind.from_pretrained(folder.with_suffix(".dense")).eval()
        assert not hasattr(opened.config, "quantization_config")
        torch.testing.assert_close(opened(tokens)[0], tuned(tokens)[0], rtol=1e-4, atol=1e-5)


def factored(*modules: str, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Factors of equal norms; with ``scale``, the right one has so many times that of the left."""
    names = [(f"{module}.0.weight", f"{module}.1.weight") for module in modules]
    return {
        name: factor * nn.functional.normalize(torch.randn(shape), dim=None)
        for pair in names
        for name, shape, factor in zip(pair, ((3, 32), (24, 3)), (scale, 1.0), strict=True)
    }


def test_shared_factors_of_a_configuration_are_shared(tmp_path: Path) -> None:
    tensors = factored("m.q", "m.k")
    del tensors["m.k.0.weight"]
    entry = {"quant_method": "rmtcli", "ranks": {"q": 3, "k": 3}, "shared": {"k": "q"}}
    folder = model_directory(tmp_path / "a", tensors, {"quantization_config": entry})
    rmtcli.densify(folder, tmp_path / "b")
    written = load_file(tmp_path / "b" / "model.safetensors")
    assert written.keys() == {"m.q.weight", "m.k.weight"}
    for name in ("q", "k"):
        expected = tensors[f"m.{name}.1.weight"] @ tensors["m.q.0.weight"]
        torch.testing.assert_close(written[f"m.{name}.weight"], expected)


@pytest.mark.parametrize(
    "ranks", [{"a": 4}, {"b": 3}, {"a": 3, "b": 3}, {}, None, {"a": "3"}, {"a.0": 3}]
)
def test_a_configuration_that_is_not_of_these_tensors_is_not_used(
    tmp_path: Path, ranks: object
) -> None:
    entry = {"quant_method": "rmtcli", "ranks": ranks}
    folder = model_directory(tmp_path / "a", factored("m.a"), {"quantization_config": entry})
    assert open_checkpoint(folder).manifest is None
    assert f"{NOTE}m.a" in rmtcli.densify(folder, tmp_path / "b").notes


W = torch.randn
#: what looks a little like factors -> the tensors
OTHERS = {
    "not smaller": {"m.0.weight": W(16, 32), "m.1.weight": W(24, 16)},
    "a bias between": {"m.0.weight": W(3, 32), "m.0.bias": W(3), "m.1.weight": W(24, 3)},
    "a third layer": {"m.0.weight": W(3, 32), "m.1.weight": W(24, 3), "m.2.weight": W(9, 24)},
    "other widths": {"m.0.weight": W(3, 32), "m.1.weight": W(24, 4)},
    "no matrices": {"m.0.weight": W(3), "m.1.weight": W(24, 3)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_are_not_taken_for_factors(tmp_path: Path, name: str) -> None:
    torch.save(OTHERS[name], tmp_path / "a.pt")
    with pytest.raises(LayerError, match="holds no factors that rmtcli wrote"):
        rmtcli.densify(tmp_path / "a.pt", tmp_path / "b.pt")


def test_layers_that_may_be_the_networks_own_are_refused_without_a_record(tmp_path: Path) -> None:
    sure, doubtful = factored("m"), factored("bottleneck", scale=1.5)
    torch.save(sure | doubtful, tmp_path / "tuned.pt")
    with pytest.raises(LayerError, match="'bottleneck' may be two layers of the network's own"):
        rmtcli.densify(tmp_path / "tuned.pt", tmp_path / "c.pt")
    record = Manifest("0", "a.pt", "00", "auto", "bema", {"m": 3})
    torch.save({"m.weight": torch.ones(24, 32)}, tmp_path / "a.pt")
    written = Edited(open_checkpoint(tmp_path / "tuned.pt"), {}, record)
    write_checkpoint(written, tmp_path / "b.safetensors")
    report = rmtcli.densify(
        tmp_path / "tuned.pt", tmp_path / "c.pt", record=tmp_path / "b.safetensors"
    )
    assert not [note for note in report.notes if note.startswith(NOTE)]
    dense = torch.load(tmp_path / "c.pt")
    assert dense.keys() == {"m.weight", *doubtful}
    torch.testing.assert_close(dense["m.weight"], sure["m.1.weight"] @ sure["m.0.weight"])
    with pytest.raises(UsageError, match="has a record of its factors: leave out record="):
        rmtcli.densify(tmp_path / "b.safetensors", tmp_path / "d.pt", record=tmp_path / "tuned.pt")
    with pytest.raises(UsageError, match="holds no record of factors: name the file that prune"):
        rmtcli.densify(tmp_path / "tuned.pt", tmp_path / "d.pt", record=tmp_path / "a.pt")


def test_a_record_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(factored("m"), tmp_path / "tuned.pt")
    record = Manifest("0", "a.pt", "00", "auto", "bema", {"other": 3})
    written = Edited(open_checkpoint(tmp_path / "tuned.pt"), {}, record)
    write_checkpoint(written, tmp_path / "b.pt")
    with pytest.raises(LayerError, match="other"):
        rmtcli.densify(tmp_path / "tuned.pt", tmp_path / "c.pt", record=tmp_path / "b.pt")


def test_a_directory_takes_a_record_from_a_file(tmp_path: Path) -> None:
    """Also siblings' right factor, which is stored once."""
    tensors = factored("q", "k")
    del tensors["k.0.weight"]
    folder = model_directory(tmp_path / "tuned", tensors, shards=2)
    record = Manifest("0", "a", "00", "auto", "bema", {"q": 3, "k": 3}, shared={"k": "q"})
    written = Edited(open_checkpoint(folder), {}, record)
    assert checkpoint_sha256(written) == checkpoint_sha256(written.source)
    write_checkpoint(written, tmp_path / "b.safetensors", verify=False)
    rmtcli.densify(folder, tmp_path / "dense", record=tmp_path / "b.safetensors")
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    for name in ("q", "k"):
        expected = tensors[f"{name}.1.weight"] @ tensors["q.0.weight"]
        torch.testing.assert_close(dense[f"{name}.weight"], expected)


def test_a_record_says_nothing_of_factors_that_are_no_longer_shared(tmp_path: Path) -> None:
    tensors = factored("q", "k")
    torch.save(tensors, tmp_path / "tuned.pt")
    record = Manifest("0", "a", "00", "auto", "bema", {"q": 3, "k": 3}, shared={"k": "q"})
    tied = tensors | {"k.0.weight": tensors["q.0.weight"]}
    torch.save(tied, tmp_path / "a.pt")
    write_checkpoint(Edited(open_checkpoint(tmp_path / "a.pt"), {}, record), tmp_path / "b.pt")
    rmtcli.densify(tmp_path / "tuned.pt", tmp_path / "c.pt", record=tmp_path / "b.pt")
    expected = tensors["k.1.weight"] @ tensors["k.0.weight"]
    torch.testing.assert_close(torch.load(tmp_path / "c.pt")["k.weight"], expected)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_siblings_are_balanced_together(tmp_path: Path, ending: str) -> None:
    tensors = factored("q", "k", "v", scale=3**0.5)
    for name in ("k", "v"):
        tensors[f"{name}.0.weight"] = tensors["q.0.weight"]
    path = tmp_path / f"tuned.{ending}"
    if ending == "safetensors":  # it stores each name on its own
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    (note,) = [x for x in rmtcli.densify(path, tmp_path / "c.pt").notes if x.startswith(NOTE)]
    assert sorted(note.removeprefix(NOTE).split(", ")) == ["k", "q", "v"]


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_pruning_factors_without_a_record_is_noted(tmp_path: Path, ending: str) -> None:
    right = torch.from_numpy(planted((64, 256), 3, times=4)).float()
    left = torch.from_numpy(planted((256, 64), 3, times=4)).float()
    left *= right.norm() / left.norm()
    tensors = {"m.0.weight": right, "m.1.weight": left}
    tensors |= {"own.0.weight": 2 * right, "own.1.weight": -left, "head.weight": torch.ones(4, 256)}
    path = tmp_path / f"tuned.{ending}"
    (torch.save if ending == "pt" else save_file)(tensors, path)
    said = "by names and norms, these may be factors that rmtcli wrote, of which the file has no "
    report = rmtcli.prune(path, tmp_path / "b.pt", keep="rank:k=3")
    assert len(report.pruned) >= 3
    assert sum(note.startswith(f"{said}record: m. If so") for note in report.notes) == 1
