from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation import Evaluation
from rmtcli.evaluation.chain import _MODULES
from rmtcli.evaluation.harness import ACTIVATIONS
from rmtcli.evaluation.network import build
from rmtcli.layers import find_layers
from tests.conftest import ROOT

FACTORIES = "tests.evaluation.factories"
X = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))


def chain(activation: str = "relu") -> nn.Sequential:
    torch.manual_seed(0)
    act = _MODULES[activation]
    # More than ten layers, so that the order of the names is not alphabetical.
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(11):
        layers[f"fc{i}"] = nn.Linear(40, 40, bias=i % 2 == 0)
        layers[f"act{i}"] = act()
    layers["out"] = nn.Linear(40, 10)
    return nn.Sequential(layers)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_chain_is_inferred_in_its_order(tmp_path: Path, activation: str, ending: str) -> None:
    model = chain(activation)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    path = tmp_path / f"b{ending}"
    rmtcli.prune(tmp_path / "a.pt", path, keep="rank:k=19")
    built = build(Evaluation(activation=activation).resolve(open_checkpoint(path)))
    expected = rmtcli.load(chain(activation), path)(X)
    torch.testing.assert_close(built(X), expected)
    torch.testing.assert_close(built(X.reshape(8, 5, 8)), expected)  # images are flattened


def test_a_chain_may_have_names_with_dots_and_prefixes(tmp_path: Path) -> None:
    inner = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))
    state = {f"module.net.{name}": value for name, value in inner.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    built = build(Evaluation().resolve(open_checkpoint(tmp_path / "a.ckpt")))
    assert torch.equal(built(X), inner(X))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_evaluated_without_loss(tmp_path: Path, dtype: torch.dtype) -> None:
    model = chain().to(dtype)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    built = build(Evaluation().resolve(open_checkpoint(tmp_path / "a.pt")))
    assert next(built.parameters()).dtype == (
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    assert torch.equal(
        next(built.parameters()).double(), next(model.parameters()).double().detach()
    )


NO_CHAINS = [
    ({"a.weight": (4, 3), "b.weight": (2, 5)}, "'a' gives 4 values and 'b' takes 5"),
    ({"a.weight": (4, 3), "norm.weight": (4,)}, "'norm.weight' belongs to no linear layer"),
    ({"a.weight": (4, 3), "c.weight": (4, 3, 3, 3)}, "'c.weight' belongs to no linear layer"),
    ({"a": (3,)}, "it has no linear layers"),
]


@pytest.mark.parametrize(("shapes", "why"), NO_CHAINS)
def test_checkpoints_that_are_not_chains_are_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], why: str
) -> None:
    torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "a.pt")
    with pytest.raises(EvaluationError) as caught:
        build(Evaluation().resolve(open_checkpoint(tmp_path / "a.pt")))
    assert str(caught.value) == (
        f"{tmp_path / 'a.pt'}: not a plain chain of linear layers ({why}): "
        'name the network with model="package.module:factory"'
    )


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    from tests.evaluation.factories import residual

    torch.manual_seed(0)
    torch.save(residual().state_dict(), tmp_path / "a.pt")
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((50, 40)).astype(np.float32)
    np.savez(tmp_path / "x.npz", inputs=inputs, targets=rng.integers(0, 10, 50))
    return tmp_path / "a.pt"


