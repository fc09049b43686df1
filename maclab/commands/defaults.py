"""defaults: preference domains, kept as the property lists that macOS keeps them in.

Sources: reference 6 (com.apple.SoftwareUpdate), defaults(1). Confidence A for read of a missing key
(status 1, text), B for the rest. A domain that is a path is that file; a name is the caller's
~/Library/Preferences/NAME.plist.
"""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any

from maclab.commands.info import CommandInfo
from maclab.commands.plutil import tree
from maclab.machine.context import Context

INFO = CommandInfo(
    name="defaults",
    paths=("/usr/bin/defaults",),
    source="defaults(1)",
    confidence="A (missing keys), B",
    does="read, read-type, write with -bool -int -float -string -array -dict, delete, rename, domains "
    "and paths",
    lacks="-currentHost, -app, import, export, find; cfprefsd's cache",
)


def _file(ctx: Context, domain: str) -> Path:
    if domain in ("NSGlobalDomain", "-g", "-globalDomain"):
        domain = ".GlobalPreferences"
    if domain.startswith(("/", "~")):
        path = domain.replace("~", ctx.env.get("HOME", "/var/root"), 1)
        return Path(path if path.endswith(".plist") else f"{path}.plist")
    return Path(ctx.env.get("HOME", "/var/root"), "Library/Preferences", f"{domain}.plist")


def _load(ctx: Context, path: Path) -> dict[str, Any]:
    try:
        with ctx.as_caller():
            data = plistlib.loads(path.read_bytes())
    except (OSError, plistlib.InvalidFileException):
        return {}
    return dict(data)


def _save(ctx: Context, path: Path, data: dict[str, Any]) -> bool:
    try:
        with ctx.as_caller():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(plistlib.dumps(data, fmt=plistlib.FMT_BINARY))
    except OSError:
        ctx.err(f"Could not write domain {str(path).removesuffix('.plist')}; exiting")
        return False
    return True


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return tree(value).replace(" => ", " = ") if isinstance(value, (dict, list)) else str(value)


def main(ctx: Context) -> int:
    """Run one verb on one domain."""
    words = list(ctx.args)
    if words[:1] in (["-currentHost"], ["-host"]):
        return ctx.unsupported(words[0])
    if len(words) < 2:
        return ctx.unsupported(" ".join(words) or "(none)")
    verb, domain, rest = words[0], words[1], words[2:]
    path = _file(ctx, domain)
    data = _load(ctx, path)
    if verb in ("read", "read-type"):
        return _read(ctx, verb, domain, data, rest[:1])
    if verb == "write" and len(rest) >= 2:
        value = _value(rest[1:])
        if value is None:
            return ctx.unsupported(f"write {rest[1]}")
        data[rest[0]] = value
        return 0 if _save(ctx, path, data) else 1
    if verb == "delete":
        if rest and rest[0] not in data:
            ctx.err("Domain (" + domain + ") not found.", "Defaults have not been changed.")
            return 1
        if rest:
            del data[rest[0]]
        else:
            data = {}
        return 0 if _save(ctx, path, data) else 1
    return ctx.unsupported(verb)


def _read(ctx: Context, verb: str, domain: str, data: dict[str, Any], key: list[str]) -> int:
    """Print a domain or the value (for read-type the type) of the key that is in `key`."""
    if not key and not data and verb == "read":
        ctx.err(f"Domain {domain} does not exist")
        return 1
    if key[0] not in data if key else verb == "read-type":
        ctx.err(f"The domain/default pair of ({domain}, {key[0] if key else ''}) does not exist")
        return 1
    value = data[key[0]] if key else data
    if verb == "read":
        ctx.out(_show(value))
    else:
        names = {"bool": "boolean", "int": "integer", "str": "string", "dict": "dictionary", "list": "array"}
        kind = type(value).__name__
        ctx.out(f"Type is {names.get(kind, kind)}")
    return 0


def _value(words: list[str]) -> Any:
    kind = words[0]
    text = words[1] if len(words) > 1 else ""
    if kind in ("-bool", "-boolean"):
        return text.lower() in ("true", "yes", "1")
    if kind in ("-int", "-integer"):
        return int(text)
    if kind == "-float":
        return float(text)
    if kind == "-string":
        return text
    if kind == "-array":
        return words[1:]
    if kind == "-dict":
        return dict(zip(words[1::2], words[2::2], strict=False))
    return None if kind.startswith("-") else kind
