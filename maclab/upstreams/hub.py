"""huggingface.co as downloads see it: `resolve` redirects, its CDN with ranges, a mirror without redirects.

Sources: public behaviour of Hugging Face `resolve` URLs (302 with X-Linked-Size, X-Linked-ETag and
X-Repo-Commit, 404 with X-Error-Code); ds4go 0.4.0 for the 400 to open-ended ranges of very large objects.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from maclab import weights
from maclab.upstreams import CDN, MIRROR
from maclab.upstreams.rules import Behaviour
from maclab.upstreams.wire import Answer, Request, text
from maclab.weights import StandIn

LARGE_REAL_BYTES = 200 * 1024**3
"""Objects above this size are served in closed ranges only."""
LINK_LIFETIME_S = 3600
_READ_BYTES = 1024 * 1024

_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def commit_of(repo: str) -> str:
    """The commit that `main` of a repository is at."""
    return hashlib.sha1(f"lab:{repo}".encode(), usedforsecurity=False).hexdigest()


@functools.lru_cache(maxsize=1)
def _repos() -> dict[str, set[str]]:
    """{repository: its revisions}, from the catalogue."""
    repos: dict[str, set[str]] = {}
    for item in weights.all_files().values():
        repos.setdefault(item.repo, {"main", commit_of(item.repo)}).add(item.revision)
    return repos


def answer(folder: Path, request: Request, behaviour: Behaviour) -> Answer:
    """What huggingface.co, its CDN or the mirror says to a request."""
    path = urllib.parse.unquote(request.path)
    if behaviour.auth and not str(request.headers.get("Authorization", "")).startswith("Bearer "):
        return text(401, "Invalid credentials in Authorization header", X_Error_Code="GatedRepo")
    if request.method not in ("GET", "HEAD"):
        return text(405, "method not allowed")
    if request.host == CDN:
        return _from_cdn(folder, request, path, behaviour)
    if match := _API.fullmatch(path):
        return _api(match[1], match[2] or "main")
    match = _RESOLVE.fullmatch(path)
    if not match:
        return text(404, "Not Found")
    repo, revision, name = match.groups()
    if repo not in _repos():
        return text(401, "Repository not found", X_Error_Code="RepoNotFound")
    if revision not in _repos()[repo]:
        return text(404, "Revision Not Found", X_Error_Code="RevisionNotFound")
    stand_in = weights.all_files().get(name)
    if stand_in is None or stand_in.repo != repo or stand_in.pieces:
        return text(404, "Entry not found", X_Error_Code="EntryNotFound")
    if request.host == MIRROR:
        return _file(folder, request, stand_in, behaviour)
    return _redirect(stand_in)


def _linked(stand_in: StandIn) -> dict[str, str]:
    return {
        "X-Repo-Commit": commit_of(stand_in.repo),
        "X-Linked-Size": str(stand_in.bytes),
        "X-Linked-ETag": f'"{weights.sha256(stand_in)}"',
        "Accept-Ranges": "bytes",
    }


def _redirect(stand_in: StandIn) -> Answer:
    expires = int(time.time()) + LINK_LIFETIME_S
    query = urllib.parse.urlencode({"Expires": expires, "Signature": _signature(stand_in.name, expires)})
    location = f"https://{CDN}/{weights.sha256(stand_in)}/{stand_in.name}?{query}"
    found = text(302, f"Found. Redirecting to {location}")
    etag = f'"{commit_of(stand_in.repo)}"'
    found.headers = {**found.headers, "Location": location, "ETag": etag, **_linked(stand_in)}
    return found


def _signature(name: str, expires: int) -> str:
    return hashlib.sha256(f"{name}:{expires}".encode()).hexdigest()[:32]


def _from_cdn(folder: Path, request: Request, path: str, behaviour: Behaviour) -> Answer:
    stand_in = weights.all_files().get(path.rpartition("/")[2])
    if stand_in is None:
        return text(404, "Not Found")
    query = urllib.parse.parse_qs(request.query)
    expires = int(query.get("Expires", ["0"])[0])
    if expires < time.time() or query.get("Signature") != [_signature(stand_in.name, expires)]:
        return text(403, "Access denied: the link is not signed or has expired")
    return _file(folder, request, stand_in, behaviour)


def _api(repo: str, revision: str) -> Answer:
    if revision not in _repos().get(repo, set()):
        return text(404, "Revision Not Found", X_Error_Code="RevisionNotFound")
    names = [item.name for item in weights.all_files().values() if item.repo == repo and not item.pieces]
    sha = commit_of(repo) if revision == "main" else revision
    body = {"id": repo, "sha": sha, "private": False, "siblings": [{"rfilename": name} for name in names]}
    data = json.dumps(body).encode()
    return Answer(200, {"Content-Type": "application/json"}, [data], len(data))


def _file(folder: Path, request: Request, stand_in: StandIn, behaviour: Behaviour) -> Answer:
    path = weights.ensure(folder / "weights", stand_in.name)
    size = stand_in.bytes + behaviour.size_delta
    headers = {"ETag": f'"{weights.sha256(stand_in)}"', "Accept-Ranges": "bytes"}
    headers["Content-Type"] = "application/octet-stream"
    match = _RANGE.fullmatch(request.range)
    strict = stand_in.real_bytes > LARGE_REAL_BYTES or behaviour.refuse_open_ranges
    if strict and request.method == "GET" and not (match and match[2]):
        return text(400, "Range header with both ends is required for an object of this size")
    if not match or behaviour.ignore_ranges:
        return Answer(200, headers, _pieces(path, 0, size, behaviour), size, stand_in.name)
    first, last = int(match[1]), min(int(match[2] or size), size - 1)
    if first >= size or last < first:
        refused = text(416, "Requested Range Not Satisfiable")
        refused.headers["Content-Range"] = f"bytes */{size}"
        return refused
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    body = _pieces(path, first, last + 1, behaviour)
    return Answer(206, headers, body, last + 1 - first, stand_in.name)


def _pieces(path: Path, start: int, end: int, behaviour: Behaviour) -> Iterator[bytes]:
    """Bytes start..end-1 of the file; one of them wrong where a rule says so, zeros behind its real end."""
    with path.open("rb") as file:
        file.seek(start)
        at = start
        while at < end:
            wanted = min(_READ_BYTES, end - at)
            piece = file.read(wanted).ljust(wanted, b"\0")
            wrong = behaviour.corrupt_at
            if wrong is not None and at <= wrong < at + len(piece):
                changed = bytearray(piece)
                changed[wrong - at] ^= 0xFF
                piece = bytes(changed)
            yield piece
            at += len(piece)
