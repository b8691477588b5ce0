"""The parts of docs/performance.md that come from results: tables, and what has not been measured."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks import measured
from benchmarks.measured import GPU, Result, digits, not_yet, seconds

FIGURES = "performance"
"""The figures' folder beside the page."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers, on the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    cells = ([cell.replace("|", "/") for cell in row] for row in rows)
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])


def section(found: Sequence[Result | None], name: str, content: str, how: str = "") -> str:
    """Content with its origin, or the sentence that it is not measured yet."""
    there = [one for one in found if one is not None]
    if not there:
        sentence = not_yet(name, how) if how else not_yet(name)
        return f"{sentence[0].upper()}{sentence[1:]}."
    return content + "\n\n" + "<br>".join(f"<sub>{one.made()}</sub>" for one in there)


def figure(name: str, says: str) -> str:
    """An image of the page."""
    return f"![{says}]({FIGURES}/{name}.svg)\n\n"


def ratios() -> str:
    """Every comparison with a peer; above 1 is in our favour."""
    rows = []
    for one in measured.ratios():
        if one.times is None:
            rows.append((one.what, one.peer, "", "", one.missing, goal(one.goal)))
        else:
            times = f"{digits(one.times)}x"
            rows.append((one.what, one.peer, one.ours, one.theirs, times, goal(one.goal)))
    header = ("what", "peer", "ours", "peer's", "times faster or smaller", "goal")
    drawn = any(one.times is not None for one in measured.ratios())
    shown = figure("ratios", "Times faster or smaller than each peer") if drawn else ""
    return shown + table(header, rows)


def goal(value: float | None) -> str:
    """A goal's cell."""
    return "" if value is None else f"{value:g}x"


def trie_step() -> str:
    """The mask-and-advance step by catalogue, batch and beams."""
    found, rows = measured.trie_rows()
    cells = []
    for row in rows:
        theirs = [row.get(f"static_{one}_ms") for one in ("exact", "30")]
        cells.append(
            (
                f"{row['items']:,} {row['kind'].replace('_', '-')}",
                str(row["batch"]),
                str(row["beams"]),
                seconds(row["ours_ms"] / 1e3),
                *("not measured" if ms is None else seconds(ms / 1e3) for ms in theirs),
                f"{row['ratio_exact']:.2f}" if "ratio_exact" in row else "",
                f"{row['same']:.4f}" if "same" in row else "",
            )
        )
    header = (
        *("ids", "batch", "beams", "ours", "STATIC, exact", "STATIC, 30"),
        *("ours / exact", "same ids as exact"),
    )
    content = figure("trie_step", "Time of a search without a network by items, beams and batch")
    return section(found, "trie_step", content + table(header, cells) + growth(found))


def growth(found: Sequence[Result]) -> str:
    """How much longer the largest catalogue of each kind takes than the smallest beside it.

    Both times are of one file, so of one process: times of two days are not compared.
    """
    lines = []
    for kind in dict.fromkeys(row["kind"] for one in found for row in one.rows):
        files = [[row for row in one.rows if row["kind"] == kind] for one in found]
        rows = max(files, key=lambda rows: max((row["items"] for row in rows), default=0))
        times = {(row["items"], row["batch"], row["beams"]): row["ours_ms"] for row in rows}
        sizes = sorted({items for items, _, _ in times})
        ratios = [
            f"{ms / times[sizes[0], batch, beams]:.1f}x at batch {batch} and {beams} beams"
            for (items, batch, beams), ms in sorted(times.items())
            if items == sizes[-1] and (sizes[0], batch, beams) in times
        ]
        if len(sizes) > 1:
            lines.append(f"* {kind.replace('_', '-')}: {', '.join(ratios)}")
    if not lines:
        return ""
    said = "The largest catalogue takes, of the time of the smallest in the same process:"
    return f"\n\n{said}\n\n" + "\n".join(lines)


