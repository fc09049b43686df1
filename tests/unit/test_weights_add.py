"""`fab weights add`: an entry from the first MiB of a file, or why the engine could not load it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4fleet.catalogue.read import load
from ds4fleet.errors import EXIT_REFUSED, OperatorError
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.plan.make import make_plan
from ds4fleet.weights import add, relay
from maclab.weights import header as composer

CATALOGUE = load()
FLASH = CATALOGUE.families["flash"]
STUDIO = {"form": "Mac Studio", "chip": "Apple M3 Ultra", "memory_gb": 512, "storage_gb": 4000}
SIZE = 4 * 1024 * 1024
#: More words than a MiB holds: what follows the vocabulary cannot be seen.
VOCABULARY = {
    "tokenizer.ggml.tokens": [f"a word of the vocabulary, number {number}" for number in range(30_000)]
}


def head(quant: str = "q2", more: Mapping[str, Any] | None = None, size: int = SIZE, **changes: Any) -> bytes:
    """The header of a Flash file; changes: keys that differ, by the last part of their names."""
    keys: dict[str, Any] = {"general.architecture": "deepseek4", **composer.model_keys(FLASH.shape)}
    for name, value in changes.items():
        (key,) = [key for key in keys if key.endswith(f".{name}")]
        keys[key] = value
    tensors = composer.model_tensors(FLASH.shape, CATALOGUE.quants[quant])
    filler = composer.Tensor("token_embd.weight", composer.F16)
    tensors = [tensor for tensor in tensors if tensor.name != filler.name]
    return composer.encode({**keys, **(more or {})}, [*tensors, filler], size)


def found(data: bytes, size: int = SIZE, **more: Any) -> add.Found:
    return add.Found("mine.gguf", size, data[: add.HEAD_BYTES], **more)


def propose(data: bytes, size: int = SIZE, **more: Any) -> tuple[dict[str, Any], str]:
    quant = more.pop("quant", "")
    entry, unknown = add.propose(found(data, size, **more), "mine", CATALOGUE, quant)
    return entry, " ".join(unknown)


class TestEntry:
    @pytest.mark.parametrize("quant", ["q2", "q2-q4", "q4", "mxfp4"])
    def test_family_and_quant_come_from_the_header(self, quant: str) -> None:
        entry, _unknown = propose(head(quant))
        assert (entry["family"], entry["quant"]) == ("flash", quant)
        assert entry["files"] == [{"name": "mine.gguf", "bytes": SIZE, "sha256": None}]

    def test_where_the_vocabulary_fills_the_first_mib_the_size_tells_the_quant(self) -> None:
        data = head(more=VOCABULARY)
        entry, unknown = propose(data, 86_720_111_488)
        assert entry["quant"] == "q2" and "taken from the size" in unknown
        entry, unknown = propose(data, 50_000_000_000, quant="q4")
        assert entry["quant"] == "q4" and "given" in unknown
        with pytest.raises(OperatorError, match="add --quant"):
            propose(data, 50_000_000_000)

    def test_a_file_of_this_machine_shows_what_stands_behind_the_vocabulary(self, tmp_path: Path) -> None:
        data = head("q4", more=VOCABULARY)
        assert len(data) > add.HEAD_BYTES
        (tmp_path / "mine.gguf").write_bytes(data + bytes(SIZE - len(data)))
        entry, unknown = add.propose(add.from_file(tmp_path / "mine.gguf", hashed=False), "mine", CATALOGUE)
        assert entry["quant"] == "q4" and not [text for text in unknown if "whether it is" in text]

    def test_a_quant_that_the_header_contradicts_is_refused(self) -> None:
        with pytest.raises(OperatorError, match="is q2, not q4"):
            propose(head("q2"), quant="q4")

    def test_what_is_not_known_is_said_and_stands_in_the_file_as_a_comment(self) -> None:
        entry, unknown = propose(head(), folder=Path("/Volumes/weights"))
        assert "the sha256" in unknown and "file:///Volumes/weights" in unknown
        text = add.render("mine", entry, ["the sha256"])
        assert "# Unknown: the sha256" in text
        assert yaml.safe_load(text) == {"models": {"mine": entry}}

    def test_a_malformed_id_is_refused_as_the_catalogue_would(self) -> None:
        with pytest.raises(OperatorError, match="must be named in lower-case letters"):
            add.propose(found(head()), "My Model", CATALOGUE)


V41_SIZE = 365_713_686_528
V41_SHA = "1ce6a8f8806205c13330d7ca287bd198331dc5ca35ccc5d8a9a92a188a6f6f42"


def v41(revision: str = "") -> bytes:
    """The begin of a V4.1 file, whose tensors stand behind the first MiB."""
    keys: dict[str, Any] = {"general.architecture": "deepseek41", **VOCABULARY}
    if revision:
        keys = {"general.source.revision": revision, **keys}
    return composer.encode(keys, [composer.Tensor("token_embd.weight", composer.F16)], SIZE)


class TestSameSize:
    """Releases often have the same size; the sha256 or the revision in the header tells them apart."""

    def test_the_same_sha256_is_the_same_file(self) -> None:
        entry, unknown = propose(v41(), V41_SIZE, sha256=V41_SHA)
        assert (entry["family"], entry["quant"], entry["modes"]) == (
            "v41-flash",
            "q2",
            ["resident", "streaming"],
        )
        assert "by its sha256 it is v41-flash-q2" in unknown

    def test_another_sha256_is_another_file(self) -> None:
        _entry, unknown = propose(v41(), V41_SIZE, sha256="0" * 64)
        assert "v41-flash-q2" not in unknown

    @pytest.mark.parametrize(("revision", "told"), [("", True), ("df42c109", True), ("0123456789", False)])
    def test_without_a_sha256_the_revision_in_the_header_tells(self, revision: str, told: bool) -> None:
        _entry, unknown = propose(v41(revision), V41_SIZE)
        assert ("whether it is v41-flash-q2" in unknown) is told

    def test_0731_has_the_size_of_what_it_replaced(self) -> None:
        _entry, unknown = propose(head(), 86_720_111_488)
        assert "whether it is flash-q2 or flash-q2-0731" in unknown


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"<html>not found</html>" * 9, "not a GGUF file"),
            (head(expert_count=128), "expert_count is 128, not 256"),
            (head(block_count=61), "block_count is 61, not 43"),
            (head(more={"general.architecture": "llama"}), "its architecture is llama, not deepseek4"),
            (head(more={"general.architecture": "glm-dsa"}), "its architecture is glm-dsa"),
            (head(more={"split.count": 4}), "it is one of 4 shards"),
            (head(more=VOCABULARY, expert_used_count=8), "expert_used_count is 8, not 6"),
        ],
        ids=["html", "experts", "layers", "llama", "glm", "shard", "behind-a-vocabulary"],
    )
    def test_what_the_engine_cannot_load_says_why(self, data: bytes, why: str) -> None:
        with pytest.raises(OperatorError, match=why) as refused:
            propose(data)
        assert refused.value.exit_code == EXIT_REFUSED

    def test_a_file_that_is_cut_off_is_seen(self) -> None:
        with pytest.raises(OperatorError, match="it is cut off"):
            propose(head(), SIZE - 32)

    def test_a_stump_of_a_file_with_a_good_header_is_seen(self, tmp_path: Path) -> None:
        data = head(more=VOCABULARY)
        (tmp_path / "mine.gguf").write_bytes(data + bytes(3_000_000 - len(data)))
        with pytest.raises(
            OperatorError, match=r"it is cut off: tensors end at 4194304, the file at 3000000"
        ):
            add.propose(add.from_file(tmp_path / "mine.gguf", hashed=False), "mine", CATALOGUE)

    def test_a_file_that_ends_inside_its_header_is_seen(self, tmp_path: Path) -> None:
        (tmp_path / "mine.gguf").write_bytes(head(more=VOCABULARY)[: add.HEAD_BYTES])
        with pytest.raises(OperatorError, match="header is longer than"):
            add.propose(add.from_file(tmp_path / "mine.gguf", hashed=False), "mine", CATALOGUE)

    def test_an_architecture_that_is_no_text_is_one_sentence(self) -> None:
        with pytest.raises(OperatorError, match=r"its architecture is \[1, 2\], not deepseek4"):
            propose(head(more={"general.architecture": [1, 2]}))

    def test_a_draft_head_is_no_model(self) -> None:
        tensors = [(tensor, (256,)) for tensor in composer.draft_tensors("mtp.0")]
        data, size = composer.encode_sized({"general.architecture": "deepseek4"}, tensors)
        with pytest.raises(OperatorError, match="draft head"):
            propose(data + bytes(size - len(data)), size)

    def test_experts_of_a_type_that_no_known_file_has(self) -> None:
        odd = head()
        name = b"blk.0.ffn_gate_exps.weight"
        at = odd.index(name) + len(name)
        # Behind the name: u32 dimensions, u64 each, u32 type.
        at += 4 + 8 * int.from_bytes(odd[at : at + 4], "little")
        odd = odd[:at] + (11).to_bytes(4, "little") + odd[at + 4 :]
        with pytest.raises(OperatorError, match="GGML types 11 and 16"):
            propose(odd)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.gguf"
    data = head()
    path.write_bytes(data + bytes(SIZE - len(data)))
    return path


class Hub:
    """A hub with one file behind a redirect; `asked` has method, path and range of every request."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[str, str, str]] = []
        self.statuses: dict[str, int] = {}
        self.linked = len(data)
        self.url = ""
        #: Where a GET is redirected to, and headers of the storage that differ.
        self.leads_to = "/storage/mine.gguf"
        self.odd: dict[str, str] = {}


