"""Published figures beside ours: which are shown, how they are spelled, and when nothing compares."""

import shutil

import pytest

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.evaluation import report, report_data, report_papers, results
from tests.evaluation import report_run, tiny_run
from tests.evaluation.report_page import Page

DASH = "\N{EN DASH}"
HEADER = "paper,table,task,dataset,method,metric,value,note\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    return report_run.make_reported_run(folder / "run", tiny_run.make_dataset(folder, num_users=40))


def written(tmp_path, run_dirs, **options) -> Page:
    path = report.write_report(run_dirs, tmp_path / "report.html", num_examples=0, **options)
    return Page(path.read_text(encoding="utf-8"))


def published(tmp_path, run_dir, lines) -> str:
    csv = tmp_path / "figures.csv"
    csv.write_text(HEADER + "".join(lines))
    text = written(tmp_path, [run_dir], paper_figures=csv).text
    return text.partition("Beside published figures")[2].partition("Paired comparisons")[0]


def changed(run, tmp_path, **entries):
    folder = shutil.copytree(run.path, tmp_path / "changed")
    file = folder / "eval/test-400" / results.METRICS_FILE
    artefacts.write_json(file, results.load(file) | entries)
    return folder


def test_published_figures_stand_beside_ours(run, tmp_path):
    csv = tmp_path / "figures.csv"
    csv.write_text(
        HEADER + "Some,3,sequential,Toy-Store,SASRec,hr@10,0.0605,\n"
        "Some,3,sequential,Toy-Store,SASRec,ndcg@10,0.0318,\n"
        "Some,3,sequential,toystore,P5,hr@10,0.0700,unseen prompt\n"
        "Some,3,sequential,beauty,Elsewhere,hr@10,0.9,\n"
        "Some,3,rating,toystore,Otherwise,hr@10,0.9,\n"
    )
    text = written(tmp_path, [run.path], paper_figures=csv).text
    assert "Beside published figures" in text
    assert text.index(f"P5 Some, table 3 (unseen prompt) 0.0700 {DASH}") < text.index(
        "SASRec Some, table 3 0.0605 0.0318"
    )
    assert "Elsewhere" not in text and "Otherwise" not in text


def test_the_real_published_figures_are_read(shared):
    figures = report_papers.read_figures(shared / "figures/paper_results.csv")
    assert len(figures) == 1645
    assert {figure.value for figure in figures if figure.method == "SASRec"} >= {0.0605}


@pytest.mark.parametrize(
    ("content", "said"),
    [("paper,method\n", "lacks the columns table, task"), (HEADER + "a,1,s,d,m,hr@10,x,\n", ":2")],
)
def test_bad_published_figures_are_refused(run, tmp_path, content, said):
    csv = tmp_path / "figures.csv"
    csv.write_text(content)
    with pytest.raises(UserError, match=said):
        written(tmp_path, [run.path], paper_figures=csv)


FIGURES = (
    "Some,3,sequential,toystore,P5,HR@10,0.0700,\n",
    "Some,3,sequential,toystore,P5,hr@20,0.0820,\n",
    "Some,3,sequential,toystore,P5,NDCG@20,0.0410,\n",
    "Some,3,sequential,toystore,P5,hr@50,0.0910,\n",
    "Some,3,sequential,toystore,P5,Mrr,0.0330,\n",
)


def test_figures_of_any_cutoff_and_spelling_are_shown(run, tmp_path):
    """The MRR of the whole ranking is measured without beams alone; HR@50 not at all."""
    systems = results.load(run.eval_dir / "test-400" / results.METRICS_FILE)["systems"]
    exact = {"items": 40, "ranks": {"seen_kept": {"mrr": 0.1234}}}
    folder = changed(
        run,
        tmp_path,
        systems=systems | {"exact/sequential/A1": systems["model/sequential/A1"]},
        exact={"model/sequential/A1": exact},
    )
    view = report_data.read_run(folder, name="run", data={}, num_examples=0).evaluations[0]
    (tmp_path / "figures.csv").write_text(HEADER + "".join(FIGURES))
    figures = report_papers.read_figures(tmp_path / "figures.csv")
    text = Page(f"<html>{report_papers.beside_papers(view, figures, level=2)}</html>").text
    assert "method source HR@10 HR@20 HR@50 NDCG@20 MRR" in text
    assert "P5 Some, table 3 0.0700 0.0820 0.0910 0.0410 0.0330" in text
    kept = systems["model/sequential/A1"]["seen_kept"]
    values = [f"{kept[m]['value']:.4f}" for m in ("hr@10", "hr@20", "ndcg@20")]
    ours = f"this run {values[0]} {values[1]} {DASH} {values[2]}"
    assert f"model/sequential/A1 {ours} {DASH}" in text
    assert f"exact/sequential/A1 {ours} 0.1234" in text


def test_metrics_of_other_tasks_are_passed_over(run, tmp_path):
    lines = ("Some,3,explanation,toystore,P5,ROUGEL,9.1,\n", *FIGURES[:1])
    assert "P5 Some, table 3 0.0700" in published(tmp_path, run.path, lines)


@pytest.mark.parametrize("metric", ["recall@10", "hr@0", "hr10", ""])
def test_an_unknown_metric_is_refused_with_its_line(run, tmp_path, metric):
    line = FIGURES[0].replace("HR@10", metric)
    with pytest.raises(
        UserError, match=rf"csv:3: the metric '{metric}' is not known; wanted hr@10"
    ):
        published(tmp_path, run.path, (FIGURES[0], line))


def test_validation_items_are_not_put_beside_test_items(run, tmp_path):
    text = published(tmp_path, changed(run, tmp_path, split="validation"), FIGURES)
    assert "None to compare with: this run's targets are the validation items" in text
    assert "0.0700" not in text


def test_a_sample_is_called_one(run, tmp_path):
    text = published(tmp_path, changed(run, tmp_path, max_users=25), FIGURES)
    assert "ours (of a sample of 25 users), then published figures" in text
    assert "sample" not in published(tmp_path, run.path, FIGURES)