def trie_build() -> str:
    """Building, size, saving, changing."""
    found, rows = measured.build_rows()
    cells = []
    for row in rows:
        changes = f"{row['changes']:,} in {seconds(row['changes_s'])}" if "changes_s" in row else ""
        if "update_s" in row:
            changes += f", with names and prompts in {seconds(row['update_s'])}"
        cells.append(
            (
                f"{row['items']:,}",
                seconds(row["sorted_s"]),
                seconds(row["unsorted_s"]),
                seconds(row["static_s"]) if "static_s" in row else "not measured",
                digits(row["bytes_per_item"]),
                digits(row["static_bytes_per_item"])
                if "static_bytes_per_item" in row
                else "not measured",
                f"{row['memory_gib']:.1f} GiB",
                changes,
            )
        )
    header = (
        *("items", "sorted", "unsorted", "STATIC, sorted", "bytes an item", "STATIC's"),
        *("peak memory", "changes"),
    )
    content = figure("bytes", "Bytes an item by size of the catalogue") + table(header, cells)
    beauty = next((one.content["beauty"] for one in found if one.content.get("beauty")), None)
    if beauty:
        size = f"{beauty['bytes_per_item']:.1f} bytes each"
        content += f"\n\nBeauty's {beauty['items']:,} real ids take {size}."
    return section(found, "trie_build", content)


def constraints() -> str:
    """What exclusions and subsets cost."""
    found = measured.load("constraints")
    rows = [
        (
            f"{row['items']:,}",
            str(row["batch"]),
            row["constraint"],
            seconds(row["seconds"]),
            f"{row['ratio']:.2f}",
            str(row["new_compilations"]),
        )
        for row in (found.rows if found else ())
    ]
    header = ("items", "batch", "list", "time", "ratio to none", "compilations")
    return section([found], "constraints", table(header, rows))


def decode() -> str:
    """A search with its network, beside the floor, and its parts."""
    found, parts = measured.load("decode_vs_hf"), measured.load("decode_parts_one_core")
    wide = measured.load("decode_wide")
    both = [one for one in (found, wide) if one is not None]
    rows = [
        (
            str(row["batch"]),
            str(one.content["settings"]["beams"]),
            seconds(row["ours_wall_s"]),
            seconds(row["hf_wall_s"]) if "hf_wall_s" in row else "not measured",
            seconds(row["floor_s"]),
            f"{row['of_floor']:.2f}x",
            str(row["steps"]),
            f"{row['compile_s']:.1f} s",
            same_lists(row),
        )
        for one in both
        for row in one.rows
    ]
    header = (
        "batch",
        "beams",
        "ours",
        "HF",
        "floor",
        "of floor",
        "steps",
        "compile",
        "same places as HF",
    )
    text = section(both or [None], "decode_vs_hf", table(header, rows))
    names = list(parts.rows[0]["parts_s"]) if parts else []
    rows = [
        (str(row["batch"]), *(f"{row['parts_s'][name] * 1e3:.1f}" for name in names))
        for row in (parts.rows if parts else ())
    ]
    content = "Milliseconds of each part on one core, where they add up to the whole:\n\n"
    content += table(("batch", *names), rows)
    return text + "\n\n" + section([parts], "decode_parts_one_core", content)


def same_lists(row: dict[str, Any]) -> str:
    """How many places of the lists hold the peer's item."""
    lists = row.get("lists")
    return f"{lists['same_items']}/{lists['places']}" if lists else ""


def recommend() -> str:
    """Latency from Python."""
    found = measured.load("recommend_latency")
    rows = [
        (
            str(row["batch"]),
            seconds(row["p50_s"]),
            seconds(row["p99_s"]),
            seconds(row["p50_s"] / row["batch"]),
            f"{row['compile_s']:.1f} s",
            f"{row['again_s']:.1f} s",
            str(row["calls"]),
        )
        for row in (found.rows if found else ())
    ]
    header = ("batch", "p50", "p99", "p50 a user", "compile", "from the cache", "calls")
    content = figure("decode", "Latency by batch; time a user by beams; parts of a search")
    return section([found], "recommend_latency", content + table(header, rows))


