"""What a plan puts on a Mac, piece by piece: files, jobs. As JSON they are what the modules take."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields

from ds4agent.border import shaped

#: Keys that a module always gets, whatever they have.
_ALWAYS = ("content", "target", "validate", "mode", "owner", "group")


@dataclass(frozen=True)
class FileEntry:
    """What is to be at a path; root's own unless it says otherwise.

    kind: file, dir, link or absent. A file without `content` must exist while its content is not ours (logs),
    or has `source` (a program or script of ours) and its `sha256`: the action ds4_files puts it in. mode:
    octal digits. recursive: a directory goes with all that is in it.
    """

    path: str
    kind: str
    content: str | None = None
    target: str | None = None
    validate: str | None = None
    mode: str | None = None
    owner: str = "root"
    group: str = "wheel"
    stage: str = "service"
    recursive: bool = False
    source: str | None = None
    sha256: str | None = None

    @classmethod
    def from_json(cls, value: object) -> FileEntry:
        """An entry of a plan as JSON, which leaves out what is usual. Raises ModelError."""
        return shaped.read(cls, value, "an entry of the plan's files")

    def to_json(self) -> dict[str, object]:
        """Without the keys that have their usual values."""
        usual = {one.name: one.default for one in fields(self) if one.name != "stage"}
        return {key: value for key, value in asdict(self).items() if value != usual.get(key, MISSING)}

    def arguments(self) -> dict[str, object]:
        """As the module ds4_files takes it."""
        return {**{key: getattr(self, key) for key in _ALWAYS}, **self.to_json()}


@dataclass(frozen=True)
class Job:
    """A launchd job. state: started, loaded or absent; restart_on: paths whose change restarts it."""

    label: str
    plist: str
    state: str
    restart_on: tuple[str, ...]
    stage: str

    @classmethod
    def from_json(cls, value: object) -> Job:
        """A job of a plan as JSON. Raises ModelError."""
        return shaped.read(cls, value, "a job of the plan")
