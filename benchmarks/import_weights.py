"""Peak memory of importing a Hugging Face folder, beyond the parameters themselves and the file cache.

A synthetic T5 1.1 folder is written in shards (random bytes are enough: nothing is computed), then imported
by 1 process and by 2, which share every parameter. Each process counts its anonymous memory (RssAnon and
RssShmem: what is not the file cache), sampled every 2 ms, from just before the weights are opened.

    python -m benchmarks.import_weights --size xl --folder /tmp/xl --record
    python -m benchmarks.import_weights --size tiny --folder /tmp/tiny
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np

SIZES = {
    # embed_dim, num_heads, head_dim, mlp_dim, layers of each stack, rows
    "tiny": (64, 4, 16, 128, 2, 1152),
    "large": (1024, 16, 64, 2816, 24, 32128),
    "xl": (2048, 32, 64, 5120, 24, 32128),
}
SAMPLE_SECONDS = 0.002


def config_of(size: str):
    from genrec_jax.model.config import T5Config

    embed, heads, head_dim, mlp, layers, rows = SIZES[size]
    return T5Config(
        vocab_size=rows,
        embed_dim=embed,
        num_heads=heads,
        head_dim=head_dim,
        mlp_dim=mlp,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        whole_word_embedding=False,
    )


def write_folder(folder: pathlib.Path, size: str, shard_bytes: int) -> None:
    """A Hugging Face folder of the size, its tensors cut from one block of random numbers."""
    from genrec_jax.checkpoint import foreign_config, tensor_files, weight_names

    config = config_of(size)
    shapes = weight_names.their_shapes("hugging_face", config)
    largest = max(int(np.prod(shape)) for shape in shapes.values())
    block = np.random.default_rng(0).standard_normal(largest, np.float32)
    folder.mkdir(parents=True)
    names, shards, used = sorted(shapes), [[]], 0
    for name in names:
        nbytes = 4 * int(np.prod(shapes[name]))
        if shards[-1] and used + nbytes > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += nbytes
    weight_map = {}
    for number, part in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensor_files.write_safetensors(
            folder / file,
            {name: shapes[name] for name in part},
            lambda name: block[: int(np.prod(shapes[name]))].reshape(shapes[name]),
        )
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(foreign_config.to_hugging_face(config)))


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    status = pathlib.Path("/proc/self/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return 1024 * sum(int(lines[key].split()[0]) for key in ("RssAnon", "RssShmem"))


class Peak:
    """The highest `anonymous_bytes` while the block runs, beyond what it began with."""

    def __enter__(self):
        self.first = self.highest = anonymous_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(SAMPLE_SECONDS):
            self.highest = max(self.highest, anonymous_bytes())

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.highest = max(self.highest, anonymous_bytes())

    @property
    def added(self) -> int:
        return self.highest - self.first


def worker(folder: str, output: str, number: int, count: int, port: int) -> None:
    """One process: imports and prints what it took."""
    import jax

    if count > 1:
        # Process 0 hashes what was written, which takes minutes; the others wait for it.
        jax.distributed.initialize(
            f"127.0.0.1:{port}", count, number, shutdown_timeout_seconds=3600
        )
    from genrec_jax.checkpoint import imported
    from genrec_jax.checkpoint.import_weights import ForeignWeights
    from genrec_jax.parallel import mesh as mesh_lib

    mesh = mesh_lib.make_mesh(1, jax.device_count(), 1)
    jax.block_until_ready(jax.jit(lambda: jax.numpy.zeros(8))())
    began = time.perf_counter()
    with Peak() as loading:
        weights = ForeignWeights.open(folder)
        params = weights.params(mesh)
        jax.block_until_ready(params)
    seconds = time.perf_counter() - began
    own = sum(
        shard.data.nbytes for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards
    )
    largest = max(4 * int(np.prod(shape)) for shape in weights.source.shapes.values())
    began = time.perf_counter()
    with Peak() as saving:
        pathlib.Path(output).mkdir(parents=True, exist_ok=True)
        imported.write(pathlib.Path(output), params, weights.config, vocabulary=None, source={})
    measured = {
        "process": number,
        "parameters_bytes": own,
        "largest_tensor_bytes": largest,
        "beyond_parameters_bytes": loading.added - own,
        "load_seconds": round(seconds, 2),
        "saving_beyond_bytes": saving.added,
        "save_seconds": round(time.perf_counter() - began, 2),
    }
    print(json.dumps(measured), flush=True)


def measure(folder: pathlib.Path, scratch: pathlib.Path, count: int) -> list[dict]:
    """Imports with `count` processes at once."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    shutil.rmtree(scratch, ignore_errors=True)
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--worker", *map(str, (folder, scratch, n, count, port))],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for n in range(count)
    ]
    outputs = [process.communicate()[0] for process in processes]
    shutil.rmtree(scratch, ignore_errors=True)
    if any(process.returncode for process in processes):
        raise SystemExit("a process failed; see above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def main() -> None:
    if "--worker" in sys.argv:
        folder, output, number, count, port = sys.argv[sys.argv.index("--worker") + 1 :]
        worker(folder, output, int(number), int(count), int(port))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="xl")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="made if absent")
    parser.add_argument("--shard-bytes", type=int, default=5_000_000_000)
    parser.add_argument("--record", action="store_true", help="write results/import_weights.json")
    arguments = parser.parse_args()
    if not arguments.folder.exists():
        write_folder(arguments.folder, arguments.size, arguments.shard_bytes)
    scratch = arguments.folder.with_name(f"{arguments.folder.name}.imported")
    results = {"size": arguments.size, "load_average": os.getloadavg()[0]}
    for count in (1, 2):
        runs = measure(arguments.folder, scratch, count)
        results[f"{count}_processes"] = runs
        for run in runs:
            allowed = 1.1 * run["largest_tensor_bytes"]
            verdict = "within" if run["beyond_parameters_bytes"] <= allowed else "BEYOND"
            print(
                f"{count} processes, process {run['process']}: parameters"
                f" {run['parameters_bytes'] / 1e6:,.0f} MB; beyond them"
                f" {run['beyond_parameters_bytes'] / 1e6:,.0f} MB, {verdict} one tensor plus 10%"
                f" ({allowed / 1e6:,.0f} MB); loaded in {run['load_seconds']} s; saving added"
                f" {run['saving_beyond_bytes'] / 1e6:,.0f} MB"
            )
    if arguments.record:
        from benchmarks import common

        print(f"written to {common.write_result('import_weights', results)}")


if __name__ == "__main__":
    main()
