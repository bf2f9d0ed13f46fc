"""Memory and time of a calibration block by block, of a Llama with random weights.

python -m benchmarks.streamed                      # three depths of a small one
python -m benchmarks.streamed --blocks 22 --width 2048 --inner 5632 --vocabulary 32000 --lines 64

Each network is pruned to 60 % in the pivoted layout, block by block, with ``--sequential`` also so
with that option, with ``--heal`` also healed by two passes, and with ``--whole`` also as a whole,
each in a process of its own. Memory is the peak above what importing everything takes. With
``--bare`` there are two more rows: forward and backward passes of the same texts through the whole
network, without gradients of weights; and the algebra that the metric needs, in float64: for each
layer the eigenvectors of both moments (those of inputs once for layers that read the same tensor)
and of the Gram matrix of the weighed weights.
With ``--workers 2 4`` the network is instead calibrated and decomposed on local Dask clusters of so
many workers, of which one is killed while blocks run back (none of the first cluster); memory and
time are those of the client, and the last line says whether the outputs have the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 256
#: Ways to prune the network.
STREAMED, WHOLE = "block by block", "whole"
SEQUENTIAL, HEALED = f"{STREAMED}, sequential", f"{STREAMED}, healed"
#: The same on a local cluster, after the number of workers.
CLUSTER, KILLED = "workers", "workers, one of them killed"


def make(folder: Path, given: argparse.Namespace, blocks: int) -> int:
    """Write a Llama in bfloat16, its tokenizer and a text for it; return its parameters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    heads = max(given.width // 64, 4)
    config = LlamaConfig(
        vocab_size=given.vocabulary,
        hidden_size=given.width,
        intermediate_size=given.inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="400MB")
    words = [f"w{i}" for i in range(given.vocabulary - 2)]
    numbers = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=LENGTH,
    )
    whole.save_pretrained(folder)
    rng, shares = np.random.default_rng(0), 1 / (np.arange(len(words)) + 10)
    texts = rng.choice(words, (given.lines, LENGTH), p=shares / shares.sum())
    (folder / "text.txt").write_text("\n".join(" ".join(row) for row in texts))
    return sum(parameter.numel() for parameter in model.parameters())


def peak() -> int:
    """The largest number of bytes that this process has held."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def cluster_for(way: str) -> Any:
    """A local cluster of as many workers as the way says; nothing where it says none."""
    if not way.endswith((CLUSTER, KILLED)):
        return nullcontext()
    from distributed import LocalCluster

    workers = int(way.split()[0])
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, protocol="tcp"
    )


def kill_one(cluster: Any, spill: Path) -> None:
    """Kill a worker as soon as a block has run back."""
    from distributed import Client

    while not list(spill.glob("backward-*")):
        time.sleep(0.1)
    with Client(cluster, set_as_default=False) as client:
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)


def prune(folder: Path, way: str) -> dict[str, Any]:
    """Prune the network in this process; memory above the imports, and processor seconds."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import rmtcli
    import rmtcli.integrations.transformers
    import rmtcli.pipeline.prune
    import rmtcli.running.calibrate
    from rmtcli.pipeline import streaming

    streaming.SHARE = 1e9  # block by block only with a folder
    spill = None if way == WHOLE else folder.with_name("spill")
    settings = {"spill": spill, "sequential": way == SEQUENTIAL, "heal": 2 * (way == HEALED)}
    torch.set_num_threads(1)
    with cluster_for(way) as cluster:
        if way.endswith(KILLED):
            threading.Thread(target=kill_one, args=(cluster, spill), daemon=True).start()
        address = None if cluster is None else cluster.scheduler_address.replace("tcp", "dask", 1)
        Path("/proc/self/clear_refs").write_text("5")
        before, started = peak(), time.process_time()
        rmtcli.prune(
            folder,
            output := folder.with_name("pruned"),
            budget="60%",
            layout="pivoted",
            calibration=rmtcli.Calibration(folder / "text.txt", **settings),
            evaluation=rmtcli.Evaluation(task=f"causal-lm:length={LENGTH}"),
            executor=address,
            force=True,
        )
        made = {"bytes": peak() - before, "seconds": time.process_time() - started}
    content = b"".join(file.read_bytes() for file in sorted(output.glob("*.safetensors")))
    return {**made, "output": hashlib.sha256(content).hexdigest()}


