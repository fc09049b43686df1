"""Host keys of Macs: recorded at the first contact under the inventory name, compared ever after."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ds4fleet.errors import OperatorError

#: Seconds that a Mac may take to show its keys.
SCAN_TIMEOUT_S = 15


def fingerprint(key: str) -> str:
    """`SHA256:...` of a public key in base64, as ssh prints it; ValueError when it is none."""
    try:
        digest = hashlib.sha256(base64.b64decode(key, validate=True)).digest()
    except binascii.Error as error:
        raise ValueError(f"no public key: {key[:20]!r}") from error
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def scan(address: str, port: int) -> dict[str, str]:
    """What ssh-keyscan sees at an address now, as {key type: key}; {} when nobody answers."""
    command = [
        "ssh-keyscan",
        "-T",
        str(SCAN_TIMEOUT_S),
        "-p",
        str(port),
        "-t",
        "ed25519,ecdsa,rsa",
        str(address),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=4 * SCAN_TIMEOUT_S)
    return scanned_keys(done.stdout)


def scanned_keys(text: str) -> dict[str, str]:
    """Output of ssh-keyscan as {key type: key}."""
    return dict(re.findall(r"^[^#\s]\S*\s+((?:ssh|ecdsa)-\S+)\s+(\S+)", text, re.M))


def recorded_keys(known_hosts: str, alias: str) -> dict[str, str]:
    """Keys of an alias in a known_hosts text as {key type: key}."""
    keys = {}
    for line in known_hosts.splitlines():
        fields = line.split()
        if len(fields) >= 3 and alias in fields[0].split(","):
            keys[fields[1]] = fields[2]
    return keys


def check_host_key(
    host: str, seen: Mapping[str, str], recorded: Mapping[str, str], expected: str, known_hosts: Path
) -> dict[str, str]:
    """The keys to record ({} when they are); raises OperatorError for a key that is not the expected one.

    seen, recorded: {type: key}. expected: a SHA256 fingerprint from the provider, or "".
    """
    prints = {fingerprint(key): kind for kind, key in seen.items()}
    changed = [kind for kind, key in recorded.items() if kind in seen and seen[kind] != key]
    # No common type: whatever it is, it cannot prove to be the recorded Mac.
    if changed or (recorded and not set(recorded) & set(seen)):
        kind = changed[0] if changed else next(iter(recorded))
        now = fingerprint(seen[kind]) if kind in seen else next(iter(prints))
        raise OperatorError(
            f"{host}: its host key has changed: recorded is {fingerprint(recorded[kind])}, it now shows"
            f" {now}; if the Mac was set up anew, remove the lines of {host} from {known_hosts} and run"
            " bootstrap again"
        )
    if expected and expected not in prints:
        raise OperatorError(
            f"{host}: its host key is {', '.join(prints)}, but ds4_host_key_fingerprint says {expected};"
            " nothing was recorded and nobody logged in"
        )
    return {} if recorded else dict(seen)
