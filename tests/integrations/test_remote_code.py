"""``trust_remote_code=True`` in a process that cannot import rmtcli and has no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers")

from tests.integrations.factored import CASES, load, logits, write

#: What a user's program does; it opens each directory, and what it saves again.
PROGRAM = """
import json, sys
import torch, transformers
from safetensors.torch import save_file

sys.modules["rmtcli"] = None
results = {}
for name, (auto, directory, inputs) in json.loads(sys.argv[1]).items():
    inputs = {k: torch.tensor(v) for k, v in inputs.items()}
    for step in ("first", "again"):
        model, info = getattr(transformers, auto).from_pretrained(
            directory, trust_remote_code=True, output_loading_info=True
        )
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        with torch.no_grad():
            output = model(**inputs)
        value = output.logits if "logits" in output else output.last_hidden_state
        results[f"{name}.{step}"] = value.contiguous()
        directory += ".again"
        model.save_pretrained(directory)
        assert type(model.config).__module__.startswith("transformers.")
save_file(results, sys.argv[2])
"""


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("remote")
    wanted = {}
    for name, case in CASES.items():
        factored, _ = write(case, folder / name)
        inputs = {key: value.tolist() for key, value in case.inputs().items()}
        wanted[name] = (case.auto, str(factored), inputs)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(wanted), str(folder / "logits.safetensors")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, load_file(folder / "logits.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_a_factored_directory_opens_without_rmtcli(
    name: str, remote: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    folder, outputs = remote
    import rmtcli.integrations.transformers  # noqa: F401

    case = CASES[name]
    wanted = logits(load(folder / name / "product", case), case)
    for step in ("first", "again"):
        # float32 rounds at 6e-8, in some dozen sums of 50 terms.
        assert (outputs[f"{name}.{step}"] - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    again = folder / name / "factored.again"
    assert {file.name for file in again.glob("*.py")} == {"rmtcli_loading.py"}
    kind = type(case.config).__name__
    saved = json.loads((again / "config.json").read_text())
    assert saved["auto_map"] == {"AutoConfig": f"rmtcli_loading.{kind}"}
