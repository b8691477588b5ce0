"""Peak memory of importing a Hugging Face folder, and of reading back what was imported.

Beyond the parameters themselves and the file cache, that is. A synthetic T5 1.1 folder is written in shards
(random bytes are enough: nothing is computed). One process, then two that share every parameter, import
and save it; as many new ones read it back onto the same mesh, as a run that starts from it does, and must
get what was imported. Each process counts its anonymous memory (RssAnon and RssShmem: what is not the file
cache), sampled every 2 ms, from just before the weights are opened.

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
import zlib

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


def checksum(params) -> int:
    """Of all that this process's devices hold; on a CPU nothing is copied."""
    import jax

    total = 0
    for leaf in jax.tree.leaves(params):
        for shard in leaf.addressable_shards:
            total = zlib.crc32(np.asarray(shard.data).reshape(-1).view(np.uint8).data, total)
    return total


def worker(task: str, folder: str, output: str, number: int, count: int, port: int) -> None:
    """One process: imports and saves, or reads back, and prints what it took."""
    import jax

    if count > 1:
        # Process 0 hashes what was written, which takes minutes; the others wait for it.
        jax.distributed.initialize(
            f"127.0.0.1:{port}", count, number, shutdown_timeout_seconds=3600
        )
    from genrec_jax.parallel import mesh as mesh_lib

    mesh = mesh_lib.make_mesh(1, jax.device_count(), 1)
    jax.block_until_ready(jax.jit(lambda: jax.numpy.zeros(8))())
    measured = (_import if task == "import" else _read)(folder, pathlib.Path(output), mesh)
    print(json.dumps({"process": number, **measured}), flush=True)


def _import(folder: str, output: pathlib.Path, mesh) -> dict[str, float]:
    import jax

    from genrec_jax.checkpoint import imported
    from genrec_jax.checkpoint.import_weights import ForeignWeights

    began = time.perf_counter()
    with Peak() as loading:
        weights = ForeignWeights.open(folder)
        params = weights.params(mesh)
        jax.block_until_ready(params)
    seconds = time.perf_counter() - began
    own = bytes_of(params)
    began = time.perf_counter()
    with Peak() as saving:
        output.mkdir(parents=True, exist_ok=True)
        imported.write(output, params, weights.config, vocabulary=None, source={})
    return {
        "parameters_bytes": own,
        "largest_tensor_bytes": max(4 * int(np.prod(s)) for s in weights.source.shapes.values()),
        "beyond_parameters_bytes": loading.added - own,
        "load_seconds": round(seconds, 2),
        "saving_beyond_bytes": saving.added,
        "save_seconds": round(time.perf_counter() - began, 2),
        "checksum": checksum(params),
    }


def _read(folder: str, output: pathlib.Path, mesh) -> dict[str, float]:
    import jax

    from genrec_jax.checkpoint.imported import ImportedWeights

    began = time.perf_counter()
    with Peak() as reading:
        params = ImportedWeights.load(output).restore_params(mesh)
        jax.block_until_ready(params)
    return {
        "reading_beyond_parameters_bytes": reading.added - bytes_of(params),
        "read_seconds": round(time.perf_counter() - began, 2),
        "checksum": checksum(params),
    }


def bytes_of(params) -> int:
    """What the devices of this process hold."""
    import jax

    return sum(
        shard.data.nbytes for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards
    )


def measure(folder: pathlib.Path, scratch: pathlib.Path, count: int) -> list[dict]:
    """Imports with `count` processes at once, then reads back with as many."""
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        written = run_workers("import", folder, scratch, count)
        read = run_workers("read", folder, scratch, count)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if any(a.pop("checksum") != b.pop("checksum") for a, b in zip(written, read, strict=True)):
        raise SystemExit("what was read back is not what was imported")
    return [a | b for a, b in zip(written, read, strict=True)]


def run_workers(task: str, folder: pathlib.Path, scratch: pathlib.Path, count: int) -> list[dict]:
    """What each of `count` processes printed."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    places = [(folder, scratch, number, count, port) for number in range(count)]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--worker", task, *map(str, place)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for place in places
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process failed; see above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def main() -> None:
    if "--worker" in sys.argv:
        task, folder, output, number, count, port = sys.argv[sys.argv.index("--worker") + 1 :]
        worker(task, folder, output, int(number), int(count), int(port))
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
            beyond = {
                "importing": run["beyond_parameters_bytes"],
                "saving": run["saving_beyond_bytes"],
                "reading back": run["reading_beyond_parameters_bytes"],
            }
            verdict = "within" if max(beyond.values()) <= allowed else "BEYOND"
            told = ", ".join(f"{what} {added / 1e6:,.1f} MB" for what, added in beyond.items())
            print(
                f"{count} processes, process {run['process']}: parameters"
                f" {run['parameters_bytes'] / 1e6:,.0f} MB; beyond them {told}: {verdict} one tensor plus"
                f" 10% ({allowed / 1e6:,.0f} MB); imported in {run['load_seconds']} s, saved in"
                f" {run['save_seconds']} s, read back in {run['read_seconds']} s"
            )
    if arguments.record:
        from benchmarks import common

        print(f"written to {common.write_result('import_weights', results)}")


if __name__ == "__main__":
    main()
