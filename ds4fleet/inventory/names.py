"""What the names of an inventory may consist of, checked before anything reaches a Mac. Pure.

Names from variables become words of dscl, diskutil, sshd, sudoers, launchd, newsyslog and fstab, each with
signs of its own. A name that passes its grammar here means itself in all of them.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import combinations
from typing import Any

from ds4fleet.inventory import renamed
from ds4fleet.inventory.public_keys import parse_key

#: The accounts that we make on a Mac: the variable with the name of each.
OWN_ACCOUNTS = ("ds4_service_user", "ds4_tunnel_user", "ds4_seed_user")
#: Of people and of macOS itself. Apple's daemons (`_www`) are found on the Mac, where their records are.
TAKEN = frozenset(
    [
        "root",
        "admin",
        "administrator",
        "daemon",
        "nobody",
        "guest",
        "wheel",
        "staff",
        "operator",
        "everyone",
        "sys",
        "kmem",
        "tty",
        "mail",
        "bin",
        "procview",
        "procmod",
        "owner",
        "group",
        "utmp",
        "localaccounts",
        "netaccounts",
        "consoleusers",
        "interactusers",
        "authedusers",
        "certusers",
        "accessibility",
        "network",
    ]
)
#: Volumes that every Mac has.
SYSTEM_VOLUMES = frozenset(
    ["macintosh hd", "macintosh hd - data", "data", "system", "preboot", "recovery", "update", "vm", "xart"]
    + ["hardware", "iscpreboot"]
)


@dataclass(frozen=True)
class Grammar:
    """What a value may look like, and the same in words."""

    pattern: str
    words: str

    def takes(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None


OWN_ACCOUNT = Grammar(
    r"_?[a-z](?:[a-z0-9_-]{0,29}[a-z0-9])?", "lower-case letters, digits, _ and -, such as _ds4 (31 at most)"
)
#: In capitals alone it would be an alias in sudoers, which has words of its own, too.
LOGIN = Grammar(
    r"(?![A-Z][A-Z0-9_]*\Z|Defaults\Z|\w+_Alias\Z)[A-Za-z_](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?",
    "letters, digits, . _ and -, not capitals alone",
)
#: Also of a directory: ssh alone reads it.
REMOTE_USER = Grammar(r"[A-Za-z0-9_][!-~]{0,99}", "a user name without blanks")
VOLUME = Grammar(
    r"(?!disk\d)[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,61}[A-Za-z0-9._-])?",
    "letters, digits, blanks, . _ and -, such as ds4-models (63 at most)",
)
CONTAINER = Grammar(
    r"auto|(?:/dev/)?disk\d{1,4}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "auto, a reference such as disk3, or a UUID",
)
TIME_ZONE = Grammar(
    r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9][A-Za-z0-9_+-]*){0,2}", "a time zone such as Asia/Tokyo"
)
HOST = Grammar(
    r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_-])?", "letters, digits, . _ and -, such as tyo-01"
)
ADDRESS = Grammar(
    r"[A-Za-z0-9_:\[][A-Za-z0-9._:%\[\]-]{0,254}", "a DNS name or an address, without user and port"
)
MAC_PATH = Grammar(
    r"(?!.*(?:/|\A)\.\.?(?:/|\Z))/[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,1000}", "a whole path without . and .."
)
REPOSITORY = Grammar(
    r"(?:https?|ssh|git|file)://[!-~]+|/[!-~]+|(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?!:)[!-~]+",
    "a URL of https, http, ssh, git or file, a path, or user@host:path",
)
USER = Grammar(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,299}", "letters, digits, . _ @ and -")
POWER_KEY = Grammar(r"[a-z][a-z0-9]{0,39}", "a setting of pmset")

#: The grammar of each variable that holds one name; those that may also be empty or unset.
KINDS: Mapping[str, Grammar] = {
    **dict.fromkeys(OWN_ACCOUNTS, OWN_ACCOUNT),
    "ds4_bootstrap_user": LOGIN,
    "ds4_storage_models_volume": VOLUME,
    "ds4_storage_kv_volume": VOLUME,
    "ds4_storage_container": CONTAINER,
    "ds4_timezone": TIME_ZONE,
    "ds4_prefetch_address": ADDRESS,
    "ds4_weights_token_file": MAC_PATH,
    "ds4_engine_repo": REPOSITORY,
}
EMPTY = ("ds4_bootstrap_user", "ds4_timezone", "ds4_prefetch_address", "ds4_weights_token_file")
#: Text that goes to a Mac as it is, alone or as a list.
TEXTS = ("ds4_server_extra_args", "ds4_engine_make_args", "ds4_weights_sources", "ds4_known_hosts")
PROSE = ("ds4_verify_prompt", "ds4_verify_expect", "ds4_memory_override")
PORTS = ("ds4_tunnel_port", "ds4_region_port")
#: Below, only root may listen, and the tunnel account would be let in to a service of macOS.
FIRST_PORT = 1024


def mistakes(
    settings: Mapping[str, object], *, host: str = "", login: str = "", templated: bool = True
) -> list[str]:
    """One sentence per variable with an old name and per name that is not of its kind; [] when all are.

    settings: variables that begin with ds4_, defaults where they are not given. host: the inventory name.
    login: the administrator's account on the Mac, where it is known. templated: False for variables as the
    inventory has them, in which a template says nothing yet.
    """
    renames = renamed.refusals(settings)
    if not templated:
        settings = {name: value for name, value in settings.items() if "{{" not in str(value)}
    return [
        *_host(host),
        *renames,
        *_kinds(settings),
        *_accounts(settings, login),
        *_volumes(settings),
        *_zone(settings),
        *_keys(settings),
        *_users(settings),
        *_texts(settings),
        *_numbers(settings),
    ]


def _host(host: str) -> Iterator[str]:
    if host and not HOST.takes(host):
        yield f"the inventory name {host!r} is not valid: {HOST.words}"


def _kinds(settings: Mapping[str, object]) -> Iterator[str]:
    for name, kind in KINDS.items():
        value = settings.get(name)
        if name not in settings or (name in EMPTY and value in ("", None)):
            continue
        if not isinstance(value, str) or not kind.takes(value):
            yield f"{name} is {value!r}; it must be {kind.words}"


def _accounts(settings: Mapping[str, object], login: str) -> Iterator[str]:
    named = {name: str(settings[name]) for name in OWN_ACCOUNTS if settings.get(name)}
    for name, value in named.items():
        if value.lower() in TAKEN:
            yield f"{name} is {value!r}, an account of macOS or of a person; choose a name of its own"
    for (one, value), (other, same) in combinations(named.items(), 2):
        if value.lower() == same.lower():
            yield f"{one} and {other} are both {value!r}; each needs an account of its own"
    people = {"ds4_bootstrap_user": str(settings.get("ds4_bootstrap_user") or ""), "ansible_user": login}
    for (name, value), (whose, person) in ((n, p) for n in named.items() for p in people.items()):
        if person and value.lower() == person.lower():
            yield f"{name} is {value!r}, by which you log in ({whose}); choose a name of its own"


def _volumes(settings: Mapping[str, object]) -> Iterator[str]:
    names = [name for name in ("ds4_storage_models_volume", "ds4_storage_kv_volume") if name in settings]
    values = [str(settings[name]).lower() for name in names]
    for name, value in zip(names, values, strict=True):
        if value in SYSTEM_VOLUMES:
            yield f"{name} is {settings[name]!r}, a volume of macOS; choose a name of its own"
    if len(values) == 2 and values[0] == values[1]:
        yield f"{names[0]} and {names[1]} are both {settings[names[0]]!r}; weights and KV need one each"


def _zone(settings: Mapping[str, object]) -> Iterator[str]:
    name = settings.get("ds4_timezone")
    if not isinstance(name, str) or not TIME_ZONE.takes(name) or not _zones() or name in _zones():
        return
    near = get_close_matches(name, _zones(), n=1)
    hint = f"did you mean {near[0]}?" if near else "write it as Asia/Tokyo"
    yield f"ds4_timezone {name!r} is no time zone; {hint}"


@cache
def _zones() -> frozenset[str]:
    """Those that this machine knows; a controller without zone data leaves it to the Mac."""
    return frozenset(zoneinfo.available_timezones())


def _keys(settings: Mapping[str, object]) -> Iterator[str]:
    for name in ("ds4_tunnel_keys", "ds4_admin_keys"):
        for text in _listed(settings.get(name)):
            yield from _key(text, name)


def _key(text: Any, where: str) -> Iterator[str]:
    try:
        parse_key(str(text))
    except ValueError as error:
        yield f"{where} holds an entry that is not one public key: {str(text)[:20]!r}: {error}"


def _users(settings: Mapping[str, object]) -> Iterator[str]:
    entries = settings.get("ds4_access")
    for user, entry in entries.items() if isinstance(entries, Mapping) else ():
        if not isinstance(user, str) or not USER.takes(user):
            yield f"ds4_access: {user!r} is not a valid user name: {USER.words}"
            continue
        for text in _listed(entry.get("keys")) if isinstance(entry, Mapping) else ():
            yield from _key(text, f"ds4_access: {user}")


def _texts(settings: Mapping[str, object]) -> Iterator[str]:
    for name in TEXTS:
        if any(not _is_line(str(text)) for text in _listed(settings.get(name))):
            yield f"{name} holds a control character; write each entry as one line of text"
    for name in PROSE:
        if not _is_line(str(settings.get(name) or ""), "\n\t"):
            yield f"{name} holds a control character"


def _is_line(text: str, allowed: str = "") -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return not re.search(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", text.translate(dict.fromkeys(map(ord, allowed)))
    )


def _numbers(settings: Mapping[str, object]) -> Iterator[str]:
    for name in PORTS:
        if not _whole(settings.get(name) or 0, lambda port: 0 <= port <= 65535):
            yield f"{name} is {settings[name]!r}; it must be a port from 1 to 65535, or 0"
    if "ds4_port" in settings and not _whole(settings["ds4_port"], lambda port: FIRST_PORT <= port <= 65535):
        yield f"ds4_port is {settings['ds4_port']!r}; it must be a port from {FIRST_PORT} to 65535"
    power = settings.get("ds4_power")
    for key, value in power.items() if isinstance(power, Mapping) else ():
        if not POWER_KEY.takes(str(key)) or not _whole(value, lambda number: 0 <= number < 1 << 31):
            yield f"ds4_power sets {key!r} to {value!r}; it must be a setting of pmset and a whole number"


def _whole(value: Any, fits: Callable[[int], bool]) -> bool:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        value = int(value)
    return isinstance(value, int) and not isinstance(value, bool) and fits(value)


def _listed(value: Any) -> Sequence[Any]:
    """A list as it is, one text as a list of one."""
    if isinstance(value, list | tuple):
        return value
    return [value] if isinstance(value, str) and value else []
