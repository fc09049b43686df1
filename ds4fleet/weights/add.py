"""`fab weights add`: a catalogue entry from the first MiB of a GGUF file, or the reason why it cannot be one.

Sources: ds4's loader checks (catalogue.yml, families.header); the headers X-Linked-Size, X-Linked-ETag (the
sha256 of a large file) and X-Repo-Commit that huggingface.co answers a HEAD with.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from ds4agent.border import bounded_http, bounded_json
from ds4agent.weights import gguf, origin
from ds4fleet import console
from ds4fleet.catalogue.read import Catalogue, Family, load
from ds4fleet.errors import EXIT_REFUSED, EXIT_USAGE, OperatorError

if TYPE_CHECKING:
    from ds4agent.shapes import Header

#: As much of a file as is read. What tells the family comes before the vocabulary, which fills the rest of it
#: in published files: data of Flash q2 begins at byte 5,333,824, and the tensors are the last of its header.
HEAD_BYTES = 1024 * 1024
#: Without a byte, and for a whole answer.
TIMEOUT_S, WHOLE_S = 30, 300
TOKEN_HOST = "huggingface.co"
_HUB = re.compile(r"(https?://[^/]+)/([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/([^/?]+)(?:\?.*)?\Z")
_SHA256 = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?\Z')
#: Share by which a file of a known form may differ in size from its sister: headers, imatrix metadata.
SIZE_TOLERANCE = 0.01
#: What can go wrong with a server, its address and a token that a header cannot carry.
_UNREADABLE = (OSError, HTTPException, ValueError, OverflowError, origin.SourceError, bounded_http.HttpError)
_GATE = "blk.{}.ffn_gate_exps.weight"


@dataclass(frozen=True)
class Found:
    """What is known of a file before anybody has read it. url: None for a file of this machine."""

    name: str
    size_bytes: int
    head: bytes
    sha256: str | None = None
    repo: str = ""
    revision: str = ""
    url: str | None = None
    folder: Path | None = None


def add(where: str, *, model_id: str, quant: str = "", hashed: bool = False, json_out: bool = False) -> int:
    """Prints the entry that a file of `ds4_catalogue` needs for the GGUF `where` (path or URL).

    quant: where neither header nor size tells. hashed: read a local file whole, for its sha256. Raises
    OperatorError (EXIT_REFUSED) with the reason when the engine could not load it.
    """
    if not model_id:
        raise OperatorError("Name the entry: fab weights add FILE_OR_URL --id ID", exit_code=EXIT_USAGE)
    found = from_url(where) if "://" in where else from_file(Path(where).expanduser(), hashed)
    entry, unknown = propose(found, model_id, load(), quant)
    if json_out:
        console.print_json({"models": {model_id: entry}, "unknown": unknown})
        return 0
    console.out.print(render(model_id, entry, unknown), soft_wrap=True, end="")
    return 0


def render(model_id: str, entry: Mapping[str, Any], unknown: list[str]) -> str:
    """The entry as a catalogue file; what is not known stands above it as comments."""
    lines = ["# In a file that ds4_catalogue of the inventory names."]
    lines += [f"# Unknown: {text}" for text in unknown]
    body = yaml.safe_dump({"models": {model_id: entry}}, sort_keys=False, allow_unicode=True, width=110)
    return "\n".join(lines) + "\n" + body


def propose(
    found: Found, model_id: str, catalogue: Catalogue, quant: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """(entry of the catalogue's `models`, sentences about what is not known).

    Raises OperatorError: for a GGUF that the engine cannot load the reason from its header.
    """
    try:
        header = gguf.parse(found.head, partial=len(found.head) < found.size_bytes)
    except gguf.GgufError as error:
        raise _refusal(found, str(error)) from None
    family = _family(found, header, catalogue)
    unknown = []
    seen = _quant_of(found, header, family, catalogue)
    if seen is None and not quant:
        raise OperatorError(
            f"{found.name}: how its experts are stored stands behind the first MiB, and its size is that of"
            f" nothing known; add --quant, one of {', '.join(sorted(catalogue.quants))}",
            exit_code=EXIT_USAGE,
        )
    if seen is not None and quant and quant != seen:
        raise OperatorError(f"{found.name} is {seen}, not {quant}", exit_code=EXIT_USAGE)
    kind = quant or str(seen)
    if kind not in catalogue.quants:
        raise OperatorError(
            f"there is no quant {kind!r}; choose one of {', '.join(sorted(catalogue.quants))}",
            exit_code=EXIT_USAGE,
        )
    if _GATE.format(0) not in header["types"]:
        how = "given" if quant else "taken from the size of the file"
        unknown.append(
            f"whether it is {kind}: that was {how}, the header says so behind the first MiB only. Memory is"
            " planned by it."
        )
    if found.sha256 is None:
        unknown.append(
            "the sha256, without which nothing is fetched: put in the publisher's, or add --hash for a file"
            " of this machine."
        )
    unknown += _twins(found, header, family, catalogue)
    file: dict[str, Any] = {"name": found.name, "bytes": found.size_bytes, "sha256": found.sha256}
    entry: dict[str, Any] = {"name": model_id, "family": family.id, "quant": kind}
    if found.repo:
        entry.update(repo=found.repo, revision=found.revision)
    elif found.url:
        file["url"] = found.url
    if found.folder:
        unknown.append(
            f"where else it can be had: it is pushed from ds4_weights_sources: [file://{found.folder}]."
        )
    entry["files"] = [file]
    like = [one for one in catalogue.models.values() if (one.family, one.quant) == (family.id, kind)]
    entry["modes"] = list(like[0].modes) if like else ["resident"]
    _check(model_id, entry)
    return entry, unknown


def _twins(found: Found, header: Header, family: Family, catalogue: Catalogue) -> list[str]:
    """What is to be known where files of the catalogue have its size, as those of other releases often do."""
    same = [
        model
        for model in catalogue.models.values()
        if model.family == family.id and [file.bytes for file in model.files] == [found.size_bytes]
    ]
    if not same or (found.sha256 and all(found.sha256 != model.files[0].sha256 for model in same)):
        return []
    equal = next((model.id for model in same if found.sha256 == model.files[0].sha256), None)
    if equal:
        return [f"why it is added: by its sha256 it is {equal}, which the catalogue has."]
    revision = header["keys"].get(gguf.REVISION)
    named = [str(model.header.get("revision", "")) for model in same]
    if isinstance(revision, str) and all(named) and not any(gguf.is_revision(revision, one) for one in named):
        return []
    names = " or ".join(model.id for model in same)
    return [f"whether it is {names}: it has the size of that, and only the sha256 tells."]


def _check(model_id: str, entry: Mapping[str, Any]) -> None:
    """Raises what loading the entry would."""
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump({"models": {model_id: dict(entry)}}, file)
        file.flush()
        try:
            load((file.name,))
        except OperatorError as error:
            sentence = error.sentence.replace(f" (in {file.name})", "")
            raise OperatorError(sentence, exit_code=EXIT_USAGE) from None


def _refusal(found: Found, why: str) -> OperatorError:
    return OperatorError(f"{found.name} cannot be loaded by the engine: {why}", exit_code=EXIT_REFUSED)


def _family(found: Found, header: Mapping[str, Any], catalogue: Catalogue) -> Family:
    """The family whose shape the header has."""
    keys = header["keys"]
    shards = keys.get("split.count", 1)
    if isinstance(shards, int) and shards > 1:
        raise _refusal(found, f"it is one of {shards} shards, the engine wants one whole file")
    if header["types"] and all(name.startswith("mtp.") for name in header["types"]):
        raise _refusal(found, "it is a draft head (mtp.*), which goes beside a model as a sidecar")
    architecture = keys.get("general.architecture")
    loadable = {str(family.header["architecture"]) for family in catalogue.families.values()}
    if not isinstance(architecture, str) or architecture not in loadable:
        said = gguf.word(architecture) if architecture else "not given"
        raise _refusal(found, f"its architecture is {said}, not {' or '.join(sorted(loadable))}")
    objections = {
        family.id: _objections(header, family, found.size_bytes) for family in catalogue.families.values()
    }
    nearest = min(objections, key=lambda name: len(objections[name]))
    if objections[nearest]:
        title = catalogue.families[nearest].title
        raise _refusal(found, f"for {title} {'; '.join(objections[nearest])}")
    return catalogue.families[nearest]


def _objections(header: Mapping[str, Any], family: Family, size_bytes: int) -> list[str]:
    expected = dict(family.header)
    if not header["complete"]:
        # What the first MiB does not hold is neither right nor wrong yet.
        wanted = expected.get("keys", {})
        expected["keys"] = {name: wanted[name] for name in wanted if name in header["keys"]}
    return gguf.objections(cast("Header", header), expected, size_bytes)


def _quant_of(found: Found, header: Mapping[str, Any], family: Family, catalogue: Catalogue) -> str | None:
    """How the experts are stored: by their tensors' types, else by the size of the file; None if neither."""
    types = header["types"]
    first, last = (types.get(_GATE.format(layer)) for layer in (0, family.shape.layers - 1))
    if first is not None and (last is not None or header["complete"]):
        for quant in catalogue.quants.values():
            if (quant.first_gate_type, quant.last_gate_type) == (first, last):
                return quant.id
        raise _refusal(found, f"its experts have the GGML types {first} and {last}, which no known file has")
    sizes = {
        model.quant: model.weights_bytes
        for model in catalogue.models.values()
        if model.family == family.id and len(model.files) == 1
    }
    near = [
        quant
        for quant, size in sizes.items()
        if abs(size - found.size_bytes) <= SIZE_TOLERANCE * found.size_bytes
    ]
    return near[0] if len(near) == 1 else None


# Where it is.


def from_file(path: Path, hashed: bool) -> Found:
    """What a file of this machine shows: its whole header, which says how long it must be. With `hashed` it
    is read whole."""
    if path.exists() and not path.is_file():
        # A pipe would be waited for, a device read without end.
        raise OperatorError(f"{path} is not a regular file", exit_code=EXIT_USAGE)
    try:
        with path.open("rb") as handle:
            head = handle.read(gguf.MAX_HEADER_BYTES)
            digest = None
            if hashed:
                handle.seek(0)
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}", exit_code=EXIT_USAGE) from None
    return Found(path.name, size, head, digest, folder=path.resolve().parent)


