"""Fetches public logs for `genrec prepare --download NAME`: resumable, checked, kept for next time."""

import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import os
import pathlib
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO

from genrec_jax import progress, storage
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

BLOCK = 1 << 18
ATTEMPTS = 4
TIMEOUT_SECONDS = 60

GROUPLENS = "https://files.grouplens.org/datasets"
MOVIETWEETINGS = "https://raw.githubusercontent.com/sidooms/MovieTweetings/master/snapshots/100K"
S3REC = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data"
AMAZON_2014 = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
AMAZON_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"


@dataclasses.dataclass(frozen=True)
class Remote:
    """One file to fetch.

    Attributes:
        url: where from.
        checksum: `md5:...` or `sha256:...`, as its publisher gives it or as measured on a copy; None
            if there is none (then only the archive's own CRC guards it).
    """

    url: str
    checksum: str | None = None

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[1]


def _movielens(release: str, md5: str) -> tuple[Remote, ...]:
    return (Remote(f"{GROUPLENS}/movielens/{release}.zip", f"md5:{md5}"),)


# name -> reader, files
DOWNLOADS: dict[str, tuple[str, tuple[Remote, ...]]] = {
    "ml-100k": ("movielens", _movielens("ml-100k", "0e33842e24a9c977be4e0107933c0723")),
    "ml-1m": ("movielens", _movielens("ml-1m", "c4d9eecfca2ab87c1945afe126590906")),
    "ml-10m": ("movielens", _movielens("ml-10m", "ce571fd55effeba0271552578f2648bd")),
    "ml-20m": ("movielens", _movielens("ml-20m", "cd245b17a1ae2cc31bb14903e1204af3")),
    "ml-25m": ("movielens", _movielens("ml-25m", "6b51fb2759a8657d3bfcbfc42b592ada")),
    "ml-32m": ("movielens", (Remote(f"{GROUPLENS}/movielens/ml-32m.zip"),)),
    "movietweetings-100k": (
        "movietweetings",
        (
            Remote(
                f"{MOVIETWEETINGS}/ratings.dat",
                "sha256:c0dd868c2632d10002ebc928ddc5345f33adeaa59eca52c2941c26a2c5e36fd6",
            ),
            Remote(
                f"{MOVIETWEETINGS}/movies.dat",
                "sha256:e63fb84bc734e3c574f135634a40d3cbafab22b8f94f5fc0b80f80d1d2076efc",
            ),
        ),
    ),
    "hetrec2011-lastfm-2k": (
        "lastfm",
        (
            Remote(
                f"{GROUPLENS}/hetrec2011/hetrec2011-lastfm-2k.zip",
                "sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
            ),
        ),
    ),
    "s3rec-lastfm": (
        "sequences",
        (
            Remote(
                f"{S3REC}/LastFM.txt",
                "sha256:9ded486adb5b0fe9dc761950afa0a9a05e93ff018992e0c52bf11afec529f802",
            ),
        ),
    ),
}


def remotes(name: str, *, reader: str) -> tuple[Remote, ...]:
    """The files of a named download.

    Besides the names of `DOWNLOADS`, the reader `amazon` takes `2014/CATEGORY` (5-core) and
    `2023/CATEGORY`, such as `2014/Beauty`.

    Raises:
        UserError: no such name, or one of another reader.
    """
    year, slash, category = name.partition("/")
    if reader == "amazon" and slash and category and "/" not in category:
        if year == "2014":
            return (
                Remote(f"{AMAZON_2014}/reviews_{category}_5.json.gz"),
                Remote(f"{AMAZON_2014}/meta_{category}.json.gz"),
            )
        if year == "2023":
            return (
                Remote(f"{AMAZON_2023}/review_categories/{category}.jsonl.gz"),
                Remote(f"{AMAZON_2023}/meta_categories/meta_{category}.jsonl.gz"),
            )
    found = DOWNLOADS.get(name)
    if found is None or found[0] != reader:
        names = [known for known, (of, _) in DOWNLOADS.items() if of == reader]
        if reader == "amazon":
            names = ["2014/CATEGORY", "2023/CATEGORY"]
        wanted = f"wanted one of {', '.join(names)}" if names else "its source allows none"
        raise UserError(
            f"the reader `{reader}` has no download {name!r}; {wanted}. Pass --input PATH for files"
            " that you fetched yourself"
        )
    return found[1]


