"""The Macs of a new fleet: from a table of comma-separated values, or by question."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.names import ADDRESS, HOST, REMOTE_USER, TIME_ZONE
from maclab.errors import LabError
from maclab.machine.products import Machine, parse

NEEDED = ("name", "region", "address", "mac")
MORE = ("user", "port", "timezone", "class")
#: A group of Ansible that a playbook can name.
GROUP = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
#: Names of groups that mean something else.
TAKEN = frozenset({"all", "ungrouped", "regions", "classes", "localhost"})
#: A table of 500 Macs has 50 kB.
MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class NewMac:
    """One Mac. port: of ssh, 0 for ssh's own; user, timezone, hardware_class: "" where they are not given."""

    name: str
    region: str
    address: str
    machine: Machine
    user: str = ""
    port: int = 0
    timezone: str = ""
    hardware_class: str = ""


def read_table(path: Path) -> list[NewMac]:
    """The Macs of a file whose first line names the columns. Raises OperatorError that names the line."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise _wrong(path, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _wrong(path, "it is not UTF-8") from None
    if len(data) > MOST_BYTES:
        raise _wrong(path, f"it has more than {MOST_BYTES:,} bytes")
    rows = csv.reader(text.splitlines(), strict=True)
    try:
        head = [name.strip().lower() for name in next(rows, [])]
        _judge_head(path, head)
        macs = []
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(head):
                raise OperatorError(
                    f"{where}: {len(row)} cells where the first line names {len(head)} columns",
                    exit_code=EXIT_USAGE,
                )
            macs.append(made(dict(zip(head, (cell.strip() for cell in row), strict=True)), where))
    except csv.Error as error:
        raise _wrong(path, f"line {rows.line_num}: {error}") from None
    judge(macs, str(path))
    return macs


def _judge_head(path: Path, head: list[str]) -> None:
    missing = [name for name in NEEDED if name not in head]
    unknown = [name for name in head if name not in (*NEEDED, *MORE)]
    if missing or unknown or len(set(head)) != len(head):
        what = (
            f"it has no column {missing[0]}"
            if missing
            else f"it has a column {unknown[0]!r}"
            if unknown
            else "a column stands there twice"
        )
        raise _wrong(path, f"{what}; the first line is {','.join(NEEDED)} and any of {','.join(MORE)}")


def made(row: Mapping[str, str], where: str) -> NewMac:
    """A Mac of these cells. Raises OperatorError for one that is not what its column is for."""

    def refuse(column: str, words: str) -> OperatorError:
        return OperatorError(
            f"{where}: {column} is {row.get(column, '')!r}; it must be {words}", exit_code=EXIT_USAGE
        )

    for column, kind in (("name", HOST), ("address", ADDRESS)):
        if not kind.takes(row[column]):
            raise refuse(column, kind.words)
    for column, optional in (("user", REMOTE_USER), ("timezone", TIME_ZONE)):
        if row.get(column) and not optional.takes(row[column]):
            raise refuse(column, optional.words)
    for column in ("region", "class"):
        given = row.get(column, "")
        if (given or column == "region") and (not GROUP.fullmatch(given) or given in TAKEN):
            raise refuse(column, "a group's name: letters, digits and _, such as tokyo")
    port = row.get("port", "")
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise refuse("port", "the port of its ssh server")
    try:
        machine = parse(row["mac"])
    except LabError as error:
        raise OperatorError(f"{where}: {error}", exit_code=EXIT_USAGE) from None
    return NewMac(
        row["name"],
        row["region"],
        row["address"],
        machine,
        row.get("user", ""),
        int(port or 0),
        row.get("timezone", ""),
        row.get("class", ""),
    )


def judge(macs: list[NewMac], where: str) -> None:
    """Raises OperatorError for Macs that cannot be one fleet."""
    if not macs:
        raise OperatorError(f"{where}: it names no Mac", exit_code=EXIT_USAGE)
    names: set[str] = set()
    regions = {mac.region for mac in macs}
    zones: dict[str, str] = {}
    classes: dict[str, Machine] = {}
    for mac in macs:
        if mac.name in names:
            raise OperatorError(f"{where}: {mac.name} stands there twice", exit_code=EXIT_USAGE)
        names.add(mac.name)
        if mac.name in regions or mac.hardware_class in regions:
            other = mac.name if mac.name in regions else mac.hardware_class
            raise OperatorError(f"{where}: {other} is a region, so nothing else may be called so",
                                exit_code=EXIT_USAGE)  # fmt: skip
        if mac.timezone and zones.setdefault(mac.region, mac.timezone) != mac.timezone:
            raise OperatorError(f"{where}: {mac.region} has two time zones", exit_code=EXIT_USAGE)
        if mac.hardware_class and classes.setdefault(mac.hardware_class, mac.machine) != mac.machine:
            raise OperatorError(f"{where}: the class {mac.hardware_class} has two kinds of Macs",
                                exit_code=EXIT_USAGE)  # fmt: skip
    both = names & classes.keys()
    if both:
        raise OperatorError(f"{where}: {min(both)} is a Mac and a class", exit_code=EXIT_USAGE)


def by_question(ask: Callable[[str], str], say: Callable[[str], None]) -> list[NewMac]:
    """The same from a person. ask: a question and its answer. A mistake is said, and the question comes
    again."""
    regions = _regions(ask, say)
    macs: list[NewMac] = []
    for region in regions:
        say(f"{region}: one Mac a line, as in `{region[:3]}-01 192.0.2.11 Mac Studio M4 Max 128 GB 2 TB`;"
            " an empty line ends")  # fmt: skip
        for line in _lines(ask, f"{region}> "):
            name, rest = (*line.split(None, 1), "")[:2]
            address, mac = (*rest.split(None, 1), "", "")[:2]
            try:
                one = made({"name": name, "region": region, "address": address, "mac": mac}, name)
                judge([*macs, one], region)
            except OperatorError as error:
                say(error.sentence)
                continue
            macs.append(one)
    judge(macs, "this fleet")
    return macs


def _regions(ask: Callable[[str], str], say: Callable[[str], None]) -> list[str]:
    while True:
        names = [name.strip() for name in ask("Regions, as in tokyo, us_west: ").split(",") if name.strip()]
        wrong = [name for name in names if not GROUP.fullmatch(name) or name in TAKEN]
        if wrong:
            say(f"{wrong[0]!r} is not a group's name: letters, digits and _, such as tokyo")
        elif names:
            return list(dict.fromkeys(names))


def _lines(ask: Callable[[str], str], prompt: str) -> Iterator[str]:
    while line := ask(prompt).strip():
        yield line


def classes_of(macs: Iterable[NewMac]) -> dict[str, list[NewMac]]:
    """{class: its Macs}: as they were given, or called by product and memory, and by more where two kinds
    would have one name."""
    found: dict[str, list[NewMac]] = {}
    unnamed: dict[Machine, list[NewMac]] = {}
    for mac in macs:
        if mac.hardware_class:
            found.setdefault(mac.hardware_class, []).append(mac)
        else:
            unnamed.setdefault(mac.machine, []).append(mac)
    forms = (
        "{0.product}_{0.memory_gb}",
        "{0.product}_{0.chip}_{0.memory_gb}",
        "{0.product}_{0.chip}_{0.memory_gb}_{0.storage_gb}",
    )
    for machine, of_it in unnamed.items():
        others = [one for one in unnamed if one != machine]
        names = (
            (_group(form.format(machine)), {_group(form.format(one)) for one in others}) for form in forms
        )
        name = next(name for name, taken in names if name not in taken and name not in found)
        found[name] = of_it
    return found


def _group(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower())


def _wrong(path: Path, what: str) -> OperatorError:
    return OperatorError(f"{path}: {what}", exit_code=EXIT_USAGE)
