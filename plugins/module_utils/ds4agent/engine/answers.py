# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Is what runs what was planned? Pure: what a Mac said goes in, objections in words come out ([] is good)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..border import bounded_json

if TYPE_CHECKING:
    from ..shapes import JobFacts, Listener

LOG_LINES = 5
#: How `lsof -n` writes what a server is told to listen on; any other address as it is.
LISTENS_ON = {"localhost": "127.0.0.1", "0.0.0.0": "*"}
#: ds4-start's exit status for a refusal (EX_CONFIG; launchd's too when it cannot start a job at all).
REFUSED = 78
#: What macOS's own reasons for an end mean (`last exit reason` of `launchctl print`), by a word in them. (B)
REASONS = (
    ("CODESIGNING", "its code signature was refused: build the engine again"),
    ("JETSAM", "macOS took its memory back"),
    ("DYLD", "a library that it needs is missing"),
    ("EXEC", "it cannot be executed"),
    ("TCC", "privacy settings forbid what it did"),
    ("WATCHDOG", "a watchdog of macOS found it stuck"),
)
#: Reasons that the next start has too: waiting has no use.
NEVER = ("CODESIGNING", "DYLD", "EXEC")
#: The same numbers on macOS and Linux; others differ.
SIGNALS = {
    3: "SIGQUIT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
}


def models(body: Mapping[str, Any], name: str, context: int) -> list[str]:
    """GET /v1/models. `name` of the entries is the loaded shape; ids are aliases and say nothing."""
    entries = bounded_json.objects(body.get("data"))
    if not entries:
        return ["/v1/models lists no model"]
    found = []
    names = sorted({bounded_json.text(entry.get("name"), 80) or "no name" for entry in entries})
    if names != [name]:
        found.append("the server has %s loaded, not %s" % (" and ".join(names[:4]), name))
    contexts = sorted({bounded_json.count(entry.get("context_length")) for entry in entries}, key=str)
    if contexts != [context]:
        found.append("the server offers a context of %s tokens, not %d" % (contexts[0], context))
    return found


def completion(body: Mapping[str, Any], expect: str | None) -> tuple[dict[str, Any], list[str]]:
    """POST /v1/chat/completions, not streamed: ({text, tokens, finish}, objections)."""
    choice = next(iter(bounded_json.objects(body.get("choices"))), {})
    message = bounded_json.child(choice, "message")
    content = bounded_json.text(message.get("content"))
    text = content or bounded_json.text(message.get("reasoning_content"))
    answer = {
        "text": text,
        "tokens": tokens(body),
        "finish": bounded_json.text(choice.get("finish_reason"), 40),
    }
    if not text.strip():
        return answer, ["the answer to the test prompt is empty"]
    if expect and expect.lower() not in content.lower():
        return answer, [
            "the answer to the test prompt is %r, which does not contain %r" % (content[:80], expect)
        ]
    return answer, []


def tokens(body: Mapping[str, Any]) -> int | None:
    """How many tokens an answer has, None when it does not say so."""
    return bounded_json.count(bounded_json.child(body, "usage").get("completion_tokens"))


def listeners(found: Sequence[Listener], host: str, port: int, pid: int | None) -> list[str]:
    """Listening sockets of the port (mac.parse.listening): one address, the planned one, our process."""
    if not found:
        return ["nothing listens on port %d" % port]
    wrong = sorted({item["address"] for item in found} - {LISTENS_ON.get(host, host)})
    objections = []
    if wrong:
        objections.append("port %d is open on %s, the plan says %s only" % (port, ", ".join(wrong), host))
    strangers = sorted(
        {"%s (pid %d)" % (item["command"], item["pid"]) for item in found if item["pid"] != pid}
    )
    if strangers:
        objections.append("port %d belongs to %s, not to the server's job" % (port, ", ".join(strangers)))
    return objections