def training() -> str:
    """Training steps beside the floor."""
    found = measured.load("train_vs_hf")
    rows = [
        (
            {"dense": "equal dense shapes", "openp5": "OpenP5's examples"}[row["batches"]],
            f"{row['ours_examples_per_s']:.2f}",
            f"{row['hf_examples_per_s']:.2f}" if "hf_wall_s" in row else "not measured",
            f"{row['of_floor']:.2f}x",
            f"{row['largest_loss_difference']:.1e}" if "hf_wall_s" in row else "",
        )
        for row in (found.rows if found else ())
    ]
    header = ("batches", "ours, examples/s", "HF, examples/s", "of floor", "losses apart")
    text = section([found], "train_vs_hf", table(header, rows))
    step = measured.load("train_step")
    rows = [
        (
            f"{row['rows']} x {row['row_length']}",
            "yes" if row["scan"] else "no",
            seconds(row["wall_s"]),
            digits(row["examples_per_s"]),
            f"{row['share_of_matmul']:.0%}",
        )
        for row in (step.content["results"] if step else ())
    ]
    header = ("rows", "scanned", "step", "examples a processor second", "of the matmul rate")
    content = "A small model, the same examples packed into rows of different lengths:\n\n"
    return text + "\n\n" + section([step], "train_step", content + table(header, rows))


def pipelines() -> str:
    """Examples a second of the input pipelines, and preparing."""
    found, alignment = measured.load("input_pipeline"), measured.load("alignment_pipeline")
    rows = []
    for row in found.rows if found else ():
        packing = "packed" if row["packing"] else "padded"
        what = f"OpenP5, {packing}, batch {row['batch_size']}"
        rows.append((what, str(row["workers"]), f"{row['examples_per_second']:,}"))
    for row in alignment.content["speeds"] if alignment else ():
        speed = f"{row['examples_per_second']:,}"
        rows.append((f"`{row['mixture']}`, packed", str(row["workers"]), speed))
    header = ("examples", "processes", "examples/s")
    text = section([found, alignment], "input_pipeline", table(header, rows))
    if found is not None and alignment is None:
        text += f"\n\nThe alignment system's: {not_yet('alignment_pipeline')}."
    scale = [
        measured.load(name)
        for name in ("prepare_scale", "prepare_scale_k_core", "prepare_scale_5m")
    ]
    rows = [
        (
            f"{one.content['rows']:,}",
            f"{one.content['dropped_by_k_core']:,}",
            seconds(one.content["seconds"]),
            f"{one.content['peak_gib']:.1f} GiB",
        )
        for one in scale
        if one is not None
    ]
    header = ("rows of ratings", "dropped by the k-core", "time", "peak memory")
    content = "`genrec prepare`:\n\n" + table(header, rows)
    return text + "\n\n" + section(scale, "prepare_scale", content)


def memory() -> str:
    """What evaluating many users and importing many parameters takes beside them."""
    found, weights = measured.load("evaluate_memory"), measured.load("import_weights")
    rows = [
        (
            f"{row['users']:,}",
            f"{row['peak_bytes'] / 2**30:.2f} GiB",
            f"{row['log_bytes'] / 2**20:.1f} MiB",
            f"{row['without_log']:.0f}" if "without_log" in row else "",
            f"{row['parquet_rows']:,}",
            seconds(row["seconds"]),
        )
        for row in (found.rows if found else ())
    ]
    header = (
        *("users", "peak", "of it the log", "bytes a further user, log aside"),
        *("rows of predictions", "time"),
    )
    text = section([found], "evaluate_memory", table(header, rows))
    rows = [
        (
            str(processes),
            *(
                f"{max(row[f'{name}_bytes'] for row in shares) / 2**20:,.1f} MiB"
                for name in ("parameters", "largest_tensor", "beyond_parameters")
            ),
        )
        for processes in (1, 2)
        for shares in ([weights.content[f"{processes}_processes"]] if weights else ())
    ]
    header = ("processes", "parameters of one", "largest tensor", "peak beyond the parameters")
    content = "`genrec import-weights`, a folder of T5-XL's size:\n\n" + table(header, rows)
    return text + "\n\n" + section([weights], "import_weights", content)


