"""What this machine is configured to do on its way to the outside: mirrors, proxies, certificates, pip."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ds4fleet.errors import EXIT_USAGE, OperatorError

EXIT_NOT_HERE = 77
"""The release cannot be had here: nothing was tried, and nothing is wrong with the checkout."""
MIRROR_VARIABLE = "DS4_FRESH_MIRROR"
_MIRROR_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Distribution:
    """Whose releases: debootstrap's script for any of them, what of the archive is needed, whose keys."""

    name: str
    script: str
    components: tuple[str, ...]
    keyring: Path
    keyring_package: str


DEBIAN = Distribution(
    "debian",
    "sid",
    ("main",),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    "debian-archive-keyring",
)
# Python's venv module is in universe.
UBUNTU = Distribution(
    "ubuntu",
    "gutsy",
    ("main", "universe"),
    Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
    "ubuntu-keyring",
)
RELEASES = {
    **dict.fromkeys(("bookworm", "trixie", "forky", "sid"), DEBIAN),
    **dict.fromkeys(("noble", "questing", "resolute"), UBUNTU),
}
"""The releases that ds4-fleet runs on: Debian 12 and newer, Ubuntu 24.04 and newer."""

# The way to the outside, and what a terminal is like. A bundle of certificates is a file, which can be handed
# in; a folder of hashed links cannot.
_ENVIRONMENT = re.compile(
    r"(?i:https?|ftp|all|no)_(?i:proxy)|PIP_\w+|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|TERM|COLUMNS"
)
_APT_SETTINGS = re.compile(r"(?i:Acquire::(?:https?|ftp|Check-[\w-]+|Retries)\b)")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_PIP_FILES = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")


def this_one(os_release: Path = Path("/etc/os-release")) -> tuple[str, str]:
    """Distribution and code name of this machine, as ("debian", "bookworm"); "" for what it does not say."""
    try:
        lines = os_release.read_text().splitlines()
    except OSError:
        return "", ""
    said = dict(line.replace('"', "").split("=", 1) for line in lines if "=" in line)
    return said.get("ID", ""), said.get("VERSION_CODENAME", "")


def other_release(own: str) -> str:
    """The Debian release that the checks try where the machine's is `own`."""
    return "bookworm" if own == "trixie" else "trixie"


def sources(release: str, environment: Mapping[str, str]) -> list[str]:
    """Where a release comes from, as "URI SUITE", the suite of that name first.

    Raises OperatorError: EXIT_USAGE for a release that is none of ours, EXIT_NOT_HERE where this machine
    names no mirror that has it.
    """
    if release not in RELEASES:
        names = ", ".join(RELEASES)
        raise OperatorError(f"'{release}' is not a release to try: {names}", exit_code=EXIT_USAGE)
    found = _configured(release, environment)
    if not found:
        raise OperatorError(
            f"this machine's apt names no mirror of {RELEASES[release].name.capitalize()}: "
            f"set {MIRROR_VARIABLE} to one that has {release}",
            exit_code=EXIT_NOT_HERE,
        )
    why = _missing(found[0])
    if why:
        uri = found[0].partition(" ")[0]
        raise OperatorError(f"{uri} does not give us {release}: {why}", exit_code=EXIT_NOT_HERE)
    return [found[0], *(source for source in found[1:] if not _missing(source))]


def _configured(release: str, environment: Mapping[str, str]) -> list[str]:
    if environment.get(MIRROR_VARIABLE):
        return [f"{environment[MIRROR_VARIABLE]} {release}"]
    distribution, own = this_one()
    if distribution != RELEASES[release].name or not shutil.which("apt-get"):
        return []
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return renamed(done.stdout, own, release)


def renamed(targets: str, own: str, release: str) -> list[str]:
    """The sources of this machine's release, for another release; none where that release itself has none.

    targets: "URI SUITE" a line, of all that apt takes packages from. own: this machine's code name.
    """
    found: dict[str, str] = {}
    for line in targets.splitlines():
        uri, _, suite = line.partition(" ")
        kind = suite.removeprefix(own)
        if suite.startswith(own) and kind in ("", "-updates", "-security") and not uri.startswith("cdrom:"):
            found.setdefault(kind, uri)
    kinds = [kind for kind in ("", "-updates", "-security") if kind in found] if "" in found else []
    return [f"{found[kind]} {release}{kind}" for kind in kinds]


def _missing(source: str) -> str:
    """Why the mirror of "URI SUITE" does not give us that suite; "" when it does."""
    uri, _, suite = source.partition(" ")
    url = f"{uri.rstrip('/')}/dists/{suite}/Release"
    try:
        with urllib.request.urlopen(url, timeout=_MIRROR_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"it answers with status {error.code}"
    except (OSError, ValueError) as error:
        return f"it does not answer ({getattr(error, 'reason', error)})"


def apt_settings() -> str:
    """This machine's apt settings about the way to the mirrors, in the form of apt.conf."""
    if not shutil.which("apt-config"):
        return ""
    said = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return "".join(f"{line}\n" for line in said.splitlines() if _APT_SETTINGS.match(line))


def environment_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that is handed in."""
    return {name: value for name, value in environment.items() if _ENVIRONMENT.fullmatch(name)}


def pip_files() -> list[Path]:
    """pip's configuration files that this machine has."""
    return [path for path in (Path(name).expanduser() for name in _PIP_FILES) if path.is_file()]


def pip_values(files: Iterable[Path]) -> list[str]:
    """All that pip's configuration files say."""
    parser = configparser.RawConfigParser(strict=False)
    parser.read(files)
    return [value for section in parser.values() for value in section.values()]


def paths_in(texts: Iterable[str]) -> set[Path]:
    """Files and folders of this machine that settings name: /etc/ca.pem, file:///srv/wheels.

    Of a package index, which is called simple, also what lies beside it: there are the files.
    """
    words = (word for text in texts for word in re.split(r"[\s\"';,]+", text))
    paths = {Path(word.removeprefix("file://")) for word in words if word.startswith(("/", "file:///"))}
    paths = {path.parent if path.name == "simple" else path for path in paths}
    return {path for path in paths if path != Path("/") and path.exists()}


def local_certificates(bundle: str, packaged: Path = Path("/usr/share/ca-certificates")) -> list[str]:
    """The certificates of a bundle (PEM) that somebody added to those of the package ca-certificates."""
    known = "".join(path.read_text() for path in packaged.rglob("*.crt"))
    return [one for one in _CERTIFICATE.findall(bundle) if one not in known]
