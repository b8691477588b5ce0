"""The folder that an import writes: kept, left whole or not at all, found damaged."""

import concurrent.futures
import errno
import threading

import pytest

from genrec_jax.checkpoint import import_weights, imported
from genrec_jax.checkpoint.import_weights import ForeignWeights
from genrec_jax.checkpoint.imported import ImportedWeights
from genrec_jax.errors import UserError
from tests.checkpoint import foreign


def test_an_output_that_exists_is_kept(shared, tmp_path):
    with pytest.raises(UserError, match="already exists"):
        import_weights.import_weights(shared / "fixtures/hf_t50", tmp_path)


def test_overwrite_replaces_an_import_and_nothing_else(shared, tmp_path):
    first, second = shared / "fixtures/hf_t50", shared / "fixtures/hf_t511"
    target = tmp_path / "weights"
    import_weights.import_weights(first, target)
    made = import_weights.import_weights(second, target, overwrite=True)
    assert made.model_config == ForeignWeights.open(second).config
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    (target / imported.MANIFEST).unlink()  # a folder of somebody else's now
    with pytest.raises(UserError, match="exists and is not imported weights"):
        import_weights.import_weights(first, target, overwrite=True)
    assert (target / imported.PARAMETERS).is_dir()


def test_imports_at_once_do_not_touch_each_others_files(shared, tmp_path, monkeypatch):
    """Both begin, both write, the first to end stands whole; the other leaves nothing and says so."""
    target, begun = tmp_path / "deep" / "weights", threading.Barrier(2)
    write = imported.write

    def write_together(folder, *arguments, **options):
        begun.wait(60)
        write(folder, *arguments, **options)
        begun.wait(60)

    monkeypatch.setattr(imported, "write", write_together)
    names = ["hf_t50", "hf_t511"]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(import_weights.import_weights, shared / "fixtures" / name, target)
            for name in names
        ]
        errors = [one.exception(120) for one in asked]
    (winner,) = [name for name, error in zip(names, errors, strict=True) if error is None]
    (lost,) = filter(None, errors)
    assert isinstance(lost, UserError) and "is there now: somebody else wrote it" in str(lost)
    assert [path.name for path in target.parent.iterdir()] == ["weights"]
    expected = ForeignWeights.open(shared / "fixtures" / winner)
    made = ImportedWeights.load(target)
    assert made.model_config == expected.config
    foreign.assert_same(foreign.flat(made.restore_params()), foreign.flat(expected.params()))


def test_a_failed_import_leaves_nothing(shared, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(imported.pieces, "write", full)
    with pytest.raises(UserError, match="the disk is full"):
        import_weights.import_weights(shared / "fixtures/hf_t50", tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []


def test_damage_of_an_imported_folder_is_noticed(shared, tmp_path):
    made = import_weights.import_weights(shared / "fixtures/hf_t50", tmp_path / "weights")
    file = max(made.path.glob("parameters/*.safetensors"), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"is damaged.*import-weights` again"):
        made.restore_params()
