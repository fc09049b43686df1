"""pmset: power settings.

Sources: recordings/pmset, reference 6 (keys, -g forms, SleepDisabled). Confidence A for -g and setting, B
for keys a Mac does not have (a warning, status 0), C for -g cap and -g assertions.
"""

from __future__ import annotations

from maclab.commands.info import CommandInfo
from maclab.machine import sleep
from maclab.machine.context import Context
from maclab.machine.model import Mac

INFO = CommandInfo(
    name="pmset",
    paths=("/usr/bin/pmset",),
    source="recordings/pmset, pmset(1)",
    confidence="A (-g, setting), B (unsupported keys), C (-g cap, -g assertions)",
    does="-g [live|custom|cap|therm|assertions|ps], -a and -c with key/value pairs, disablesleep",
    lacks="schedule, repeat, noidle, sleepnow, batteries and UPS",
)
_ASSERTIONS = (
    "BackgroundTask",
    "ApplePushServiceTask",
    "UserIsActive",
    "PreventUserIdleDisplaySleep",
    "PreventSystemSleep",
    "ExternalMedia",
    "PreventUserIdleSystemSleep",
    "NetworkClientActive",
)
_THERM = ("thermal warning level", "performance warning level", "CPU power status")


def main(ctx: Context) -> int:
    """Print or change settings."""
    words = list(ctx.args)
    if not words:
        ctx.err("Usage: pmset <options>")
        return 1
    if words[0] == "-g":
        return _get(ctx, words[1] if len(words) > 1 else "live")
    if words[0] in ("-a", "-c"):
        words.pop(0)
    elif words[0] in ("-b", "-u"):
        return ctx.unsupported(words[0])
    return _set(ctx, words)


def _line(key: str, value: object) -> str:
    return f" {key:<20} {value}"


def _rows(mac: Mac) -> list[str]:
    rows = []
    for key, value in mac.power.settings.items():
        reason = mac.power.reasons.get(key, "")
        rows.append(_line(key, f"{value} ({reason})" if reason else value))
    return rows


def _get(ctx: Context, what: str) -> int:
    mac = ctx.peek()
    if what == "live":
        ctx.out("System-wide power settings:")
        if mac.power.disable_sleep:
            ctx.out(" SleepDisabled\t\t1")
        ctx.out("Currently in use:", *_rows(mac))
    elif what == "custom":
        ctx.out("AC Power:", *_rows(mac))
    elif what == "cap":
        ctx.out("Capabilities for AC Power:", *(f" {key}" for key in mac.power.capabilities))
    elif what == "therm":
        if mac.power.cpu_speed_limit is not None:
            ctx.out(f"CPU_Speed_Limit \t= {mac.power.cpu_speed_limit}")
        else:
            ctx.out(*(f"Note: No {name} has been recorded" for name in _THERM))
    elif what == "assertions":
        ctx.out("Assertion status system-wide:")
        by_process = sleep.held(ctx.folder / "run" / "assertions")
        for name in _ASSERTIONS:
            ctx.out(f"   {name:<30} {int(any(name in names for names in by_process.values()))}")
    elif what in ("ps", "batt"):
        ctx.out("Now drawing from 'AC Power'")
    else:
        return ctx.unsupported(f"-g {what}")
    return 0


def _set(ctx: Context, words: list[str]) -> int:
    if not ctx.is_root:
        ctx.err("pmset: must be run as root...")
        return 1
    if len(words) % 2:
        ctx.err("Usage: pmset <options>")
        return 1
    with ctx.mac() as mac:
        for key, value in zip(words[::2], words[1::2], strict=True):
            if not value.isdigit():
                ctx.err("Error: Bad argument", "Usage: pmset <options>")
                return 1
            if key == "disablesleep":
                mac.power.disable_sleep = value != "0"
            elif key in mac.power.capabilities or key in mac.power.settings:
                mac.power.settings[key] = int(value)
            elif key in _KNOWN:
                ctx.err(f"Warning: {key} is not supported on this hardware")
            else:
                ctx.err("Usage: pmset <options>")
                return 1
    return 0


#: Settings that pmset knows and a desktop Mac with Apple Silicon may not have.
_KNOWN = frozenset(
    {"acwake", "lidwake", "halfdim", "lessbright", "standby", "standbydelayhigh", "standbydelaylow"}
    | {"autopoweroff", "autopoweroffdelay", "hibernatemode", "hibernatefile", "gpuswitch", "proximitywake"}
    | {"darkwakes", "ring", "highstandbythreshold", "powermode", "highpowermode"}
)
