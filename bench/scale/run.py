"""What a fleet of hundreds costs the controller: seconds, CPU and memory of what an operator types.

No Mac, no ssh and no network: a connection plugin, a connector of pyinfra and a command `ssh`, all of the
bench's own, answer what converged Macs would say. The controller alone is measured. CPU is that of the whole
process tree, memory that of all its processes together. A missed target ends the command with 1.

  make bench-scale                          50 and 500 Macs, beside pyinfra and tasks of ansible-core
  make bench-scale ARGS="--macs 14 --only site.yml --repeat 3 --json"
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.scale import CHECKOUT, fleet, measure
from ds4fleet.console import operator_errors, out, print_json, table
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.fleet import ansible_command

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
#: pyinfra, as peers/requirements.txt pins it; made by the first run.
PEER_PYTHON = CHECKOUT / ".venv-bench"
SITE, OBSERVE, PLAN, STATUS, HELP = "site.yml", "fab observe", "fab plan", "fab status", "fab --help"
PLAIN, PYINFRA = "ansible-core tasks", "pyinfra"
#: What Ansible forks processes for.
BY_ANSIBLE = (SITE, OBSERVE, PLAIN)
#: What an operator's fleet of today has; its rows are of the size that the targets of CPU name.
SMALL, LARGE = 14, 500


@dataclass(frozen=True)
class Target:
    """Of a row: the most that it may come to, in which figure."""

    what: str
    hosts: int
    figure: str
    most: float


#: cpu_per_mac_s: what a row costs more than that of the fewest Macs, over the Macs that it has more.
TARGETS = (
    Target(SITE, LARGE, "wall_s", 35),
    Target(SITE, LARGE, "memory_mb", 400),
    Target(SITE, LARGE, "cpu_per_mac_s", 0.12),
    Target(PLAN, LARGE, "wall_s", 8),
    Target(STATUS, LARGE, "wall_s", 15),
    Target(STATUS, SMALL, "cpu_s", 1.2),
    Target(HELP, 0, "wall_s", 0.25),
)
#: Of the load when a command begins, per core: the command before it is in it. Above, other work is.
BUSY = 2.0
#: CPU of two runs of the same differs by so much.
NOISE = 1.15
#: From the fewest to the most Macs a command may take at most so much more than in proportion. Ansible forks
#: a process for each task of each Mac, and the system forks a larger process more slowly: what Ansible runs
#: is held to what tasks of ansible-core alone take beyond proportion in the same run.
LINEAR = 1.15


@dataclass(frozen=True)
class Row:
    """One line of the result: what a command cost with so many Macs."""

    what: str
    hosts: int
    wall_s: float
    cpu_s: float
    memory_mb: float
    load: float
    cpu_per_mac_s: float | None = None


def commands(made: fleet.Recorded) -> dict[str, tuple[list[str], str]]:
    """What is measured on a fleet: the command line, and what its output must hold."""
    playbook = ansible_command("ansible-playbook")
    fab = ansible_command("fab")
    folder = made.inventory.parents[1]
    return {
        SITE: ([*playbook, "site.yml"], "as planned, nothing to change"),
        OBSERVE: ([*fab, "observe", "--save", str(folder / "observed")], "Kept in"),
        PLAN: ([*fab, "plan", "--facts", str(made.facts)], "The plan"),
        STATUS: ([*fab, "status"], "running"),
        PLAIN: ([*playbook, str(PEERS / "plain.yml")], "changed=0"),
        PYINFRA: (
            [
                str(PEER_PYTHON / "bin" / "pyinfra"),
                "--chdir",
                str(PEERS),
                "-y",
                str(folder / "pyinfra_inventory.py"),
                "deploy.py",
            ],
            "Grand total",
        ),
    }


def environment(made: fleet.Recorded) -> dict[str, str]:
    """For every command alike: this fleet, its answers, and the stand-in for ssh in front."""
    home = made.inventory.parents[1]
    return {
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "ANSIBLE_INVENTORY": str(made.inventory),
        "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection"),
        "ANSIBLE_HOME": str(home / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "DS4_BENCH_RECORDED": str(made.answers),
        "DS4_BENCH_STATUS": str(made.status),
        "PATH": f"{HERE / 'standin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PEERS),
        "COLUMNS": "200",
    }


def measured(made: fleet.Recorded, wanted: Callable[[str], bool], repeat: int) -> list[Row]:
    """The rows of one fleet; the commands take turns, so that other work of the machine meets all."""
    chosen = {what: command for what, command in commands(made).items() if wanted(what)}
    costs: dict[str, list[measure.Cost]] = {what: [] for what in chosen}
    for _ in range(repeat):
        for what, (command, must_say) in chosen.items():
            costs[what].append(measure.run(command, environment(made), must_say))
            cost = costs[what][-1]
            out.print(
                f"  {made.hosts} Macs, {what}: {cost.wall_s:.1f} s, CPU {cost.cpu_s:.1f} s,"
                f" {cost.memory_mb:.0f} MB, load {cost.load:.1f}"
            )
    return [Row(what, made.hosts, **asdict(measure.median(found))) for what, found in costs.items()]


def per_mac(rows: Sequence[Row]) -> list[Row]:
    """The rows of the largest fleet with what one more Mac costs: less what the smallest fleet cost."""
    found = []
    for row in rows:
        same = [one for one in rows if one.what == row.what]
        fewest = min(same, key=lambda one: one.hosts)
        more = row.hosts - fewest.hosts
        cost = (row.cpu_s - fewest.cpu_s) / more if more else None
        found.append(Row(**{**asdict(row), "cpu_per_mac_s": cost}))
    return found


def busy(row: Row) -> bool:
    """Whether so much else ran on the machine that a row's wall time says nothing."""
    return row.load > BUSY * (os.cpu_count() or 1)


