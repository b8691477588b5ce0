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
    commands = [
        ["import-weights", str(fixture), "--output", weights],
        ["export", weights, "--output", out],
        ["export", weights, "--to", "t5x", "--output", again],
    ]
    for command in commands:
        assert main.main(command) == 2
        error = capsys.readouterr().err
        assert "already exists" in error and "pass overwrite (`--overwrite`)" in error
        assert main.main([*command, "--overwrite"]) == 0
    assert (tmp_path / "t5x/checkpoint_0/checkpoint").is_file()


def test_mistakes_are_one_readable_line(tmp_path, capsys):
    assert main.main(["import-weights", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"genrec import-weights: error: {tmp_path}: holds no weights; wanted")
    assert main.main(["export", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "genrec export: error:" in capsys.readouterr().err
    pickle = tmp_path / "pytorch_model.bin"
    pickle.write_bytes(b"\x80\x04never read")
    assert main.main(["import-weights", str(pickle), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{pickle}: is a pickle, which can run any code and is never read" in error


def test_an_output_at_a_url_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = [
        ["import-weights", "absent", "--output", "memory://x/w"],
        ["export", "absent", "--output", "memory://x/w"],
        ["export", "absent", "--to", "jax", "--output", "gs://x/w"],
    ]
    for command in commands:
        assert main.main(command) == 2
        assert f"{command[-1]}: is a URL; " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
