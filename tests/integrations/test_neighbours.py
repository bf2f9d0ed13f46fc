"""Other programs that take transformers models also take factored ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

import rmtcli.integrations.transformers  # noqa: E402, F401
from rmtcli.integrations.rmtcli_loading import FactoredLinear  # noqa: E402
from tests.integrations.factored import CASES, load, logits, write  # noqa: E402


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """Assert equality up to rounding: float32 rounds at 6e-8, in some dozen sums of 50 terms."""
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's
@pytest.mark.parametrize("targets", ["all-linear", ["query.0", "query.1"]])
def test_lora_adapts_the_factors(targets: str | list[str], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    case = CASES["bert-head"]
    factored, _ = write(case, tmp_path)
    model = load(factored, case)
    before = logits(model, case)
    config = peft.LoraConfig(target_modules=targets, r=2, task_type="SEQ_CLS")
    adapted = peft.get_peft_model(model, config)
    close(logits(adapted, case), before)  # LoRA starts as zero
    rate = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):  # the first step changes only the factor that is zero
        adapted(**case.inputs()).logits.square().sum().backward()
        rate.step()
    after = logits(adapted, case)
    assert (after - before).abs().max() > 1e-3 * before.abs().max()
    adapted.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "rmtcli_loading.py").exists()
    again = peft.PeftModel.from_pretrained(load(factored, case), tmp_path / "adapter")
    close(logits(again, case), after)
    merged = again.merge_and_unload()
    close(logits(merged, case), after)
    assert any(isinstance(module, FactoredLinear) for module in merged.modules())


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}])
def test_a_device_map_loads_factored_models(
    device_map: str | dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    for name in ("bert", "mixtral"):
        case = CASES[name]
        factored, product = write(case, tmp_path / name)
        model = load(factored, case, device_map=device_map)
        close(logits(model, case), logits(load(product, case), case))


@pytest.mark.parametrize("name", ["bert", "mixtral"])
def test_offloaded_factors_give_the_same_logits(name: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    case = CASES[name]
    factored, product = write(case, tmp_path)
    part = "encoder.layer" if name == "bert" else "model.layers"
    wanted = logits(load(product, case), case)
    others = {
        "bert": ["embeddings", "pooler"],
        "mixtral": ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"],
    }
    device_map = dict.fromkeys(others[name], "cpu") | {f"{part}.0": "cpu", f"{part}.1": "disk"}
    model = load(factored, case, device_map=device_map, offload_folder=tmp_path / "offload")
    close(logits(model, case), wanted)
    with pytest.raises(ValueError, match="offloaded weights cannot be multiplied"):
        model.dequantize()


def test_the_trainer_trains_a_factored_model(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    case = CASES["bert-head"]
    factored, _ = write(case, tmp_path)
    model = load(factored, case)
    before = logits(model, case)
    samples = [{"input_ids": row, "labels": 1} for row in case.inputs()["input_ids"]]
    settings = transformers.TrainingArguments(
        tmp_path / "run", max_steps=2, learning_rate=0.01, report_to=[], use_cpu=True
    )
    trainer = transformers.Trainer(model, settings, train_dataset=samples)
    trainer.train()
    trainer.save_model(tmp_path / "trained")
    after = logits(load(tmp_path / "trained", case), case)
    close(after, logits(model.eval(), case))
    assert (after - before).abs().max() > 1e-3 * before.abs().max()


@pytest.mark.filterwarnings("ignore")  # the exporter warns of its deprecation and of shapes
@pytest.mark.parametrize("name", ["bert-head", "t5", "vit"])
def test_an_onnx_export_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    case = CASES[name]
    factored, _ = write(case, tmp_path)
    model = load(factored, case, attn_implementation="eager")
    model.config.use_cache = False
    inputs = case.inputs()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            return self.model(**dict(zip(inputs, values, strict=True))).logits

    file = tmp_path / "model.onnx"
    torch.onnx.export(
        Logits().eval(), tuple(inputs.values()), file, input_names=list(inputs), dynamo=False
    )
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (exported,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    close(torch.from_numpy(exported), logits(model, case))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert-head", "t5", "mixtral"])
def test_torch_export_accepts_a_factored_model(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    factored, _ = write(case, tmp_path)
    model = load(factored, case)
    # A cache is an output that torch.export does not know.
    inputs = case.inputs() | ({} if name == "bert-head" else {"use_cache": False})
    exported = torch.export.export(model, (), dict(inputs), strict=False).module()
    close(exported(**inputs).logits, logits(model, case))
    # Other tokens, for which experts would be chosen differently.
    others = {key: value.flip(-1) if key == "input_ids" else value for key, value in inputs.items()}
    close(exported(**others).logits, model(**others).logits)


def test_sentence_transformers_loads_a_factored_model(tmp_path: Path) -> None:
    st = pytest.importorskip("sentence_transformers")
    factored, product = write(CASES["bert"], tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "random", "matrix", "theory", "noise"]
    for directory in (factored, product):
        (directory / "vocab.txt").write_text("\n".join(words))
        tokenizer = transformers.BertTokenizer(str(directory / "vocab.txt"))
        tokenizer.save_pretrained(directory)
    texts = ["random matrix theory", "noise"]
    small, dense = (
        torch.from_numpy(st.SentenceTransformer(str(path), device="cpu").encode(texts))
        for path in (factored, product)
    )
    close(small, dense)
    model = st.SentenceTransformer(str(factored), device="cpu")
    model.save(str(tmp_path / "saved"))
    again = torch.from_numpy(
        st.SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(texts)
    )
    close(again, dense)
    assert len(list((tmp_path / "saved").rglob("rmtcli_loading.py"))) == 1
