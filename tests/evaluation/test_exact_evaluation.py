"""`genrec evaluate --exact` on a real run dir: true ranks against a search that cannot miss."""

import shutil

import pytest

from genrec_jax.cli import main
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.evaluation import report, results, table
from genrec_jax.evaluation.evaluator import EvaluateConfig
from tests.evaluation import tiny_run


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """With as many beams as items the search is exhaustive, so it misses nothing."""
    folder = tmp_path_factory.mktemp("exact")
    dataset = tiny_run.make_dataset(folder)
    run = tiny_run.make_run(folder / "run", [dataset.path])
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_COMPILATION_CACHE", "")
        for beams in (2, dataset.num_items):
            words = f"--exact --exact-block 48 --num-beams {beams} --templates A1 --max-users 24"
            assert main.main(["evaluate", str(run.path), *words.split()]) == 0
            path = run.path / f"eval/test-10-sample24-beams{beams}"
            found[beams] = results.load(path)
    return run, dataset, found


def test_an_exhaustive_search_gives_the_true_ranks(evaluated):
    _, dataset, found = evaluated
    metrics = found[dataset.num_items]
    systems = metrics["systems"]
    beams, exact = systems["model/sequential/A1"], systems["exact/sequential/A1"]
    assert list(beams) == list(exact) == ["seen_kept", "seen_excluded"]
    for footing in beams:
        assert {n: e["value"] for n, e in beams[footing].items()} == {
            n: e["value"] for n, e in exact[footing].items()
        }
    summary = metrics["exact"]["model/sequential/A1"]
    for beam in summary["beam"].values():
        assert beam["miss_rate"] == 0.0 and beam["target_miss_rate"] in (0.0, None)
    whole = summary["ranks"]["seen_kept"]
    assert whole["count"] == 24 and 1 <= whole["median_rank"] <= dataset.num_items
    assert whole["mrr"] >= exact["seen_kept"]["mrr@20"]["value"]


def test_few_beams_miss_and_the_true_ranks_stay(evaluated):
    _, dataset, found = evaluated
    few, all_beams = (found[n]["exact"]["model/sequential/A1"] for n in (2, dataset.num_items))
    assert few["ranks"] == all_beams["ranks"]
    assert list(few["beam"]) == ["1"]
    assert 0 <= few["beam"]["1"]["miss_rate"] <= 1
    (line,) = table.exact_lines(found[2])
    assert "2 beams miss of the truly best items" in line and "at 1" in line


def test_the_report_has_a_section_on_it(evaluated):
    run, _, _ = evaluated
    page = run.path / "page.html"
    assert main.main(["report", str(run.path), "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "Beams against the whole catalogue" in text and "median rank" in text
    assert "Model without beams, sequential, A1 (seen wording)" in text
    assert report.MARK in text


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"exact_block": 0}, "exact_block is 0"),
        ({"length_penalty": 1.0}, "wanted 0, for true ranks"),
    ],
)
def test_settings_that_cannot_be_meant(fields, said):
    with pytest.raises(UserError, match=said):
        EvaluateConfig(exact=True, **fields)


def test_a_block_too_small_for_an_id_is_one_readable_line(evaluated, capsys):
    words = ["evaluate", str(evaluated[0].path), "--exact", "--exact-block", "2"]
    assert main.main(words) == 2
    assert "does not hold the longest id" in capsys.readouterr().err


def test_a_bfloat16_run_is_evaluated_in_float32_where_that_is_asked_for(
    evaluated, tmp_path, capsys
):
    """From the same parameters: figures and scores of the float32 run, and no floor of noise."""
    run, dataset, found = evaluated
    copy = shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    model = run.manifest["model"] | {"dtype": "bfloat16"}
    artefacts.write_json(copy / "run.json", run.manifest | {"model": model})
    words = ["evaluate", str(copy), "--exact", "--templates", "A1", "--max-users", "24"]
    words += ["--exact-block", "48", "--num-beams", str(dataset.num_items)]
    assert main.main([*words, "--dtype", "float32"]) == 0
    assert "has no such floor" not in capsys.readouterr().out
    folder = copy / f"eval/test-10-sample24-beams{dataset.num_items}"
    exact = results.load(f"{folder}-float32")
    assert exact["dtype"] == found[dataset.num_items]["dtype"] == "float32"
    assert exact["exact"] == found[dataset.num_items]["exact"]
    assert main.main(words) == 0
    assert "has no such floor" in capsys.readouterr().out
    rounded = results.load(folder)
    assert rounded["dtype"] == "bfloat16"
    assert rounded["exact"] != exact["exact"]
    page = copy / "page.html"
    assert main.main(["report", str(copy), "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")  # of the newest, with the other named below
    assert "has no such floor" in text and "beams, in float32" in text
