# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Which flags the option parser of a built ds4-server knows, asked of itself.

`ds4-server FLAG [VALUE] --help` ends with 0 where the parser knows the flag and with 2 where it does not,
without a lock and without a model (measured at 54b36ed and b0309611). The help text is no answer: those two
print `--tensor-parallel`, `--transport` and `--rdma-*`, which they refuse, and leave out `--chdir`, which
they take.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

#: A value that each release with the flag takes.
VALUES: Mapping[str, str] = {
    "--model": "x",
    "--mtp": "x",
    "--mtp-model": "x",
    "--mtp-draft": "1",
    "--mtp-margin": "3",
    "--ctx": "4096",
    "--tokens": "16",
    "--threads": "1",
    "--chdir": "/",
    "--dir-steering-file": "x",
    "--dir-steering-ffn": "1",
    "--dir-steering-attn": "1",
    "--backend": "cpu",
    "--host": "127.0.0.1",
    "--port": "8000",
    "--trace": "x",
    "--tool-memory-max-ids": "1",
    "--kv-disk-dir": "x",
    "--kv-disk-space-mb": "1",
    "--kv-cache-min-tokens": "1",
    "--kv-cache-cold-max-tokens": "1",
    "--kv-cache-continued-interval-tokens": "1",
    "--kv-cache-boundary-trim-tokens": "1",
    "--kv-cache-boundary-align-tokens": "1",
    "--power": "100",
    "--prefill-chunk": "2048",
    "--ssd-streaming-cache-experts": "1GB",
    "--ssd-streaming-full-layers": "1",
    "--ssd-streaming-preload-experts": "1",
    "--simulate-used-memory": "1GB",
    "--batched-session": "2",
    "--mixed-prefill-quantum": "128",
    "--dspark-confidence": "0.5",
    "--vision": "x",
    "--transport": "tcp",
    "--debug-hash": "1",
    "--rdma-device": "x",
    "--rdma-gid-index": "1",
    "--role": "coordinator",
    "--layers": "0:1",
    "--listen": "127.0.0.1 9911",
    "--coordinator": "127.0.0.1 9911",
    "--dist-prefill-chunk": "1",
    "--dist-prefill-window": "1",
    "--dist-activation-bits": "16",
}
#: Flags without a value; `--mtp` has become one.
SWITCHES = (
    "--mtp",
    "--mtp-timing",
    "--mtp-exact-sampling",
    "--glm-mtp",
    "--glm-mtp-timing",
    "--quality",
    "--warm-weights",
    "--metal",
    "--cpu",
    "--cors",
    "--kv-cache-reject-different-quant",
    "--disable-exact-dsml-tool-replay",
    "--ssd-streaming",
    "--ssd-streaming-cold",
    "--dspark",
    "--dspark-strict",
    "--tensor-parallel",
    "--debug",
    "--dist-replay-check",
)
KNOWN = 0
#: A build that takes a question for a wish to serve ends at a lock that cannot be opened, before any weights.
ENVIRONMENT = {"DS4_LOCK_FILE": "/dev/null/ds4.lock"}

_DOCUMENTED = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)((?: [^\s,|-][^\s,|]*)*)")
_NUMBER = re.compile(r"N\Z|[A-Z]*_?N\Z")


def documented(*texts: str) -> dict[str, list[str]]:
    """{flag: values to try it with} of the option columns of help texts; prose names the flags of others."""
    found: dict[str, list[str]] = {}
    for text in texts:
        for line in text.splitlines():
            stripped = line.strip()
            if stripped.startswith("-"):
                for flag, values in _DOCUMENTED.findall(re.split(r"\s{2,}", stripped)[0]):
                    found.setdefault(flag, [_value(word) for word in values.split()])
    return found


def flags(ends: Callable[[Sequence[str]], int], *texts: str) -> list[str]:
    """Flags that the parser knows, sorted: of those that are known to us and those that `texts` document.

    ends: runs ds4-server with these arguments in ENVIRONMENT and returns its exit code.
    """
    ways: dict[str, list[Sequence[str]]] = {}
    for flag, value in VALUES.items():
        ways.setdefault(flag, []).append(value.split())
    for flag in SWITCHES:
        ways.setdefault(flag, []).append(())
    for flag, words in documented(*texts).items():
        ways.setdefault(flag, [words])
    ways.pop("--help", None)
    return sorted(
        flag
        for flag, tried in ways.items()
        if any(ends([flag, *words, "--help"]) == KNOWN for words in tried)
    )


def _value(placeholder: str) -> str:
    """A value for what a help text calls N, F, NGB, FILE or anything else."""
    word = placeholder.split("|")[0]
    if word == "F":
        return "0.5"
    if word.endswith("GB"):
        return "1GB"
    return "1" if _NUMBER.match(word) else "x"
