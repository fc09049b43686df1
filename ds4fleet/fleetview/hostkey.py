"""`fab hostkey`: the host key of a Mac, as it is recorded and as the Mac shows it. OpenSSH judges both."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ds4fleet import console, journal
from ds4fleet.errors import EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.remote import host_keys, openssh

SCHEMA = 1


def show(name: str, *, json: bool = False) -> int:
    """What is recorded, what the Mac shows and what ssh says of it; EXIT_UNREACHABLE where it is silent."""
    host = Fleet.load().host(name)
    way = openssh.way_to(host)
    recorded = openssh.recorded(host.name, openssh.files_of(way, host.known_hosts))
    seen = openssh.verdict(way)
    if json:
        console.print_json(
            {
                "schema": SCHEMA,
                "host": host.name,
                "verdict": seen.kind,
                "shown": seen.fingerprint,
                "recorded": [
                    {
                        "file": str(one.file),
                        "marker": one.marker,
                        "type": one.kind,
                        "fingerprint": _print(one),
                    }
                    for one in recorded
                ],
            }
        )
    else:
        for one in recorded:
            marker = f"{one.marker} " if one.marker else ""
            _say(f"recorded  {marker}{one.kind} {_print(one)} in {one.file}")
        if not recorded:
            _say("recorded  nothing")
        shown = f"{seen.fingerprint}: {seen.kind}" if seen.fingerprint else seen.reason
        _say(f"shown     {shown}")
    return EXIT_UNREACHABLE if seen.kind == "silent" else 0


def accept(name: str, fingerprint: str = "", *, yes: bool = False) -> int:
    """Records the keys that the Mac shows, after a question; in place of other ones where it has changed.

    fingerprint: what the provider gave, "" for none. Raises OperatorError for a revoked key, for another one
    than `fingerprint`, and for a changed key that is to be accepted unseen.
    """
    began = time.monotonic()
    host = Fleet.load().host(name)
    way = openssh.way_to(host)
    lines = openssh.recorded(host.name, openssh.files_of(way, host.known_hosts))
    seen = openssh.verdict(way)
    if seen.kind == "silent":
        raise OperatorError(f"{host.name} does not answer: {seen.reason}", exit_code=EXIT_UNREACHABLE)
    if seen.kind in ("revoked", "refused"):
        refusal = host_keys.objection(way, seen, lines)
        raise refusal or OperatorError(f"{host.name}: ssh refuses its host key")
    own = [one for one in lines if one.file == host.known_hosts]
    if seen.kind == "trusted" and own:
        _say(f"{host.name}: {seen.fingerprint} is recorded and trusted; nothing to do")
        return 0
    keys = openssh.shown_keys(way)
    revoked = {one.key for one in lines if one.marker == openssh.REVOKED}
    keys = {kind: key for kind, key in keys.items() if key not in revoked}
    if fingerprint:
        keys = {kind: key for kind, key in keys.items() if openssh.fingerprint(key) == fingerprint}
    if not keys:
        shown = f"{seen.fingerprint}, not {fingerprint}" if fingerprint else "no key"
        raise OperatorError(f"{host.name} shows {shown}; nothing was recorded")
    changed = [one for one in own if not one.marker]
    if changed and yes and not fingerprint:
        raise OperatorError(
            f"{host.name}: its host key has changed; accept it with --fingerprint SHA256:..., not by --yes",
            exit_code=EXIT_USAGE,
        )
    for one in changed:
        _say(f"recorded  {one.kind} {_print(one)}")
    for kind, key in sorted(keys.items()):
        _say(f"shown     {kind} {openssh.fingerprint(key)}")
    question = "Replace the recorded keys" if changed else "Record these keys"
    if not console.confirm(f"{question} of {host.name}?", yes=yes):
        return 1
    if changed:
        _remove(host)
    host_keys.append(host.known_hosts, host_keys.lines_of(host.name, keys))
    _journal(host, began)
    _say(f"{host.name}: recorded in {host.known_hosts}")
    return 0


def forget(name: str, *, yes: bool = False) -> int:
    """Removes what the fleet's own file holds about the Mac by its name, after a question."""
    began = time.monotonic()
    host = Fleet.load().host(name)
    lines = [one for one in openssh.recorded(host.name, [host.known_hosts]) if not one.marker]
    if not lines:
        _say(f"{host.name}: {host.known_hosts} holds no key of it")
        return 0
    for one in lines:
        _say(f"recorded  {one.kind} {_print(one)}")
    if not console.confirm(f"Forget these keys of {host.name}?", yes=yes):
        return 1
    _remove(host)
    _journal(host, began)
    _say(f"{host.name}: forgotten")
    return 0


def _remove(host: Host) -> None:
    openssh.remove(host.name, host.known_hosts)


def _print(line: openssh.Line) -> str:
    return openssh.fingerprint(line.key)


def _say(text: str) -> None:
    console.out.print(text, soft_wrap=True, highlight=False)


def _journal(host: Host, began: float) -> None:
    results: Mapping[str, journal.Result] = {host.name: journal.Result(changed=1)}
    journal.add(
        journal.Entry(
            at=journal.now(),
            who=journal.who(),
            source=journal.source(),
            command=journal.command(),
            seconds=round(time.monotonic() - began, 1),
            ended="done",
            hosts=results,
        )
    )