def misses(rows: Sequence[Row]) -> list[str]:
    """A sentence for each target that a row misses; wall time counts where little else ran."""
    said = []
    for target in TARGETS:
        for row in rows:
            value = getattr(row, target.figure)
            if (row.what, row.hosts) != (target.what, target.hosts) or value is None:
                continue
            if value > target.most and not (target.figure == "wall_s" and busy(row)):
                said.append(f"{row.what}, {row.hosts} Macs: {target.figure} {value:.2f}, not {target.most:g}")
    by = {(row.what, row.hosts): row for row in rows}
    for (what, hosts), row in by.items():
        site = by.get((SITE, hosts))
        if what == OBSERVE and hosts >= SMALL and site and row.cpu_s > site.cpu_s * NOISE:
            said.append(f"{what}, {hosts} Macs: CPU {row.cpu_s:.1f} s; {SITE} takes {site.cpu_s:.1f} s")
        if what not in (PLAIN, PYINFRA, HELP):
            said += _grows(row, rows)
    return said


def _grows(row: Row, rows: Sequence[Row]) -> list[str]:
    """Whether the last Macs cost more each than those before them, beyond what those of ansible-core do."""
    expected = _expected_s(row, rows)
    if not expected:
        return []
    plain = next((one for one in rows if (one.what, one.hosts) == (PLAIN, row.hosts)), None)
    if row.what in BY_ANSIBLE and plain:
        forks = _expected_s(plain, rows)
        expected *= max(1.0, plain.cpu_s / forks) if forks else 1.0
    if row.cpu_s <= expected * LINEAR:
        return []
    return [f"{row.what}, {row.hosts} Macs: CPU {row.cpu_s:.1f} s, not linear ({expected:.1f} s expected)"]


