"""A whole proof: what the Mac is like, all steps, what it is like afterwards; a bundle and a page of it."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ds4agent.border import bounded_json
from ds4fleet import console
from ds4fleet.cli.prove import kit, page, recorded, state, steps
from ds4fleet.cli.prove.bundle import Bundle, Verdict, Watch
from ds4fleet.cli.prove.mac import Mac
from ds4fleet.cli.prove.steps import Failed, Proof, Skipped
from ds4fleet.errors import EXIT_FAILED, EXIT_USAGE, OperatorError
from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.inventory.names import ADDRESS, REMOTE_USER

#: What macOS asks for before it lets an account be deleted over ssh.
FULL_DISK_ACCESS = (
    "home=$(dscl . -read /Users/nobody NFSHomeDirectory | awk '{print $2}');"
    ' dscl . -change /Users/nobody NFSHomeDirectory "$home" "$home"'
)
GIB = 1 << 30
LOOPBACK = "127.0.0.1"
#: Of a Mac that has not been asked yet.
UNKNOWN = {"form": "Mac", "model": "unknown", "chip": "Apple M1", "memory_gb": 8, "storage_gb": 256}


def run(
    name: str,
    *,
    out: Path,
    user: str = "",
    key: str = "",
    password_file: str = "",
    reboot: bool = False,
    leave_accounts: bool = False,
    probe_only: bool = False,
) -> int:
    """Proves the Mac `name`, of the inventory or an address; the exit status. Raises OperatorError."""
    host = host_of(name, user, key, out)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    bundle = Bundle(out, words=_words(host))
    mac = Mac(host, bundle)
    with tempfile.TemporaryDirectory(prefix="ds4-prove-") as folder:
        _bootstrap(mac, Path(folder), password_file)
        mac.reach()
        before = state.look(mac)
        _refuse(host, before, mac, leave_accounts or probe_only)
        bundle.about = _about(before)
        limit = int("".join(before.answers["wired limit"]) or 0)
        made = kit.make(Path(folder), _with_hardware(host, before), limit)
        proof = Proof(mac, made, before, reboots=reboot)
        try:
            _carry_out(proof, leave_accounts, probe_only=probe_only)
        finally:
            path = bundle.write()
            whole = bounded_json.mapping(path.read_bytes(), max_bytes=recorded.MOST_BYTES)
            (out / "page.md").write_text(page.page(whole))
    passed = "passed" if bundle.passed else "failed"
    console.out.print(f"{host.name}: {passed}; {out / 'page.md'} says what was seen, {path} has all of it")
    return 0 if bundle.passed else EXIT_FAILED


def host_of(name: str, user: str, key: str, out: Path) -> Host:
    """The Mac of the inventory, or one that is only reached by its address."""
    try:
        found = Fleet.load().host(name)
    except OperatorError:
        if not ADDRESS.takes(name) or (user and not REMOTE_USER.takes(user)):
            raise
        # Ansible has a localhost of its own, which it does not reach by ssh.
        address, name = (LOOPBACK, "this-mac") if name == "localhost" else (name, name)
        known_hosts = str((out / "known_hosts").absolute())
        reached = Connection(address, known_hosts=known_hosts, user=user, key_file=key)
        return Host(name, "proof", {"ds4_hardware": UNKNOWN}, connection=reached)
    return found


def _bootstrap(mac: Mac, folder: Path, password_file: str) -> None:
    """Records the host key, and makes the Mac manageable where it is not yet. Raises OperatorError."""
    made = kit.make(folder, mac.host, 0)
    given = {"ds4_bootstrap_password_file": str(Path(password_file).absolute())} if password_file else {}
    mac.step = "bootstrap"
    try:
        told = Proof(mac, made, state.State({}, {})).playbook("bootstrap", "-e", json.dumps(given))
    except Failed as why:
        raise OperatorError(f"{mac.host.name}: {why}") from None
    mac.bundle.verdicts.append(Verdict("bootstrap", "pass", told.seconds))
    mac.step = "before"


def _refuse(host: Host, before: state.State, mac: Mac, leave_accounts: bool) -> None:
    """Raises OperatorError where a proof could harm, or could not be taken back."""
    there = state.in_the_way(before)
    if there:
        raise OperatorError(
            f"{host.name}: there is {', '.join(there[:4])}; a proof runs on a Mac without ds4-fleet."
            " Decommission it first, or choose another Mac",
            exit_code=EXIT_USAGE,
        )
    if not leave_accounts and mac.run("Full Disk Access", FULL_DISK_ACCESS).status != 0:
        raise OperatorError(
            f"{host.name}: ssh has no Full Disk Access there, so macOS would not let the accounts of the"
            " proof be deleted. Allow it (System Settings, General, Sharing, Remote Login), or pass"
            " --leave-accounts",
            exit_code=EXIT_USAGE,
        )


def _carry_out(proof: Proof, leave_accounts: bool, *, probe_only: bool) -> None:
    """All steps; after one that failed only those that take it back."""
    going = _step(proof, "probe", _probe)
    if probe_only:
        _step(proof, "as before", steps.as_before)
        return
    for name, act in steps.STEPS.items():
        going = going and _step(proof, name, act)
    for name, act in steps.LAST.items():
        _step(proof, name, _without_accounts(act) if leave_accounts and name == "as before" else act)


def _step(proof: Proof, name: str, act: Callable[[Proof], list[str]]) -> bool:
    """Carries one out and writes down what came of it; whether the next may follow."""
    mac, watch = proof.mac, Watch()
    mac.step = name
    with console.out.status(f"{mac.host.name}: {name} ..."):
        said, outcome = [], "pass"
        try:
            said = act(proof)
        except Skipped as why:
            said, outcome = [str(why)], "skipped"
        except (Failed, OperatorError) as why:
            said, outcome = [str(why)], "fail"
    mac.bundle.verdicts.append(Verdict(name, outcome, watch.seconds, said))
    console.out.print(f"{name}: {outcome} ({watch.seconds:.1f} s) {'; '.join(said)}", soft_wrap=True)
    return outcome != "fail"


def _probe(proof: Proof) -> list[str]:
    """What no recording could tell: the facts of the Mac with its answers."""
    folder = proof.kit.folder / "facts"
    proof.playbook("probe", "-e", json.dumps({"ds4_facts_folder": str(folder), "ds4_probe_write": True}))
    name = proof.mac.host.name
    facts = bounded_json.mapping((folder / f"{name}.json").read_bytes())
    told = bounded_json.mapping((folder / f"{name}.told.json").read_bytes())
    bundle = proof.mac.bundle
    bundle.facts = facts
    bundle.differences = bounded_json.objects(told.get("differences"))
    sentences = ["{name}: assumed {assumed}, found {found}".format(**one) for one in bundle.differences]
    return [f"{len(sentences)} differences", *sentences]


def _without_accounts(act: Callable[[Proof], list[str]]) -> Callable[[Proof], list[str]]:
    """Accounts that were to stay are no difference."""

    def outcome(proof: Proof) -> list[str]:
        own = {str(value) for name, value in kit.NAMES.items() if name.endswith("_user")}
        kept = tuple(line for line in state.look(proof.mac).answers["accounts"] if line.split()[0] in own)
        answers = {
            **proof.before.answers,
            "accounts": tuple(sorted((*proof.before.answers["accounts"], *kept))),
        }
        act(Proof(proof.mac, proof.kit, state.State(proof.before.machine, answers)))
        return [f"left, as asked: {', '.join(sorted({line.split()[0] for line in kept}))}"] if kept else []

    return outcome


def _about(before: state.State) -> dict[str, Any]:
    hardware = _hardware(before)
    return {
        "model": hardware["model"],
        "chip": hardware["chip"],
        "memory_gb": hardware["memory_gb"],
        "macos": before.machine.get("kern.osproductversion", ""),
        "build": before.machine.get("kern.osversion", ""),
        "at": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _hardware(before: state.State) -> dict[str, Any]:
    machine = before.machine
    return {
        "form": "Mac",
        "model": machine.get("hw.model", "unknown"),
        "chip": machine.get("machdep.cpu.brand_string", "unknown"),
        "memory_gb": int(machine.get("hw.memsize", "0")) // GIB,
        "storage_gb": 256,
    }


def _with_hardware(host: Host, before: state.State) -> Host:
    return host.having(ds4_hardware=_hardware(before))


def _words(host: Host) -> dict[str, str]:
    """What names the Mac, its user and this machine, and what stands for each in the bundle."""
    names = {host.name: "MAC", host.address: "ADDRESS", socket.gethostname(): "CONTROLLER"}
    if host.user:
        names[host.user] = "USER"
    with contextlib.suppress(RuntimeError):
        names[Path.home().name] = "OPERATOR"
    plain = {"", "root", "localhost", "127.0.0.1"}
    return {word: alias for word, alias in names.items() if word not in plain}
