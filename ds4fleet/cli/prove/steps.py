"""The steps of a proof, in their order: each does something with the Mac and says what holds or fails."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ds4agent import naming
from ds4agent.border import bounded_http, bounded_json
from ds4agent.tunnel import ssh as tunnel_ssh
from ds4fleet.cli.prove import kit, state
from ds4fleet.cli.prove.bundle import Told
from ds4fleet.cli.prove.kit import Kit
from ds4fleet.cli.prove.mac import Mac
from ds4fleet.inventory.fleet import ansible_environment
from ds4fleet.remote import playbook, ssh
from ds4fleet.tunnel.selection import spec_of

PLAYBOOK_S = 1800
REBOOT_S = 600
#: Of a server that launchd starts again, with its throttle of 10 s, and of one that answers.
AGAIN_S = 120
ROOT = naming.PROOF_ROOT
SERVER = naming.label(ROOT, "server")
LOGS = naming.logs(ROOT)
_RECAP = re.compile(r"ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)")
_PID = re.compile(r"^\s*pid = (\d+)", re.MULTILINE)


class Failed(Exception):
    """A step that did not hold: one sentence."""


class Skipped(Exception):
    """A step that this Mac does not allow: one sentence."""


@dataclass
class Proof:
    """What the steps share."""

    mac: Mac
    kit: Kit
    before: state.State
    reboots: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {
            "ANSIBLE_INVENTORY": str(self.kit.inventory),
            "ANSIBLE_NOCOLOR": "1",
            "DS4_ROLLOUTS": str(self.kit.folder / "rollouts"),
            "DS4_FLEET_STATE": str(self.kit.folder / "state"),
        }
        self.environment = {**ansible_environment(), **own, **self.environment}

    def playbook(self, name: str, *arguments: str, fails: bool = False) -> Told:
        """Runs playbooks/<name>.yml on the Mac. Raises Failed unless it ends as it is to."""
        argv = [*playbook.command(name, [self.mac.host.name]), *arguments]
        told = self.mac.here(f"{name}.yml", argv, self.environment, PLAYBOOK_S)
        if (told.status != 0) != fails:
            raise Failed(
                f"{name}.yml ended with {told.status}: {_last_fatal(told.out) or ssh.last_line(told.err)}"
            )
        return told

    def fab(self, *words: str, fails: bool = False) -> Told:
        """Runs a verb."""
        argv = [str(Path(sys.executable).with_name("fab")), *words]
        told = self.mac.here(f"fab {words[0]}", argv, self.environment, PLAYBOOK_S)
        if (told.status != 0) != fails:
            raise Failed(
                f"fab {' '.join(words)} ended with {told.status}: {ssh.last_line(told.err or told.out)}"
            )
        return told

    def serving(self, name: str, timeout_s: float = AGAIN_S) -> Told:
        """Waits until the engine answers. Raises Failed."""
        url = f"http://127.0.0.1:{kit.PORT}/v1/models"
        script = f"curl --noproxy '*' -sS --max-time 5 {url}"
        told = self.mac.until(name, script, lambda one: one.status == 0 and "data" in one.out, timeout_s)
        if told is None:
            log = self.mac.run("the server's log", f"tail -n 40 {LOGS}/server.log")
            raise Failed(f"the engine does not answer within {timeout_s:.0f} s: {ssh.last_line(log.out)}")
        return told

    def pid(self) -> int:
        """Of the server; 0 when none runs."""
        found = _PID.search(self.mac.run("the server's job", f"launchctl print system/{SERVER}").out)
        return int(found[1]) if found else 0


def bring(proof: Proof) -> list[str]:
    """The engine's history to the Mac, into a folder of root's."""
    place = kit.ON_THE_MAC
    script = (
        f"umask 022 && mkdir -p {place} && cat > {place}/engine.bundle &&"
        f" git clone --quiet --bare {place}/engine.bundle {place}/engine.git"
    )
    told = proof.mac.push("bring the engine's history", proof.kit.bundle, script)
    _must(told)
    return []


def transfer(proof: Proof) -> list[str]:
    proof.playbook("prefetch")
    return []


def converge(proof: Proof) -> list[str]:
    proof.playbook("site")
    proof.serving("the engine answers")
    return []


def again(proof: Proof) -> list[str]:
    """A second run changes nothing."""
    counts = _RECAP.search(proof.playbook("site").out)
    if counts is None or counts[2] != "0":
        raise Failed(f"a second run changed {counts[2] if counts else 'something'}")
    return []


def metal(proof: Proof) -> list[str]:
    """Whether a program that the Mac compiled gets a Metal device, as root and as the service account."""
    program = f"{ROOT}/engine/current/ds4-metal"
    if proof.mac.run("the Metal program", f"test -x {program}").status != 0:
        raise Skipped("this Mac has no Metal.framework to compile with")
    user = kit.NAMES["ds4_service_user"]
    said = [proof.mac.run(f"Metal as {who}", line) for who, line in
            (("root", program), ("the service account", f"sudo -n -u {user} {program}"))]  # fmt: skip
    return [f"{one.name}: {ssh.last_line(one.out + one.err)}" for one in said]


def tunnel(proof: Proof) -> list[str]:
    """A prompt through a tunnel that the tunnel account lets through."""
    port = _free_port()
    host = proof.mac.host.having(
        **kit.NAMES,
        ds4_tunnel_port=port,
        ds4_tunnel_key_file=str(proof.kit.key),
    )
    argv = tunnel_ssh.command(spec_of(host), tunnel_ssh.client_version(), ipv6=False)
    quiet: Any = subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as child:
        try:
            models = _asked(port, "GET", "/v1/models", None)
            body = {
                "model": models["data"][0]["id"],
                "max_tokens": 8,
                "messages": [{"role": "user", "content": "2+2?"}],
            }
            answer = _asked(port, "POST", "/v1/chat/completions", json.dumps(body))
        finally:
            child.terminate()
    if not answer.get("choices"):
        raise Failed(f"the answer through the tunnel has no choices: {json.dumps(answer)[:200]}")
    return []


def crash(proof: Proof) -> list[str]:
    """A server that is killed comes back, after launchd's throttle."""
    pid = proof.pid()
    began = time.monotonic()
    _must(proof.mac.run("kill the server", f"kill -9 {pid}"))
    ended = proof.mac.run("its job right after", f"launchctl print system/{SERVER}")
    told = proof.mac.until(
        "its job again", f"launchctl print system/{SERVER}", lambda one: _other(one, pid), AGAIN_S
    )
    if told is None:
        raise Failed(f"launchd has not started a killed server again within {AGAIN_S} s")
    took_s = time.monotonic() - began
    proof.serving("the engine answers again")
    reason = re.search(r"last (?:terminating signal|exit (?:code|reason)) = (.+)", ended.out)
    return [f"started again after {took_s:.1f} s; launchd says {reason[0] if reason else 'no reason'}"]