def passes(folder: Path) -> dict[str, Any]:
    """Run the whole network forwards and backwards; memory and processor seconds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before, started = peak(), time.process_time()
    for line in (folder / "text.txt").read_text().splitlines():
        states = model.get_input_embeddings()(tokenizer(line, return_tensors="pt")["input_ids"])
        model(inputs_embeds=states.requires_grad_(True)).logits.square().mean().backward()
    return {"bytes": peak() - before, "seconds": time.process_time() - started}


def algebra(folder: Path) -> dict[str, Any]:
    """Decompose matrices of the sizes that the network's layers have; memory and seconds."""
    import torch
    from scipy.linalg import eigh
    from transformers import AutoConfig

    torch.set_num_threads(1)
    config = AutoConfig.from_pretrained(folder)
    width, inner = config.hidden_size, config.intermediate_size
    few = width * config.num_key_value_heads // config.num_attention_heads
    # Outputs and inputs of each layer, and whether another layer has the same inputs.
    shapes = [(width, width, False), (few, width, True), (few, width, True), (width, width, False)]
    shapes += [(inner, width, False), (inner, width, True), (width, inner, False)]
    before, total = peak(), 0.0
    taken: dict[int, float] = {}
    for outputs, inputs, shared in shapes:
        for side in (outputs, min(outputs, inputs), *(() if shared else (inputs,))):
            if side not in taken:
                rows = np.random.default_rng(side).standard_normal((side, side + 1))
                gram = rows @ rows.T
                started = time.process_time()
                eigh(gram, overwrite_a=True, check_finite=False)
                taken[side] = time.process_time() - started
            total += taken[side]
    return {"bytes": peak() - before, "seconds": total * config.num_hidden_layers}


def apart(what: str, folder: Path) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streamed", "--only", what, str(folder)]
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(made.stdout.splitlines()[-1]))


def main() -> None:
    """Print a table, a row per depth."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--inner", type=int, default=704)
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--lines", type=int, default=16)
    parser.add_argument("--whole", action="store_true", help="also run each network whole")
    parser.add_argument("--sequential", action="store_true", help="also fit layers again")
    parser.add_argument("--bare", action="store_true", help="also measure passes and algebra")
    parser.add_argument("--heal", action="store_true", help="also heal by two passes")
    parser.add_argument("--workers", type=int, nargs="+", default=[], help="of local clusters")
    parser.add_argument("--only", nargs=2, help="measure one thing of a folder")
    given = parser.parse_args()
    if given.only:
        what, folder = given.only[0], Path(given.only[1])
        bare = {"passes": passes, "algebra": algebra}.get(what)
        made = bare(folder) if bare else prune(folder, what)
        print(json.dumps(made))
        return
    print("| blocks | parameters | run | peak memory, MB | CPU seconds |")
    print("|---|---|---|---|---|")
    for blocks in given.blocks:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "dense"
            size = make(folder, given, blocks)
            ways = [f"{n} {KILLED if i else CLUSTER}" for i, n in enumerate(given.workers)]
            ways = ways or [STREAMED, *[SEQUENTIAL] * given.sequential, *[HEALED] * given.heal]
            ways += [WHOLE] * given.whole
            outputs = set()
            for what in (*ways, *["passes", "algebra"] * given.bare):
                made = apart(what, folder)
                if what.endswith((CLUSTER, KILLED)):
                    outputs.add(made["output"])
                cells = blocks, f"{size:,}", what, f"{made['bytes'] / 1e6:.0f}"
                print(f"| {' | '.join(map(str, cells))} | {made['seconds']:.0f} |", flush=True)
            if outputs:
                print("The clusters' outputs", "are equal." if len(outputs) == 1 else "differ.")


if __name__ == "__main__":
    main()
