"""A launchd job as its property list describes it.

Sources: launchd.plist(5) and reference macos 2.4 to 2.6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from maclab.machine.launchd_numbers import BAD_PLIST, NO_LABEL, NO_PROGRAM

DEFAULT_THROTTLE_S = 10.0
DEFAULT_EXIT_TIMEOUT_S = 5.0


class BadPlist(Exception):
    """A property list that launchd does not take; `number` is launchd's error number."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


@dataclass(frozen=True)
class KeepAlive:
    """The forms of KeepAlive; several conditions are alternatives (any one keeps the job alive)."""

    always: bool = False
    successful_exit: bool | None = None
    crashed: bool | None = None
    path_state: tuple[tuple[str, bool], ...] = ()

    @property
    def any(self) -> bool:
        return (
            self.always
            or self.successful_exit is not None
            or self.crashed is not None
            or bool(self.path_state)
        )


@dataclass(frozen=True)
class JobSpec:
    """A job as its property list describes it. Times in seconds."""

    label: str
    path: str
    program: str
    arguments: tuple[str, ...]
    inferred_program: bool = True
    user: str = ""
    group: str = ""
    init_groups: bool = True
    working_directory: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    stdin_path: str = ""
    stdout_path: str = ""
    stderr_path: str = ""
    umask: int | None = None
    nice: int = 0
    soft_limits: tuple[tuple[str, int], ...] = ()
    hard_limits: tuple[tuple[str, int], ...] = ()
    process_type: str = "Standard"
    run_at_load: bool = False
    keep_alive: KeepAlive = field(default_factory=KeepAlive)
    throttle_s: float = DEFAULT_THROTTLE_S
    exit_timeout_s: float = DEFAULT_EXIT_TIMEOUT_S
    start_interval_s: float = 0.0
    calendar: tuple[tuple[tuple[str, int], ...], ...] = ()
    watch_paths: tuple[str, ...] = ()
    abandon_process_group: bool = False
    disabled: bool = False
    socket_service: str = ""
    """Service name of an inetd-style socket; such a job is one process per connection."""

    @property
    def starts_by_itself(self) -> bool:
        """RunAtLoad, or a KeepAlive that does not wait for a path (KeepAlive implies RunAtLoad: man
        launchd.plist).
        """
        keep = self.keep_alive
        return self.run_at_load or keep.always or keep.successful_exit is not None or keep.crashed is not None


def parse_job(data: Any, path: str) -> JobSpec:
    """The job in a property list that was read from `path`; raises BadPlist with launchd's number."""
    if not isinstance(data, Mapping):
        raise BadPlist(BAD_PLIST, "not a dictionary")
    label = data.get("Label")
    if not isinstance(label, str) or not label:
        raise BadPlist(NO_LABEL, "no Label")
    arguments = data.get("ProgramArguments", [])
    if not isinstance(arguments, list) or not all(isinstance(item, str) for item in arguments):
        raise BadPlist(NO_PROGRAM, "ProgramArguments is not a list of strings")
    program = data.get("Program", arguments[0] if arguments else "")
    if not isinstance(program, str) or not program:
        raise BadPlist(NO_PROGRAM, "neither Program nor ProgramArguments")
    environment = _typed(data, "EnvironmentVariables", dict, {})
    if not all(isinstance(text, str) for pair in environment.items() for text in pair):
        raise BadPlist(BAD_PLIST, "EnvironmentVariables must be strings")
    throttle_s = float(_typed(data, "ThrottleInterval", int, 0)) or DEFAULT_THROTTLE_S
    calendar = data.get("StartCalendarInterval", [])
    sockets = _typed(data, "Sockets", dict, {})
    service = next((str(entry.get("SockServiceName", "")) for entry in sockets.values()), "")
    return JobSpec(
        label=label,
        path=path,
        program=program,
        arguments=tuple(arguments or [program]),
        inferred_program="Program" not in data,
        user=_typed(data, "UserName", str, ""),
        group=_typed(data, "GroupName", str, ""),
        init_groups=_typed(data, "InitGroups", bool, True),
        working_directory=_typed(data, "WorkingDirectory", str, ""),
        environment=tuple(environment.items()),
        stdin_path=_typed(data, "StandardInPath", str, ""),
        stdout_path=_typed(data, "StandardOutPath", str, ""),
        stderr_path=_typed(data, "StandardErrorPath", str, ""),
        umask=_umask(data.get("Umask")),
        nice=_typed(data, "Nice", int, 0),
        soft_limits=_limits(data, "SoftResourceLimits"),
        hard_limits=_limits(data, "HardResourceLimits"),
        process_type=_typed(data, "ProcessType", str, "Standard"),
        run_at_load=_typed(data, "RunAtLoad", bool, False),
        keep_alive=_keep_alive(data.get("KeepAlive", False)),
        throttle_s=throttle_s,
        exit_timeout_s=float(_typed(data, "ExitTimeOut", int, int(DEFAULT_EXIT_TIMEOUT_S))),
        start_interval_s=float(_typed(data, "StartInterval", int, 0)),
        calendar=tuple(_moment(entry) for entry in (calendar if isinstance(calendar, list) else [calendar])),
        watch_paths=tuple(_typed(data, "WatchPaths", list, [])),
        abandon_process_group=_typed(data, "AbandonProcessGroup", bool, False),
        disabled=_typed(data, "Disabled", bool, False),
        socket_service=service,
    )


