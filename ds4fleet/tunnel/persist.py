"""Tunnels that come back with the operator's login: a LaunchAgent on a Mac, a systemd user unit on Linux."""

from __future__ import annotations

import json
import os
import plistlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ds4fleet import state
from ds4fleet.errors import EXIT_MISSING, OperatorError
from ds4fleet.layout import FLEET
from ds4fleet.state import STATE_VARIABLE, state_dir
from ds4fleet.tunnel import home
from ds4fleet.tunnel.daemon import Job

LAUNCHCTL = "/bin/launchctl"
COMMAND_TIMEOUT_S = 30


@dataclass(frozen=True)
class Unit:
    """A unit of the user's service manager.

    path     the file that describes it
    content  what stands in it
    check    command that succeeds where there is such a service manager
    start    commands that make it run now and at each login
    stop     commands that end it until the next login
    forget   commands that remove it for good, run before the file goes
    """

    path: Path
    content: bytes
    check: tuple[str, ...]
    start: tuple[tuple[str, ...], ...]
    stop: tuple[tuple[str, ...], ...]
    forget: tuple[tuple[str, ...], ...]


def job_path(name: str, inventory: str = "") -> Path:
    """Where the job of a persistent tunnel is kept."""
    return home.folder(inventory) / "jobs" / f"{name}.json"


def jobs(inventory: str = "") -> dict[str, Job]:
    """The persistent tunnels of an inventory by name. Jobs of another version are left out: whoever wrote
    them can remove them by their names."""
    found = {}
    for path in sorted((home.folder(inventory) / "jobs").glob("*.json")):
        try:
            found[path.stem] = Job.from_dict(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def launch_agent(name: str, argv: Sequence[str], user_home: Path, log: Path, uid: int) -> Unit:
    """The unit of a Mac. It needs a graphical login: gui/<uid> does not exist over plain ssh."""
    label = f"com.ds4fleet.tunnel.{name}"
    path = user_home / "Library" / "LaunchAgents" / f"{label}.plist"
    content = plistlib.dumps(
        {
            "Label": label,
            "ProgramArguments": list(argv),
            "WorkingDirectory": str(FLEET),
            "EnvironmentVariables": {state.STATE_VARIABLE: str(state.state_dir())},
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 10,
            "ProcessType": "Interactive",  # anything else is throttled, and tokens with it
            "StandardOutPath": str(log),
            "StandardErrorPath": str(log),
        }
    )
    domain = f"gui/{uid}"
    out = (LAUNCHCTL, "bootout", f"{domain}/{label}")
    check = (LAUNCHCTL, "print", domain)
    return Unit(path, content, check, ((LAUNCHCTL, "bootstrap", domain, str(path)),), (out,), (out,))


def systemd_unit(name: str, argv: Sequence[str], config_home: Path, log: Path) -> Unit:
    """The unit of a Linux machine with a systemd user manager."""
    unit = f"ds4-tunnel-{name}.service"
    command = " ".join(_systemd_word(word) for word in argv)
    content = f"""\
[Unit]
Description=ds4-fleet tunnel {name}

[Service]
ExecStart={command}
WorkingDirectory={_systemd_path(FLEET)}
Environment={_systemd_word(f"{STATE_VARIABLE}={state_dir()}")}
Restart=on-failure
RestartSec=10
StandardOutput=append:{log}
StandardError=append:{log}

[Install]
WantedBy=default.target
"""
    control = ("systemctl", "--user")
    return Unit(
        config_home / "systemd" / "user" / unit,
        content.encode(),
        (*control, "show-environment"),
        ((*control, "daemon-reload"), (*control, "enable", "--now", unit)),
        ((*control, "stop", unit),),
        ((*control, "disable", "--now", unit),),
    )


def unit_for(name: str, inventory: str = "") -> Unit:
    """The unit of a tunnel on this machine."""
    argv = [sys.executable, "-m", "ds4fleet.tunnel.daemon", "--job", str(job_path(name, inventory))]
    log = home.log_path("background", inventory)
    key = home.key_of(inventory)
    name = f"{key}.{name}" if key else name
    if sys.platform == "darwin":
        return launch_agent(name, argv, Path.home(), log, os.getuid())
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return systemd_unit(name, argv, config_home, log)


def install(name: str, job: Job) -> Unit:
    """Writes job and unit and starts it. Raises OperatorError, and leaves nothing, where there is no service
    manager or it refuses."""
    unit = unit_for(name, job.inventory)
    manager = "graphical login" if sys.platform == "darwin" else "systemd user manager"
    _run(unit.check, f"{name}: no {manager} is there to keep it, use --background")
    _supersede(name, job)
    job_path(name, job.inventory).write_text(json.dumps(job.to_dict(), indent=2))
    unit.path.parent.mkdir(parents=True, exist_ok=True)
    unit.path.write_bytes(unit.content)
    try:
        for command in unit.start:
            _run(command, f"{name}: {unit.path.name} cannot be started")
    except OperatorError:
        forget(name, job.inventory)
        raise
    return unit


def _supersede(name: str, job: Job) -> None:
    """Removes the unit of the same tunnel from a release that knew no inventories."""
    before = jobs().get(name) if job.inventory else None
    if before is None:
        return
    urls = [[*(spec.url for spec in one.tunnels), one.endpoint and one.endpoint.url] for one in (before, job)]
    addresses = [[spec.address for spec in one.tunnels] for one in (before, job)]
    if urls[0] == urls[1] and addresses[0] == addresses[1]:
        forget(name)


def installed(name: str, inventory: str = "") -> Unit | None:
    """The unit when this tunnel is persistent."""
    unit = unit_for(name, inventory)
    return unit if unit.path.exists() else None


def stop(name: str, inventory: str = "") -> bool:
    """Ends a persistent tunnel until the next login; False when it is not persistent."""
    unit = installed(name, inventory)
    if unit is None:
        return False
    for command in unit.stop:
        _run(command, "", check=False)
    return True


def forget(name: str, inventory: str = "") -> bool:
    """Ends and removes a persistent tunnel; False when it is not persistent."""
    unit = installed(name, inventory)
    job_path(name, inventory).unlink(missing_ok=True)
    if unit is None:
        return False
    for command in unit.forget:
        _run(command, "", check=False)
    unit.path.unlink(missing_ok=True)
    return True


def _run(command: Sequence[str], failure: str, check: bool = True) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        late = isinstance(error, subprocess.TimeoutExpired)
        reason = f"{command[0]} did not end within {COMMAND_TIMEOUT_S} s" if late else error
        if check:
            raise OperatorError(f"{failure}: {reason}", exit_code=EXIT_MISSING) from error
        return
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        reason = words[-1] if words else f"{command[0]} ended with status {done.returncode}"
        raise OperatorError(f"{failure}: {reason}", exit_code=EXIT_MISSING)


def _systemd_word(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _systemd_path(path: Path) -> str:
    return str(path).replace("%", "%%")