def bootout(proof: Proof) -> list[str]:
    """What is booted out is gone, and comes back by bootstrap."""
    target, path = f"system/{SERVER}", naming.plist(SERVER)
    watch = time.monotonic()
    _must(proof.mac.run("bootout", f"launchctl bootout {target}"), (0, 36))
    gone = proof.mac.until(
        "until it is gone", f"launchctl print {target}", lambda one: one.status != 0, AGAIN_S
    )
    if gone is None:
        raise Failed(f"the job is still there {AGAIN_S} s after bootout")
    took_s = time.monotonic() - watch
    _must(proof.mac.run("bootstrap", f"launchctl bootstrap system {path}"))
    proof.serving("the engine answers again")
    return [f"gone after {took_s:.1f} s"]


def rotate(proof: Proof) -> list[str]:
    """A log above its threshold is copied away and emptied while the server has it open."""
    fill = f"dd if=/dev/zero bs=1048576 count=11 2>/dev/null | tr '\\0' x >> {LOGS}/server.log"
    _must(proof.mac.run("fill the log", fill))
    job = naming.label(ROOT, "logs")
    _must(proof.mac.run("the rotation's job", f"launchctl kickstart system/{job}"))
    size = f"stat -f %z {LOGS}/server.log"
    told = proof.mac.until("size of the log", size, lambda one: int(one.out or 0) < 1 << 20, AGAIN_S)
    if told is None:
        raise Failed(f"the log was not emptied within {AGAIN_S} s")
    _must(proof.mac.run("newsyslog", f"newsyslog -v -f /etc/newsyslog.d/{naming.prefix(ROOT)}.conf"))
    names = proof.mac.run("copies", f"ls {LOGS}").out.split()
    if not any(name.startswith("server.archive.log.0") for name in names):
        raise Failed(f"newsyslog has made no copy: {' '.join(names)}")
    return []


