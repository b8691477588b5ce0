"""`genrec import-weights` and `genrec export` as they are typed."""

import json

from genrec_jax.cli import main


def test_in_and_out(shared, tmp_path, capsys):
    fixture = shared / "fixtures/hf_t511"
    weights, out = str(tmp_path / "weights"), str(tmp_path / "out")
    assert main.main(["import-weights", str(fixture), "--output", weights]) == 0
    shown = capsys.readouterr()
    assert "T5 1.1 or FLAN-T5: " in shown.out and "head of its own" in shown.out
    assert "no spiece.model" in shown.err
    assert main.main(["export", weights, "--output", out]) == 0
    exported = tmp_path / "out/model.safetensors"
    assert exported.read_bytes() == (fixture / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    again = str(tmp_path / "t5x")
    assert main.main(["export", weights, "--to", "t5x", "--output", again]) == 0
    assert (tmp_path / "t5x/checkpoint_0/checkpoint").is_file()


def test_mistakes_are_one_readable_line(tmp_path, capsys):
    assert main.main(["import-weights", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"genrec import-weights: error: {tmp_path}: holds no weights; wanted")
    assert main.main(["export", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "genrec export: error:" in capsys.readouterr().err