def test_a_factory_can_build_any_network(residual: Path) -> None:
    evaluation = Evaluation(
        residual.with_name("x.npz"), f"{FACTORIES}:residual", score=f"{FACTORIES}:first_weight"
    )
    report = rmtcli.prune(residual, keep="rank:k=10", evaluation=evaluation)
    comparison = report.comparison
    assert comparison is not None
    assert comparison.network == f"{FACTORIES}:residual"
    weight = torch.load(residual)["fc1.weight"]
    assert comparison.before is not None
    assert comparison.before.score == pytest.approx(float(weight.abs().sum()))
    written = open_checkpoint(residual.with_name("a.pruned.pt"))
    assert comparison.after.score == pytest.approx(np.abs(written.array("fc1.0.weight")).sum())
    assert comparison.agreement is not None
    assert 0 < comparison.agreement < 100


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no colon", "'no colon' must be written package.module:function"),
        ("tests.evaluation.broken:f", "'tests.evaluation.broken:f' cannot be imported: NameError"),
        (".relative:f", "'.relative:f' cannot be imported: TypeError"),
        ("no.such.module:f", "'no.such.module:f' cannot be imported: No module named 'no'"),
        ("net.py", "'net.py' must be written package.module:function: it is a file: name a"),
        ("net.Net", "'net.Net' must be written package.module:function: did you mean net:Net?"),
        (f"{FACTORIES}:missing", f"'{FACTORIES}:missing': {FACTORIES} has no 'missing'"),
        (
            f"{FACTORIES}:residul",
            f"'{FACTORIES}:residul': {FACTORIES} has no 'residul': did you mean residual?",
        ),
        (
            f"{FACTORIES}:value",
            f"'{FACTORIES}:value' is not a network, or a function that returns one, but int",
        ),
    ],
)
def test_factories_that_cannot_be_imported_are_refused(
    residual: Path, spec: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        build(Evaluation(model=spec).resolve(open_checkpoint(residual)))
    assert str(caught.value).startswith(message)


def test_factories_and_scores_of_the_wrong_type_are_refused(residual: Path) -> None:
    with pytest.raises(EvaluationError, match="returned int, not a torch"):
        build(Evaluation(model=f"{FACTORIES}:not_a_module").resolve(open_checkpoint(residual)))
    evaluation = Evaluation(model=f"{FACTORIES}:residual", score=f"{FACTORIES}:words")
    with pytest.raises(EvaluationError, match="returned 'good', not a number"):
        rmtcli.evaluate(residual, evaluation=evaluation)
    evaluation = Evaluation(model=f"{FACTORIES}:residual", score=f"{FACTORIES}:table")
    with pytest.raises(EvaluationError, match=r"shape \(2, 2\), not one number, or one per sample"):
        rmtcli.evaluate(residual, evaluation=evaluation)


def test_a_function_may_score_every_sample(residual: Path) -> None:
    evaluation = Evaluation(model=f"{FACTORIES}:residual", score=f"{FACTORIES}:each")
    comparison = rmtcli.evaluate(residual, evaluation=evaluation).comparison
    assert comparison is not None
    scored = comparison.after.scored
    assert scored is not None
    np.testing.assert_allclose(scored - scored[0], np.arange(4))
    assert comparison.after.score == pytest.approx(scored.mean())


def test_unknown_devices_and_activations_are_refused(residual: Path) -> None:
    with pytest.raises(UsageError, match="unknown activation 'sine': choose one of relu"):
        Evaluation(activation="sine")
    with pytest.raises(UsageError, match="unknown device 'gpu': write cuda"):
        Evaluation(device="gpu")
    for device in ("nonsense", *([] if torch.cuda.is_available() else ["cuda"])):
        evaluation = Evaluation(model=f"{FACTORIES}:residual", device=device)
        with pytest.raises(UsageError, match=f"device '{device}' cannot be used"):
            build(evaluation.resolve(open_checkpoint(residual)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_same_accuracy(residual: Path) -> None:
    x, model = residual.with_name("x.npz"), f"{FACTORIES}:residual"
    accuracies = [
        rmtcli.evaluate(residual, evaluation=Evaluation(x, model, device=d)).comparison
        for d in ("cpu", "cuda")
    ]
    assert accuracies[0].after.accuracy == pytest.approx(accuracies[1].after.accuracy, abs=2)


def test_factories_and_scores_that_raise_give_one_line(residual: Path) -> None:
    line = r"\(tests/evaluation/factories\.py, line \d+, in raises\)$"
    with pytest.raises(EvaluationError, match=rf"raises failed: KeyError: 'missing' {line}"):
        build(Evaluation(model=f"{FACTORIES}:raises").resolve(open_checkpoint(residual)))
    for function, message in [("raises", "raises failed: KeyError"), ("nan", "must be finite")]:
        evaluation = Evaluation(model=f"{FACTORIES}:residual", score=f"{FACTORIES}:{function}")
        with pytest.raises(EvaluationError, match=message):
            rmtcli.evaluate(residual, evaluation=evaluation)


def test_a_network_that_fails_is_blamed_by_its_own_line(
    residual: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = residual.with_name("x.npz")
    evaluation = Evaluation(x, model=f"{FACTORIES}:failing")
    with (
        caplog.at_level("INFO", "rmtcli"),
        pytest.raises(
            EvaluationError, match=r"fails on inputs of shape .*x\.npz: KeyError"
        ) as caught,
    ):
        rmtcli.evaluate(residual, evaluation=evaluation)
    assert str(caught.value).endswith("in helper)")
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    "spec", [f"{FACTORIES}:instance", "tests/evaluation/factories.py:instance"]
)
def test_a_name_may_stand_for_a_network_itself(
    residual: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    from tests.evaluation.factories import instance

    monkeypatch.chdir(ROOT)
    checkpoint = open_checkpoint(residual)
    before = instance.state_dict()["fc1.weight"].clone()
    built = build(Evaluation(model=spec).resolve(checkpoint))
    np.testing.assert_array_equal(
        built.state_dict()["fc1.weight"], torch.load(residual)["fc1.weight"]
    )
    assert torch.equal(instance.state_dict()["fc1.weight"], before)


@pytest.fixture(scope="module")
def tanh_network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file whose network has tanh between its layers, and its own classes as targets."""
    folder = tmp_path_factory.mktemp("tanh")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(30, 50), nn.Tanh(), nn.Linear(50, 6))
    x = 2 * torch.randn(300, 30)
    with torch.no_grad():
        network[0].weight.mul_(4)
        targets = network(x).argmax(1)
    torch.save(network.state_dict(), folder / "a.pt")
    np.savez(folder / "d.npz", inputs=x.numpy(), targets=targets.numpy())
    return folder / "a.pt", folder / "d.npz"


@pytest.mark.parametrize(
    ("given", "accuracy", "words"),
    [
        (None, 100, "tanh was taken"),
        ("relu", None, "tanh was not taken, because activation= names another"),
        ("tanh", 100, None),
    ],
)
def test_targets_tell_the_activation_of_a_chain(
    tanh_network: tuple[Path, Path], given: str | None, accuracy: int | None, words: str | None
) -> None:
    path, data = tanh_network
    report = rmtcli.evaluate(path, evaluation=Evaluation(data, activation=given))
    assert report.comparison is not None
    after = report.comparison.after.accuracy
    assert after is not None
    assert after == accuracy if accuracy else after < 95
    notes = [note for note in report.notes if note.startswith("on 300 samples the network")]
    assert len(notes) == (words is not None)
    assert words is None or notes[0].endswith(words)
    assert f"{given or 'tanh'} between them" in report.comparison.network


def test_without_targets_the_activation_is_relu(
    tanh_network: tuple[Path, Path], tmp_path: Path
) -> None:
    path, data = tanh_network
    np.savez(tmp_path / "x.npz", inputs=np.load(data)["inputs"])
    for evaluation in (Evaluation(), Evaluation(tmp_path / "x.npz")):
        harness = evaluation.resolve(open_checkpoint(path))
        build(harness)
        assert harness.activation == "relu"
        assert harness.notes == ()


def test_factors_without_a_record_are_not_run_as_layers(tmp_path: Path) -> None:
    """A fine-tuned and re-saved network: a ReLU between its factors would change it."""
    torch.save(chain().state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9")
    torch.save(dict(torch.load(tmp_path / "b.pt")), tmp_path / "c.pt")
    with pytest.raises(EvaluationError, match=r"may be factors of one layer"):
        build(Evaluation().resolve(open_checkpoint(tmp_path / "c.pt")))


def test_an_ambiguous_order_of_layers_is_not_guessed(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    names = {"input": (64, 64), "hidden": (64, 64), "output": (10, 64)}
    tensors = {f"{n}.weight": torch.randn(s) for n, s in names.items()}
    torch.save(tensors, tmp_path / "a.pt")
    save_file(tensors, tmp_path / "a.safetensors")
    assert build(Evaluation().resolve(open_checkpoint(tmp_path / "a.pt"))).order == tuple(names)
    with pytest.raises(EvaluationError, match="a safetensors file keeps no order"):
        build(Evaluation().resolve(open_checkpoint(tmp_path / "a.safetensors")))


def test_layer_names_that_torch_does_not_allow_are_refused(tmp_path: Path) -> None:
    torch.save({"forward.weight": torch.ones(4, 4)}, tmp_path / "a.pt")
    with pytest.raises(EvaluationError, match="not one that torch allows"):
        build(Evaluation().resolve(open_checkpoint(tmp_path / "a.pt")))


def test_the_factors_of_a_bare_layer_are_recognised(tmp_path: Path) -> None:
    layer = nn.Linear(40, 40)
    torch.save(layer.state_dict(), tmp_path / "a.pt")
    selection = rmtcli.Selection(include=["weight"])
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=9", selection=selection)
    assert [i.reason.name for i in find_layers(open_checkpoint(tmp_path / "b.pt"))] == [
        "FACTOR"
    ] * 2  # type: ignore[union-attr]
