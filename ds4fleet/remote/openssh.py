"""What OpenSSH says about the host key of a Mac: no known_hosts file is read here.

`ssh-keygen -F` says what files hold about a name, whatever the form: hashed, by a wildcard, less a negation,
revoked, by a certificate authority. `ssh` itself says whether it would let a Mac pass that shows its key now.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4agent.mac import output
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.connection import way_words
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote import ssh
from ds4fleet.remote.ways import settled

#: Seconds for one connection and for one look at a file, and what ssh may say meanwhile: a stranger is at the
#: other end.
CONNECT_TIMEOUT_S = 15
TIMEOUT_S = 60
SAID_BYTES = 256 * 1024
#: One connection shows one key, so each kind is asked for by itself. Certificates are left to ssh.
ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521",
    "rsa-sha2-512,rsa-sha2-256",
)
REVOKED, AUTHORITY = "@revoked", "@cert-authority"
#: Of what an option says first, ssh takes the first: these come before everything of the operator's.
_ONLY_LOOK = (
    "BatchMode=yes",
    "PreferredAuthentications=none",
    f"ConnectTimeout={CONNECT_TIMEOUT_S}",
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "UpdateHostKeys=no",
)


@dataclass(frozen=True)
class Line:
    """What a file holds about a name: the marker ("" for a key of the Mac's own), type and key in base64."""

    file: Path
    marker: str
    kind: str
    key: str


@dataclass(frozen=True)
class Way:
    """How ssh reaches a Mac: as the connections that follow will, through the same proxies and files.

    port: 0 for ssh's own choice.
    before, after: words for ssh's command line that stand before and after port and user there.
    """

    name: str
    address: str
    port: int = 0
    user: str = ""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    ssh: str = "ssh"

    def argv(self, *options: str, words: Sequence[str] = ()) -> list[str]:
        """The command line, these options first."""
        own = [f"Port={self.port}"] if self.port else []
        own += [f'User="{self.user}"'] if self.user else []
        argv = [self.ssh, *_options(options), *self.before, *_options(own), *self.after]
        return [*argv, *words, "--", self.address]


@dataclass(frozen=True)
class Verdict:
    """What ssh says of a Mac: trusted, unknown, changed, revoked, refused or silent; the fingerprint of the
    key that was shown; and in ssh's words why the Mac is silent or refused."""

    kind: str
    fingerprint: str = ""
    reason: str = ""


def fingerprint(key: str) -> str:
    """`SHA256:...` of a public key in base64, as ssh prints it; ValueError when it is not a key."""
    try:
        digest = hashlib.sha256(base64.b64decode(key, validate=True)).digest()
    except binascii.Error as error:
        raise ValueError(f"no public key: {key[:20]!r}") from error
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def way_of(name: str, option: Callable[[str], Any]) -> Way:
    """The way of an Ansible connection; option: its `get_option`."""

    def words(key: str) -> tuple[str, ...]:
        return tuple(shlex.split(str(option(key) or "")))

    return Way(
        name=name,
        address=str(option("host")),
        port=int(option("port") or 0),
        user=str(option("remote_user") or ""),
        before=words("ssh_args"),
        after=(*words("ssh_common_args"), *words("ssh_extra_args")),
        ssh=str(option("ssh_executable") or "ssh"),
    )


def way_to(host: Host) -> Way:
    """The way to a Mac of the inventory. Raises OperatorError where it cannot be reached by ssh."""
    way = host.reached
    return Way(
        name=host.name,
        address=way.address,
        port=way.port or 0,
        user=way.user,
        before=(*host.ssh_options(), *way_words(way.ssh_args)),
        after=(*way.identity(), *way_words(way.more_args)),
        ssh=way.executable,
    )


# What OpenSSH knows.


def recorded(name: str, files: Iterable[Path]) -> list[Line]:
    """What these files hold about a name. Raises OperatorError for a file that cannot be searched."""
    found = []
    for file in dict.fromkeys(files):
        if not file.is_file():
            continue
        # ssh compares in lower case, and a hash is made of what it compares.
        done = _run(["ssh-keygen", "-F", name.lower(), "-f", str(file)])
        if done.returncode not in (0, 1):
            raise OperatorError(f"{file} cannot be searched for {name}: {_last(done.stderr)}")
        found += [
            Line(file, marker.strip(), kind, key)
            for marker, kind, key in re.findall(
                r"^# Host [^\n]* found: line \d+[^\n]*\n[ \t]*(@\S+[ \t]+)?\S+[ \t]+(\S+)[ \t]+(\S+)",
                done.stdout,
                re.M,
            )
        ]
    return found


def remove(name: str, file: Path) -> None:
    """Takes the lines of a name out of a file, hashed ones too; those with a marker stay.

    Raises OperatorError for a line that is about other names, too, which would lose it.
    """
    found = _run(["ssh-keygen", "-F", name.lower(), "-f", str(file)]).stdout
    for line, marker, names in re.findall(
        r"^# Host [^\n]* found: line (\d+)[^\n]*\n[ \t]*(@\S+[ \t]+)?(\S+)", found, re.M
    ):
        if not marker and names.lower() != name.lower() and not names.startswith("|"):
            raise OperatorError(
                f"{file}, line {line}: it is about {names}, not {name} alone; correct it by hand"
            )
    done = _run(["ssh-keygen", "-R", name.lower(), "-f", str(file)])
    if done.returncode != 0:
        raise OperatorError(f"{file}: the lines of {name} cannot be removed: {_last(done.stderr)}")
    # What ssh-keygen keeps of the file before.
    file.with_name(file.name + ".old").unlink(missing_ok=True)


def text_for(name: str, files: Iterable[Path]) -> str:
    """What these files hold about a name as known_hosts lines that name it in clear, for another machine."""
    lines = [
        " ".join(filter(None, (line.marker, name, line.kind, line.key))) for line in recorded(name, files)
    ]
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def files_of(way: Way, known_hosts: Path) -> list[Path]:
    """The files in which ssh looks for the Mac's key, `known_hosts` among them.

    Raises OperatorError when ssh would not look there, or not under the Mac's name: what is recorded would
    never count.
    """
    said = settled(way.name, way.argv(words=["-G"]))
    users = re.sub(r"(^| )~/", rf"\g<1>{Path.home()}/", said.get("userknownhostsfile", ""))
    alias = said.get("hostkeyalias", "")
    # It prints the names without quotes, so blanks in them are compared as a whole.
    if alias.lower() != way.name.lower() or f" {known_hosts} " not in f" {users} ":
        raise OperatorError(
            f"{way.name}: its ssh compares host keys with {users} under the name {alias or way.address}, not"
            f" with {known_hosts} under {way.name}; something replaces ansible_ssh_args while the play runs"
            " (-e, or a play's own variables): put arguments of your own into the inventory",
            exit_code=EXIT_USAGE,
        )
    rest = f" {users} ".replace(f" {known_hosts} ", " ") + said.get("globalknownhostsfile", "")
    return [known_hosts, *_paths(rest.split())]


def verdict(way: Way) -> Verdict:
    """Let ssh reach the Mac as far as its host key, with all its files and strictly, without a login."""
    text = _said(way.argv("LogLevel=DEBUG1", "StrictHostKeyChecking=yes", *_ONLY_LOOK, words=["-T"]))
    # A line of the other side's cannot begin like this; a jump host's ssh says nothing of its debugging.
    shown = re.search(r"^debug1: Server host (?:key|certificate): \S+ (SHA256:[^\s,]+)", text, re.M)
    if shown is None:
        lines = [line for line in text.splitlines() if not line.startswith("debug1: ")]
        return Verdict("silent", reason=_last("\n".join(lines)))
    rest, seen = text[shown.end() :], shown.group(1)
    for kind, pattern in (
        ("revoked", r"REVOKED HOST KEY DETECTED|was revoked and you have requested"),
        ("changed", r"REMOTE HOST IDENTIFICATION HAS CHANGED"),
        ("unknown", r"^No \S+ host key is known for "),
        ("refused", r"Host key verification failed"),
    ):
        if re.search(pattern, rest, re.M):
            # Of one that does not count ssh says so, and then looks for the plain key.
            invalid = re.search(r"^Certificate invalid: [^\n]+", rest, re.M)
            return Verdict(kind, seen, invalid[0] if invalid else _last(rest))
    # Only who has the key gets as far as this.
    if re.search(r"^debug1: (SSH2_MSG_NEWKEYS received|SSH2_MSG_SERVICE_ACCEPT received)", rest, re.M):
        return Verdict("trusted", seen)
    return Verdict("silent", seen, _last(rest))


def shown_keys(way: Way) -> dict[str, str]:
    """The host keys that the Mac shows now, as {type: key}, whether or not anybody knows them."""
    with ThreadPoolExecutor(len(ALGORITHMS)) as pool:
        found: dict[str, str] = {}
        for keys in pool.map(lambda algorithms: _shown(way, algorithms), ALGORITHMS):
            found.update(keys)
    return found


def _shown(way: Way, algorithms: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="ds4-") as folder:
        file = Path(folder) / "known_hosts"
        _said(
            way.argv(
                f'UserKnownHostsFile="{file}"',
                "GlobalKnownHostsFile=/dev/null",
                f"HostKeyAlias={way.name}",
                f"HostKeyAlgorithms={algorithms}",
                "StrictHostKeyChecking=accept-new",
                "HashKnownHosts=no",
                "CheckHostIP=no",
                "VerifyHostKeyDNS=no",
                "LogLevel=ERROR",
                *_ONLY_LOOK,
                words=["-T"],
            )
        )
        return {line.kind: line.key for line in recorded(way.name, [file])}


# Running it.


def _paths(words: Sequence[str]) -> list[Path]:
    """Paths of a list in which blanks in a name are not told from those between names: what exists counts."""
    paths = []
    while words:
        many = (n for n in range(len(words), 1, -1) if Path(" ".join(words[:n])).expanduser().is_file())
        n = next(many, 1)
        paths.append(Path(" ".join(words[:n])).expanduser())
        words = words[n:]
    return paths


def _options(options: Iterable[str]) -> list[str]:
    return [word for option in options for word in ("-o", option)]


def _run(argv: Sequence[str]) -> output.Ended:
    return ssh.execute(argv, TIMEOUT_S, SAID_BYTES)


def _said(argv: Sequence[str]) -> str:
    """What ssh says on stderr until its end, TIMEOUT_S or SAID_BYTES."""
    said: str = ssh.execute([*argv, "true"], TIMEOUT_S, SAID_BYTES).stderr
    return said.replace("\r", "")


def _last(text: str) -> str:
    return ssh.last_line(text) or "no reason given"
