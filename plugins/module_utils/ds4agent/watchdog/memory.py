# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Stops the engine cleanly before a Mac that runs out of memory freezes, says why, and does not flap.

Runs as root under launchd (com.ds4fleet.watchdog), with the Mac's own Python 3.9 and its standard library.
Every few seconds it reads memory pressure, free memory, swap and the server's process; `decide` says what
to do from the last minutes alone. `ds4agent watch run` is the job, `ds4agent watch replay FILE` tells what it
would have done with a series that `ds4agent watch record` wrote.

Others wait minutes for the clients of an engine (switch.drain); this one seconds, as the Mac has no more
time, and what it cuts off is said in the reason.

What it leaves in its state directory (root's own, so that the service user cannot point it elsewhere):
  stopped      KEY=VALUE: since, reason, stops_today; there while the engine is held back. The start script
               and `fab status` show it; a start by hand or by site.yml ends it.
  state.json   times of past stops, so that a restart of the memory watchdog does not forget them
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..mac import run as mac_run
from ..switch import drain as switch_drain
from ..switch import in_vain, unnotified
from ..switch import state as switch_state

if TYPE_CHECKING:
    from ..shapes import Sample, Watched

NORMAL, WARNING, CRITICAL = 1, 2, 4  # kern.memorystatus_vm_pressure_level
GIB = 1 << 30

#: Judgements, not measurements. A Mac that is meant to be nearly full may well report critical pressure and
#: live; one that is about to freeze pages, so swap grows as well, or nothing at all is left.
SETTINGS = {
    "interval_s": 5,
    "critical_s": 20,  # critical pressure for this long while swap grows by critical_growth_bytes in a minute
    "critical_growth_bytes": GIB // 2,
    "warning_s": 60,  # or at least warning for this long while swap grows by warning_growth_bytes
    "warning_growth_bytes": 2 * GIB,
    "growth_s": 60,
    "tail_s": 20,  # swap must still be growing in these last seconds
    "empty_s": 120,  # or critical for this long with at most empty_percent of memory free
    "empty_percent": 2,
    "drain_s": 5,  # for which clients may go on once it is decided
    "notice_s": 3,  # within which tunnels give new work to others, and end what is under way
    "stop_s": 45,  # from the polite stop to the hard one, if memory is still short
    "calm_s": 900,  # normal, or calm without an engine, for this long before it is started again
    "restarts_per_day": 2,  # after that it stays down until somebody looks
    "history_s": 1200,
}
DAY_S = 86400
TOOL_TIMEOUT_S = 20
LOOK_TIMEOUT_S = 3
SYSCTLS = ("kern.memorystatus_vm_pressure_level", "kern.memorystatus_level", "vm.swapusage")


# --- what to do: pure ---


def decide(
    samples: Sequence[Sample], state: Watched, settings: Mapping[str, float] | None = None
) -> tuple[str, str, Watched]:
    """(action, reason, state) for the latest sample.

    samples: oldest first, {at_s, pressure, free_percent, swap_used_bytes, pid}; None where nothing was read.
    state: {stops: [at_s, ...], stopping_since, stopped_pid, held: bool}, as returned the last time; {} at
    first. action: none, stop, kill, start or release (somebody started the engine while it was held back).
    """
    rules: dict[str, float] = {**SETTINGS, **(settings or {})}
    state = {"stops": [], "stopping_since": None, "stopped_pid": None, "held": False, **state}
    if not samples:
        return "none", "", state
    now = samples[-1]
    at, pid = now["at_s"], now.get("pid")
    state["stops"] = [stop for stop in state["stops"] if at - stop < DAY_S]
    if state["held"]:
        return _held(samples, state, rules, at, pid)
    if not pid:
        return "none", "", state
    reason = trouble(samples, rules)
    if not reason:
        return "none", "", state
    state["held"], state["stopping_since"], state["stopped_pid"] = True, at, pid
    state["stops"] = state["stops"] + [at]
    return "stop", reason, state


def _held(
    samples: Sequence[Sample], state: Watched, rules: Mapping[str, float], at: float, pid: int | None
) -> tuple[str, str, Watched]:
    if pid and pid == state["stopped_pid"]:
        if at - (state["stopping_since"] or 0.0) >= rules["stop_s"] and trouble(samples, rules):
            state["stopping_since"] = at
            return "kill", f"it did not stop within {rules['stop_s']:.0f} s and memory is still short", state
        return "none", "", state
    if pid:
        state["held"], state["stopping_since"], state["stopped_pid"] = False, None, None
        return "release", "the engine was started by another program", state
    if len(state["stops"]) > rules["restarts_per_day"]:
        return "none", "", state
    if held_for(samples, lambda sample: sample.get("pressure") == NORMAL, rules["calm_s"]):
        state["held"], state["stopping_since"], state["stopped_pid"] = False, None, None
        return "start", f"memory has been normal for {rules['calm_s'] // 60:.0f} minutes", state
    return "none", "", state


def trouble(samples: Sequence[Sample], rules: Mapping[str, float]) -> str:
    """Why the Mac is about to freeze, in a sentence; empty while it is not."""

    def pressed(level: int) -> Callable[[Sample], bool]:
        return lambda sample: (sample.get("pressure") or 0) >= level

    def empty(sample: Sample) -> bool:
        return pressed(CRITICAL)(sample) and (sample.get("free_percent") or 0) <= rules["empty_percent"]

    grown = growth(samples, rules["growth_s"])
    grows = growth(samples, rules["tail_s"]) > 0
    for level, name in ((CRITICAL, "critical"), (WARNING, "warning")):
        enough = grown >= rules[name + "_growth_bytes"] and grows
        if enough and held_for(samples, pressed(level), rules[name + "_s"]):
            seconds, window = rules[name + "_s"], rules["growth_s"]
            return (
                f"memory pressure is at {name} since {seconds:.0f} s"
                f" and swap grew by {grown / GIB:.1f} GiB in {window:.0f} s"
            )
    if held_for(samples, empty, rules["empty_s"]):
        return f"memory pressure is critical and next to nothing has been free for {rules['empty_s']:.0f} s"
    return ""


def held_for(samples: Sequence[Sample], condition: Callable[[Sample], bool], duration_s: float) -> bool:
    """Whether `condition` held in every sample of the last `duration_s`, and samples reach back that far."""
    since = samples[-1]["at_s"] - duration_s
    if samples[0]["at_s"] > since:
        return False
    return all(condition(sample) for sample in samples if sample["at_s"] >= since)


def growth(samples: Sequence[Sample], duration_s: float) -> int:
    """Bytes by which swap in use grew over the last `duration_s`."""
    since = samples[-1]["at_s"] - duration_s
    used = [sample.get("swap_used_bytes") for sample in samples if sample["at_s"] >= since]
    values = [value for value in used if value is not None]
    return values[-1] - values[0] if values else 0


def parse_sysctl(text: str) -> Sample:
    """{pressure, free_percent, swap_used_bytes} of `sysctl -n` of SYSCTLS, one value per line, in that
    order.
    """
    lines = text.splitlines()
    number = [int(line) if re.match(r"-?\d+$", line.strip()) else None for line in lines[:2]]
    number += [None] * (2 - len(number))
    used = re.search(r"used = ([\d.]+)([KMGT]?)", lines[2]) if len(lines) > 2 else None
    unit = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": GIB, "T": 1 << 40}
    return {
        "pressure": number[0],
        "free_percent": number[1],
        "swap_used_bytes": int(float(used.group(1)) * unit[used.group(2)]) if used else None,
    }


def parse_pid(text: str) -> int | None:
    """Process id in the output of `launchctl print system/LABEL`, or None."""
    found = re.search(r"^\s*pid = (\d+)$", text, re.MULTILINE)
    return int(found.group(1)) if found else None


def stop_note(at_s: float, reason: str, restarts: int) -> str:
    """The text of the file `stopped`."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))
    return f"since={since}\nreason={reason}\nstops_today={restarts}\n"


def replay(
    series: Iterable[Sample], settings: Mapping[str, float] | None = None
) -> list[tuple[float, str, str]]:
    """[(at_s, action, reason)] that this memory watchdog would have taken over a recorded series."""
    state: Watched = {}
    samples: list[Sample] = []
    done = []
    for sample in series:
        samples.append(sample)
        action, reason, state = decide(samples, state, settings)
        if action != "none":
            done.append((sample["at_s"], action, reason))
    return done


# --- doing it ---


def tool(*argv: str) -> tuple[int, str]:
    """(exit status, output) of a macOS tool; a missing or late one is (127, '')."""
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=TOOL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 127, ""
    return done.returncode, done.stdout.decode("utf-8", "replace")


def sample(label: str) -> Sample:
    """One look at the Mac."""
    _status, values = tool("/usr/sbin/sysctl", "-n", *SYSCTLS)
    _status, job = tool("/bin/launchctl", "print", "system/" + label)
    return {**parse_sysctl(values), "at_s": time.time(), "pid": parse_pid(job)}


def act(action: str, label: str, plist: str, pid: int | None) -> None:
    """Carries out one decision."""
    target = "system/" + label
    if action == "stop":
        # A clean exit: KeepAlive {SuccessfulExit: false} then leaves it down.
        tool("/bin/launchctl", "kill", "SIGTERM", target)
    elif action == "kill" and pid is not None:
        # A killed job would be started again at once, so launchd has to let go of it first.
        tool("/bin/launchctl", "bootout", target)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    elif action == "start":
        tool("/bin/launchctl", "bootstrap", "system", plist)  # only after a kill is it not loaded
        tool("/bin/launchctl", "kickstart", target)


def warn_clients(
    places: switch_state.Places, pid: int | None, reason: str, rules: Mapping[str, float]
) -> str:
    """Closes the intake before a stop; a sentence on clients that were cut off, empty where none was. Nothing
    that goes wrong here may keep the engine from being stopped."""

    def look(name: str, *words: str) -> mac_run.Result:
        return mac_run.run(name, *words, timeout_s=LOOK_TIMEOUT_S)

    try:
        drain = switch_drain.Drain(places, lambda: pid, rules["drain_s"], rules["notice_s"], look)
        drain.close_for_a_stop(reason=reason)
        left = drain.finish()
        past = unnotified.sentence(drain.not_notified() if left != 0 else [])
    except Exception as error:  # noqa: BLE001
        return f"its clients could not be notified: {error}"
    if left == 0:
        return ""
    cut = f"{left or 'its'} clients were cut off after {drain.seconds():.0f} s, as memory did not allow more"
    return f"{cut}; {past}" if past else cut


def reads_in_vain(label: str) -> bool:
    """Whether an engine that was told to stop reads a prompt all the same; memory is needed now."""
    for _twice in range(2):
        time.sleep(in_vain.GRACE_S / 2)
        _status, job = tool("/bin/launchctl", "print", "system/" + label)
        if parse_pid(job) is None or not in_vain.unfinished(in_vain.tail(in_vain.LOG)):
            return False
    return True


def write(path: Path, text: str) -> None:
    """Replaces a file in one step."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def load_state(path: Path) -> Watched:
    try:
        return cast("Watched", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def keep(stopped_path: Path, state_path: Path, action: str, reason: str, state: Watched, at_s: float) -> None:
    """Leaves what was decided in the log and on the disk. Swap fills the same container: a full disk is no
    reason not to act, so what cannot be written is done without."""
    note = stop_note(at_s, reason, len(state["stops"]))
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {action}: {reason}", flush=True)
    with contextlib.suppress(OSError):
        if action in ("stop", "kill"):
            write(stopped_path, note)
        elif stopped_path.exists():
            stopped_path.unlink()
    with contextlib.suppress(OSError):
        write(state_path, json.dumps(state))


def run(label: str, plist: str, folder: str, settings: Mapping[str, float]) -> None:
    """The job: look, decide, act, for ever."""
    state_path, stopped_path = Path(folder, "state.json"), Path(folder, "stopped")
    places = switch_state.Places(str(Path(folder).parent))
    state = load_state(state_path)
    samples: list[Sample] = []
    rules: dict[str, float] = {**SETTINGS, **settings}
    while True:
        now = sample(label)
        samples = [old for old in samples if now["at_s"] - rules["history_s"] <= old["at_s"] <= now["at_s"]]
        samples.append(now)
        action, reason, state = decide(samples, state, rules)
        if action != "none":
            # Written first: a Mac that freezes all the same still tells afterwards why.
            keep(stopped_path, state_path, action, reason, state, now["at_s"])
            cut = warn_clients(places, now["pid"], reason, rules) if action == "stop" else ""
            if cut:
                keep(stopped_path, state_path, action, f"{reason}; {cut}", state, now["at_s"])
            act(action, label, plist, now["pid"])
            if action == "stop" and reads_in_vain(label):
                act("kill", label, plist, now["pid"])
        open_again(places, action)
        time.sleep(rules["interval_s"])


def open_again(places: switch_state.Places, action: str) -> None:
    """Ends a drain when the engine may serve again, and one whose writer is gone."""
    with contextlib.suppress(OSError):
        if action in ("start", "release"):
            switch_state.end_drain(places)
        elif switch_drain.open_if_over(places, time.time()):
            print(
                f"{time.strftime('%Y-%m-%d %H:%M:%S')} open: ended a drain without a program",
                flush=True,
            )


def record(label: str, seconds: float, interval_s: float) -> list[Sample]:
    """A series for `replay`, as it is now."""
    series, end = [], time.time() + seconds
    while time.time() < end:
        series.append(sample(label))
        time.sleep(interval_s)
    return series


def main(arguments: Sequence[str]) -> int:
    """`run LABEL PLIST FOLDER [name=number ...]`, `record LABEL SECONDS` or `replay FILE`."""
    if len(arguments) >= 4 and arguments[0] == "run":
        pairs = (item.split("=", 1) for item in arguments[4:])
        settings = {name: float(value) for name, value in pairs if name in SETTINGS}
        run(arguments[1], arguments[2], arguments[3], settings)
    elif len(arguments) == 3 and arguments[0] == "record":
        print(json.dumps(record(arguments[1], float(arguments[2]), SETTINGS["interval_s"]), indent=1))
    elif len(arguments) == 2 and arguments[0] == "replay":
        for at_s, action, reason in replay(json.loads(Path(arguments[1]).read_text(encoding="utf-8"))):
            print(f"{at_s:10.1f} {action}: {reason}")
    else:
        sys.stderr.write(
            "usage: ds4agent watch run LABEL PLIST FOLDER [setting=number ...]"
            " | record LABEL SECONDS | replay FILE\n"
        )
        return 64
    return 0
