"""What a Mac is like before and after a proof, as far as one could change it. Reads only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ds4agent import naming
from ds4agent.mac import parse, volumes
from ds4fleet.cli.prove.mac import Mac

MACHINE = "hw.model hw.memsize machdep.cpu.brand_string kern.osproductversion kern.osversion"
#: Each is a question whose answer must be the same afterwards.
QUESTIONS: Mapping[str, str] = {
    "accounts": "dscl . -list /Users UniqueID; dscl . -list /Groups PrimaryGroupID",
    "jobs": "launchctl list",
    "disabled jobs": "launchctl print-disabled system",
    "property lists": "ls -A /Library/LaunchDaemons /Library/LaunchAgents",
    "mounts": "mount",
    "fstab": "cat /etc/fstab 2>/dev/null; true",
    "files below /etc": "ls -A /etc/newsyslog.d /etc/ssh /etc/ssh/sshd_config.d /etc/sudoers.d; true",
    "settings of sshd and newsyslog": "cd /etc && shasum -a 256 newsyslog.d/* ssh/sshd_config.d/*; true",
    "folders": "ls -A /opt /private/var/root /private/var/tmp /Volumes 2>/dev/null; true",
    "logs of ours": "ls -A /var/log /var/run | grep '^ds4'; true",
    "wired limit": "sysctl -n iogpu.wired_limit_mb",
    "power": "pmset -g custom",
    "updates": "defaults read /Library/Preferences/com.apple.SoftwareUpdate 2>/dev/null | grep -v Last; true",
    "listening ports": "lsof -nP -iTCP -sTCP:LISTEN -F pcn; true",
}
VOLUMES = "diskutil apfs list -plist"
_COMES_AND_GOES = re.compile(r"com\.apple\.|application\.|\[|0x[0-9a-f]|Label$")
_DEVICE = re.compile(r"disk\d+(s\d+)*")


@dataclass(frozen=True)
class State:
    """Answers by question, each as lines in their order; machine: what it is."""

    machine: Mapping[str, str]
    answers: Mapping[str, tuple[str, ...]]


def look(mac: Mac) -> State:
    """Asks all questions."""
    told = mac.run("machine", f"sysctl {MACHINE}")
    machine = {name: str(value) for name, value in parse.sysctl(told.out).items()}
    answers = {name: plain(name, mac.run(name, script).out) for name, script in QUESTIONS.items()}
    answers["volumes"] = _volumes(mac.run("volumes", VOLUMES).out)
    return State(machine, answers)


def plain(name: str, said: str) -> tuple[str, ...]:
    """The lines of an answer without what macOS itself changes from minute to minute."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    if name == "jobs":
        lines = [line.split("\t")[-1] for line in lines]
        lines = [line for line in lines if not _COMES_AND_GOES.match(line)]
    if name == "disabled jobs":
        # launchd never forgets a label that was enabled once, which is what any label is without an entry.
        lines = [line for line in lines if not re.search(r"=> (enabled|false)$", line)]
    if name == "mounts":
        lines = [_DEVICE.sub("disk", line) for line in lines if line.startswith("/dev/")]
    if name == "listening ports":
        # Ports above are handed out by the system as programs ask.
        ports = {int(found[1]) for line in lines if (found := re.search(r":(\d+)$", line))}
        lines = [str(port) for port in ports if port < 49152]
    # A sudo of Linux, which a simulated Mac has, leaves a mark in the home of who used it first.
    return tuple(sorted(line for line in lines if line != ".sudo_as_admin_successful"))


def _volumes(text: str) -> tuple[str, ...]:
    try:
        containers = parse.apfs_containers(text)
    except parse.ParseError as error:
        return (f"cannot be read: {error}",)
    return tuple(sorted(f"{volume['name']} {volume['uuid']}" for c in containers for volume in c["volumes"]))


def changes(before: State, after: State) -> list[str]:
    """A sentence for each answer that is another one; [] where the Mac is as before."""
    found = []
    for name, had in before.answers.items():
        has = after.answers.get(name, ())
        gone, new = sorted(set(had) - set(has)), sorted(set(has) - set(had))
        if gone or new:
            parts = [f"gone: {', '.join(gone)}"] if gone else []
            parts += [f"new: {', '.join(new)}"] if new else []
            found.append(f"{name}: {'; '.join(parts)}")
    return found


def in_the_way(seen: State) -> list[str]:
    """What is of a fleet's installation or of an earlier proof: beside it there is no proof."""
    roots = {naming.prefix(root) for root in naming.ROOTS}
    found = [f"/opt/{line}" for line in seen.answers["folders"] if line in roots]
    found += [f"the job {line}" for line in seen.answers["jobs"] if line.startswith("com.ds4fleet")]
    present = {line.split()[0] for line in seen.answers["volumes"]}
    found += [f"the volume {name}" for name in volumes.OUR_NAMES if name in present]
    names = [line.split()[0] for line in seen.answers["accounts"]]
    found += [f"the account {name}" for name in sorted(set(names)) if name.startswith("_ds4")]
    return found