def fetch_all(
    name: str,
    *,
    reader: str,
    folder: artefacts.PathLike | None = None,
    steps: progress.Steps | None = None,
) -> pathlib.Path:
    """Fetches a named download; what is there already, whole, is not fetched again.

    It lies in a folder of its name below `folder`, or below `storage.cache_root()` when not given.

    Returns:
        The file, or the folder where there are several.

    Raises:
        UserError: an unknown name, no connection, or a wrong checksum.
    """
    target = pathlib.Path(folder or storage.cache_root()) / name.replace("/", "-")
    files = [
        fetch(remote, target / remote.file_name, steps=steps)
        for remote in remotes(name, reader=reader)
    ]
    return files[0] if len(files) == 1 else target


def fetch(
    remote: Remote,
    target: pathlib.Path,
    *,
    steps: progress.Steps | None = None,
    pause_seconds: float = 2.0,
) -> pathlib.Path:
    """Fetches one file to `target`, by way of `target.part`, which a later call takes up again.

    Several processes may do it at once: one fetches, and the others wait for it.

    Args:
        remote: address and checksum.
        target: where the whole file goes.
        steps: where progress is shown.
        pause_seconds: before the second attempt; doubled for each further one.

    Raises:
        UserError: the server does not give the file, breaks off each time, or the bytes do not
            have the checksum (the part is then removed).
    """
    if target.exists() and _matches(target, remote.checksum):
        return target
    steps = steps or progress.Steps()
    with artefacts.disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        with _alone(part, steps):
            if target.exists():
                if _matches(target, remote.checksum):  # another process was quicker
                    return target
                target.unlink()
            _fetch_part(remote, part, steps, pause_seconds)
            part.replace(target)
    return target


@contextlib.contextmanager
def _alone(part: pathlib.Path, steps: progress.Steps) -> Iterator[None]:
    """Holds the kernel's lock on `part`, which is made for it; waits while another process holds it.

    File systems without locks (some network ones) let everybody in. A part without bytes goes at the end.
    """
    while True:
        file = open(part, "ab")  # noqa: SIM115 - held, not used up
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            name = part.name.removesuffix(".part")
            with steps.step(f"waiting: another process is fetching {name}", None):
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            break  # no locks here
        # What was locked may have become the target, or have been removed, by who had it before.
        if _is_at(file, part):
            break
        file.close()
    try:
        yield
    finally:
        if _is_at(file, part) and not part.stat().st_size:
            part.unlink()
        file.close()


def _is_at(file: BinaryIO, path: pathlib.Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _fetch_part(
    remote: Remote, part: pathlib.Path, steps: progress.Steps, pause_seconds: float
) -> None:
    """Completes `part`, in several attempts where it must, and checks it."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause_seconds * 2 ** (attempt - 1))
        try:
            _fetch_rest(remote.url, part, steps)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS - 1:
                raise UserError(
                    f"the server answers {error.code} {error.reason}; wanted the file. Fetch it"
                    " with a browser and pass --input PATH",
                    file=remote.url,
                ) from error
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            TimeoutError,
            ConnectionError,
        ) as error:
            if attempt == ATTEMPTS - 1:
                have = part.stat().st_size if part.exists() else 0
                raise UserError(
                    f"the connection failed {ATTEMPTS} times ({error}); {have:,} bytes are kept."
                    " Run the same command again to go on from there, or pass --input PATH",
                    file=remote.url,
                ) from error
    if not _matches(part, remote.checksum):
        got = _digest(part, str(remote.checksum).split(":")[0])
        part.unlink()
        raise UserError(
            f"its checksum is {got}; wanted {remote.checksum}. The download was removed: run the"
            " command again; if it recurs, the file at the source has changed",
            file=remote.url,
        )


def _fetch_rest(url: str, part: pathlib.Path, steps: progress.Steps) -> None:
    """Appends what is missing to `part`; raises `ConnectionError` when the server breaks off."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "genrec_jax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        range_total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if error.code == 416 and range_total == str(have):
            return  # it was all there
        if error.code == 416:
            os.truncate(part, 0)  # not removed: the lock is on it
            raise ConnectionError("the part kept was longer than the file") from error
        raise
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if resumed else 0)
        done = have if resumed else 0
        with (
            open(part, "ab" if resumed else "wb") as file,
            steps.step(f"fetching {part.name.removesuffix('.part')}", total) as advance,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                done += len(block)
                advance(done)
    if total is not None and done < total:
        raise ConnectionError(f"broke off after {done:,} of {total:,} bytes")


def _matches(path: pathlib.Path, checksum: str | None) -> bool:
    return checksum is None or _digest(path, checksum.split(":")[0]) == checksum


def _digest(path: pathlib.Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
