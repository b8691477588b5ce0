"""Large pages: when the command starts itself again, and that it does so once, as the same process."""

import os
import subprocess
import sys

import pytest

from genrec_jax.cli import huge_pages


@pytest.fixture
def linux_with_pages(monkeypatch, tmp_path):
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "KERNEL_SETTING", setting)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(huge_pages.sys, "platform", "linux")
    return setting


def test_the_tunable_is_added_to_those_of_the_user(linux_with_pages):
    environment = huge_pages.environment_with_huge_pages
    assert environment({"A": "b"}) == {"A": "b", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    mine = {"GLIBC_TUNABLES": "glibc.malloc.check=3"}
    assert environment(mine) == {"GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.hugetlb=1"}
    assert environment({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}) is None


def test_nothing_is_done_where_it_would_not_help(linux_with_pages, monkeypatch):
    linux_with_pages.write_text("always madvise [never]\n")
    assert huge_pages.environment_with_huge_pages({}) is None
    linux_with_pages.unlink()
    assert huge_pages.environment_with_huge_pages({}) is None
    linux_with_pages.write_text("[always] madvise never\n")
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.31"))
    assert huge_pages.environment_with_huge_pages({}) is None
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("", ""))
    assert huge_pages.environment_with_huge_pages({}) is None


def test_a_process_starts_again_once_and_keeps_its_number(tmp_path):
    script = tmp_path / "started.py"
    script.write_text(
        "import os, pathlib\n"
        "from genrec_jax.cli import huge_pages\n"
        f"huge_pages.KERNEL_SETTING = pathlib.Path({str(tmp_path / 'enabled')!r})\n"
        "huge_pages.platform.libc_ver = lambda: ('glibc', '2.36')\n"
        "print('started', os.getpid(), flush=True)\n"
        "huge_pages.start_again()\n"
        "print('working', os.getpid(), os.environ['GLIBC_TUNABLES'])\n"
    )
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["started", "started", "working"]
    assert len({line[1] for line in lines}) == 1
    assert lines[-1][2] == "glibc.malloc.hugetlb=1"
