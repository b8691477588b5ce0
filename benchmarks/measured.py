"""Reads results back: for docs/performance.md, and for the figures on it."""

import dataclasses
import json
import pathlib
from typing import Any

from benchmarks import common

FAILED = "failed"
"""The key of a row that ended in an error, beside `case`, which says what it was to measure."""
STATIC = "STATIC, exact"
GPU = "`bash benchmarks/gpu.sh` on a machine with a GPU"


@dataclasses.dataclass(frozen=True)
class Result:
    """One file of results.

    Attributes:
        name: its stem.
        content: of the file.
    """

    name: str
    content: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was measured, where it is a list."""
        return [row for row in self.content["rows"] if FAILED not in row]

    def failures(self) -> list[str]:
        """What was to be measured and ended in an error."""
        rows = self.content.get("rows")
        return [
            f"not measured: {row['case']} ({row[FAILED]})"
            for row in (rows if isinstance(rows, list) else ())
            if FAILED in row
        ]

    def made(self) -> str:
        """A sentence on when, where and by which versions it was measured."""
        given = self.content["conditions"]
        cores = f"{given['cpus']} core{'s' if given['cpus'] != 1 else ''}"
        device = given["device"].removeprefix("1 x ")
        where = f"{cores} ({given['machine']})" if device == "cpu" else device
        load = given.get("load_average")
        words = [
            f"`{self.name}.json`: {given['date'][:10]}",
            where,
            f"jax {given['jax']}",
            f"commit {given['commit']}",
        ]
        if load is not None:
            words.append(f"load {load}")
        return "; ".join([", ".join(words), *self.failures()])


def load(name: str) -> Result | None:
    """`<name>.json` of the folder of results, or None where it has not been measured."""
    path = pathlib.Path(common.RESULTS) / f"{name}.json"
    return Result(name, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def trie_rows() -> tuple[list[Result], list[dict[str, Any]]]:
    """The mask-and-advance step: the suite's catalogues, and those that are measured apart.

    The smallest catalogue is measured once more beside the largest; the suite's own time is the one shown.
    """
    names = ("trie_step", "trie_step_20m", "trie_step_skewed")
    found = [one for one in map(load, names) if one is not None]
    rows = {}
    for one in found:
        for row in one.rows:
            rows.setdefault(tuple(row[key] for key in ("kind", "items", "batch", "beams")), row)
    return found, [*rows.values()]


def build_rows() -> tuple[list[Result], list[dict[str, Any]]]:
    """Building the trie, likewise."""
    found = [one for one in map(load, ("trie_build", "trie_build_20m")) if one is not None]
    return found, [row for one in found for row in one.rows]


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times faster, or smaller, than a peer.

    Attributes:
        what: is compared.
        peer: with whom.
        ours: with its unit.
        theirs: likewise; empty where not measured.
        times: theirs over ours; None where not measured.
        goal: what it should be at least; None where none was set.
        missing: why it is not measured.
    """

    what: str
    peer: str
    ours: str = ""
    theirs: str = ""
    times: float | None = None
    goal: float | None = None
    missing: str = ""


def ratios() -> list[Ratio]:
    """Every comparison with a peer, those that have not been measured too."""
    return [
        *_decoding(),
        *_training(),
        _training_beside_t5x(),
        *_trie_steps(),
        *_trie_builds(),
        *_clustering(),
        *_on_gpu(),
    ]


def _decoding() -> list[Ratio]:
    return [
        *_decoding_of("decode_vs_hf", 20, {16: 6.0, 1: 8.0}),
        *_decoding_of("decode_wide", 200, {}),
    ]


def _decoding_of(name: str, beams: int, goals: dict[int, float]) -> list[Ratio]:
    found, peer = load(name), "Hugging Face `generate`"
    if found is None:
        return [_unmeasured(f"T5-small, Beauty, {beams} beams, float32", peer, name)]
    made = []
    for row in found.rows:
        title = (
            f"T5-small, Beauty, {found.content['settings']['beams']} beams, batch {row['batch']}"
        )
        if "hf_wall_s" not in row:
            made.append(Ratio(title, peer, missing=common.how_to_install("torch")))
            continue
        made.append(
            Ratio(
                title,
                peer,
                seconds(row["ours_wall_s"]),
                seconds(row["hf_wall_s"]),
                row["hf_wall_s"] / row["ours_wall_s"],
                goals.get(row["batch"]),
            )
        )
    return made


def _training() -> list[Ratio]:
    found, peer = load("train_vs_hf"), "PyTorch, Hugging Face's T5"
    if found is None:
        return [_unmeasured("T5-small training steps, float32", peer, "train_vs_hf")]
    titles = {"dense": ("equal dense shapes", 1.0), "openp5": ("OpenP5's examples on Beauty", 1.5)}
    made = []
    for row in found.rows:
        what, goal = titles[row["batches"]]
        title = f"training T5-small, {what}"
        if "hf_wall_s" not in row:
            made.append(Ratio(title, peer, missing=common.how_to_install("torch")))
            continue
        made.append(
            Ratio(
                title,
                peer,
                f"{row['ours_examples_per_s']:.2f} examples/s",
                f"{row['hf_examples_per_s']:.2f} examples/s",
                row["times_faster"],
                goal,
            )
        )
    return made