def command_line(found: str, argv: Sequence[str]) -> list[str]:
    """`ps -o args=` of the server against the planned argv; ps joins arguments with blanks."""
    if found.strip() == " ".join(argv):
        return []
    return ["the server runs as %r, the plan says %r" % (found.strip(), " ".join(argv))]


def open_files(names: Collection[str], weights: Iterable[str]) -> list[str]:
    """Names of `lsof -p PID` against the weights that must be mapped."""
    return ["the server does not have %s open" % path for path in weights if path not in names]


def headroom(free_percent: int, memsize_bytes: int, wanted_mib: int) -> tuple[int, list[str]]:
    """(free MiB, objections) from `memory_pressure -Q`, which counts what can be given back as free."""
    free_mib = memsize_bytes * free_percent // 100 // 1048576
    if free_mib >= wanted_mib:
        return free_mib, []
    return free_mib, ["%d MiB of memory are free with the model loaded, %d must be" % (free_mib, wanted_mib)]


def smoke_figures(stderr: str) -> dict[str, float | None]:
    """`ds4: prefill: X t/s, generation: Y t/s` on stderr of the CLI, or nulls."""
    match = re.search(
        r"prefill:\s*(\d{1,9}(?:\.\d{1,9})?) t/s.*generation:\s*(\d{1,9}(?:\.\d{1,9})?) t/s", stderr
    )
    if not match:
        return {"prefill_tps": None, "generation_tps": None}
    return {"prefill_tps": float(match.group(1)), "generation_tps": float(match.group(2))}


def why_down(log_text: str, job: Mapping[str, Any]) -> str:
    """Why the server is not there: from the end of its log and mac.parse.launchctl_print."""
    lines = [line for line in log_text.splitlines() if line.strip()]
    if job.get("last_exit_code") == REFUSED and lines and lines[-1].startswith("REFUSE: "):
        return "it refused to start: " + lines[-1][len("REFUSE: ") :]
    how = ended(job)
    if not how and job.get("last_exit_code") == 0:
        how = "ended with status 0"
    if not how:
        how = "state %s" % job.get("state")
    if not lines:
        return "%s, and its log is empty" % how
    return "%s: %s\nThe end of its log:\n%s" % (how, lines[-1], "\n".join(lines[-LOG_LINES:]))


def ended(job: Mapping[str, Any]) -> str:
    """How the last process of a job ended (mac.parse.launchctl_print), in words; "" for well or never.

    launchd gives one of three: a reason of macOS's own, a signal, or an exit status.
    """
    reason = job.get("last_exit_reason")
    if reason:
        meaning = next((text for word, text in REASONS if word in reason), "")
        return "ended by macOS with %s%s" % (reason, " (%s)" % meaning if meaning else "")
    if job.get("last_signal"):
        number = job["last_signal"]
        name = SIGNALS.get(number)
        return "killed by signal %d%s" % (number, " (%s)" % name if name else "")
    return "ended with status %d" % job["last_exit_code"] if job.get("last_exit_code") else ""


class Watch:
    """Follows a job that is to come up; `failed` after each look says when waiting has no use."""

    #: A job between two lives may be about to be started, so it must be seen dead this often in a row.
    LOOKS = 4
    #: Starts after which it is a crash loop even if no look hit a dead moment.
    STARTS = 2

    def __init__(self) -> None:
        self.first_runs: int | None = None
        self.dead = 0

    def failed(self, job: JobFacts | None) -> bool:
        """job: mac.parse.launchctl_print, or None when it is not loaded."""
        if job is None:
            self.dead += 1
            return self.dead >= self.LOOKS
        if self.first_runs is None:
            self.first_runs = job["runs"]
        dead = job["pid"] is None
        reason = job["last_exit_reason"] or ""
        if dead and any(word in reason for word in NEVER):
            return True
        self.dead = self.dead + 1 if dead and ended(job) else 0
        return self.dead >= self.LOOKS or job["runs"] - self.first_runs >= self.STARTS