def _typed(data: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = data.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadPlist(BAD_PLIST, f"{key} has the wrong type")
    return value


def _umask(value: Any) -> int | None:
    """Umask: an integer is decimal, a string is octal (man launchd.plist)."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadPlist(BAD_PLIST, "Umask has the wrong type")
    try:
        return value if isinstance(value, int) else int(value, 8)
    except ValueError as error:
        raise BadPlist(BAD_PLIST, "Umask is not octal") from error


def _limits(data: Mapping[str, Any], key: str) -> tuple[tuple[str, int], ...]:
    limits = _typed(data, key, dict, {})
    if not all(isinstance(value, int) for value in limits.values()):
        raise BadPlist(BAD_PLIST, f"{key} must be integers")
    return tuple(limits.items())


def _keep_alive(value: Any) -> KeepAlive:
    if isinstance(value, bool):
        return KeepAlive(always=value)
    if not isinstance(value, Mapping):
        raise BadPlist(BAD_PLIST, "KeepAlive has the wrong type")
    paths = _typed(value, "PathState", dict, {})
    return KeepAlive(
        successful_exit=value.get("SuccessfulExit"),
        crashed=value.get("Crashed"),
        path_state=tuple((str(path), bool(state)) for path, state in paths.items()),
    )


_UNITS = ("Month", "Day", "Weekday", "Hour", "Minute")


def _moment(entry: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(entry, Mapping) or not all(
        key in _UNITS and isinstance(v, int) for key, v in entry.items()
    ):
        raise BadPlist(BAD_PLIST, "StartCalendarInterval has an unknown key")
    return tuple(entry.items())


def next_moment(calendar: Iterable[tuple[tuple[str, int], ...]], after: datetime) -> datetime | None:
    """The first full minute after `after` that one of the entries matches; missing keys match always.

    None when nothing matches within four years (31 February).
    """
    best: datetime | None = None
    for entry in calendar:
        wanted = dict(entry)
        moment = after.replace(second=0, microsecond=0) + timedelta(minutes=1)
        end = after + timedelta(days=1462)
        while moment < end and (best is None or moment < best):
            # Sunday is 0 or 7.
            weekday = moment.isoweekday() % 7
            if (
                wanted.get("Month", moment.month) != moment.month
                or wanted.get("Day", moment.day) != moment.day
                or wanted.get("Weekday", weekday) % 7 != weekday
            ):
                moment = moment.replace(hour=0, minute=0) + timedelta(days=1)
            elif wanted.get("Hour", moment.hour) != moment.hour:
                moment = moment.replace(minute=0) + timedelta(hours=1)
            elif wanted.get("Minute", moment.minute) != moment.minute:
                moment += timedelta(minutes=1)
            else:
                best = moment
                break
    return best


def may_load(*, owner_uid: int, owner_gid: int, mode: int, is_link: bool) -> bool:
    """Whether launchd takes a daemon's plist with these file attributes: root:wheel, writable by root alone,
    no link.
    """
    return owner_uid == 0 and owner_gid == 0 and not mode & 0o022 and not is_link
