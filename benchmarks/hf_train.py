"""Training steps of Hugging Face's T5 as a process that answers; `hf_peer.py` starts it.

It runs in the peer's own environment and imports nothing of genrec_jax. The folder it is given holds
`config.json`, `params.npz` (parameters by Hugging Face's names) and `batches.npz`: for each batch i,
`inputs_i` and `targets_i`, padded with 0. Each line of its input is a JSON list of batch numbers; the
answer is a JSON object with the time of all of them, and the loss of each before its update.
"""

import json
import pathlib
import sys
import time

import numpy as np
import torch
import transformers
from hf_generate import load_model

LEARNING_RATE = 1e-3


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    if len(sys.argv) > 2:
        torch.set_num_threads(int(sys.argv[2]))
    model = load_model(folder)
    model.eval()  # no dropout, on either side
    # OpenP5's settings, as in genrec_jax/training/adamw.py.
    decayed, others = [], []
    for name, tensor in model.named_parameters():
        (others if "layer_norm" in name or "relative" in name else decayed).append(tensor)
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, eps=1e-6)
    stored = {
        name: torch.from_numpy(array.astype(np.int64))
        for name, array in np.load(folder / "batches.npz").items()
    }

    def step(number: int) -> float:
        inputs, targets = stored[f"inputs_{number}"], stored[f"targets_{number}"]
        labels = targets.masked_fill(targets == 0, -100)
        loss = model(input_ids=inputs, attention_mask=(inputs > 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"threads": torch.get_num_threads(), **versions}), flush=True)
    for line in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        losses = [step(number) for number in json.loads(line)]
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(json.dumps({"wall_s": wall, "cpu_s": processor, "losses": losses}), flush=True)


if __name__ == "__main__":
    main()
