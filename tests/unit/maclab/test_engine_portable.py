"""The stand-in engine has to compile on a Mac: by the compiler of macOS, without what only Linux has."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from maclab import engine

SOURCES = sorted((*engine.SOURCES.glob("*.c"), *engine.SOURCES.glob("*.h")))
#: Headers of C99 and POSIX that both have, and ours.
HEADERS = re.compile(
    r'"\w+\.h"|<(arpa/inet|ctype|dirent|dlfcn|errno|fcntl|inttypes|limits|math|netinet/in|poll|pthread|signal|stdarg'
    r"|stdbool|stddef|stdint|stdio|stdlib|string|strings|sys/(file|mman|socket|stat|time)|time|unistd)\.h>"
)
#: Of Linux or the GNU library alone, or missing in an SDK of macOS 15.
ONLY_LINUX = re.compile(
    r"\b(epoll_\w+|eventfd|signalfd|timerfd_\w+|inotify_\w+|accept4|pipe2|prctl|memfd_create|sem_init|sem_timedwait"
    r"|posix_fadvise|fallocate|sigtimedwait|sigwaitinfo|ppoll|fdatasync|get_nprocs|program_invocation_name|qsort_r"
    r"|clearenv|mremap|MAP_POPULATE|MAP_ANONYMOUS|SOCK_CLOEXEC|SOCK_NONBLOCK|strchrnul|mempcpy|secure_getenv"
    r"|pthread_\w+_np|pthread_mutex_timedlock|pthread_condattr_setclock|CLOCK_MONOTONIC_RAW|O_TMPFILE|getrandom)\b"
    r"|\"/proc/|\"/sys/|st_[amc]tim\b"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_source_has_nothing_of_linux_alone(path: Path) -> None:
    text = path.read_text()
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    assert ONLY_LINUX.findall(code) == []
    included = re.findall(r"^\s*#\s*include\s+(\S+)", text, re.MULTILINE)
    assert [header for header in included if not HEADERS.fullmatch(header)] == []


def test_a_flag_that_an_sdk_may_lack_is_made_up_for() -> None:
    users = [path for path in SOURCES if "MSG_NOSIGNAL" in path.read_text()]
    assert users
    assert all("#ifndef MSG_NOSIGNAL" in path.read_text() for path in users)


def test_the_metal_program_is_built_where_metal_is_and_nowhere_else(tmp_path: Path) -> None:
    engine.export(engine.named("september"), tmp_path)
    wanted = subprocess.run(["make", "-n", "-C", str(tmp_path)], capture_output=True, text=True, check=True)
    has_metal = shutil.which("xcrun") is not None
    assert ("ds4-metal" in wanted.stdout) == has_metal
    assert (tmp_path / "ds4_metal.m").is_file()


@pytest.mark.skipif(shutil.which("clang") is None, reason="this machine has no clang")
@pytest.mark.parametrize("name", [one.name for one in engine.GENERATIONS])
def test_clang_compiles_it_without_a_warning(name: str, tmp_path: Path) -> None:
    engine.export(engine.named(name), tmp_path)
    flags = ["-std=c99", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    sources = [str(path) for path in tmp_path.glob("*.c")]
    subprocess.run(["clang", *flags, *sources], check=True, cwd=tmp_path)