@pytest.fixture
def hub(file: Path) -> Iterator[Hub]:
    made = Hub(file.read_bytes())

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(302, {"Location": "http://storage.invalid/x"})

        def do_GET(self) -> None:
            if "/resolve/" in self.path:
                self.answer(302, {"Location": made.leads_to})
                return
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            piece = made.data[int(first) : int(last) + 1]
            whole = {"Content-Range": f"bytes {first}-{last}/{len(made.data)}"}
            self.answer(206, {**whole, **made.odd}, piece)

        def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            made.asked.append((self.command, self.path, self.headers.get("Range", "")))
            self.send_response(made.statuses.get(self.command, status))
            digest = hashlib.sha256(made.data).hexdigest()
            hub_says = {
                "X-Linked-Size": str(made.linked),
                "X-Linked-ETag": f'"{digest}"',
                "X-Repo-Commit": "c" * 40,
            }
            for name, value in {**headers, **hub_says, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # who has seen enough hangs up
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield made
    server.shutdown()
    server.server_close()


class TestUrl:
    def test_one_closed_range_is_read_and_the_hub_says_the_rest(self, hub: Hub) -> None:
        seen = add.from_url(f"{hub.url}/me/repo/blob/main/mine.gguf?download=true")
        assert (seen.repo, seen.revision, seen.size_bytes) == ("me/repo", "c" * 40, SIZE)
        assert seen.sha256 == hashlib.sha256(hub.data).hexdigest()
        assert [asked for asked in hub.asked if asked[2]] == [
            ("GET", "/me/repo/resolve/main/mine.gguf", "bytes=0-1048575"),
            ("GET", "/storage/mine.gguf", "bytes=0-1048575"),
        ]

    def test_another_server_is_taken_by_its_link(self, hub: Hub) -> None:
        seen = add.from_url(f"{hub.url}/files/mine.gguf")
        assert (seen.repo, seen.sha256, seen.url) == ("", None, f"{hub.url}/files/mine.gguf")
        entry, _unknown = add.propose(seen, "mine", CATALOGUE)
        assert entry["files"][0]["url"] == seen.url and "repo" not in entry

    @pytest.mark.parametrize(
        ("method", "status", "why"),
        [("HEAD", 404, "status 404"), ("GET", 401, "status 401"), ("GET", 200, "does not serve ranges")],
    )
    def test_a_server_that_refuses_is_named(self, hub: Hub, method: str, status: int, why: str) -> None:
        hub.statuses[method] = status
        with pytest.raises(OperatorError, match=why):
            add.from_url(f"{hub.url}/me/repo/resolve/main/mine.gguf")

    @pytest.mark.parametrize(
        ("leads_to", "why"),
        [
            ("ftp://127.0.0.1/x", "it redirects to ftp"),
            ("file:///etc/hosts", "it redirects to file"),
            ("http://127.0.0.1:99999/x", "makes no sense"),
        ],
    )
    def test_only_the_web_is_followed(self, hub: Hub, leads_to: str, why: str) -> None:
        hub.leads_to = leads_to
        with pytest.raises(OperatorError, match=why):
            add.from_url(f"{hub.url}/me/repo/resolve/main/mine.gguf")

    @pytest.mark.parametrize(
        ("odd", "why"),
        [
            ({"Content-Encoding": "gzip"}, "it sends the file packed"),
            ({"Content-Range": f"bytes 1-{add.HEAD_BYTES - 1}/{SIZE}"}, "another range"),
            ({"Content-Range": f"bytes 0-{add.HEAD_BYTES - 1}/*"}, "does not say how long"),
        ],
    )
    def test_what_is_not_the_range_that_was_asked_for_is_no_header(
        self, hub: Hub, odd: dict[str, str], why: str
    ) -> None:
        hub.odd = odd
        with pytest.raises(OperatorError, match=why):
            add.from_url(f"{hub.url}/me/repo/resolve/main/mine.gguf")

    def test_a_hub_and_its_storage_that_disagree_are_not_believed(self, hub: Hub) -> None:
        hub.linked += 1
        with pytest.raises(OperatorError, match="the hub says"):
            add.from_url(f"{hub.url}/me/repo/resolve/main/mine.gguf")


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://huggingface.co/a/b/resolve/main/x.gguf", True),
        ("http://huggingface.co/a/b/resolve/main/x.gguf", False),
        ("https://mirror.example/a/b/resolve/main/x.gguf", False),
        ("https://huggingface.co.example/a/b/resolve/main/x.gguf", False),
    ],
)
def test_a_token_is_for_the_hub_that_gave_it(url: str, sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    request = add._request(url, "HEAD")
    assert request.unredirected_hdrs.get("Authorization") == ("Bearer hf_secret" if sent else None)


@pytest.mark.parametrize("token", ["hf_secret\nmore", "hf_sécret"])
def test_a_token_that_no_header_can_carry_is_a_sentence(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(OperatorError, match="its token has line ends") as refused:
        add.from_url("https://huggingface.co/a/b/resolve/main/x.gguf")
    assert "hf_s" not in str(refused.value)


def test_a_local_file_is_hashed_only_when_asked(file: Path) -> None:
    assert add.from_file(file, hashed=False).sha256 is None
    assert add.from_file(file, hashed=True).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(OperatorError, match="cannot be read"):
        add.from_file(file.parent / "other.gguf", hashed=False)


def test_what_is_printed_plans_and_fetches_like_a_built_in_model(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add.add(str(file), model_id="mine", hashed=True) == 0
    own = tmp_path / "own.yml"
    own.write_text(capsys.readouterr().out)
    variables = {"ds4_hardware": STUDIO, "ds4_catalogue": [str(own)], "ds4_model": "mine"}
    variables["ds4_weights_sources"] = [f"file://{tmp_path}"]
    plan = make_plan("tyo-01", variables)
    assert plan.refusals == [] and plan.model and plan.model.id == "mine" and plan.weights
    (weights,) = plan.weights.files
    assert weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert weights.urls == [f"file://{file}"]
    assert plan.server and weights.path in plan.server.argv
    settings = {**role_defaults(), **variables}
    files = plan.to_dict()["weights"]["files"]
    mac = relay.Mac("tyo-01", "tokyo", "t", 22, plan.weights.dir, files, settings=settings)
    assert json.dumps(relay.orders([mac])["tyo-01"].to_json()["order"]["files"]).count("mine.gguf") == 3


def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path / "pipe.gguf", Path("/dev/zero"), tmp_path):
        with pytest.raises(OperatorError, match="not a regular file"):
            add.from_file(path, hashed=True)
