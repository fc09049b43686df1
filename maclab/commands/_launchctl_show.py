"""What launchctl prints of jobs and of the system domain, from what PID 1 says of them (`job_data`).

Sources: recordings/launchctl. B: the service table of `print system`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from maclab.machine import launchd

# sysexits(3) names that launchd adds to an exit code (recorded: 75 and 78).
_SYSEXITS = {
    64: "EX_USAGE",
    65: "EX_DATAERR",
    66: "EX_NOINPUT",
    67: "EX_NOUSER",
    68: "EX_NOHOST",
    69: "EX_UNAVAILABLE",
    70: "EX_SOFTWARE",
    71: "EX_OSERR",
    72: "EX_OSFILE",
    73: "EX_CANTCREAT",
    74: "EX_IOERR",
    75: "EX_TEMPFAIL",
    76: "EX_PROTOCOL",
    77: "EX_NOPERM",
    78: "EX_CONFIG",
}
_SPAWN_TYPES = {
    "App": "app (1)",
    "Interactive": "interactive (4)",
    "Background": "background (5)",
    "Adaptive": "adaptive (6)",
}
# macOS's text for signals that Linux words differently or numbers differently.
_SIGNAL_TEXTS = {
    "SIGHUP": "Hangup: 1",
    "SIGINT": "Interrupt: 2",
    "SIGQUIT": "Quit: 3",
    "SIGILL": "Illegal instruction: 4",
    "SIGTRAP": "Trace/BPT trap: 5",
    "SIGABRT": "Abort trap: 6",
    "SIGFPE": "Floating point exception: 8",
    "SIGKILL": "Killed: 9",
    "SIGBUS": "Bus error: 10",
    "SIGSEGV": "Segmentation fault: 11",
    "SIGSYS": "Bad system call: 12",
    "SIGPIPE": "Broken pipe: 13",
    "SIGALRM": "Alarm clock: 14",
    "SIGTERM": "Terminated: 15",
    "SIGUSR1": "User defined signal 1: 30",
    "SIGUSR2": "User defined signal 2: 31",
}


def disabled_lines(disabled: Mapping[str, bool]) -> list[str]:
    """What `launchctl print-disabled system` shows."""
    store = sorted(disabled.items())
    lines = [f'\t\t"{label}" => {"disabled" if value else "enabled"}' for label, value in store]
    return ["\tdisabled services = {", *lines, "\t}"]


def _block(name: str, lines: list[str]) -> list[str]:
    return [f"\t{name} = {{", *(f"\t\t{line}" for line in lines), "\t}"]


def end_line(status: int | None, reason: str = "") -> str:
    """`last exit code` or, after a signal, `last terminating signal`: one excludes the other (recorded).
    A reason of macOS's own stands in their place (B).
    """
    if reason:
        return f"last exit reason = {reason}"
    if status is None:
        return "last exit code = (never exited)"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"last terminating signal = {_SIGNAL_TEXTS.get(name, f'{name}: {os.WTERMSIG(status)}')}"
    code = os.WEXITSTATUS(status)
    return f"last exit code = {code}: {_SYSEXITS[code]}" if code in _SYSEXITS else f"last exit code = {code}"


def service_lines(job: dict[str, Any]) -> list[str]:
    """What `launchctl print system/<label>` shows of a job (recordings COMPOSED_print_system_full and
    others).
    """
    running = bool(job["pid"])
    return [
        f"system/{job['label']} = {{",
        f"\tactive count = {int(running)}",
        f"\tpath = {job['path']}",
        "\ttype = LaunchDaemon",
        f"\tstate = {job['state']}",
        "",
        f"\tprogram = {job['program']}",
        *_block("arguments", job["arguments"]),
        "",
        *_surroundings_lines(job),
        *_account_lines(job),
        f"\tminimum runtime = {job['minimum_runtime_s']:.0f}",
        f"\texit timeout = {job['exit_timeout_s']:.0f}",
        f"\truns = {job['runs']}",
        *([f"\tsuccessive crashes = {job['crashes']}"] if job["crashes"] > 1 else []),
        *(_process_lines(job) if running else []),
        f"\t{end_line(job['status'], job['exit_reason'])}",
        *(_coalition_lines(job) if running else []),
        "",
        f"\tspawn type = {_SPAWN_TYPES.get(job['process_type'], 'daemon (3)')}",
        "\tjetsam priority = 40",
        "\tjetsam memory limit (active) = (unlimited)",
        "\tjetsam memory limit (inactive) = (unlimited)",
        "\tjetsamproperties category = daemon",
        "\tjetsam thread limit = 32",
        "\tcpumon = default",
        f"\tjob state = {'running' if running else 'exited'}",
        *_block("probabilistic guard malloc policy", ["activation rate = 1/1000", "sample rate = 1/0"]),
        "",
        f"\tproperties = {' | '.join([*_properties(job), 'managed LWCR', 'has LWCR'])}",
        "}",
    ]


def _surroundings_lines(job: dict[str, Any]) -> list[str]:
    """Working directory, streams and environment."""
    environment = {"OSLogRateLimit": "64", **job["environment"], "XPC_SERVICE_NAME": job["label"]}
    folder = job["working_directory"]
    return [
        *([f"\tworking directory = {folder}", ""] if folder else []),
        *(f"\t{key} path = {job[key]}" for key in ("stdin", "stdout", "stderr") if job[key]),
        *_block("default environment", [f"PATH => {launchd.STANDARD_PATH}"]),
        "",
        *_block("environment", [f"{key} => {value}" for key, value in environment.items()]),
        "",
        "\tdomain = system",
    ]


def _account_lines(job: dict[str, Any]) -> list[str]:
    lines = [f"\tusername = {job['user']}"] if job["user"] else []
    if job["user"] or job["group"]:
        lines.append(f"\tgroup = {job['group'] or job['user']}")
    if job["umask"] is not None:
        lines.append(f"\tumask = {job['umask']:o}")
    return lines


def _process_lines(job: dict[str, Any]) -> list[str]:
    return [
        f"\tpid = {job['pid']}",
        f"\timmediate reason = {job['reason']}",
        "\tforks = 0",
        "\texecs = 1",
        "\tinitialized = 1",
        "\ttrampolined = 1",
        "\tstarted suspended = 0",
        "\tproxy started suspended = 0",
        "\tchecked allocations = 0 (queried = 1)",
    ]


def _coalition_lines(job: dict[str, Any]) -> list[str]:
    lines = []
    for number, kind in ((1052, "resource"), (1053, "jetsam")):
        about = [f"ID = {number}", f"type = {kind}", "state = active", "active count = 1"]
        lines += ["", *_block(f"{kind} coalition", [*about, f"name = {job['label']}"])]
    return lines


def _properties(job: dict[str, Any]) -> list[str]:
    named = {"keepalive": "keep_alive", "runatload": "run_at_load", "inferred program": "inferred"}
    return [name for name, key in named.items() if job[key]]


def domain_lines(jobs: list[dict[str, Any]], disabled: Mapping[str, bool]) -> list[str]:
    """What `launchctl print system` shows. `disabled`: the store of what was switched on and off."""
    active = sum(1 for job in jobs if job["pid"])
    services = [
        f"\t\t\t{job['pid']:>4}{'-' if job['status'] is None else list_status(job):>7}     {job['label']}"
        for job in jobs
    ]
    return [
        "system = {",
        "\ttype = system",
        "\thandle = 0",
        f"\tactive count = {active}",
        f"\tservice count = {len(jobs)}",
        f"\tactive service count = {active}",
        f"\tmaximum allowed shutdown time = {launchd.SHUTDOWN_LIMIT_S:.0f} s",
        "\tservice stats = {",
        "\t\tcom.apple.launchd.service-stats-default (4096 records)",
        "\t}",
        "\tcreator = launchd[1]",
        "\tcreator euid = 0",
        "\tauxiliary bootstrapper = com.apple.xpc.smd (complete)",
        "\tsecurity context = {",
        "\t\tuid unset",
        "\t\tasid = 0",
        "\t}",
        "",
        "\tbringup time = 107 ms",
        "\tdeath port = 0xa03",
        "\tsubdomains = {",
        "\t\tuser/0",
        "\t}",
        "",
        "\tservices = {",
        *services,
        "\t}",
        "",
        *disabled_lines(disabled),
        "",
        "\tproperties = uncorked | audit check done | bootcache hack",
        "}",
    ]


def list_status(job: dict[str, Any]) -> str:
    """The column `Status` of `launchctl list`."""
    status = job["status"]
    if status is None:
        return "-" if job["pid"] == 0 and job["runs"] == 0 else "0"
    return str(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def list_lines(job: dict[str, Any]) -> list[str]:
    """What `launchctl list <label>` shows."""
    lines = ["{", '\t"LimitLoadToSessionType" = "System";', f'\t"Label" = "{job["label"]}";']
    for key, name in (("stdout", "StandardOutPath"), ("stderr", "StandardErrorPath")):
        if job[key]:
            lines.append(f'\t"{name}" = "{job[key]}";')
    lines.append(f'\t"OnDemand" = {"false" if job["keep_alive"] else "true"};')
    lines.append(f'\t"LastExitStatus" = {job["status"] or 0};')
    if job["pid"]:
        lines.append(f'\t"PID" = {job["pid"]};')
    lines += [
        f'\t"Program" = "{job["program"]}";',
        '\t"ProgramArguments" = (',
        *(f'\t\t"{argument}";' for argument in job["arguments"]),
        "\t);",
        "};",
    ]
    return lines