def _expected_s(row: Row, rows: Sequence[Row]) -> float:
    """CPU seconds of a row by the slope between smaller fleets; 0 where there are not two of them."""
    before = [one for one in rows if one.what == row.what and one.hosts < row.hosts]
    if len(before) < 2:
        return 0.0
    first, last = before[0], before[-1]
    slope = (last.cpu_s - first.cpu_s) / (last.hosts - first.hosts)
    return last.cpu_s + slope * (row.hosts - last.hosts)


def peers() -> None:
    """pyinfra in an environment of its own, made once."""
    pinned = PEERS / "requirements.txt"
    kept = PEER_PYTHON / "requirements.txt"
    if kept.is_file() and kept.read_text() == pinned.read_text():
        return
    out.print(f"Installing pyinfra ({pinned.relative_to(CHECKOUT)}) into {PEER_PYTHON.name}.")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER_PYTHON)], check=True)
    pip = [str(PEER_PYTHON / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "-r", str(pinned)], check=False).returncode:
        raise OperatorError("pyinfra cannot be installed; measure without it: --only site.yml")
    shutil.copyfile(pinned, kept)


def show(rows: Sequence[Row]) -> None:
    """The table, each row with its targets."""
    shown = table(
        "The controller's cost", "command", "Macs", "wall", "CPU", "CPU per Mac", "memory", "load", "target"
    )
    for row in rows:
        targets = [
            f"{target.figure} <= {target.most:g}"
            for target in TARGETS
            if (target.what, target.hosts) == (row.what, row.hosts)
        ]
        shown.add_row(
            row.what,
            str(row.hosts or "-"),
            f"{row.wall_s:.2f} s",
            f"{row.cpu_s:.2f} s",
            "-" if row.cpu_per_mac_s is None else f"{row.cpu_per_mac_s:.3f} s",
            f"{row.memory_mb:.0f} MB",
            f"{row.load:.1f}",
            ", ".join(targets),
        )
    out.print(shown)
    if any(busy(row) for row in rows):
        out.print(
            "The machine was busy with other work: wall times are not held against targets.", style="yellow"
        )


@operator_errors
def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--macs", default=f"{SMALL},50,250,{LARGE}", help="sizes of the fleet (14,50,250,500)"
    )
    parser.add_argument("--only", action="append", help="this command alone; may be given again")
    parser.add_argument("--repeat", type=int, default=1, help="runs per row; the median counts (1)")
    parser.add_argument("--keep", type=Path, help="make the fleets in this folder and keep them")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    options = parser.parse_args()
    known = (SITE, OBSERVE, PLAN, STATUS, PLAIN, PYINFRA, HELP)
    unknown = [what for what in options.only or () if what not in known]
    if unknown:
        raise OperatorError(f"--only {unknown[0]} is not one of {', '.join(known)}.")

    def wanted(what: str) -> bool:
        return not options.only or what in options.only

    if wanted(PYINFRA):
        peers()
    began = time.monotonic()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="ds4b-"))
    rows: list[Row] = []
    try:
        for count in sorted({int(word) for word in options.macs.split(",")}):
            made = fleet.make(folder / str(count), count)
            if wanted(SITE):
                # Ansible's own work of a first run is not what a run without a change costs.
                command, must_say = commands(made)[SITE]
                names = sorted(path.stem for path in made.facts.iterdir())
                measure.run([*command, "-l", names[0]], environment(made), must_say)
            rows += measured(made, wanted, options.repeat)
        if wanted(HELP):
            costs = [measure.run([*ansible_command("fab"), "--help"], {}) for _ in range(5)]
            rows.append(Row(HELP, 0, **asdict(measure.median(costs))))
    finally:
        if options.keep is None:
            shutil.rmtree(folder)
    rows = per_mac(rows)
    found = misses(rows)
    if options.json:
        print_json({"rows": [asdict(row) for row in rows], "misses": found})
    else:
        show(rows)
        for sentence in found:
            out.print(f"misses its target: {sentence}", style="red", soft_wrap=True)
        out.print(f"The whole took {time.monotonic() - began:.0f} s.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
