"""Completion of `fab` in bash, zsh and fish: words from a file, without starting Python.

`fab completion SHELL` prints what a shell loads. At each Tab one awk (words.awk, as POSIX has it) reads the
file of the present directory. Where the inventory is newer than the file, `fab completion refresh` writes it
anew in the background; what it said until then is shown meanwhile.

Lines of the file, tab-separated: `stale PATH` (its source), `verb NAME TEXT`, `word VERB NAME KINDS TEXT`,
`option VERB NAME KIND TEXT`, and `value KIND NAME`. A kind is `host`, `region`, `class`, `limit`, `model`,
`client`, `fault`, `file`, `any`, or empty for what takes no value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from invoke.collection import Collection

from ds4fleet import console
from ds4fleet.cli import helping
from ds4fleet.cli.verb import Verb
from ds4fleet.errors import OperatorError
from ds4fleet.state import state_dir, write_atomically

#: What an option takes, by its name; others take any text.
KINDS = {
    **dict.fromkeys(("host", "canary"), "host"),
    **dict.fromkeys(("region", "regions", "then"), "region"),
    **dict.fromkeys(("from", "facts", "save", "key", "file"), "file"),
    "class": "class",
    "limit": "limit",
    "model": "model",
    "client": "client",
}
#: The same of words behind a word.
WORD_KINDS = {"HOST": "host", "HOST|operator": "host", "FILE|URL": "file"}


def path(directory: Path | None = None) -> Path:
    """The file of a directory (the present one). The shells make the same name."""
    place = str(directory or Path.cwd()).replace("/", "%")
    return state_dir() / "completion" / place


def refresh(verbs: Collection) -> int:
    """Writes the file of the present directory; returns the exit code."""
    from ds4fleet.agents.clients import CLIENTS
    from ds4fleet.catalogue import read as catalogue
    from ds4fleet.inventory.fleet import Fleet
    from maclab.faults import FAULTS

    try:
        fleet = Fleet.load()
    except OperatorError:
        fleet = Fleet((), ())
    classes = dict.fromkeys(host.hardware_class for host in fleet if host.hardware_class)
    values = {
        "host": [host.name for host in fleet],
        "region": list(fleet.regions),
        "class": list(classes),
        "limit": ["all", *fleet.regions, *classes, *(host.name for host in fleet)],
        "model": list(catalogue.load(sorted({one for host in fleet for one in host.catalogue})).models),
        "client": list(CLIENTS),
        "fault": list(FAULTS),
    }
    rows: list[tuple[str, ...]] = [("stale", str(one)) for one in _sources()]
    rows += _of_verbs(verbs)
    rows += [("value", kind, name) for kind, names in values.items() for name in names]
    place = path()
    place.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomically(place, "".join("\t".join(console.line(cell) for cell in row) + "\n" for row in rows))
    return 0


def script(shell: str) -> str:
    """What a shell is to load."""
    here = Path(__file__).parent
    text = (here / f"fab.{shell}").read_text(encoding="utf-8")
    words = (here / "words.awk").read_text(encoding="utf-8")
    return text.replace("@AWK@", words).replace("@STATE@", str(state_dir()))


def _sources() -> Iterator[Path]:
    """Files whose change can change an answer: the inventory and its variables."""
    named = os.environ.get("ANSIBLE_INVENTORY", "")
    if not named and Path("ansible.cfg").is_file():
        found = re.search(r"^inventory\s*=\s*(.+)$", Path("ansible.cfg").read_text(), re.MULTILINE)
        named = found[1].strip() if found else ""
    for one in filter(None, named.split(",")):
        place = Path(one).expanduser().absolute()
        yield place
        if place.is_dir():
            yield from sorted(found for found in place.rglob("*") if not found.name.startswith("."))
    yield Path("ansible.cfg").absolute()


def _of_verbs(verbs: Collection) -> Iterator[tuple[str, ...]]:
    for name, verb in helping.named(verbs):
        yield ("verb", name, helping.summary(verb))
        for word, one in (verb.known or {}).items():
            kinds = [_word_kind(name, kind) for kind in one.takes.split()]
            yield ("word", name, word, ",".join(kinds), one.does)
        for option, value, text in options(verb):
            yield ("option", name, option, KINDS.get(option[2:], "any") if value else "", text)


def _word_kind(verb: str, takes: str) -> str:
    return "fault" if (verb, takes) == ("lab", "NAME") else WORD_KINDS.get(takes, "any")


def options(verb: Verb) -> Iterator[tuple[str, bool, str]]:
    """(--name, whether it takes a value, what it is) for each option of a verb."""
    for one in verb.get_arguments():
        if not one.positional:
            name = str(one.name).strip("_").replace("_", "-")
            yield f"--{name}", one.kind is not bool, helping.described(name, verb)