def wired(proof: Proof) -> list[str]:
    """The limit is what the plan says: what macOS had."""
    now = proof.mac.run("wired limit", "sysctl -n iogpu.wired_limit_mb").out.strip()
    had = "".join(proof.before.answers["wired limit"])
    if now != had:
        raise Failed(f"the GPU wired limit is {now} MiB, it was {had}")
    return [f"{now} MiB"]


def upgrade(proof: Proof) -> list[str]:
    """To another engine, behind the gate."""
    proof.fab("upgrade", "--engine", proof.kit.commits[kit.NEXT], "--yes")
    _serves(proof, kit.NEXT)
    return []


def rollback(proof: Proof) -> list[str]:
    """An engine that builds and does not serve does not pass the gate, and the Mac is back by itself."""
    proof.fab("upgrade", "--engine", proof.kit.commits[kit.BAD], "--yes", fails=True)
    _serves(proof, kit.NEXT)
    proof.fab("upgrade", "--abort", "--yes")
    return []


def reboot(proof: Proof) -> list[str]:
    """After a restart the Mac serves by itself."""
    if not proof.reboots:
        raise Skipped("not asked for: --reboot")
    boot = proof.mac.run("boot time", "sysctl -n kern.boottime").out
    proof.mac.run("restart", "shutdown -r now")
    again = proof.mac.until(
        "boot time", "sysctl -n kern.boottime", lambda one: one.status == 0 and one.out != boot, REBOOT_S
    )
    if again is None:
        raise Failed(f"the Mac has not come back within {REBOOT_S} s")
    proof.serving("the engine answers", REBOOT_S)
    _must(proof.mac.run("mounts", "mount"))
    return []


def decommission(proof: Proof) -> list[str]:
    """All of it is taken off again."""
    proof.playbook("decommission", "-e", '{"ds4_safe_mode": false}')
    _must(proof.mac.run("the engine's history", f"rm -rf {kit.ON_THE_MAC}"))
    return []


def as_before(proof: Proof) -> list[str]:
    """The Mac is as it was."""
    changed = state.changes(proof.before, state.look(proof.mac))
    if changed:
        raise Failed("; ".join(changed))
    return []


#: In their order; what stands in LAST is done whatever failed before it.
STEPS: Mapping[str, Callable[[Proof], list[str]]] = {
    "bring the engine": bring,
    "transfer the weights": transfer,
    "converge": converge,
    "converge again": again,
    "metal": metal,
    "wired limit": wired,
    "tunnel": tunnel,
    "crash": crash,
    "bootout": bootout,
    "log rotation": rotate,
    "upgrade": upgrade,
    "rollback": rollback,
    "reboot": reboot,
}
LAST: Mapping[str, Callable[[Proof], list[str]]] = {"decommission": decommission, "as before": as_before}


def _must(told: Told, statuses: tuple[int, ...] = (0,)) -> None:
    if told.status not in statuses:
        raise Failed(f"{told.name} ended with {told.status}: {ssh.last_line(told.err or told.out)}")


def _serves(proof: Proof, generation: str) -> None:
    commit = proof.kit.commits[generation]
    found = proof.mac.run("the current release", f"readlink {ROOT}/engine/current").out
    if commit[:12] not in found:
        raise Failed(f"the Mac serves {found.strip()}, not {commit[:12]}")
    proof.serving("the engine answers")


def _other(told: Told, pid: int) -> bool:
    found = _PID.search(told.out)
    return found is not None and int(found[1]) != pid


def _last_fatal(out: str) -> str:
    found = re.findall(r"^(?:fatal|\[ERROR\]).*", out, re.MULTILINE)
    return found[-1][:600] if found else ""


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _asked(port: int, method: str, path: str, body: str | None) -> Mapping[str, Any]:
    """JSON of the engine through the tunnel. Raises Failed."""
    deadline = time.monotonic() + AGAIN_S
    while True:
        try:
            limits = bounded_http.Limits(60)
            data = body.encode() if body else None
            status, answer = bounded_http.ask("127.0.0.1", port, method, path, body=data, limits=limits)
            found: Mapping[str, Any] = bounded_json.mapping(answer)
            if status == 200:
                return found
            why = f"status {status}"
        except (bounded_http.HttpError, bounded_json.JsonError) as error:
            why = str(error)
        if time.monotonic() > deadline:
            raise Failed(f"{method} {path} through the tunnel: {why}")
        time.sleep(0.5)
