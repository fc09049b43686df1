"""KV checkpoints made by hand, and what an engine does with them: the rules of its folder, without a prefill.

A checkpoint whose text is the whole prompt, with `max_tokens` 0, takes neither a prefill nor a token, so
that a CPU build of the real engine answers at once. They are of a Flash model with CTX tokens of context.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from maclab import published

CTX = 1000
WORDS = "hi there friend"
PROMPT = f"<｜begin▁of▁sentence｜><｜User｜>{WORDS}<｜Assistant｜></think>"
SYSTEM = "Be brief."
LONGER = PROMPT.replace("<｜User｜>", SYSTEM + "<｜User｜>")
MAGIC, VERSION = 0x34565344, 2


@dataclass(frozen=True)
class Checkpoint:
    """What a file says. `name` None: as its text wants it."""

    text: str = PROMPT
    tokens: int = 6
    hits: int = 0
    quant: int = 2
    reason: int = 1
    flags: int = 0
    model: int = 0
    ctx: int = CTX
    abi: int = 2
    version: int = VERSION
    payload_tokens: int | None = None
    payload_ctx: int | None = None
    layers: int | None = None
    cut: int = 0
    zero: bool = False
    flip: bool = False
    name: str | None = None
    last_used: int = 1_700_000_000

    @property
    def file_name(self) -> str:
        sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        return self.name or f"{sha}.kv"

    def write(self, folder: Path) -> Path:
        """Write the file with its sparse payload; returns its path."""
        text = self.text.encode()
        body = self._payload()
        head = struct.pack("<3sBBBBB", b"KVC", 1, self.quant, self.reason, self.flags, self.model)
        head += struct.pack("<III", self.tokens, self.hits, self.ctx) + bytes([self.abi, 0, 0, 0])
        head += struct.pack("<QQQ", 1_700_000_000, self.last_used, len(body))
        path = folder / self.file_name
        data = head + struct.pack("<I", len(text)) + text + body
        path.write_bytes(data[: len(data) - self.cut])
        return path

    def _payload(self) -> bytes:
        shape = published.load().families["flash"].shape
        tokens = self.payload_tokens or self.tokens
        window = min(128, tokens)
        ratios = shape.ratios()
        if self.zero:
            return bytes(100_000)
        fields = [
            MAGIC,
            self.version,
            self.payload_ctx or self.ctx,
            0,
            128,
            128,
            min(self.ctx, CTX) // 4 + 2,
            tokens,
            self.layers or shape.layers,
            shape.head_dim,
            shape.indexer_dim,
            shape.vocab,
            window,
        ]
        parts = [struct.pack("<13I", *fields), struct.pack(f"<{tokens}I", *range(10, 10 + tokens))]
        parts.append(bytes(4 * shape.vocab))
        parts.append(struct.pack(f"<{shape.layers}I", *(tokens // ratio if ratio else 0 for ratio in ratios)))
        parts.append(
            struct.pack(f"<{shape.layers}I", *(tokens // 4 if ratio == 4 else 0 for ratio in ratios))
        )
        for ratio in ratios:
            twice = 2 if ratio == 4 else 1
            rows = tokens // ratio if ratio else 0
            parts.append(bytes(window * 2048))
            if ratio:
                parts.append(bytes(rows * 2048 + 2 * twice * twice * ratio * 2048))
            if ratio == 4:
                parts.append(bytes(rows * 512 + 2 * twice * twice * 4 * 512))
        body = bytearray(b"".join(parts))
        if self.flip:
            body[-1000] ^= 0xFF
        return bytes(body)


@dataclass(frozen=True)
class Case:
    """Files that lie in the folder, the server's further options, and what is asked."""

    name: str
    files: tuple[Checkpoint, ...]
    arguments: tuple[str, ...] = ()
    path: str = "/v1/chat/completions"
    system: bool = False


