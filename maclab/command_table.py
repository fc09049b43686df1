"""docs/lab-commands.md, made from the registry: `python -m maclab.command_table` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maclab.commands import REGISTRY
from maclab.commands.info import CommandInfo
from maclab.data_files import load_yaml

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "lab-commands.md"


@dataclass(frozen=True)
class NotReplayed:
    """What of a recording no simulated Mac prints (how its lines begin; nothing = all of it), and why."""

    recording: str
    why: str
    lacks: tuple[str, ...] = ()


_NOT_REPLAYED = Path(__file__).parent / "data" / "recordings.yml"
NOT_REPLAYED: dict[str, NotReplayed] = {
    entry["recording"]: NotReplayed(entry["recording"], entry["why"], tuple(entry.get("lacks", ())))
    for entry in load_yaml(_NOT_REPLAYED)
}
"""By the recording's path below tests/recordings."""

_HEAD = """\
# The commands of a simulated Mac

Made from the headers of the commands by `python -m maclab.command_table`; do not edit.

Each command prints the recorded text, on the recorded stream, with the recorded exit status. Recordings
are in `tests/recordings/`, and the tests in `tests/unit/maclab/` put a Mac into the recorded state and
compare. An option that is not simulated ends with status 64 and one line that names it, so a gap is seen
and never passes silently.

Confidence: **A** recorded on a current macOS or stated by Apple's manual page; **B** one source, an older
release, or a strong inference; **C** general knowledge. B and C are questions for a first real Mac; those
that change what a command does are the fields of `Quirks` in `maclab/machine/model.py`. Found a difference?
Change the file named in the last column and add the recording.

| command | on macOS | simulated | not simulated | follows | confidence | file |
| --- | --- | --- | --- | --- | --- | --- |
"""
_RECORDINGS = """\

## Recorded and not simulated

Every other line of every recording is printed by a simulated Mac;
`tests/unit/maclab/test_replay.py` holds both that and this list, which is `maclab/data/recordings.yml`.

| recording | lines that begin with | why not |
| --- | --- | --- |
"""
_SEAMS = """\

## Real tools of this machine

Programs whose BSD and GNU forms agree for what a role uses are this machine's own: bash (also as
`/bin/sh`, and as `/bin/zsh` where no zsh is installed), curl, tar, gzip, awk, find, grep, openssl, ssh,
sudo, perl and the small file tools. `timeout`, `flock`, `nproc`, `free`, `ip`, `ss`, `lsblk` are absent,
as on a Mac. After the Command Line Tools have been installed, git, make and the compiler are this
machine's too, and python3 is a Python 3.9 when this machine has one, else the one that the lab runs on;
it says `sys.platform == "darwin"`.

## Where the simulation shows

- `/usr/lib`, `/lib`, `/lib64` are this machine's, because its programs need them; `/proc` exists; `/run`
  is a link.
- bash is newer than Apple's 3.2; `chmod +a` is accepted without effect; PAM modules have Linux names.
- File sizes, `du` and statvfs(2) on an added volume show the stand-in's bytes (real size / 4096);
  `diskutil`, `df` and `system_profiler` show real sizes. A writer gets EDQUOT at a quota and ENOSPC when
  the container is full.
- A forced unmount detaches the volume; a process that still has a file open there goes on with it.
- An ownership setting of a volume (`enableOwnership`) is told, not enforced.
"""


def markdown() -> str:
    """The whole document."""
    rows = "".join(_row(info) for info in REGISTRY.values() if not info.paths[0].startswith("/.lab"))
    lacking = "".join(_lacking(entry) for entry in NOT_REPLAYED.values())
    return _HEAD + rows + _RECORDINGS + lacking + _SEAMS


def _lacking(entry: NotReplayed) -> str:
    what = ", ".join(f"`{' '.join(start.split())}`" for start in entry.lacks) or "the whole recording"
    return f"| `{entry.recording}` | {what} | {entry.why} |\n"


def _row(info: CommandInfo) -> str:
    file = "/".join(info.module.split(".")) + ".py"
    cells = [f"`{info.name}`", ", ".join(f"`{path}`" for path in info.paths)]
    cells += [info.does, info.lacks or "-", info.source, info.confidence, f"`{file}`"]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |\n"


if __name__ == "__main__":
    DOCUMENT.write_text(markdown())
