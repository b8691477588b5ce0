import concurrent.futures
import hashlib
import http.server
import threading
import time

import pytest

from genrec_jax.data import download
from genrec_jax.errors import UserError

CONTENT = bytes(range(256)) * 400
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at /file, the way `behaviour` says; remembers every request's Range."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.behaviour = "ranges"
        self.go_on = threading.Event()

    def url(self, path="file"):
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format, *arguments):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        behaviour = self.server.behaviour
        self.server.ranges.append(asked)
        if self.path != "/file":
            self.send_error(404)
            return
        if behaviour == "busy" and len(self.server.ranges) < 3:
            self.send_error(503)
            return
        start = int(asked.split("=")[1].rstrip("-")) if asked and behaviour != "no ranges" else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = len(CONTENT)
        if behaviour == "breaks off" and len(self.server.ranges) < 3:
            end = min(end, start + 30_000)
        elif behaviour == "always breaks off":
            end = min(end, start + 1000)
        elif behaviour == "pauses":
            self.wfile.write(CONTENT[start:50_000])
            start = 50_000
            assert self.server.go_on.wait(60)
        self.wfile.write(CONTENT[start:end])


@pytest.fixture
def server():
    running = Server()
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def fetch(server, target, checksum=SHA256):
    return download.fetch(download.Remote(server.url(), checksum), target, pause_seconds=0.0)


def test_a_file_is_fetched_once(server, tmp_path):
    target = fetch(server, tmp_path / "deep" / "file")
    assert target.read_bytes() == CONTENT
    assert fetch(server, target) == target
    assert server.ranges == [None]
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_part_is_taken_up(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:5000])
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == ["bytes=5000-"]


def test_a_whole_part_needs_no_more_bytes(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.behaviour = "no ranges"
    (tmp_path / "file.part").write_bytes(b"x" * 5000)
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT


def test_broken_connections_are_resumed(server, tmp_path):
    server.behaviour = "breaks off"
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=30000-", "bytes=60000-"]


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.behaviour = "busy"
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT


def test_giving_up_keeps_the_part(server, tmp_path):
    server.behaviour = "always breaks off"
    with pytest.raises(
        UserError, match=r"failed 4 times .*4,000 bytes are kept.*same command again"
    ):
        fetch(server, tmp_path / "file")
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:4000]
    server.behaviour = "ranges"
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT


def test_two_at_once_fetch_it_once(server, tmp_path, monkeypatch):
    """The second finds half a part there, and waits for the first instead of going on with it."""
    monkeypatch.setattr(download, "BLOCK", 10_000)
    server.behaviour = "pauses"
    deadline = time.monotonic() + 60
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        first = pool.submit(fetch, server, tmp_path / "file")
        part = tmp_path / "file.part"
        while not part.exists() or not part.stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        others = [pool.submit(fetch, server, tmp_path / "file") for _ in range(2)]
        done, _ = concurrent.futures.wait(others, timeout=0.5)
        asked = len(server.ranges)
        server.go_on.set()
        assert not done and asked == 1
        for one in (first, *others):
            assert one.result(60).read_bytes() == CONTENT
    assert len(server.ranges) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_next_goes_on_where_a_failed_one_stopped(server, tmp_path):
    """Its lock is gone with it; what it had is not."""
    server.behaviour = "always breaks off"
    with pytest.raises(UserError, match="4,000 bytes are kept"):
        fetch(server, tmp_path / "file")
    server.behaviour = "pauses"
    server.go_on.set()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(fetch, server, tmp_path / "file") for _ in range(2)]:
            assert one.result(60).read_bytes() == CONTENT
    assert server.ranges[4:] == ["bytes=4000-"]


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(UserError, match=rf"its checksum is {SHA256}; wanted sha256:00"):
        fetch(server, tmp_path / "file", "sha256:00")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_fetched_anew(server, tmp_path):
    (tmp_path / "file").write_bytes(b"damaged")
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT


def test_md5_and_none(server, tmp_path):
    md5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
    for name, checksum in (("a", md5), ("b", None)):
        assert fetch(server, tmp_path / name, checksum).read_bytes() == CONTENT


def test_a_missing_file_and_a_missing_server(server, tmp_path):
    remote = download.Remote(server.url("gone"))
    with pytest.raises(UserError, match=r"gone: the server answers 404 Not Found.*--input"):
        download.fetch(remote, tmp_path / "file", pause_seconds=0.0)
    assert server.ranges == [None]  # a 404 is not tried again
    assert list(tmp_path.iterdir()) == []
    nowhere = download.Remote("http://127.0.0.1:9/file")
    with pytest.raises(UserError, match=r"failed 4 times .*0 bytes are kept"):
        download.fetch(nowhere, tmp_path / "file", pause_seconds=0.0)


def test_names(monkeypatch, server, tmp_path):
    files = (download.Remote(server.url(), SHA256),)
    monkeypatch.setitem(download.DOWNLOADS, "one", ("movielens", files))
    assert (
        download.fetch_all("one", reader="movielens", folder=tmp_path) == tmp_path / "one" / "file"
    )
    beauty = download.remotes("2014/Beauty", reader="amazon")
    assert [remote.file_name for remote in beauty] == [
        "reviews_Beauty_5.json.gz",
        "meta_Beauty.json.gz",
    ]
    assert len(download.remotes("2023/All_Beauty", reader="amazon")) == 2
    for name, reader, message in (
        ("ml-3m", "movielens", "has no download 'ml-3m'; wanted one of ml-100k, ml-1m"),
        ("ml-1m", "movietweetings", "wanted one of movietweetings-100k"),
        ("x", "yelp", "its source allows none"),
        ("1999/Beauty", "amazon", "2014/CATEGORY"),
        ("2014/../../etc", "amazon", "2014/CATEGORY"),
    ):
        with pytest.raises(UserError, match=message):
            download.remotes(name, reader=reader)


def test_every_named_download_is_well_formed():
    for reader, files in download.DOWNLOADS.values():
        for remote in files:
            assert remote.url.startswith("https://")
            if remote.checksum is not None:
                algorithm, digest = remote.checksum.split(":")
                assert len(digest) == {"md5": 32, "sha256": 64}[algorithm]
        assert reader


def test_movietweetings_checksums_are_those_of_the_real_files(shared):
    for remote in download.remotes("movietweetings-100k", reader="movietweetings"):
        file = shared / "data" / "movietweetings_100k" / remote.file_name
        assert remote.checksum == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
