"""What is ordered of a build, and how it is carried out: here, or on a Mac by its own ds4agent."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from ds4agent.border import bounded_json, shaped
from ds4agent.engine.capabilities import is_metal
from ds4agent.mac import output
from ds4agent.qualify.examine import examine
from ds4agent.qualify.order import Order, Report
from ds4fleet.catalogue.read import Catalogue
from ds4fleet.components import agent
from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Host
from ds4fleet.layout import RELEASE_MARKER, Paths
from ds4fleet.remote import ssh
from ds4fleet.upstream import facts

#: Of one process. Headers of PRO map 2.7 GB of holes.
MEMORY_BYTES = 8 << 30
#: Until a process listens or ends, until a request is answered: a busy machine takes 0.1 s for each.
START_S, ANSWER_S = 60.0, 20.0
#: A Metal build compiles its kernels first.
MAC_START_S = 120.0
#: Beyond the time that is given for requests: headers, KV checkpoints and stop.
BEYOND_S = 180.0
REPORT_BYTES = 8 << 20
MARKER_BYTES = 1 << 20
USAGE = 64
_OTOOL = "/usr/bin/otool"
_END = "DS4_ORDER"


def order(catalogue: Catalogue, folder: str, minutes: float) -> Order:
    """Everything, for a CPU build of this machine."""
    first = facts.weights(catalogue)
    return Order(
        folder=folder,
        memory_bytes=MEMORY_BYTES,
        start_s=START_S,
        answer_s=ANSWER_S,
        within_s=60 * minutes,
        at_once=2,
        serve=True,
        arguments=("--cpu",),
        marks=tuple(facts.data()["marks"]),
        model=facts.model(catalogue.families[first[0].name.split()[0]].shape),
        weights=first,
        hostile_weights=facts.hostile_weights(catalogue),
        requests=facts.requests(),
        checkpoints=facts.checkpoints("checkpoints"),
        hostile_checkpoints=facts.checkpoints("hostile_checkpoints"),
    )


def here(wanted: Order) -> Report:
    """Look at a build of this machine. Raises OperatorError where there is none, or none that may be run."""
    for program in ("ds4-server", "ds4"):
        if not (Path(wanted.folder) / program).is_file():
            raise OperatorError(
                f"{wanted.folder} has no {program}: build it first (make cpu)", exit_code=EXIT_USAGE
            )
    if sys.platform == "darwin":
        linked = output.run([_OTOOL, "-L", str(Path(wanted.folder) / "ds4-server")], START_S).stdout
        if not is_metal(linked):
            raise OperatorError(
                f"{wanted.folder} is a CPU build, which can panic the kernel of macOS: qualify it on Linux,"
                " or a release of a Mac with --host",
                exit_code=EXIT_USAGE,
            )
        wanted = replace(wanted, arguments=(), at_once=1, start_s=MAC_START_S)
    try:
        report: Report = examine(wanted)
    except OSError as error:
        raise OperatorError(f"the build in {wanted.folder} cannot be run: {error.strerror}") from None
    return report


def release(host: Host, engine: str) -> tuple[str, str]:
    """(folder, commit) of a release that a Mac has built; engine: the beginning of its commit, "" for the one
    that serves. Raises OperatorError."""
    root = Paths(host.root).engine
    folder = f"{root}/releases/{engine[:12]}" if engine else f"{root}/current"
    found = ssh.run(host, f"cat {shlex.quote(f'{folder}/{RELEASE_MARKER}')}\n", most_bytes=MARKER_BYTES)
    if found.kind in ssh.SILENT:
        raise OperatorError(f"{host.name}: {found.sentence}", exit_code=EXIT_UNREACHABLE)
    try:
        commit = str(bounded_json.mapping(found.output).get("commit", ""))
    except bounded_json.JsonError:
        commit = ""
    if not found.ok or not commit or not commit.startswith(engine[:12]):
        built = engine or "that serves"
        raise OperatorError(f"{host.name} has no release {built}: build it first (site.yml, or fab upgrade)")
    return f"{root}/releases/{commit[:12]}", commit


def on_mac(host: Host, wanted: Order) -> Report:
    """Look at a release on its Mac: as the service account, by the ds4agent that the role has put there.

    Raises OperatorError for a Mac that is silent or cannot do it.
    """
    wanted = replace(wanted, arguments=(), at_once=1, start_s=MAC_START_S)
    most_s = wanted.within_s + BEYOND_S
    found = ssh.run(host, script(host, wanted), most_bytes=REPORT_BYTES, timeout_s=most_s)
    if found.kind in ssh.SILENT:
        raise OperatorError(f"{host.name}: {found.sentence}", exit_code=EXIT_UNREACHABLE)
    if found.status == USAGE:
        raise OperatorError(
            f"{host.name}: the programs of ds4-fleet on it are older than `fab upstream`: run site.yml"
        )
    if not found.ok:
        raise OperatorError(f"{host.name}: {found.sentence}", exit_code=EXIT_FAILED)
    try:
        data = bounded_json.mapping(found.output, max_bytes=REPORT_BYTES)
        report: Report = shaped.read(Report, data, "the report")
    except (bounded_json.JsonError, shaped.ModelError) as error:
        raise OperatorError(f"{host.name}: what it reported is not understood: {error}") from None
    return report


def script(host: Host, wanted: Order) -> str:
    """For /bin/sh on the Mac. JSON in ASCII has no line of its own that ends it."""
    user = str(host.settings["ds4_service_user"])
    words = ["sudo", "-n", "-H", "-u", user, "--", *agent.argv(host.root, "qualify")]
    data = json.dumps(shaped.to_json(wanted))
    return f"cd /\n{shlex.join(words)} <<'{_END}'\n{data}\n{_END}\n"
