"""docs/performance.md: made of the results that are there, and honest about those that are not."""

import json

import pytest

from benchmarks import common, measured, page_sections, plots

CONDITIONS = {
    "date": "2026-11-21T15:00:00+00:00",
    "commit": "0123456789ab",
    "jax": "0.10.2",
    "device": "1 x cpu",
    "cpus": 2,
    "machine": "x86_64",
    "load_average": 0.31,
}
DECODE = {
    "settings": {"beams": 20},
    "rows": [
        {
            "batch": batch,
            "compile_s": 9.0,
            "ours_wall_s": ours,
            "hf_wall_s": 7.4,
            "times_faster": 7.4 / ours,
            "floor_s": 0.9,
            "of_floor": ours / 0.9,
            "steps": 5,
            "lists": {"places": 320, "same_items": 319},
        }
        for batch, ours in ((16, 1.0), (1, 0.1))
    ],
}
STEP_ROW = {"kind": "uniform", "ours_ms": 3.0, "static_exact_ms": 6.0, "static_30_ms": 2.0}
TRIE_STEP = {
    "rows": [
        STEP_ROW | {"items": items, "batch": batch, "beams": beams, "ratio_exact": 0.5}
        for items in (12_000, 1_000_000)
        for batch in (1, 64)
        for beams in (20, 70)
    ]
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def write(results, name: str, payload: dict) -> None:
    text = json.dumps({"name": name, "conditions": CONDITIONS, **payload})
    (results / f"{name}.json").write_text(text)


def test_the_committed_page_is_that_of_the_committed_results():
    for page, sections in ((plots.PAGE, page_sections.SECTIONS), (plots.README, plots.LIMITS)):
        text = page.read_text(encoding="utf-8")
        said = f"{page.name} is not that of the results: run `python -m benchmarks.plots`"
        assert plots.written_anew(text, sections) == text, said


def test_without_results_everything_is_named_as_not_measured(results):
    for name, make in page_sections.SECTIONS.items():
        assert "ot measured yet: " in make(), name
    assert all(one.times is None for one in measured.ratios())
    text = page_sections.gpu()
    for name in ("gpu_mfu_t5_small", "gpu_decode", "gpu_beauty", "gpu_attention"):
        assert f"`{name}.json`" in text
    assert text.count("`bash benchmarks/gpu.sh` on a machine with a GPU") == 4
    assert not list(plots.draw(results / "figures"))


def test_ratios_are_theirs_over_ours(results):
    write(results, "decode_vs_hf", DECODE)
    write(results, "trie_step", TRIE_STEP)
    found = {one.what: one for one in measured.ratios()}
    batch_16 = found["T5-small, Beauty, 20 beams, batch 16"]
    assert batch_16.times == pytest.approx(7.4) and batch_16.goal == 6.0
    assert (batch_16.ours, batch_16.theirs) == ("1 s", "7.4 s")
    step = found["mask and advance, 1,000,000 uniform ids, batch 64, 70 beams"]
    assert step.times == pytest.approx(2.0) and step.ours == "3 ms"
    text = page_sections.ratios()
    assert "| 1 s | 7.4 s | 7.4x | 6x |" in text
    assert "`train_vs_hf.json`" in text  # the one that is still to be measured


def test_tables_say_where_they_come_from(results):
    write(results, "decode_vs_hf", DECODE)
    text = page_sections.decode()
    assert "| 16 | 20 | 1 s | 7.4 s | 900 ms | 1.11x | 5 | 9.0 s | 319/320 |" in text
    origin = "`decode_vs_hf.json`: 2026-11-21, 2 cores (x86_64), jax 0.10.2, commit 0123456789ab"
    assert f"{origin}, load 0.31" in text
    assert "Not measured yet: `make bench` writes `decode_parts_one_core.json`." in text


def test_the_trie_table_says_what_a_larger_catalogue_costs_of_each_kind(results):
    rows = [row | {"ours_ms": row["items"] / 12_000} for row in TRIE_STEP["rows"][::4]]
    skewed = [row | {"kind": "one_parent", "ours_ms": row["ours_ms"] ** 0.5} for row in rows]
    write(results, "trie_step", {"rows": rows})
    write(results, "trie_step_skewed", {"rows": skewed})
    text = page_sections.trie_step()
    assert (
        "The largest catalogue takes, of the time of the smallest in the same process:\n\n" in text
    )
    assert "* uniform: 83.3x at batch 1 and 20 beams\n" in text
    assert "* one-parent: 9.1x at batch 1 and 20 beams\n" in text


def test_a_catalogue_measured_again_beside_the_largest_stands_in_the_growth_alone(results):
    """The table has what `make bench` measures; growth compares what was measured in one process."""
    rows = [row | {"ours_ms": 1.0} for row in TRIE_STEP["rows"][::4]]
    write(results, "trie_step", {"rows": rows})
    beside = [rows[0] | {"ours_ms": 2.0}, rows[0] | {"items": 20_000_000, "ours_ms": 5.0}]
    write(results, "trie_step_20m", {"rows": beside})
    _, shown = measured.trie_rows()
    assert [row["ours_ms"] for row in shown] == [1.0] * len(rows) + [5.0]
    assert "* uniform: 2.5x at batch 1 and 20 beams\n" in page_sections.trie_step()


def test_an_absent_peer_is_named_with_its_remedy(results):
    bare = {key: DECODE["rows"][0][key] for key in DECODE["rows"][0] if not key.startswith("hf")}
    del bare["lists"]
    write(results, "decode_vs_hf", DECODE | {"rows": [bare]})
    (one,) = [one for one in measured.ratios() if one.what.startswith("T5-small, Beauty, 20 beams")]
    assert one.times is None
    assert one.missing == (
        "not measured: install the peer with `bash benchmarks/install_peers.sh torch`"
    )
    assert "| 16 | 20 | 1 s | not measured |" in page_sections.decode()


def test_t5x_beside_ours_is_measured_or_said_not_to_be(results):
    def training() -> measured.Ratio:
        (one,) = [one for one in measured.ratios() if one.peer == "T5X's trainer"]
        return one

    assert "`train_vs_t5x.json`" in training().missing
    write(results, "train_vs_t5x", {"ours_examples_per_s": 8.0})
    assert "install_peers.sh t5x" in training().missing
    theirs = {"t5x_wall_s": 16.0, "t5x_examples_per_s": 4.0, "times_faster": 2.0}
    write(results, "train_vs_t5x", {"ours_examples_per_s": 8.0, **theirs})
    assert (training().ours, training().theirs) == ("8.00 examples/s", "4.00 examples/s")
    assert (training().times, training().goal) == (2.0, 1.0)


def test_of_several_models_the_unmeasured_ones_are_named(results):
    row = {"dropout": 0.1, "remat": "none", "step_s": 0.05, "mfu": 0.4321, "of_matmul": 0.5}
    write(results, "gpu_mfu_t5_base", {"rows": [row, row | {"dropout": 0.0, "mfu": None}]})
    write(results, "gpu_mfu_t5_xl", {"rows": [row | {"does_not_fit": "RESOURCE_EXHAUSTED"}]})
    text = page_sections.gpu()
    assert "| t5_base | 0.1 | none | own | 50 ms | 43.2% | 50.0% |" in text
    assert "| t5_base | 0 | none | own | 50 ms | peak not known | 50.0% |" in text
    assert "| t5_xl | 0.1 | none | own | does not fit |" in text
    assert "| t5_small |  |  |  | not measured yet: " in text and "`gpu_mfu_t5_small.json`" in text


GPU_DECODE = {
    "settings": {"batches": [1, 64]},
    "peer": {"torch": "2.11.0"},
    "rows": [
        {"dtype": dtype, "batch": batch, "p50_s": 0.01, "p99_s": 0.02, "users_per_s": batch * 100}
        for dtype in ("bfloat16", "float32")
        for batch in (1, 64)
    ],
}


def on_gpu() -> list[measured.Ratio]:
    return [one for one in measured.ratios() if one.what.startswith("GPU: T5-small")]


def test_a_peer_that_was_cut_short_or_failed_on_the_gpu_is_named(results):
    first, *others = GPU_DECODE["rows"]
    beside = first | {"hf_s": 0.2, "times_faster": 20.0}
    write(results, "gpu_decode", GPU_DECODE | {"rows": [beside, *others]})
    whole, cut = on_gpu()
    assert (whole.times, whole.goal, whole.missing) == (20.0, 10.0, "")
    assert cut.what.endswith("batch 64") and cut.times is None and cut.goal == 10.0
    assert cut.missing == "not measured: `gpu_decode` ended before the peer's turn"
    assert cut.missing in page_sections.ratios()
    failed = "not measured: the peer ended with status 1"
    write(results, "gpu_decode", GPU_DECODE | {"peer": None, "peer_failed": failed})
    assert [one.missing for one in on_gpu()] == [failed, failed]
    absent = common.how_to_install("torch")
    write(results, "gpu_decode", GPU_DECODE | {"peer": absent, "rows": []})
    assert [one.missing for one in on_gpu()] == [absent, absent]


def test_a_row_that_failed_is_named_and_the_others_are_shown(results):
    row = {"dropout": 0.1, "remat": "none", "step_s": 0.05, "mfu": 0.4321, "of_matmul": 0.5}
    failed = {
        "dropout": 0.0,
        "remat": "none",
        "case": "t5_base, dropout 0",
        "failed": "TypeError: no",
    }
    write(results, "gpu_mfu_t5_base", {"rows": [failed, row]})
    text = page_sections.gpu()
    assert "| t5_base | 0.1 | none | own | 50 ms | 43.2% | 50.0% |" in text
    assert "; not measured: t5_base, dropout 0 (TypeError: no)" in text


def test_beauty_that_was_cut_short_shows_its_first_pass(results):
    row = {"batch": 256, "users": 22_363, "first_s": 50.0, "seconds": None, "users_per_s": None}
    write(results, "gpu_beauty", {"data": {"source": "made up"}, "rows": [row]})
    assert "| 256 | 22,363 | not measured | 50 s | not measured |" in page_sections.gpu()


def test_figures_come_and_go_with_their_results(results, tmp_path):
    write(results, "decode_vs_hf", DECODE)
    write(results, "trie_step", TRIE_STEP)
    drawn = list(plots.draw(tmp_path / "figures"))
    assert {path.stem for path in drawn} == {"ratios", "trie_step"}
    ratios, step = (path.read_text() for path in sorted(drawn))
    assert "7.4x" in ratios and "Hugging Face" in ratios
    for axis in ("items", "beams", "batch"):
        assert f">{axis}</text>" in step
    again = {path: path.read_text() for path in plots.draw(tmp_path / "figures")}
    assert again[drawn[0]] == drawn[0].read_text() == ratios  # the same bytes for the same results
    (results / "trie_step.json").unlink()
    assert [path.stem for path in plots.draw(tmp_path / "figures")] == ["ratios"]
    assert not (tmp_path / "figures" / "trie_step.svg").exists()


def test_a_page_with_wrong_marks_is_refused():
    mark = "<!-- results: {} -->\n<!-- end of results -->\n"
    text = mark.format("ratios") + mark.format("typo")
    with pytest.raises(ValueError, match="marks ratios, typo; wanted each of ratios, trie_step"):
        plots.written_anew(text, page_sections.SECTIONS)


@pytest.mark.parametrize(
    ("value", "text"),
    [(7.44, "7.44 s"), (1234.5, "1,234 s"), (0.9996, "1,000 ms"), (0.00123, "1.23 ms")],
)
def test_times_have_the_unit_that_suits_them(value, text):
    assert measured.seconds(value) == text


def test_times_below_a_millisecond():
    assert measured.seconds(99.97e-6) == "100 µs"
