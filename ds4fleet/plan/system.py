"""What must be so on a Mac before any of our work makes sense, and what is to be known of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ds4fleet.components import watchdog
from ds4fleet.components.base import NOTHING
from ds4fleet.plan.known import Known
from ds4fleet.sizing.policy import kv_storm

#: Addresses at which tunnels and `fab status` reach the engine.
REACHED = ("127.0.0.1", "localhost", "0.0.0.0")


def refusals(known: Known) -> Iterator[str]:
    """Why nothing of ours could work there."""
    seen = known.seen
    if seen is None:
        return
    if not seen.toolchain.ok:
        yield f"the Command Line Tools are missing; run playbooks/bootstrap.yml -l {known.host} first"
    if seen.macos.arch not in (None, "arm64"):
        yield "this is not an Apple Silicon Mac; ds4 needs one"


def warnings(known: Known) -> Iterator[str]:
    """What the inventory asks for and what was seen, where the operator may want to know."""
    storm_mib, measured = kv_storm()
    if known.settings.kv_budget_mib > storm_mib:
        yield (
            f"a KV budget of {known.settings.kv_budget_mib:,} MiB wears the SSD ({measured}):"
            f" keep it at or below {storm_mib:,}"
        )
    if known.settings.host not in REACHED:
        yield (
            f"the engine listens on {known.settings.host} alone: tunnels and fab status ask at"
            " 127.0.0.1 and do not reach it"
        )
    if known.seen is None:
        return
    if known.seen.filevault == "on":
        yield "FileVault is on: after a reboot nothing runs until somebody types the password at the Mac"
    if known.seen.filevault == "deferred":
        yield (
            "FileVault turns on at the next login of a person (deferred enablement); then nothing runs after"
            " a reboot. `fdesetup disable` takes it back"
        )
    if watchdog.stopped(known.paths.root, known.seen):
        yield (
            "the memory watchdog has stopped the engine for lack of memory;"
            f" {watchdog.stopped_path(known.paths.root)} says when and why"
        )


def foreign_listener(known: Known) -> Iterator[str]:
    """Another process on our port: the engine would find out only after loading everything."""
    seen = known.seen or NOTHING
    ours = {job.pid for job in seen.jobs.values()}
    for listener in seen.server.listening:
        if listener.port == known.settings.port and listener.pid not in ours:
            yield (
                f"port {known.settings.port} is in use by {listener.command} (pid"
                f" {listener.pid}); stop it or set another ds4_port"
            )
            return
