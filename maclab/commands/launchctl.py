"""launchctl of a simulated Mac: texts, streams and exit statuses over PID 1's launchd.

Source: recordings/launchctl (V and C classes) and reference macos 2.1 to 2.8. The domain `system` is
simulated. `gui/<uid>` answers as over ssh when there is no login at the screen. `user/<uid>` is not there
either until somebody has a session; then it is, and what it would say is not recorded, so it is refused by
name. Confidence A where the recordings say so; B: `blame`, the service table of `print system`; C: texts for
callers without rights of enable and disable.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maclab.commands import _launchctl_show as show
from maclab.commands.info import CommandInfo
from maclab.machine import launchd_numbers

if TYPE_CHECKING:
    from maclab.machine.context import Context

INFO = CommandInfo(
    name="launchctl",
    paths=("/bin/launchctl",),
    source="recordings/launchctl, man launchctl",
    confidence="A",
    does="bootstrap, bootout, enable, disable, kickstart, kill, print, print-disabled, list, blame, error, "
    "managername, limit maxfiles, load, unload, start, stop, remove, asuser, all for the system domain",
    lacks="the gui domain beyond its errors (no user is at the screen), the user domain of a session, "
    "endpoints and unmanaged processes in `print system`, submit, config, plist, procinfo, dumpstate",
)

ERRORS = {
    1: "Operation not permitted",
    2: "No such file or directory",
    3: "No such process",
    5: "Input/output error",
    13: "Permission denied",
    17: "File exists",
    36: "Operation now in progress",
    37: "Operation already in progress",
    107: "Malformed bundle",
    108: "Invalid path",
    109: "Invalid property list",
    110: "Invalid or missing service identifier",
    111: "Invalid or missing Program/ProgramArguments",
    112: "Could not find specified domain",
    113: "Could not find specified service",
    114: "The specified username does not exist",
    115: "The specified group does not exist",
    116: "Routine not yet implemented",
    118: "Bad response from server",
    119: "Service is disabled",
    120: "Bad subsystem destination for request",
    121: "Path not searched for services",
    122: "Path had bad ownership/permissions",
    123: "Path is whitelisted for domain",
    124: "Domain is tearing down",
    125: "Domain does not support specified action",
    126: "Request type is no longer supported",
    129: "superseded",
    133: "Multiple errors were returned, see stderr",
    134: "Service cannot load in requested session",
    135: "Process is not managed",
    139: "Service cannot presently execute",
    140: "Service name is reserved for anonymous service",
    141: "Reentrancy avoided",
    144: "entitlement missing",
    150: "Operation not permitted while System Integrity Protection is engaged",
    155: "quarantined",
    159: "Sandbox restriction",
    161: "BTM (Background Task Management / Login Items) policy",
}
"""Texts of `launchctl error` (recording COMPOSED_error_messages)."""

KICKSTART_WAIT_S = 60.0
_DISABLED_FILE = Path("/var/db/com.apple.xpc.launchd/disabled.plist")


def main(ctx: Context) -> int:
    """Run one subcommand; the exit status is the error number in the text, so that `launchctl error` decodes
    it.
    """
    verb, *arguments = ctx.args or ["help"]
    handler = _VERBS.get(verb)
    if handler is None:
        return ctx.unsupported(verb)
    for word in arguments:
        domain, _ = _target(word)
        if domain.startswith("user/") and _has_session(ctx, domain.removeprefix("user/")):
            return ctx.unsupported(f"{verb} {domain}")
    return int(handler(ctx, arguments))


def _has_session(ctx: Context, uid: str) -> bool:
    """Whether a user's domain is there (reference 2.8): root's always, others' with a session. Whose the ssh
    sessions are is not documented.
    """
    return uid in ("0", str(ctx.uid)) or bool(ctx.call("jobs", label="").get("sessions"))


# ------------------------------------------------------------------------------------------------- targets


def _target(text: str) -> tuple[str, str]:
    """(domain, label) of `system/x`, `system`, `gui/501/x`, `gui/501`."""
    parts = text.split("/", 2)
    if parts[0] in ("gui", "user", "login", "pid", "session"):
        return "/".join(parts[:2]), parts[2] if len(parts) > 2 else ""
    return parts[0], "/".join(parts[1:])


def _domain_words(domain: str) -> str:
    kind, _, number = domain.partition("/")
    return kind if not number else f"user {kind}: {number}" if kind == "gui" else f"{kind}: {number}"


def _missing(ctx: Context, label: str, domain: str, *, bad_request: bool) -> int:
    if bad_request:
        ctx.err("Bad request.")
    ctx.err(f'Could not find service "{label}" in domain for {_domain_words(domain)}')
    return launchd_numbers.NO_SERVICE


def _failed(ctx: Context, what: str, number: int) -> int:
    ctx.err(f"{what}: {number}: {ERRORS.get(number, 'Unknown error')}")
    return number


def _usage(ctx: Context, text: str) -> int:
    ctx.err(f"Usage: launchctl {text}")
    return 64


def _job(ctx: Context, label: str) -> dict[str, Any] | None:
    jobs: list[dict[str, Any]] = ctx.call("jobs", label=label)["jobs"]
    return jobs[0] if jobs else None


# ---------------------------------------------------------------------------------------------- load, unload


def _bootstrap(ctx: Context, arguments: list[str]) -> int:
    if len(arguments) < 2:
        return _usage(ctx, "bootstrap <domain-target> [service-path, service-path2, ...]")
    domain, *paths = arguments
    if domain != "system":
        return _failed(ctx, "Bootstrap failed", launchd_numbers.NOT_SUPPORTED)
    if not ctx.is_root:
        _failed(ctx, "Bootstrap failed", launchd_numbers.EIO)
        ctx.err("Try re-running the command as root for richer errors.")
        return launchd_numbers.EIO
    status = 0
    for path in _plists(ctx, paths):
        number = int(ctx.call("bootstrap", path=path)["error"])
        if number == launchd_numbers.BAD_PATH:
            ctx.err(f"{path}: {ERRORS[number]}")
        if number in (
            launchd_numbers.BAD_PATH,
            launchd_numbers.BAD_PLIST,
            launchd_numbers.NO_LABEL,
            launchd_numbers.NO_PROGRAM,
            launchd_numbers.ENOENT,
        ):
            # The recorded practice: the file's fault is hidden behind 5.
            number = launchd_numbers.EIO
        if number:
            status = _failed(ctx, "Bootstrap failed", number)
    return status


def _plists(ctx: Context, paths: list[str]) -> list[str]:
    found = []
    for path in paths:
        full = Path(ctx.cwd, path)
        found += [str(item) for item in sorted(full.glob("*.plist"))] if full.is_dir() else [str(full)]
    return found


def _bootout(ctx: Context, arguments: list[str]) -> int:
    wait = "--wait" in arguments
    arguments = [item for item in arguments if item != "--wait"]
    if not arguments:
        return _usage(ctx, "bootout <domain-target> [service-path1, service-path2, ...] | <service-target>")
    domain, label = _target(arguments[0])
    if domain != "system":
        return _failed(ctx, "Boot-out failed", launchd_numbers.NOT_SUPPORTED)
    if not ctx.is_root:
        return _failed(ctx, "Boot-out failed", launchd_numbers.EPERM)
    if not label and len(arguments) == 1:
        return ctx.unsupported("bootout of a whole domain")
    wanted = [{"label": label}] if label else [{"path": path} for path in _plists(ctx, arguments[1:])]
    status = 0
    for question in wanted:
        number = int(ctx.call("bootout", **question)["error"])
        if number:
            status = _failed(ctx, "Boot-out failed", number)
        while wait and label and _job(ctx, label):
            ctx.wait(0.05)
    if wait and not status:
        with ctx.mac() as mac:
            return mac.quirks.bootout_wait_rc
    return status


def _load(ctx: Context, arguments: list[str]) -> int:
    """Legacy: exits 0 whatever happened (recorded)."""
    write = "-w" in arguments
    for path in _plists(ctx, [item for item in arguments if not item.startswith("-")]):
        if write:
            _store(ctx, Path(path).name.removesuffix(".plist"), False)
        if (
            not Path(path).exists()
            or (ctx.is_root and ctx.call("bootstrap", path=path)["error"])
            or not ctx.is_root
        ):
            _failed(ctx, "Load failed", launchd_numbers.EIO)
    return 0


def _unload(ctx: Context, arguments: list[str]) -> int:
    """Legacy: exits 0 whatever happened (recorded)."""
    for path in _plists(ctx, [item for item in arguments if not item.startswith("-")]):
        if not ctx.is_root or ctx.call("bootout", path=path)["error"]:
            _failed(ctx, "Unload failed", launchd_numbers.EIO)
        if "-w" in arguments:
            _store(ctx, Path(path).name.removesuffix(".plist"), True)
    return 0


# -------------------------------------------------------------------------------------------- enable, disable


def _enable(ctx: Context, arguments: list[str]) -> int:
    return _switch(ctx, arguments, False)


def _disable(ctx: Context, arguments: list[str]) -> int:
    return _switch(ctx, arguments, True)


def _switch(ctx: Context, arguments: list[str], disabled: bool) -> int:
    word = "disable" if disabled else "enable"
    domain, label = _target(arguments[0]) if arguments else ("", "")
    if not label:
        return _usage(ctx, f"{word} <service-target>")
    if domain != "system":
        return ctx.unsupported(f"{word} {domain}")
    if not ctx.is_root:
        return _failed(ctx, f"Could not {word} service", launchd_numbers.EPERM)
    _store(ctx, label, disabled)
    return 0


def _store(ctx: Context, label: str, disabled: bool) -> None:
    import plistlib

    with ctx.mac() as mac:
        mac.launchd_disabled[label] = disabled
        store = dict(sorted(mac.launchd_disabled.items()))
    if ctx.folder.parent == Path("/"):
        _DISABLED_FILE.write_bytes(plistlib.dumps(store))
    ctx.call("set_disabled", label=label, value=disabled)


def _print_disabled(ctx: Context, arguments: list[str]) -> int:
    if not arguments:
        return _usage(ctx, "print-disabled <domain-target>")
    if arguments[0] != "system":
        return _no_domain(ctx, arguments[0])
    ctx.out(*show.disabled_lines(ctx.peek().launchd_disabled))
    return 0


# ------------------------------------------------------------------------------------------- kickstart, kill


def _kickstart(ctx: Context, arguments: list[str]) -> int:
    flags = "".join(item[1:] for item in arguments if item.startswith("-"))
    if set(flags) - set("kps"):
        return ctx.unsupported(f"-{flags}")
    if "s" in flags:
        return ctx.unsupported("-s")
    names = [item for item in arguments if not item.startswith("-")]
    if len(names) != 1:
        return _usage(ctx, "kickstart [-k] [-p] [-s] <service-target>")
    domain, label = _target(names[0])
    before = _job(ctx, label) if domain == "system" else None
    if before is None:
        return _missing(ctx, label, domain, bad_request=False)
    answer = ctx.call("kickstart", label=label, kill="k" in flags)
    number = int(answer["error"])
    if number == launchd_numbers.NO_SERVICE:
        return _missing(ctx, label, domain, bad_request=False)
    if number:
        return _failed(ctx, f'Could not kickstart service "{label}"', number)
    if "p" in flags:
        pid = int(answer["pid"])
        if "k" in flags and before["pid"]:
            pid = _new_pid(ctx, label, int(before["pid"]))
        ctx.out(f"service spawned with pid: {pid}" if ctx.tty else str(pid))
    return 0


def _new_pid(ctx: Context, label: str, old: int) -> int:
    deadline = time.monotonic() + KICKSTART_WAIT_S
    while time.monotonic() < deadline:
        job = _job(ctx, label)
        if job and job["pid"] and job["pid"] != old:
            return int(job["pid"])
        ctx.wait(0.02)
    return 0


def _kill(ctx: Context, arguments: list[str]) -> int:
    if len(arguments) != 2:
        return _usage(ctx, "kill <signal-number|signal-name> <service-target>")
    number = _signal_number(arguments[0])
    if number is None:
        return ctx.unsupported(f"signal {arguments[0]}")
    domain, label = _target(arguments[1])
    if domain != "system" or _job(ctx, label) is None:
        return _missing(ctx, label, domain, bad_request=False)
    error = int(ctx.call("kill", label=label, number=number)["error"])
    if error == launchd_numbers.ESRCH:
        ctx.err("No process to signal.")
        return error
    return _failed(ctx, "Could not signal service", error) if error else 0


def _signal_number(text: str) -> int | None:
    if text.isdigit():
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    return int(signal.Signals[name]) if name in signal.Signals.__members__ else None


def _blame(ctx: Context, arguments: list[str]) -> int:
    domain, label = _target(arguments[0]) if arguments else ("", "")
    job = _job(ctx, label) if domain == "system" and label else None
    if job is None:
        return _missing(ctx, label, domain, bad_request=False)
    if not job["pid"]:
        ctx.err(f'Could not find a blame for service "{label}"')
        return launchd_numbers.ESRCH
    ctx.out(job["reason"])
    return 0


# --------------------------------------------------------------------------------------------------- print


def _print(ctx: Context, arguments: list[str]) -> int:
    if len(arguments) != 1:
        return _usage(ctx, "print <domain-target> | <service-target>")
    domain, label = _target(arguments[0])
    if domain != "system":
        return _missing(ctx, label, domain, bad_request=True) if label else _no_domain(ctx, domain)
    if not label:
        ctx.out(*show.domain_lines(ctx.call("jobs")["jobs"], ctx.peek().launchd_disabled))
        return 0
    job = _job(ctx, label)
    if job is None:
        _missing(ctx, label, domain, bad_request=True)
        return ctx.peek().quirks.print_missing_rc
    ctx.out(*show.service_lines(job))
    return 0


def _no_domain(ctx: Context, domain: str) -> int:
    ctx.err("Bad request.", f"Could not find domain for {_domain_words(domain)}")
    return launchd_numbers.NO_DOMAIN


# ---------------------------------------------------------------------------------------------------- list


def _list(ctx: Context, arguments: list[str]) -> int:
    if not arguments:
        ctx.out("PID\tStatus\tLabel")
        jobs = ctx.call("jobs")["jobs"]
        for job in jobs if ctx.is_root else []:
            status = show.list_status(job)
            ctx.out(f"{job['pid'] or '-'}\t{'0' if status == '-' else status}\t{job['label']}")
        return 0
    label = arguments[0]
    job = _job(ctx, label) if ctx.is_root else None
    if job is None:
        return _missing(ctx, label, "system", bad_request=False)
    ctx.out(*show.list_lines(job))
    return 0


# -------------------------------------------------------------------------------------------------- others


def _error(ctx: Context, arguments: list[str]) -> int:
    if not arguments or not arguments[-1].lstrip("-").isdigit():
        return _usage(ctx, "error [posix|mach|bootstrap] <code>")
    number = int(arguments[-1])
    ctx.out(f"{number}: {ERRORS.get(number, 'unknown error code')}")
    return 0


def _managername(ctx: Context, _arguments: list[str]) -> int:
    """A daemon is in `System`, an ssh session in `Background` (reference 2.8)."""
    ctx.out("System" if ctx.env.get("XPC_SERVICE_NAME") else "Background")
    return 0


def _limit(ctx: Context, arguments: list[str]) -> int:
    if len(arguments) > 1:
        if arguments[0] != "maxfiles":
            return ctx.unsupported(f"limit {arguments[0]}")
        number = int(ctx.call("limit", soft=int(arguments[1]))["error"])
        return _failed(ctx, "Could not set resource limits", number) if number else 0
    soft = ctx.call("limit")["soft"]
    rows = [
        ("cpu", "unlimited", "unlimited"),
        ("filesize", "unlimited", "unlimited"),
        ("data", "unlimited", "unlimited"),
        ("stack", "8372224", "67092480"),
        ("core", "0", "unlimited"),
        ("rss", "unlimited", "unlimited"),
        ("memlock", "unlimited", "unlimited"),
        ("maxproc", "2784", "4176"),
        ("maxfiles", str(soft), "unlimited"),
    ]
    for name, low, high in rows:
        if not arguments or arguments[0] == name:
            ctx.out(f"\t{name:<11} {low:<14} {high:<15}")
    return 0


def _start(ctx: Context, arguments: list[str]) -> int:
    label = arguments[0] if arguments else ""
    if not ctx.is_root or _job(ctx, label) is None:
        return launchd_numbers.ESRCH
    ctx.call("kickstart", label=label)
    return 0


def _stop(ctx: Context, arguments: list[str]) -> int:
    label = arguments[0] if arguments else ""
    if not ctx.is_root or _job(ctx, label) is None:
        return launchd_numbers.ESRCH
    ctx.call("kill", label=label, number=int(signal.SIGTERM))
    return 0


def _remove(ctx: Context, arguments: list[str]) -> int:
    label = arguments[0] if arguments else ""
    return int(ctx.call("bootout", label=label)["error"]) if ctx.is_root else launchd_numbers.EPERM


def _asuser(ctx: Context, arguments: list[str]) -> int:
    if len(arguments) < 2:
        return _usage(ctx, "asuser <UID> <command> [arguments]")
    import shutil

    command = arguments[1:]
    return ctx.become(shutil.which(command[0], path=ctx.env.get("PATH")) or command[0], command)


_VERBS = {
    "bootstrap": _bootstrap,
    "bootout": _bootout,
    "enable": _enable,
    "disable": _disable,
    "kickstart": _kickstart,
    "kill": _kill,
    "print": _print,
    "print-disabled": _print_disabled,
    "list": _list,
    "blame": _blame,
    "error": _error,
    "managername": _managername,
    "limit": _limit,
    "load": _load,
    "unload": _unload,
    "start": _start,
    "stop": _stop,
    "remove": _remove,
    "asuser": _asuser,
}
