"""The fake upstreams of a lab: github.com and huggingface.co by their own names, over HTTPS.

`prepare(folder)` lays down what the servers need (certificates, the engine's repository, the catalogue
overlay); `python -m maclab.upstreams serve` runs them. Weights are made when somebody first asks for them.

    folder/ca.pem, ca.key      the authority that the Macs of this lab trust
    folder/certs/<name>.pem    certificate and key of one host name
    folder/repos/antirez/ds4.git
    folder/weights/            stand-in weights, lazily
    folder/catalogue.yml       overlay for `ds4_catalogue`
    folder/faults.json         rules for misbehaviour, see `rules`; read again whenever it changes
    folder/requests.jsonl      one line per answered request
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from maclab import engine, weights

GITHUB = "github.com"
HUB = "huggingface.co"
CDN = "cas-bridge.xethub.hf.co"
"""Where huggingface.co sends those who want the bytes."""
MIRROR = "hf-mirror.com"

HOSTS: dict[str, int] = {GITHUB: 0, "codeload.github.com": 0, HUB: 1, CDN: 2, MIRROR: 3}
"""Host name -> role: which of the upstreams' addresses answers for it, so that one can be cut off alone."""

REPOSITORIES = {"antirez/ds4": "repos/antirez/ds4.git"}


@dataclass(frozen=True)
class UpstreamsInfo:
    """What a lab needs to know: the CA as PEM text, roles of the host names, path of the overlay."""

    ca_pem: str
    hosts: dict[str, int]
    overlay_path: Path


def prepare(folder: Path) -> UpstreamsInfo:
    """Make everything the servers need in `folder`; what is there already is kept.

    Takes about a quarter of a second the first time. Raises LabError when git or openssl cannot do it.
    """
    from maclab.upstreams import certificates  # late: cryptography takes long to import

    folder.mkdir(parents=True, exist_ok=True)
    ca_pem = certificates.ensure(folder, list(HOSTS))
    repository = folder / REPOSITORIES["antirez/ds4"]
    stand_ins = engine.build_repo(repository)
    overlay = folder / "catalogue.yml"
    overlay.write_text(overlay_text(stand_ins, engine.overlay_engines(repository)))
    return UpstreamsInfo(ca_pem=ca_pem, hosts=dict(HOSTS), overlay_path=overlay)


def overlay_text(stand_ins: dict[str, str], engines: dict[str, dict[str, object]]) -> str:
    """The catalogue overlay of a rehearsal: what is transferred and checked out instead."""
    data = {
        "schema": 1,
        "engines": engines,
        # Also what a fleet refuses to several users is rehearsed.
        "severities": {
            "crash": {"title": "a request ends the engine", "one_user": "warn", "several_users": "warn"}
        },
        "stand_ins": {"files": weights.overlay_files(), "engines": stand_ins},
    }
    return "# Written by the lab: sizes and commits of the stand-ins.\n" + yaml.safe_dump(data, width=200)
