"""Faults of the fake upstreams, for the requests of one Mac."""

from __future__ import annotations

from maclab.faults.base import UpstreamFault

DOWNLOAD_RESETS = UpstreamFault(
    "download-resets",
    "downloads break off after every few megabytes",
    "upstream's issues",
    {"path": "*.gguf*", "reset_after_bytes": 3 << 20},
)
DOWNLOAD_SLOW = UpstreamFault(
    "download-slow", "downloads trickle", "upstream's issues", {"path": "*.gguf*", "rate_bytes_s": 200_000}
)
DOWNLOAD_CORRUPT = UpstreamFault(
    "download-corrupt",
    "a downloaded file has wrong bytes in it, with the right length",
    "assumption",
    {"path": "*.gguf*", "corrupt_at": 700_000},
)
DOWNLOAD_416 = UpstreamFault(
    "download-416",
    "the file server answers 416 to ranges",
    "upstream's issues",
    {"path": "*.gguf*", "method": "GET", "status": 416},
)
DOWNLOAD_429 = UpstreamFault(
    "download-429",
    "the file server answers 429 (too many requests)",
    "the hub's limits",
    {"path": "*.gguf*", "status": 429, "retry_after_s": 2, "times": 3},
)
TOKEN_REQUIRED = UpstreamFault(
    "token-required",
    "huggingface.co wants a token for every file",
    "the hub's limits",
    {"path": "*/resolve/*", "auth": True},
)
WRONG_SIZE = UpstreamFault(
    "wrong-size",
    "the file server's copy is a page shorter than it should be",
    "assumption",
    {"path": "*.gguf*", "size_delta": -4096},
)
NO_RANGES = UpstreamFault(
    "no-ranges",
    "the file server ignores ranges and sends whole files",
    "simple mirrors",
    {"path": "*.gguf*", "ignore_ranges": True},
)
MISSING_REVISION = UpstreamFault(
    "missing-revision",
    "the pinned revision is gone from the file server",
    "assumption",
    {"path": "*/resolve/*", "status": 404},
)
OUTAGE = UpstreamFault(
    "outage", "github.com and huggingface.co do not answer", "any network", {"outage": True}
)