def from_url(url: str) -> Found:
    """What a URL shows: its first MiB by a closed range, and what a hub says of the whole."""
    parts = urllib.parse.urlsplit(url)
    name = Path(urllib.parse.unquote(parts.path)).name
    if parts.scheme not in ("https", "http") or not name:
        raise OperatorError(f"{url} is not the URL of a file", exit_code=EXIT_USAGE)
    hub = _HUB.match(url)
    if hub:
        url = f"{hub[1]}/{hub[2]}/resolve/{hub[3]}/{hub[4]}"
    said = _head(url) if hub else {}
    head, size = _first(url)
    linked = bounded_json.count(said.get("x-linked-size"))
    if linked is not None and linked != size:
        raise OperatorError(f"{url}: the hub says {linked} bytes, what it delivers has {size}")
    digest = _SHA256.match(str(said.get("x-linked-etag", "")))
    return Found(
        name,
        size,
        head,
        digest[1] if digest else None,
        repo=hub[2] if hub else "",
        revision=str(said.get("x-repo-commit") or hub[3]) if hub else "",
        url=url,
    )


def _opener(stays: bool = False) -> urllib.request.OpenerDirector:
    limits = bounded_http.Limits(WHOLE_S, HEAD_BYTES, TIMEOUT_S)
    made: urllib.request.OpenerDirector = origin.opener(limits, stays)
    return made


