"""The input of readers: a file, a folder or an archive, plain, .gz or .zip.

Archives are read as streams and never unpacked, so no member can write anywhere; one whose path
leaves the archive is refused all the same.
"""

import contextlib
import dataclasses
import fnmatch
import gzip
import io
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

from genrec_jax.data import artefacts, rawlog
from genrec_jax.errors import UserError

OTHER_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".bz2", ".xz", ".7z", ".rar", ".zst")
DEFLATE64 = 9
"""The number of the method by which Windows packs large files."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One readable file: on disk, or inside a zip.

    Attributes:
        file: the file on disk (the archive, for a member of one).
        member: the path inside the zip, or None.
    """

    file: pathlib.Path
    member: str | None = None

    @property
    def name(self) -> str:
        """Its name in errors: `ratings.csv`, or `ml-25m.zip/ml-25m/ratings.csv`."""
        return str(self.file) if self.member is None else f"{self.file}/{self.member}"

    @property
    def base_name(self) -> str:
        """The file's own name without `.gz`."""
        name = pathlib.PurePosixPath(self.member).name if self.member else self.file.name
        return name.removesuffix(".gz")


class ByteStream(Protocol):
    """What readers read from: bytes, and how much of the file on disk is behind them."""

    total: int

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer at the end."""
        ...

    def position(self) -> int:
        """Bytes of the file on disk consumed so far, of `total`."""
        ...


class Inputs:
    """The files of one `--input`.

    Args:
        path: a file, a folder or a .zip.
        reader: the reader's name, for errors.

    Raises:
        UserError: nothing there, an empty file, or a zip that is damaged or not safe.
    """

    def __init__(self, path: artefacts.PathLike, *, reader: str):
        self.path = pathlib.Path(path)
        self.reader = reader
        if not self.path.exists():
            raise UserError(
                f"not found; wanted the {reader} data there. Check --input", file=str(path)
            )
        if self.path.name.lower().endswith(OTHER_ARCHIVES):
            raise UserError(
                "is an archive of a kind that is not read; wanted a plain file, .gz, .zip or a folder."
                " Unpack it and give the folder as --input",
                file=str(path),
            )
        if self.path.is_dir():
            files = sorted(file for file in self.path.rglob("*") if file.is_file())
            self.members = [
                Member(file)
                for file in files
                if not _is_hidden(file.relative_to(self.path).as_posix())
            ]
        elif self.path.suffix.lower() == ".zip":
            self.members = [Member(self.path, name) for name in _zip_members(self.path)]
        else:
            self.members = [Member(self.path)]

    @property
    def is_one_file(self) -> bool:
        """Whether `--input` named a single plain or .gz file."""
        return self.path.is_file() and self.path.suffix.lower() != ".zip"

    def matching(self, pattern: str) -> list[Member]:
        """The members whose base name matches a pattern."""
        return [
            member
            for member in self.members
            if fnmatch.fnmatchcase(member.base_name.lower(), pattern.lower())
        ]

    def find(self, *patterns: str) -> Member | None:
        """The member whose base name matches a pattern; earlier patterns win.

        Raises:
            UserError: several match the same pattern: one would be read, and the others lost.
        """
        for pattern in patterns:
            found = self.matching(pattern)
            if len(found) > 1:
                names = ", ".join(member.name for member in found[:4])
                more = f" and {len(found) - 4} more" if len(found) > 4 else ""
                raise UserError(
                    f"holds {names}{more}; wanted one file like {pattern}. Name the one meant, or join"
                    " them into one first",
                    file=str(self.path),
                )
            if found:
                return found[0]
        return None

    def require(self, *patterns: str, what: str) -> Member:
        """As `find`, but raises an error that lists the files there if it is absent."""
        found = self.find(*patterns)
        if found is None:
            names = ", ".join(member.base_name for member in self.members[:8]) or "nothing"
            raise UserError(
                f"holds {names}; wanted {what} ({' or '.join(patterns)}). Check --input, or use"
                " another reader (`genrec prepare --help` lists them)",
                file=str(self.path),
            )
        return found

    def beside(self, *names: str) -> Member | None:
        """A companion file: among the members, or in the folder of a single input file."""
        found = self.find(*names)
        if found is None and self.is_one_file:
            for name in names:
                for candidate in (self.path.with_name(name), self.path.with_name(name + ".gz")):
                    if candidate.is_file():
                        return Member(candidate)
        return found

    def sources(self, *members: Member | None) -> tuple[rawlog.SourceFile, ...]:
        """Name, size and checksum of the files on disk that the members lie in."""
        files = dict.fromkeys(member.file for member in members if member is not None)
        return tuple(rawlog.source_file(file) for file in files)


@contextlib.contextmanager
def open_member(member: Member) -> Iterator[ByteStream]:
    """Opens a member for reading, decompressed.

    Raises:
        UserError: the file may not be read, is empty, or (while reading) truncated or damaged.
    """
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(open(member.file, "rb"))
        except OSError as error:
            raise UserError(
                f"cannot be read ({error.strerror}); wanted data. Check the path and its permissions",
                file=member.name,
            ) from error
        stream: io.BufferedIOBase = raw
        total = member.file.stat().st_size
        if not total:
            raise UserError("is empty; wanted data. Download or export it again", file=member.name)
        name = member.member or member.file.name
        if member.member is not None:
            archive = stack.enter_context(zipfile.ZipFile(raw))
            if archive.getinfo(member.member).flag_bits & 1:
                raise UserError(
                    "is encrypted; wanted a readable archive. Unpack it and give the folder as --input",
                    file=member.name,
                )
            try:
                opened: Any = archive.open(member.member)  # a BufferedIOBase, typed as IO[bytes]
            except NotImplementedError as error:
                method = archive.getinfo(member.member).compress_type
                raise UserError(
                    f"is packed by {'Deflate64' if method == DEFLATE64 else f'method {method}'} ({error});"
                    " wanted a zip that Python can read. Unpack it and give the file itself",
                    file=member.name,
                ) from error
            stream = stack.enter_context(opened)
        if name.lower().endswith(".gz"):
            stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
        yield _CheckedStream(stream, raw, member.name, total)


class _CheckedStream:
    """Turns what decompressors raise on damage into one readable error."""

    def __init__(self, stream: io.BufferedIOBase, raw: io.BufferedIOBase, name: str, total: int):
        self._stream = stream
        self._raw = raw
        self._name = name
        self.total = total

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile) as error:
            raise UserError(
                f"the archive is truncated or damaged ({error}); wanted a whole one. Download it again"
                " and compare its checksum",
                file=self._name,
            ) from error

    def position(self) -> int:
        return self._raw.tell()


def _zip_members(path: pathlib.Path) -> list[str]:
    if path.stat().st_size == 0:
        raise UserError("is empty; wanted a zip archive. Download it again", file=str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except PermissionError as error:
        raise UserError(
            "may not be read; wanted a zip archive. Check its permissions", file=str(path)
        ) from error
    except zipfile.BadZipFile as error:
        raise UserError(
            f"the archive is truncated or damaged ({error}); wanted a whole zip. Download it again"
            " and compare its checksum",
            file=str(path),
        ) from error
    for info in infos:
        member = info.filename.replace("\\", "/")
        parts = pathlib.PurePosixPath(member).parts
        if member.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
            raise UserError(
                f"its member {info.filename!r} would land outside the folder it is unpacked in;"
                " wanted plain relative names. Do not use this archive: get it from its source again",
                file=str(path),
            )
    return [info.filename for info in infos if not info.is_dir() and not _is_hidden(info.filename)]


def _is_hidden(name: str) -> bool:
    """What systems put beside the data: `.DS_Store`, `__MACOSX/._ratings.csv`."""
    parts = [part for part in name.split("/") if part != "."]
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)
