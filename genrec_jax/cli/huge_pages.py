"""Large memory pages for the big arrays of a computation on a Linux CPU.

XLA asks the allocator for its temporary arrays anew at every step. With 4 KiB pages the kernel then
spends as long clearing and mapping them as the products take: a training step of the small model that
`gin_configs/runs/train_cpu.gin` trains takes half as long with 2 MiB pages. glibc (2.35 or newer) asks
for them if its tunable says so when the process starts, so the command starts itself again once, in
the same process id.
"""

import os
import pathlib
import platform
import sys

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb"
KERNEL_SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment_with_huge_pages(environment: dict[str, str]) -> dict[str, str] | None:
    """The environment to start again with, or None where that would change nothing.

    A setting of the user's (`GLIBC_TUNABLES=glibc.malloc.hugetlb=0` for none) is left as it is.
    """
    tunables = environment.get(VARIABLE, "")
    if TUNABLE in tunables or sys.platform != "linux":
        return None
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return None
    try:
        if "[never]" in KERNEL_SETTING.read_text():
            return None
    except OSError:
        return None
    settings = [*filter(None, [tunables]), f"{TUNABLE}=1"]
    return {**environment, VARIABLE: ":".join(settings)}


def start_again() -> None:
    """Replaces this process by itself with large pages; returns where they are on or not to be had."""
    environment = environment_with_huge_pages(dict(os.environ))
    if environment is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