SOUND = Checkpoint()
CASES = (
    Case("sound", (SOUND,)),
    Case("by the API of messages", (SOUND,), path="/v1/messages"),
    Case("by the API of responses", (SOUND,), path="/v1/responses"),
    Case("name in capitals", (replace(SOUND, name=SOUND.file_name[:40].upper() + ".kv"),)),
    Case(
        "more tokens than the longest first prompt",
        (replace(SOUND, tokens=40),),
        ("--kv-cache-cold-max-tokens", "20"),
    ),
    Case(
        "the longest first prompt is unlimited",
        (replace(SOUND, tokens=40),),
        ("--kv-cache-cold-max-tokens", "0"),
    ),
    Case("too few tokens", (replace(SOUND, tokens=3),), ("--kv-cache-min-tokens", "4")),
    Case("of 4-bit weights", (replace(SOUND, quant=4),)),
    Case("of 4-bit weights, refused", (replace(SOUND, quant=4),), ("--kv-cache-reject-different-quant",)),
    Case("of 5-bit weights", (replace(SOUND, quant=5),)),
    Case("of another model", (replace(SOUND, model=1),)),
    Case("of another payload ABI", (replace(SOUND, abi=1),)),
    Case("of a larger context", (replace(SOUND, ctx=2 * CTX),)),
    Case("of a smaller context", (replace(SOUND, ctx=CTX // 2),)),
    Case("no tokens", (replace(SOUND, tokens=0, payload_tokens=6),)),
    Case("another name", (replace(SOUND, name="f" * 40 + ".kv"),)),
    Case("a name that is none", (replace(SOUND, name="x" * 40 + ".kv"),)),
    Case("an unfinished name", (replace(SOUND, name=SOUND.file_name + ".tmp.1"),)),
    Case("cut off", (replace(SOUND, cut=1000),)),
    Case("zeros for a payload", (replace(SOUND, zero=True),)),
    Case("a flipped byte", (replace(SOUND, flip=True),)),
    Case("a payload of another version", (replace(SOUND, version=1),)),
    Case("a payload of more tokens than its head", (replace(SOUND, payload_tokens=7),)),
    Case("a payload of a larger context", (replace(SOUND, payload_ctx=2 * CTX),)),
    Case("a payload of other layers", (replace(SOUND, layers=42),)),
    Case("a payload that fills the context", (replace(SOUND, tokens=CTX - 1, payload_tokens=CTX),)),
    Case("of the conversation as its client sees it", (replace(SOUND, flags=4),)),
    Case("with a system text", (replace(SOUND, text=LONGER),), system=True),
    Case(
        "of two, the longer text",
        (replace(SOUND, text=LONGER, tokens=5), replace(SOUND, text=LONGER[:40], tokens=30)),
        system=True,
    ),
    Case(
        "an over-full folder",
        tuple(
            replace(
                SOUND,
                text=f"{PROMPT}{number}",
                hits=number,
                reason=1 + number % 4,
                last_used=1_700_000_000 + number,
            )
            for number in range(6)
        ),
        ("--kv-disk-space-mb", "40"),
    ),
    Case(
        "an over-full folder, by their use",
        tuple(
            replace(SOUND, text=f"{PROMPT}{number}", hits=3, reason=2, last_used=2_000_000_000 - number)
            for number in range(4)
        ),
        ("--kv-disk-space-mb", "40"),
    ),
)


def body(case: Case) -> dict[str, object]:
    """The request that the case asks, in the form of its API."""
    asked: dict[str, object] = {"max_tokens": 0, "thinking": {"type": "disabled"}}
    if case.path == "/v1/responses":
        return {"input": WORDS, "max_output_tokens": 0, "reasoning": {"effort": "none"}}
    messages = [{"role": "user", "content": WORDS}]
    if case.system and case.path != "/v1/messages":
        messages.insert(0, {"role": "system", "content": SYSTEM})
    return {**asked, "messages": messages}


def heads(folder: Path) -> dict[str, bytes]:
    """{name: first 48 bytes} of the files of a folder."""
    return {path.name: path.read_bytes()[:48] for path in folder.iterdir()}


def fates(folder: Path, before: dict[str, bytes]) -> str:
    """What became of each file: gone, counted (its head is another) or left as it was."""
    after = heads(folder)
    states = (
        f"{name[:8]} " + ("gone" if name not in after else "as it was" if after[name] == head else "counted")
        for name, head in sorted(before.items())
    )
    return ", ".join(states)