def _request(url: str, method: str) -> urllib.request.Request:
    request: urllib.request.Request = origin.range_request(url, 0, HEAD_BYTES - 1)
    request.method = method
    if method == "HEAD":
        request.remove_header("Range")
    token = os.environ.get("HF_TOKEN", "")
    parts = urllib.parse.urlsplit(url)
    # Others than the hub that gave the token are not to learn it.
    if token and (parts.scheme, parts.netloc) == ("https", TOKEN_HOST):
        request.add_unredirected_header("Authorization", origin.bearer(token))
    return request


def _head(url: str) -> dict[str, str]:
    """The headers of the hub's own answer, which says more than that of the storage behind it."""
    try:
        # A renamed repository is at the same hub; a redirect to elsewhere is the answer.
        with _opener(stays=True).open(_request(url, "HEAD"), timeout=TIMEOUT_S) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        error.close()
        if not 300 <= error.code < 400:
            raise _unreadable(url, f"status {error.code}") from None
        headers = error.headers
    except _UNREADABLE as error:
        raise _unreadable(url, origin.clip(error)) from None
    return {name.lower(): value for name, value in headers.items()}


def _first(url: str) -> tuple[bytes, int]:
    """(the first MiB, size of the whole)."""
    try:
        with _opener().open(_request(url, "GET"), timeout=TIMEOUT_S) as answer:
            count = origin.expected_bytes(answer, 0, HEAD_BYTES, None)
            whole = origin.whole_bytes(answer)
            if whole is None:
                raise _unreadable(url, "it does not say how long the file is")
            return answer.read(count), whole
    except urllib.error.HTTPError as error:
        error.close()
        raise _unreadable(url, f"status {error.code}") from None
    except _UNREADABLE as error:
        raise _unreadable(url, origin.clip(error)) from None


def _unreadable(url: str, why: str) -> OperatorError:
    return OperatorError(f"{url} cannot be read: {why}")