def gpu() -> str:
    """Everything that needs a GPU, or that it is not measured."""
    return "\n\n".join((_mfu(), _gpu_decode(), _gpu_beauty(), _gpu_attention()))


def _mfu() -> str:
    models = ("t5_small", "t5_base", "t5_xl")
    found = [measured.load(f"gpu_mfu_{model}") for model in models]
    rows = []
    for model, one in zip(models, found, strict=True):
        if one is None:
            rows.append((model, "", "", "", not_yet(f"gpu_mfu_{model}", GPU), "", ""))
            continue
        for row in one.rows:
            case = (model, f"{row['dropout']:g}", row["remat"], row.get("attention", "own"))
            if "does_not_fit" in row:
                rows.append((*case, "does not fit", "", ""))
                continue
            mfu = "peak not known" if row["mfu"] is None else f"{row['mfu']:.1%}"
            shares = (mfu, f"{row['of_matmul']:.1%}")
            rows.append((*case, seconds(row["step_s"]), *shares))
    header = ("model", "dropout", "remat", "attention", "step", "MFU", "of a large product's rate")
    title = "**Training, bfloat16** (goal: 50% on T5-base and T5-XL shapes, 40% on small).\n\n"
    return title + section(found, "gpu_mfu_t5_small", table(header, rows), GPU)


def _gpu_decode() -> str:
    found = measured.load("gpu_decode")
    rows = [
        (
            row["dtype"],
            str(row["batch"]),
            seconds(row["p50_s"]),
            seconds(row["p99_s"]),
            digits(row["users_per_s"]),
            seconds(row["hf_s"]) if "hf_s" in row else "",
        )
        for row in (found.rows if found else ())
    ]
    header = ("type", "batch", "p50", "p99", "users/s", "Hugging Face")
    title = "**Decoding**, T5-small, 12,101 items, 20 beams.\n\n"
    return title + section([found], "gpu_decode", table(header, rows), GPU)


def _gpu_beauty() -> str:
    found = measured.load("gpu_beauty")
    rows = [
        (
            str(row["batch"]),
            f"{row['users']:,}",
            seconds(row["seconds"]),
            seconds(row["first_s"]),
            digits(row["users_per_s"]),
        )
        for row in (found.rows if found else ())
    ]
    header = ("batch", "users", "all compiled", "compiling on the way", "users/s")
    title = "**Beauty's whole test set** (22,363 users, 20 beams; goal: 15 s).\n\n"
    source = f"Data: {found.content['data']['source']}.\n\n" if found else ""
    return title + section([found], "gpu_beauty", source + table(header, rows), GPU)


def _gpu_attention() -> str:
    found = measured.load("gpu_attention")
    rows = [
        (
            f"{row['model']}, {row['implementation']}",
            *(
                seconds(row[f"{one}_s"]) if f"{one}_s" in row else row[f"{one}_refused"]
                for one in ("forward", "both")
            ),
            f"{row['both_error']:.1e}" if "both_error" in row else "",
        )
        for row in (found.rows if found else ())
    ]
    header = ("attention with T5's bias", "forward", "with gradients", "error")
    title = "**Implementations of attention.**\n\n"
    return title + section([found], "gpu_attention", table(header, rows), GPU)


SECTIONS: dict[str, Callable[[], str]] = {
    one.__name__: one
    for one in (
        ratios,
        trie_step,
        trie_build,
        constraints,
        decode,
        recommend,
        training,
        pipelines,
        memory,
        gpu,
    )
}
