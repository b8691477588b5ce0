"""A folder of this machine whose files also lie at a URL, where they count: a run dir on an object store.

What is read is brought here first; what is written is written here, and then published. Nothing is
ever taken from here that the store does not have, so any machine can go on with a run.
"""

import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Collection, Sequence

from genrec_jax import storage


@dataclasses.dataclass(frozen=True)
class Mirror:
    """Such a folder.

    Attributes:
        url: where its files count.
        folder: where they are worked on.
    """

    url: str
    folder: pathlib.Path

    def below(self, name: str) -> "Mirror":
        """A folder inside it."""
        return Mirror(os.fspath(storage.join(self.url, name)), self.folder / name)

    def names(self) -> set[str]:
        """The names of all files that the store has.

        Raises:
            UserError: the store cannot be reached.
        """
        return storage.fetch(self.url, self.folder, lambda name: False)

    def bring(self, *wanted: str) -> None:
        """Copies from the store what has changed there.

        Args:
            *wanted: files, and folders with all below them.

        Raises:
            UserError: the store cannot be reached.
        """

        def chosen(name: str) -> bool:
            return any(name == one or name.startswith(f"{one}/") for one in wanted)

        storage.fetch(self.url, self.folder, chosen)

    def publish(self, *wanted: str, last: Collection[str] = ()) -> None:
        """Copies files to the store: what is named and exists.

        Args:
            *wanted: files, and folders with all below them.
            last: names of manifests, which are written after all else.

        Raises:
            UserError: the store cannot be written.
        """
        storage.upload(self.folder, self.url, self._files(wanted), last=last)

    def publish_growing(self, *wanted: str) -> None:
        """The same for files that are being appended to: what they hold at this moment.

        Raises:
            UserError: the store cannot be written.
        """
        names = self._files(wanted)
        with tempfile.TemporaryDirectory(prefix="genrec-growing-") as folder:
            for name in names:
                copied = pathlib.Path(folder) / name
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, copied)
            storage.upload(pathlib.Path(folder), self.url, names)

    def remove(self, name: str, *, first: Collection[str] = ()) -> None:
        """Removes a file or folder from the store; that of this machine stays.

        Args:
            name: of a file or folder.
            first: names of manifests, which go before all else.

        Raises:
            UserError: the store cannot be written.
        """
        storage.delete(storage.join(self.url, name), first=first)

    def _files(self, wanted: Sequence[str]) -> list[str]:
        files = [
            file
            for path in (self.folder / one for one in wanted)
            for file in (path.rglob("*") if path.is_dir() else [path])
            if file.is_file()
        ]
        return [file.relative_to(self.folder).as_posix() for file in files]
