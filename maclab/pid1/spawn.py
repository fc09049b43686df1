"""How a launchd job becomes a process: what xpcproxy does between fork and exec.

Order and owners: reference macos 2.6 (log files opened as root before privileges are dropped, O_APPEND, mode
0666 less umask) and 2.5 (whatever cannot be had ends the job with 78, EX_CONFIG).
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import resource
from pathlib import Path
from typing import NoReturn

from maclab.machine.job_spec import JobSpec
from maclab.machine.launchd import EX_CONFIG, STANDARD_PATH
from maclab.pid1.init import fresh_child

DEFAULT_OPEN_FILES = 256
"""Soft limit of open files of a job (reference 2.6, C)."""
DEFAULT_UMASK = 0o022
_LIMITS = {
    "CPU": resource.RLIMIT_CPU,
    "Core": resource.RLIMIT_CORE,
    "Data": resource.RLIMIT_DATA,
    "FileSize": resource.RLIMIT_FSIZE,
    "MemoryLock": resource.RLIMIT_MEMLOCK,
    "NumberOfFiles": resource.RLIMIT_NOFILE,
    "NumberOfProcesses": resource.RLIMIT_NPROC,
    "ResidentSetSize": resource.RLIMIT_RSS,
    "Stack": resource.RLIMIT_STACK,
}


def environment(spec: JobSpec) -> dict[str, str]:
    """A job's environment: no HOME, USER or TMPDIR unless its plist says so."""
    return {
        "PATH": STANDARD_PATH,
        "OSLogRateLimit": "64",
        **dict(spec.environment),
        "XPC_SERVICE_NAME": spec.label,
    }


def become_job(spec: JobSpec, open_files: int = DEFAULT_OPEN_FILES, socket_fd: int = -1) -> NoReturn:
    """In a forked child: become the job's process. `socket_fd` is the connection of an inetd-style job."""
    try:
        if socket_fd >= 0:
            os.set_blocking(socket_fd, True)
            os.dup2(socket_fd, 0)
            os.dup2(0, 1)
        fresh_child()
        with contextlib.suppress(OSError):
            os.setsid()
        os.umask(DEFAULT_UMASK if spec.umask is None else spec.umask)
        _open_files(spec, socket_fd >= 0)
        _set_limits(spec, open_files)
        if spec.nice:
            os.nice(spec.nice)
        _drop_rights(spec)
        os.chdir(spec.working_directory or "/")
        program = spec.program if Path(spec.program).exists() or socket_fd < 0 else spec.arguments[0]
        os.execvpe(program, list(spec.arguments), environment(spec))
    finally:
        os._exit(EX_CONFIG)


def _open_files(spec: JobSpec, has_socket: bool) -> None:
    if not has_socket:
        os.dup2(os.open(spec.stdin_path or "/dev/null", os.O_RDONLY), 0)
    for path, number in ((spec.stdout_path, 1), (spec.stderr_path, 2)):
        if path:
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), number)
        elif not (has_socket and number == 1):
            os.dup2(os.open("/dev/null", os.O_WRONLY), number)
    os.closerange(3, 64)


def _set_limits(spec: JobSpec, open_files: int) -> None:
    soft, hard = dict(spec.soft_limits), dict(spec.hard_limits)
    soft.setdefault("NumberOfFiles", open_files)
    for name in {*soft, *hard}:
        kind = _LIMITS.get(name)
        if kind is None:
            continue
        now_soft, now_hard = resource.getrlimit(kind)
        new_hard = hard.get(name, now_hard)
        new_soft = soft.get(name, now_soft)
        if new_hard != resource.RLIM_INFINITY:
            new_soft = min(new_soft, new_hard) if new_soft != resource.RLIM_INFINITY else new_hard
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (new_soft, new_hard))


def _drop_rights(spec: JobSpec) -> None:
    user = pwd.getpwnam(spec.user) if spec.user else pwd.getpwuid(0)
    gid = grp.getgrnam(spec.group).gr_gid if spec.group else user.pw_gid
    os.setgroups(os.getgrouplist(user.pw_name, gid) if spec.init_groups else [gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
