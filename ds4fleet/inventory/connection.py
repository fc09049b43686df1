"""How ssh reaches a Mac: what Ansible resolved for it, and the words of ssh's command line for that. Pure.

Nothing here reads a variable: `ds4fleet.inventory.resolve` asks Ansible's own configuration for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Letters of ssh's options that take an argument (ssh(1)).
WITH_ARGUMENT = "BbcDEeFIiJLlmOoPpQRSWw"
#: Those about a session, a forward or the output, not about the way to a host: a caller says its own.
_OF_SESSIONS = frozenset("CvqtTAaXxYNnfgsGVyM")
_OF_FORWARDS = frozenset("DLRWwOQE")


@dataclass(frozen=True)
class Connection:
    """The connection facts of a Mac, as Ansible's ssh connection has them.

    known_hosts: the file with its host key. port: None for ssh's own choice, as user "" and key_file "".
    ssh_args, more_args: words that Ansible's ssh has before and after port, key and user (`ssh_args`;
    `ssh_common_args` and `ssh_extra_args`). timeout_s: for the connection, 0 for the caller's own.
    trouble: why these facts cannot be used, "" where they can.
    """

    address: str
    known_hosts: str = ""
    port: int | None = None
    user: str = ""
    key_file: str = ""
    ssh_args: tuple[str, ...] = ()
    more_args: tuple[str, ...] = ()
    executable: str = "ssh"
    timeout_s: int = 0
    trouble: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The form for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Connection:
        """Reads what `to_dict` wrote."""
        words = {name: tuple(told[name]) for name in ("ssh_args", "more_args")}
        return cls(**{**told, **words})

    def identity(self) -> list[str]:
        """The words for its key: that one alone, where it is there. Other keys of an agent are then not
        offered, of which sshd counts each as a failed login."""
        if not self.key_file:
            return []
        path = Path(self.key_file).expanduser()
        only = path.is_file() or path.with_name(path.name + ".pub").is_file()
        return [*(["-o", "IdentitiesOnly=yes"] if only else []), "-o", f'IdentityFile="{path}"']

    def reaching(self) -> list[str]:
        """The words that say how ssh reaches it: Ansible's, in Ansible's order, without those of sessions."""
        own = ["-o", f"Port={self.port}"] if self.port else []
        own += self.identity()
        own += ["-o", f'User="{self.user}"'] if self.user else []
        return [*way_words(self.ssh_args), *own, *way_words(self.more_args)]


def identity_options(name: str, known_hosts: str) -> list[str]:
    """The ssh options that say which Mac this is: its key under its inventory name, nothing else accepted."""
    options = [f'UserKnownHostsFile="{known_hosts}"', f"HostKeyAlias={name}", "StrictHostKeyChecking=yes"]
    return [word for option in options for word in ("-o", option)]


def way_words(words: Sequence[str]) -> list[str]:
    """Of words for ssh those that say how a host is reached."""
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if len(word) < 2 or word[0] != "-":
            kept.append(word)
            continue
        if word[1] in WITH_ARGUMENT:
            taken = [word] if len(word) > 2 else [word, *rest[:1]]
            rest = rest if len(word) > 2 else rest[1:]
            if word[1] not in _OF_FORWARDS:
                kept += taken
        elif not set(word[1:]) <= _OF_SESSIONS:
            kept.append(word)
    return kept
