"""`fab lab ...`: the verbs of the lab, with the inventory's hosts and readable output.

tasks.py calls `run`. Here the fleet's inventory and the simulated Macs meet: the lab writes its inventory
layer into the checkout, with the variables that lead the role to it.
"""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ds4fleet import console
from ds4fleet.cli import container, twin
from ds4fleet.cli.prove import recorded
from ds4fleet.errors import EXIT_MISSING, EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.layout import FLEET
from maclab import preflight
from maclab.errors import LabError
from maclab.faults import FAULTS
from maclab.lab import HostSpec, Lab, MacStatus

FOLDER_VARIABLE = "DS4_LAB"
"""Environment variable that names another folder than `.lab` in the checkout."""
REHEARSED_ENGINE = "54b36ed9ba42da31b24f2d1a5feb075c2475dbb1"
"""What simulated Macs pin, whatever the fleet does: a stand-in that was compared with what it stands for."""


def layer(lab: Lab) -> dict[str, object]:
    """Variables of every Mac of `lab` that lead the role to its keys, host keys, weights and engine."""
    public_key = lab.key_path.with_suffix(".pub").read_text().strip()
    return {
        "ds4_known_hosts": str(lab.folder / "known_hosts"),
        "ds4_admin_keys": [public_key],
        "ds4_tunnel_keys": [public_key],
        "ds4_catalogue": [str(lab.folder / "upstreams" / "catalogue.yml")],
        "ds4_engine_commit": REHEARSED_ENGINE,
        "ds4_fleet_layer": "lab",
        "ds4_bootstrap_password_file": str(lab.folder / "secrets" / "admin_password"),
    }


def fleet_lab(folder: Path, name: str = "lab", *, inventory_path: Path | None = None) -> Lab:
    """A lab for this role: its inventory layer (inventory.yml in `folder`) carries the fleet's variables."""
    return Lab(folder, name, inventory_path=inventory_path, variables=layer)


def the_lab() -> Lab:
    """The lab that commands without a name mean."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return fleet_lab(Path(named))
    return fleet_lab(FLEET / ".lab", inventory_path=FLEET / "inventory" / "lab.yml")


def boot(
    lab: Lab, hosts: Sequence[HostSpec], facts: Mapping[str, twin.Facts] | None = None
) -> list[MacStatus]:
    """Start Macs, bare or as `facts` say: macOS's part by the lab, the role's part by the role.

    Raises LabError, and OperatorError when the role cannot make a twin.
    """
    before = {row.name for row in lab.status() if row.running}
    lab.up(hosts=hosts, facts=facts)
    twins = {host.name: facts[host.name] for host in hosts if host.name in facts} if facts else {}
    new = {name: seen for name, seen in twins.items() if name not in before}
    if new:
        twin.converge(lab, new)
        lab.hand_over()
    return lab.status()


def run(
    words: Sequence[str],
    *,
    limit: str = "",
    off: bool = False,
    command: str = "",
    json: bool = False,
    from_facts: Path | None = None,
    rtt_ms: float | None = None,
    loss: float | None = None,
    mbps: float | None = None,
    down_link: bool = False,
) -> int:
    """Carry out one `fab lab` command line; returns the exit status. Raises OperatorError."""
    try:
        return _run(words, limit, off, command, json, from_facts, rtt_ms, loss, mbps, down_link)
    except LabError as error:
        raise OperatorError(error.sentence, exit_code=error.exit_code, detail=error.detail) from error


def _run(
    words: Sequence[str],
    limit: str,
    off: bool,
    command: str,
    json: bool,
    from_facts: Path | None,
    rtt_ms: float | None,
    loss: float | None,
    mbps: float | None,
    down_link: bool,
) -> int:
    verb, *rest = words or ["status"]
    host = rest[0] if rest else ""
    if container.wanted() and verb != "faults":
        return _in_container(verb, limit, from_facts)
    if verb == "up":
        up(limit, from_facts)
    elif verb == "down":
        down(limit)
    elif verb == "status":
        status(limit, json=json)
    elif verb == "reset":
        reset(limit)
    elif verb == "faults":
        faults()
    elif verb == "ssh":
        return ssh(host, command)
    elif verb == "reboot":
        _timed(f"{host} has rebooted", lambda: the_lab().reboot(host))
    elif verb == "power-cut":
        _timed(f"{host} lost its power and is back", lambda: the_lab().power_cut(host))
    elif verb == "import":
        import_bundle(Path(host), limit)
    elif verb == "fault":
        fault(host, rest[1] if len(rest) > 1 else "", on=not off)
    elif verb == "link":
        link(host, rtt_ms=rtt_ms, loss=loss, mbps=mbps, down_link=down_link, off=off)
    else:
        raise OperatorError(f"fab lab has no verb {verb}", exit_code=EXIT_USAGE)
    return 0


def _in_container(verb: str, limit: str, from_facts: Path | None) -> int:
    """`up` on macOS; the other verbs are typed in the shell that stays open inside."""
    if verb != "up":
        raise OperatorError(
            f"on macOS the lab lives in a Linux container: type `fab lab {verb}` in the shell that "
            "`fab lab up` or `make demo` opened there",
            exit_code=EXIT_MISSING,
        )
    words = ["fab", "lab", "up"]
    if limit:
        words += ["--limit", limit]
    if from_facts:
        words += ["--from", container.inside(from_facts)]
    return container.run(words, say=lambda line: console.out.print(f"$ {line}"), stays=True)


def specs(limit: str = "") -> list[HostSpec]:
    """The inventory's hosts, as far as the lab needs to know them."""
    return [
        HostSpec(host.name, host.region, dict(host.hardware), host.address)
        for host in Fleet.load(limit or None)
    ]


