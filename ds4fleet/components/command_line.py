"""The command line of ds4-server: what a plan says, in the flags that the engine has. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ds4fleet.components.base import Decided, EnginePlan, WeightsPlan
from ds4fleet.errors import EXIT_USAGE, OperatorError

#: Flags that ds4-server has had since May 2026 (`ds4-server --help` of 8d57664), as far as a plan uses them.
#: --chdir is left out: the July help does not list it, and launchd's WorkingDirectory does the same.
BASE_FLAGS = frozenset(
    [
        "--model",
        "--mtp",
        "--ctx",
        "--tokens",
        "--host",
        "--port",
        "--cors",
        "--kv-disk-dir",
        "--kv-disk-space-mb",
    ]
)

#: Flags that a variable decides, and with it what the plan reckons, refuses and proves: not for
#: ds4_server_extra_args, where the last one would win.
DECIDED_BY = {
    "--model": "ds4_model",
    "-m": "ds4_model",
    "--ctx": "ds4_context",
    "-c": "ds4_context",
    "--host": "ds4_listen_address",
    "--port": "ds4_port",
    "--cors": "ds4_cors",
    "--kv-disk-dir": "ds4_kv_budget_mib",
    "--kv-disk-space-mb": "ds4_kv_budget_mib",
    "--batched-session": "ds4_sessions",
    "--prefill-chunk": "ds4_prefill_chunk",
    "--power": "ds4_power_percent",
    "--ssd-streaming": "ds4_mode",
    "--mtp": "ds4_sidecars",
    "--mtp-model": "ds4_sidecars",
    "--dspark": "ds4_sidecars",
    "--vision": "ds4_sidecars",
}
#: Backends beside Metal: on macOS the CPU's can panic the kernel (upstream README, antirez/ds4#483).
OTHER_BACKENDS = ("--cpu", "--cuda", "--backend")

#: Enough for the test prompt; a larger context only costs memory.
SMOKE_CONTEXT = 4096
SMOKE_TOKENS = 16


def flags_of(engine: EnginePlan) -> frozenset[str]:
    """What the built release has, else what the catalogue expects of the commit, else what all have."""
    built: Sequence[str] = engine.capabilities.flags if engine.capabilities else ()
    found = built or engine.flags
    return frozenset(found) if found else BASE_FLAGS


def planned(plan: Decided, weights: WeightsPlan, flags: frozenset[str], kv_dir: str) -> list[list[str]]:
    """What the plan says: one flag with its values per item, whether or not the engine has it."""
    settings = plan.settings
    found: list[list[object]] = [
        ["--model", weights.main],
        ["--ctx", plan.context],
        ["--host", settings.listen_address],
        ["--port", settings.port],
    ]
    if kv_dir:
        found += [["--kv-disk-dir", kv_dir], ["--kv-disk-space-mb", settings.kv_budget_mib]]
    if settings.sessions > 1:
        found.append(["--batched-session", settings.sessions])
    if settings.prefill_chunk:
        found.append(["--prefill-chunk", settings.prefill_chunk])
    if settings.power_percent:
        found.append(["--power", settings.power_percent])
    if plan.mode == "streaming":
        found.append(["--ssd-streaming"])
        streaming = plan.memory.streaming
        if streaming and streaming.cache_flag:
            found.append(["--ssd-streaming-cache-experts", streaming.cache_flag])
    for item in weights.files:
        if item.kind in ("mtp", "dspark"):
            # From August on --mtp is a switch and the file has a flag of its own.
            found.append(["--mtp-model" if "--mtp-model" in flags else "--mtp", item.path])
        if item.kind == "dspark":
            found.append(["--dspark"])
        if item.kind == "vision":
            found.append(["--vision", item.path])
    if settings.cors:
        found.append(["--cors"])
    return [[str(word) for word in words] for words in found]


def extra(plan: Decided, engine: EnginePlan, flags: frozenset[str]) -> list[str]:
    """ds4_server_extra_args, checked. Raises OperatorError for a flag that this engine does not have, or
    that is not for them to give."""
    words = [str(item) for item in plan.settings.server_extra_args]
    for item in words:
        flag = item.split("=", 1)[0]
        why = ""
        if flag in DECIDED_BY:
            why = f"which is for {DECIDED_BY[flag]} to say; set that"
        elif flag in OTHER_BACKENDS:
            why = "but the engine serves by Metal here: the CPU backend can panic the kernel; remove it"
        elif item.startswith("--") and flag not in flags:
            why = (
                f"which ds4-server of commit {engine.release_id} does not have;"
                " remove it or pin another commit"
            )
        if why:
            raise OperatorError(
                f"{plan.host}: ds4_server_extra_args asks for {item}, {why}", exit_code=EXIT_USAGE
            )
    if any("\n" in item for item in words):
        raise OperatorError(
            f"{plan.host}: ds4_server_extra_args holds a line break; one argument per entry",
            exit_code=EXIT_USAGE,
        )
    return words
