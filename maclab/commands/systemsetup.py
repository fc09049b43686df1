"""systemsetup: time zone, remote login, restart settings.

Sources: recordings/ssh/messages.txt (remote login), reference 5.2 and 6. Confidence A for remote login, C
for the other texts and for `### Error:-99`, which setters print without meaning it.
"""

from __future__ import annotations

from pathlib import Path

from maclab.commands.info import CommandInfo
from maclab.faults.commands import FULL_DISK_ACCESS
from maclab.machine import tree
from maclab.machine.context import Context
from maclab.machine.model import Mac

INFO = CommandInfo(
    name="systemsetup",
    paths=("/usr/sbin/systemsetup",),
    source="recordings/ssh, systemsetup(8)",
    confidence="A (remote login), C (other texts)",
    does="-get/-set remotelogin, timezone, restartfreeze, restartpowerfailure, computersleep, sleep, "
    "displaysleep, "
    "harddisksleep, usingnetworktime, networktimeserver, computername, localsubnetname; -listtimezones",
    lacks="date and time, startup disk, wake on modem",
)
_ZONES = Path("/var/db/timezone/zoneinfo")
_SLEEP = {
    "computersleep": ("Computer Sleep", "sleep"),
    "displaysleep": ("Display Sleep", "displaysleep"),
    "harddisksleep": ("Hard Disk Sleep", "disksleep"),
}
_NO_ACCESS = "Turning Remote Login on or off requires Full Disk Access privileges."


def main(ctx: Context) -> int:
    """Run each `-getx` and `-setx value` in turn."""
    if not ctx.is_root:
        ctx.out("You need administrator access to run this tool... exiting!")
        return 1
    words = iter(ctx.args)
    status = 0
    for word in words:
        option = word.lstrip("-").lower()
        if option == "listtimezones":
            zones = sorted(str(p.relative_to(_ZONES)) for p in _ZONES.rglob("*") if p.is_file())
            ctx.out("Time Zones:", *(f" {zone}" for zone in zones))
        elif option.startswith("get"):
            status |= _get(ctx, word, option[3:], ctx.peek())
        elif option.startswith("set"):
            values = [next(words, "")]
            if option in ("setremotelogin", "setf"):
                values = [value for value in (*values, *words) if value != "-f"]
            status |= _set(ctx, word, option[3:], values[0])
        elif option != "f":
            return ctx.unsupported(word)
    return status


def _on(flag: bool) -> str:
    return "On" if flag else "Off"


def _get(ctx: Context, word: str, what: str, mac: Mac) -> int:
    simple = {
        "remotelogin": f"Remote Login: {_on(mac.remote_login)}",
        "timezone": f"Time Zone: {mac.timezone}",
        "usingnetworktime": f"Network Time: {_on(mac.network_time)}",
        "networktimeserver": f"Network Time Server: {mac.network_time_server}",
        "restartfreeze": f"Restart After Freeze: {_on(mac.power.restart_freeze)}",
        "restartpowerfailure": f"Restart After Power Failure: "
        f"{_on(bool(mac.power.settings.get('autorestart')))}",
        "wakeonnetworkaccess": f"Wake On Network Access: {_on(bool(mac.power.settings.get('womp')))}",
        "computername": f"Computer Name: {mac.names.computer}",
        "localsubnetname": f"Local Subnet Name: {mac.names.local_host}",
    }
    if what in simple:
        ctx.out(simple[what])
        return 0
    if what == "sleep":
        for title, key in _SLEEP.values():
            ctx.out(f"Sleep: {title} {_minutes(mac.power.settings.get(key, 0))}")
        return 0
    if what in _SLEEP:
        title, key = _SLEEP[what]
        ctx.out(f"{title}: {_minutes(mac.power.settings.get(key, 0))}")
        return 0
    return ctx.unsupported(word)


def _minutes(value: int) -> str:
    return f"after {value} minutes" if value else "Never"


def _set(ctx: Context, word: str, what: str, value: str) -> int:
    on = value.lower() == "on"
    if what == "remotelogin":
        return _set_remote_login(ctx, on)
    with ctx.mac() as mac:
        if what == "timezone":
            # A host without time zone data of its own cannot tell a wrong name from a right one.
            if _ZONES.is_dir() and not (_ZONES / value).is_file():
                ctx.out(
                    f"{value} is not a valid time zone. Please use the '-listtimezones' argument for a list."
                )
                return 1
            mac.timezone = value
            tree.set_timezone(mac)
            ctx.out(f"Set TimeZone: {value}")
        elif what == "restartfreeze":
            mac.power.restart_freeze = on
        elif what == "restartpowerfailure":
            mac.power.settings["autorestart"] = int(on)
        elif what == "wakeonnetworkaccess":
            mac.power.settings["womp"] = int(on)
        elif what == "usingnetworktime":
            mac.network_time = on
            ctx.out(f"setUsingNetworkTime: {_on(on)}")
        elif what == "networktimeserver":
            mac.network_time_server = value
            ctx.out(f"setNetworkTimeServer: {value}")
        elif what == "computername":
            mac.names.computer = value
        elif what in _SLEEP or what == "sleep":
            minutes = 0 if value.lower() in ("never", "off") else int(value)
            for key in [_SLEEP[what][1]] if what in _SLEEP else [key for _, key in _SLEEP.values()]:
                mac.power.settings[key] = minutes
        else:
            return ctx.unsupported(word)
    return 0


def _set_remote_login(ctx: Context, on: bool) -> int:
    mac = ctx.peek()
    if not mac.full_disk_access and not FULL_DISK_ACCESS.active(ctx.faults):
        ctx.out(f"setremotelogin: {_NO_ACCESS}")
        return mac.quirks.remote_login_refusal_rc
    with ctx.mac() as changed:
        changed.remote_login = on
    return 0
