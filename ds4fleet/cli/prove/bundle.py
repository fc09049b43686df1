"""What a proof leaves: each command with its raw output and time, names of people and machines replaced."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1
_UUID = re.compile(r"\b[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b")
_MAC_ADDRESS = re.compile(r"\b([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b")
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?:%\w+)?(?![\w:])")
_MAIL = re.compile(r"\b[\w.+-]+@[\w-]+(\.[\w-]+)+\b")
_KEY = re.compile(r"\b(ssh-(?:ed25519|rsa)|ecdsa-sha2-\S+) [A-Za-z0-9+/=]{40,}( [^\s\"']+)?")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
_SERIAL = re.compile(
    r"((?:[Ss]erial[ _A-Za-z()]*|IOPlatformSerialNumber|Provisioning UDID)\"?\s*[:=]\s*\"?)([\w-]+)"
)
_HOME = re.compile(r"/Users/(?!Shared\b|Guest\b)([^/\s\"':]+)")
#: Addresses that say nothing of anyone.
_PLAIN = re.compile(r"127\.|0\.0\.0\.0|255\.|169\.254\.")


@dataclass(frozen=True)
class Told:
    """One command: where in the proof it ran, how long, and what it came to. status None: it was ended."""

    step: str
    name: str
    command: str
    status: int | None
    seconds: float
    out: str
    err: str = ""


@dataclass
class Verdict:
    """What a step came to. state: pass, fail, skipped."""

    step: str
    state: str
    seconds: float
    said: list[str] = field(default_factory=list)


@dataclass
class Bundle:
    """All that is kept. words: what to replace, each with what stands for it."""

    folder: Path
    told: list[Told] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    differences: list[dict[str, str]] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no step failed, and there was one."""
        return bool(self.verdicts) and all(one.state != "fail" for one in self.verdicts)

    def write(self) -> Path:
        """The bundle as one file of JSON, redacted; returns its path."""
        path = self.folder / "bundle.json"
        whole = {
            "schema": SCHEMA,
            "about": self.about,
            "passed": self.passed,
            "verdicts": [asdict(one) for one in self.verdicts],
            "differences": self.differences,
            "facts": self.facts,
            "commands": [asdict(one) for one in self.told],
        }
        text = json.dumps(redacted(whole, self.words), indent=1, sort_keys=True)
        path.write_text(text + "\n")
        path.chmod(0o600)
        return path


def redacted(value: Any, words: Mapping[str, str]) -> Any:
    """The same with serials, names, addresses, users and keys replaced, in keys of mappings too."""
    numbers: dict[str, str] = {}

    def text(said: str) -> str:
        # The longest first: a name may be part of another one.
        for word in sorted(words, key=len, reverse=True):
            said = re.sub(rf"(?<![A-Za-z0-9_]){re.escape(word)}(?![A-Za-z0-9_])", words[word], said)
        said = _KEY.sub(r"\1 KEY", said)
        said = _FINGERPRINT.sub("SHA256:FINGERPRINT", said)
        said = _SERIAL.sub(lambda found: found[1] + "SERIAL", said)
        said = _HOME.sub("/Users/USER", said)
        said = _MAIL.sub("MAIL", said)
        said = _MAC_ADDRESS.sub("00:00:00:00:00:00", said)
        said = _UUID.sub(lambda found: _alias(numbers, found[0].upper()), said)
        said = _IPV6.sub(lambda found: found[0] if _is_time(found[0]) else "ADDRESS", said)
        return _IPV4.sub(lambda found: found[0] if _PLAIN.match(found[0]) else "ADDRESS", said)

    def walk(inner: Any) -> Any:
        if isinstance(inner, str):
            return text(inner)
        if isinstance(inner, Mapping):
            return {text(str(key)): walk(item) for key, item in inner.items()}
        if isinstance(inner, Iterable):
            return [walk(item) for item in inner]
        return inner

    return walk(value)


def _alias(numbers: dict[str, str], uuid: str) -> str:
    """The same stands for the same one throughout a bundle: which volume is which can be told."""
    return numbers.setdefault(uuid, f"00000000-0000-4000-8000-{len(numbers) + 1:012d}")


def _is_time(text: str) -> bool:
    return re.fullmatch(r"\d{1,2}(:\d{2}){2,}", text) is not None


@dataclass
class Watch:
    """Seconds since it was made."""

    began_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.began_s, 3)
