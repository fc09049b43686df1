"""Host keys of Macs: recorded at first sight under the inventory name, judged by OpenSSH ever after.

First sight is when neither the files that ssh reads nor ssh itself know anything of the Mac.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ds4fleet.errors import EXIT_UNREACHABLE, OperatorError
from ds4fleet.remote.openssh import (
    AUTHORITY,
    REVOKED,
    Line,
    Verdict,
    Way,
    files_of,
    fingerprint,
    recorded,
    shown_keys,
    verdict,
)


def to_record(way: Way, known_hosts: Path, expected: str = "") -> dict[str, str]:
    """The Mac's keys that `known_hosts` lacks, as {type: key}; {} where it has what it needs.

    expected: a SHA256 fingerprint from the provider, or "". Raises OperatorError for a Mac that shows another
    key than the recorded or the expected one, and for one that does not answer (EXIT_UNREACHABLE).
    """
    lines = recorded(way.name, files_of(way, known_hosts))
    own = _plain(line for line in lines if line.file == known_hosts)
    if own:
        # ssh itself compares on every connection; asking for the key again would cost one more.
        _check_expected(way.name, own, expected)
        return {}
    seen = verdict(way)
    refusal = objection(way, seen, lines)
    if refusal is not None:
        raise refusal
    if seen.kind == "silent":
        raise OperatorError(
            f"{way.name} does not answer at {way.address} port {way.port or 22}: {seen.reason}",
            exit_code=EXIT_UNREACHABLE,
        )
    if seen.kind == "trusted" and any(line.marker for line in lines if line.file == known_hosts):
        return {}
    keys = shown_keys(way)
    if not keys:
        raise OperatorError(f"{way.name} showed no host key; run it again", exit_code=EXIT_UNREACHABLE)
    if seen.kind == "trusted":
        # By another file, an authority or DNS: what they vouch for, and nothing that is shown beside it.
        known = {fingerprint(line.key) for line in lines if not line.marker}
        keys = _with(keys, {seen.fingerprint, *known})
    elif not expected and any(line.marker == AUTHORITY for line in lines):
        invalid = f" ({seen.reason})" if seen.reason.startswith("Certificate invalid") else ""
        raise OperatorError(
            f"{way.name}: {_places(lines)} wants a certificate authority to vouch for it, which none does for"
            f" {seen.fingerprint}{invalid}; nothing was recorded; give ds4_host_key_fingerprint if it is"
            " right"
        )
    _check_expected(way.name, keys, expected)
    revoked = {line.key for line in lines if line.marker == REVOKED}
    # Who shows the provider's key may show one of his own beside it.
    vouched = _with(keys, {expected}) if expected else keys
    return {kind: key for kind, key in vouched.items() if key not in revoked}


def objection(way: Way, seen: Verdict, lines: Sequence[Line]) -> OperatorError | None:
    """Why ssh does not let this Mac pass, in one sentence; None where the key is not the reason."""
    known = _plain(lines)
    if seen.kind == "revoked":
        return OperatorError(
            f"{way.name}: it shows the host key {seen.fingerprint}, which is marked as revoked; nothing was"
            " recorded, and no login was tried; set the Mac up anew"
        )
    if seen.kind == "changed" or (seen.kind == "unknown" and known):
        prints = ", ".join(fingerprint(key) for key in known.values()) or "another one"
        where = _places([line for line in lines if not line.marker]) or "what ssh knows"
        return OperatorError(
            f"{way.name}: its host key has changed: recorded is {prints}, it now shows {seen.fingerprint}; if"
            f" the Mac was set up anew, remove the lines of {way.name} from {where} and run bootstrap again"
        )
    if seen.kind == "refused":
        return OperatorError(
            f"{way.name}: ssh refuses the host key {seen.fingerprint}: {seen.reason}; nothing was recorded"
        )
    return None


def lines_of(name: str, keys: Mapping[str, str]) -> str:
    """The lines of a known_hosts file for keys as {type: key}."""
    return "".join(f"{name} {kind} {key}\n" for kind, key in sorted(keys.items()))


def append(path: Path, lines: str) -> None:
    """Add lines to a known_hosts file that other hosts' workers may be writing, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        text = stream.read()
        stream.write(("" if text.endswith("\n") or not text else "\n") + lines)


def _check_expected(host: str, keys: Mapping[str, str], expected: str) -> None:
    prints = [fingerprint(key) for key in keys.values()]
    if expected and expected not in prints:
        raise OperatorError(
            f"{host}: its host key is {', '.join(prints)}, but ds4_host_key_fingerprint says {expected};"
            " nothing was recorded, and no login was tried"
        )


def _with(keys: Mapping[str, str], prints: set[str]) -> dict[str, str]:
    return {kind: key for kind, key in keys.items() if fingerprint(key) in prints}


def _plain(lines: Iterable[Line]) -> dict[str, str]:
    return {line.kind: line.key for line in lines if not line.marker}


def _places(lines: Iterable[Line]) -> str:
    return " and ".join(dict.fromkeys(str(line.file) for line in lines))
