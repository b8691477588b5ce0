"""Hugging Face's constrained beam search as a process that answers; `hf_peer.py` starts it.

It runs in the peer's own environment and imports nothing of genrec_jax. The folder it is given holds
`config.json` (the sizes of the T5), `params.npz` (its parameters by Hugging Face's names), `ids.npz`
(the catalogue's ids, ragged) and `prompts.npz`; further words are threads, device and type of numbers.
Each line of its input is a JSON object, such as `{"batch": 16, "beams": 20}`; the answer to each is one
line of JSON.
"""

import itertools
import json
import pathlib
import sys
import time

import numpy as np
import torch
import transformers

EOS = 1


def load_model(folder: pathlib.Path) -> transformers.T5ForConditionalGeneration:
    config = transformers.T5Config(**json.loads((folder / "config.json").read_text()))
    model = transformers.T5ForConditionalGeneration(config)
    arrays = dict(np.load(folder / "params.npz"))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
    if unexpected or set(missing) - tied:
        raise SystemExit(f"parameters do not fit: {missing} missing, {unexpected} unexpected")
    model.tie_weights()
    return model.float().eval()


def children_of(ids: list[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """The tokens that may follow each prefix of an id, after the start token 0."""
    children: dict[tuple[int, ...], set[int]] = {}
    for tokens in ids:
        sequence = (0, *tokens, EOS)
        for length in range(1, len(sequence)):
            children.setdefault(sequence[:length], set()).add(sequence[length])
    return {prefix: sorted(tokens) for prefix, tokens in children.items()}


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    if len(sys.argv) > 2:
        torch.set_num_threads(int(sys.argv[2]))
    device = torch.device(sys.argv[3] if len(sys.argv) > 3 else "cpu")
    dtype = getattr(torch, sys.argv[4] if len(sys.argv) > 4 else "float32")
    model = load_model(folder).to(device, dtype)
    stored = dict(np.load(folder / "ids.npz"))
    values, offsets = stored["values"], stored["offsets"]
    ids = [tuple(values[start:stop].tolist()) for start, stop in itertools.pairwise(offsets)]
    children, item_of = children_of(ids), {tokens: item for item, tokens in enumerate(ids)}
    prompts = torch.from_numpy(np.load(folder / "prompts.npz")["tokens"].astype(np.int64)).to(
        device
    )
    steps = max(map(len, ids)) + 1

    def allowed(_: int, sequence: torch.Tensor) -> list[int]:
        return children.get(tuple(sequence.tolist()), [EOS])

    def item(sequence: list[int]) -> int:
        return item_of[tuple(sequence[1 : sequence.index(EOS)])]

    def generate(batch: int, beams: int):
        tokens = prompts[:batch]
        return model.generate(
            tokens,
            attention_mask=(tokens > 0).long(),
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=0.0,
            do_sample=False,
            max_new_tokens=steps,
            prefix_allowed_tokens_fn=allowed,
            return_dict_in_generate=True,
            output_scores=True,
        )

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    versions |= {"device": str(device), "dtype": str(dtype)}
    print(json.dumps({"threads": torch.get_num_threads(), **versions}), flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            asked = json.loads(line)
            wall, processor = time.perf_counter(), time.process_time()
            found = generate(asked["batch"], asked["beams"])
            sequences = found.sequences.tolist()  # waits for a GPU to be done
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            items = [item(sequence) for sequence in sequences]
            answer = {"wall_s": wall, "cpu_s": processor, "items": items}
            answer["scores"] = found.sequences_scores.tolist()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
