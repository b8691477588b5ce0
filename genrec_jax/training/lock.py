"""A lock that lets one process train in a run dir: two would corrupt its checkpoints and logs."""

import fcntl
import os
import pathlib
import socket

from genrec_jax import storage
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

FILE = "train.lock"


class RunLock:
    """A lock of the kernel's on a file of the run dir; it goes with the process, however that ends.

    File systems without locks (some network ones) let everybody in.
    """

    def __init__(self, folder: artefacts.PathLike):
        """Makes the folder if there is none, and takes the lock.

        Raises:
            UserError: another process has it, or the folder cannot be written.
        """
        storage.refuse_remote(folder, "a run dir")
        path = pathlib.Path(folder).absolute() / FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held, not used up
        except OSError as error:
            raise UserError(
                f"cannot be written ({error.strerror}); choose another MODEL_DIR", file=str(folder)
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise UserError(
                f"{holder} is training in this run dir now; wait for it, stop it, or choose another"
                " MODEL_DIR",
                file=str(folder),
            ) from None
        except OSError:
            return  # no locks here
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Lets the next one in."""
        self._file.close()