def _training_beside_t5x() -> Ratio:
    title, peer = "training T5-small, equal dense shapes, Adafactor", "T5X's trainer"
    found = load("train_vs_t5x")
    if found is None:
        return _unmeasured(title, peer, "train_vs_t5x", "see benchmarks/README.md; it")
    row = found.content
    if "t5x_wall_s" not in row:
        return Ratio(title, peer, missing=common.how_to_install("t5x"))
    return Ratio(
        title,
        peer,
        f"{row['ours_examples_per_s']:.2f} examples/s",
        f"{row['t5x_examples_per_s']:.2f} examples/s",
        row["times_faster"],
        1.0,
    )


def _trie_steps() -> list[Ratio]:
    found, rows = trie_rows()
    if not found:
        return [_unmeasured("mask and advance, 8 tokens", STATIC, "trie_step")]
    return [_trie_step(row) for row in rows]


def _trie_step(row: dict[str, Any], where: str = "") -> Ratio:
    title = (
        f"{where}mask and advance, {row['items']:,} {row['kind'].replace('_', '-')} ids,"
        f" batch {row['batch']}, {row['beams']} beams"
    )
    if "static_exact_ms" not in row:
        return Ratio(title, STATIC, missing=common.how_to_install("static"))
    ours, theirs = row["ours_ms"] / 1e3, row["static_exact_ms"] / 1e3
    return Ratio(title, STATIC, seconds(ours), seconds(theirs), theirs / ours, 1.0)


def _trie_builds() -> list[Ratio]:
    found, rows = build_rows()
    if not found:
        return [_unmeasured("building the trie; bytes an item", "STATIC", "trie_build")]
    made = []
    for row in rows:
        title = f"{row['items']:,} sorted ids of 8 tokens"
        if "static_s" not in row:
            made.append(Ratio(title, "STATIC", missing=common.how_to_install("static")))
            continue
        ours, theirs = row["sorted_s"], row["static_s"]
        made.append(
            Ratio(
                f"building, {title}", "STATIC", seconds(ours), seconds(theirs), theirs / ours, 1.0
            )
        )
        ours, theirs = row["bytes_per_item"], row["static_bytes_per_item"]
        made.append(
            Ratio(
                f"bytes an item, {title}", "STATIC", f"{ours:.1f}", f"{theirs:.1f}", theirs / ours
            )
        )
    return made


def _clustering() -> list[Ratio]:
    title = "spectral clustering of Beauty, 20 clusters, processor time"
    name, peer = "collaborative_vs_sklearn", "scikit-learn"
    found = load(name)
    if found is None:
        return [_unmeasured(title, peer, name, "see benchmarks/README.md; it")]
    (row,) = [one for one in found.content["settings"] if "sklearn_first_level" in one]
    ours = row["first_level"]["cpu_seconds"]
    theirs = row["sklearn_first_level"]["cpu_seconds"]
    return [Ratio(title, peer, seconds(ours), seconds(theirs), theirs / ours)]


def _on_gpu() -> list[Ratio]:
    return [*_decoding_on_gpu(), *_trie_steps_on_gpu()]


def _decoding_on_gpu() -> list[Ratio]:
    found, peer = load("gpu_decode"), "Hugging Face `generate`, bfloat16"
    title, goal = "GPU: T5-small, 20 beams", 10.0
    if found is None:
        return [_unmeasured(title, peer, "gpu_decode", GPU)]
    absent = found.content["peer"]
    why = absent if isinstance(absent, str) else found.content.get("peer_failed")
    rows = {row["batch"]: row for row in found.rows if row["dtype"] == "bfloat16"}
    made = []
    for batch in found.content["settings"]["batches"]:
        row, what = rows.get(batch), f"{title}, batch {batch}"
        if row is not None and "hf_s" in row:
            times = row["times_faster"]
            ours, theirs = seconds(row["p50_s"]), seconds(row["hf_s"])
            made.append(Ratio(what, peer, ours, theirs, times, goal))
        else:
            ended = "not measured: `gpu_decode` ended before the peer's turn"
            made.append(Ratio(what, peer, goal=goal, missing=why or ended))
    return made


def _trie_steps_on_gpu() -> list[Ratio]:
    found = load("gpu_trie_step")
    if found is None:
        return [_unmeasured("GPU: mask and advance, 8 tokens", STATIC, "gpu_trie_step", GPU)]
    return [_trie_step(row, "GPU: ") for row in found.rows]


def _unmeasured(what: str, peer: str, name: str, how: str = "`make bench`") -> Ratio:
    return Ratio(what, peer, missing=not_yet(name, how))


def not_yet(name: str, how: str = "`make bench`") -> str:
    """What the page says in place of a result."""
    return f"not measured yet: {how} writes `{name}.json`"


def digits(value: float | None) -> str:
    """Three digits, and never an exponent; None is what a benchmark that was cut short left out."""
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """A time in the unit that suits it; None likewise."""
    if value is None:
        return digits(value)
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{digits(value / size)} {unit}"
    return f"{digits(value / 1e-6)} µs"