def up(limit: str = "", from_facts: Path | None = None) -> None:
    """Start the inventory's Macs (or those that `limit` names), bare or as the facts in a folder say."""
    preflight.check()
    began = time.monotonic()
    lab = the_lab()
    hosts = specs(limit)
    facts = twin.read(from_facts, [host.name for host in hosts]) if from_facts else None
    if facts is not None:
        hosts = [host for host in hosts if host.name in facts]
    with console.out.status(f"Booting {len(hosts)} Macs ..."):
        rows = boot(lab, hosts, facts)
    _table(rows)
    version = preflight.version_of(preflight.remote_python())
    note = "" if version.startswith("3.9.") else " (macOS has 3.9.6; this machine has no 3.9)"
    console.out.print(f"Python on the Macs, once they have the Command Line Tools: {version}{note}")
    took_s = time.monotonic() - began
    console.out.print(
        f"{len(hosts)} Macs are up after {took_s:.1f} s. Look around: fab lab ssh {rows[0].name}"
    )


def down(limit: str = "") -> None:
    """End the lab, or those of its Macs that `limit` names."""
    lab = the_lab()
    if not limit:
        _timed("The lab is down; nothing of it is left.", lab.down)
        return
    chosen = _present(lab, limit)
    _timed(f"{', '.join(chosen)}: gone", lambda: lab.take_out(chosen))


def status(limit: str = "", *, json: bool = False) -> None:
    """The Macs of the lab, or those that `limit` names."""
    lab = the_lab()
    rows = lab.status()
    if limit:
        chosen = _present(lab, limit)
        rows = [row for row in rows if row.name in chosen]
    if json:
        console.print_json([asdict(row) for row in rows])
    elif rows:
        _table(rows)
    else:
        console.out.print("No lab is up: fab lab up [--limit REGION]")


def reset(limit: str = "") -> None:
    """Replace Macs by bare ones."""
    lab = the_lab()
    for host in _present(lab, limit):
        _timed(f"{host} is bare again, with a new host key", functools.partial(lab.reset, host))


def _present(lab: Lab, limit: str) -> list[str]:
    """Names of the lab's Macs, or of those that `limit` names. Raises OperatorError when that is none."""
    present = [row.name for row in lab.status()]
    chosen = [host.name for host in Fleet.load(limit) if host.name in present] if limit else present
    if not chosen:
        raise OperatorError("no Mac of the lab matches: see fab lab status", exit_code=EXIT_USAGE)
    return chosen


def faults() -> None:
    """What can be made to go wrong."""
    table = console.table("", "fault", "what the Mac then does", "acts in")
    for one in FAULTS.values():
        table.add_row(one.name, one.does, one.where)
    console.out.print(table)


def import_bundle(bundle: Path, limit: str) -> None:
    """Keep what `fab prove` found of a real Mac: facts of a twin for one Mac's place, and a recording."""
    chosen = [one.name for one in Fleet.load(limit or None)]
    if len(chosen) != 1:
        raise OperatorError("say which Mac its twin stands for: --limit HOST", exit_code=EXIT_USAGE)
    for sentence in recorded.bring(bundle, chosen[0], Path("facts")):
        console.out.print(sentence, soft_wrap=True)


def fault(host: str, name: str, *, on: bool = True) -> None:
    """Switch a fault of a Mac on or off."""
    if not name:
        faults()
        return
    the_lab().fault(host, name, on)
    console.out.print(f"{host}: {name} {'on' if on else 'off'}")


def link(
    host: str,
    *,
    rtt_ms: float | None = None,
    loss: float | None = None,
    mbps: float | None = None,
    down_link: bool = False,
    off: bool = False,
) -> None:
    """Make the link of a Mac (or `operator`) long, lossy, narrow or dead; `loss` in percent; `off`: plain."""
    lab = the_lab()
    if off:
        lab.link(host)
    else:
        lab.link(host, rtt_ms=rtt_ms or 0.0, loss=(loss or 0.0) / 100, mbps=mbps or 0.0, down=down_link)
    console.out.print(f"{host}: {'plain cable' if off else 'link set'}")


def ssh(host: str, command: str = "") -> int:
    """Log in to a Mac as its administrator (with the key once bootstrap has run, with the
    password before).
    """
    lab = the_lab()
    argv = lab.ssh_command(host)
    if command:
        argv.append(command)
    askpass = {"SSH_ASKPASS": str(lab.askpass_path), "SSH_ASKPASS_REQUIRE": "force"}
    return subprocess.run(argv, env={**os.environ, **askpass}, check=False).returncode


def _timed(text: str, action: Callable[[], None]) -> None:
    began = time.monotonic()
    action()
    console.out.print(f"{text} ({time.monotonic() - began:.1f} s)")


def _table(rows: Sequence[MacStatus]) -> None:
    table = console.table("", "host", "region", "address", "state", "boots", "faults")
    for row in rows:
        state = console.styled("up", "green") if row.running else console.styled("off", "red")
        table.add_row(row.name, row.region, row.address, state, str(row.boots), ", ".join(row.faults))
    console.out.print(table)
