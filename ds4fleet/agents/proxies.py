"""Proxy variables of this environment, which agents and SDKs obey also for an address of this machine."""

from __future__ import annotations

from collections.abc import Mapping

#: Claude Code takes any of them for any address (tried with 2.1.332); SDKs take the first two and the last.
_NAMES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
#: Both spellings are in use; where both are set, which one counts differs from client to client.
EXCEPT = ("NO_PROXY", "no_proxy")
#: The hosts of our endpoints, as the clients' NO_PROXY understands them: names and addresses, no networks.
HERE = ("127.0.0.1", "localhost")


def taken_by(environ: Mapping[str, str]) -> str:
    """The variable by which clients would ask a proxy for an endpoint of this machine; "" when none does."""
    name = next((name for name in _NAMES if environ.get(name, "").strip()), "")
    excepted = [_entries(environ[name]) for name in EXCEPT if environ.get(name) is not None]
    spared = bool(excepted) and all("*" in entries or HERE[0] in entries for entries in excepted)
    return "" if spared else name


def exceptions(environ: Mapping[str, str]) -> dict[str, str]:
    """Values of NO_PROXY and no_proxy that keep what is there and except this machine."""
    entries = [entry for name in EXCEPT for entry in _entries(environ.get(name, ""))]
    value = ",".join(dict.fromkeys([*entries, *HERE]))
    return dict.fromkeys(EXCEPT, value)


def _entries(value: str) -> list[str]:
    return [entry for entry in value.replace(",", " ").split() if entry]
