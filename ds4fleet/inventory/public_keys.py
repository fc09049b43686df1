"""Public keys as people paste them: type, base64 and comment on one line, nothing that sshd would obey."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass

#: What sshd of macOS 14 and later takes; DSA is gone and RSA below 2048 bits is refused.
KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)
#: sshd reads lines of 8 KiB in older releases; RSA of 16,384 bits takes 2.8 KiB.
LONGEST = 8000


@dataclass(frozen=True)
class PublicKey:
    """One public key: its type and its base64; the comment is for people."""

    kind: str
    body: str
    comment: str = ""

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it."""
        digest = hashlib.sha256(base64.b64decode(self.body)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def line(self) -> str:
        """Type and base64."""
        return f"{self.kind} {self.body}"

    @property
    def commented(self) -> str:
        """The line of a .pub file."""
        return f"{self.line} {self.comment}".rstrip()


def parse_key(text: str) -> PublicKey:
    """The key of one line. Raises ValueError with a reason that can be shown."""
    if "PRIVATE KEY" in text:
        raise ValueError("this is a private key; keep it secret and give the .pub file")
    # Blanks and a line end around it are how keys are pasted; sshd would read what else cannot be printed.
    line = text.strip(" \t\r\n").replace("\t", " ")
    if not line.isprintable() or len(line) > LONGEST:
        raise ValueError("this is not one line of printable text")
    kind, _blank, rest = line.partition(" ")
    body, _blank, comment = rest.strip(" ").partition(" ")
    if not body or kind not in KEY_TYPES:
        raise ValueError(
            "this is not a public key as ssh-keygen writes it (type, base64, comment; no options before it)"
        )
    try:
        blob = base64.b64decode(body, validate=True)
        (length,) = struct.unpack(">I", blob[:4])
    except (ValueError, struct.error) as error:
        raise ValueError("the key is damaged") from error
    if blob[4 : 4 + length].decode(errors="replace") != kind:
        raise ValueError("the key is damaged: its type and its content differ")
    return PublicKey(kind, body, comment.strip(" "))
