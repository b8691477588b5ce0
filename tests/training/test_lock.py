"""The lock of a run dir, against a second process and against what a dead one left."""

import subprocess
import sys

import pytest

from genrec_jax.errors import UserError
from genrec_jax.training import lock

HOLD = """
import sys, time
from genrec_jax.training.lock import RunLock
held = RunLock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_process_is_told_who_is_there_and_gets_in_after_its_death(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(
            UserError, match=rf"process {holder.pid} on .* choose another MODEL_DIR"
        ):
            lock.RunLock(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    lock.RunLock(tmp_path).release()


def test_it_is_free_after_release_and_makes_the_folder(tmp_path):
    folder = tmp_path / "runs" / "a"
    lock.RunLock(folder).release()
    again = lock.RunLock(folder)
    with pytest.raises(UserError, match="is training in this run dir"):
        lock.RunLock(folder)
    again.release()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* choose another MODEL_DIR"):
        lock.RunLock(tmp_path / "file" / "run")
