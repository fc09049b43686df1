"""What a fault is, and the kinds of fault by where they act.

A fault is an object: it says what the Mac then does, it changes what must be changed when it is switched,
and who misbehaves asks it (`SLOW_BOOTOUT.active(names)`). It knows the lab and the Mac only as `Target` and
`Inside`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol


class Tools(Protocol):
    """The Command Line Tools of a saved Mac."""

    installed: bool
    taken_away: bool
    """A fault has removed them."""


class Saved(Protocol):
    """A saved Mac (`machine.model.Mac`), as far as faults change it."""

    filevault: str
    full_disk_access: bool

    @property
    def toolchain(self) -> Tools:
        """Its Command Line Tools."""


class Target(Protocol):
    """A Mac of a lab from outside, as faults act on it."""

    def tell(self, op: str) -> None:
        """Tell process 1 of the Mac to carry out `op`."""

    def settle(self) -> None:
        """Let the Mac run `settle` of every fault."""

    def relink(self) -> None:
        """Apply the faults of the Mac's link."""

    def upstream(self, name: str, rule: Mapping[str, Any], on: bool) -> None:
        """Bind a rule of the fake upstreams to this Mac's requests, or take it back."""

    def power_cut(self) -> None:
        """Take the power away without warning, and give it back."""

    def reboot(self) -> None:
        """Shut the Mac down in order and boot it again."""


class Inside(Protocol):
    """A Mac from inside, where faults change its disks."""

    @property
    def mac(self) -> Saved:
        """The saved Mac, locked."""

    def set_tools(self, there: bool) -> None:
        """Take the Command Line Tools away, or put them back."""

    def fill(self, full: bool) -> None:
        """Take all free space of macOS's container, or give it back."""


@dataclass(frozen=True)
class Fault:
    """One thing that can go wrong. `source`: where real Macs, servers or lines were seen to do so."""

    name: str
    does: str
    """What the Mac then does, in one sentence."""
    source: str

    where: ClassVar[str]
    """Where it acts: command, launchd, engine, link, upstreams or power."""
    needs_running: ClassVar[bool] = False
    """It can only be switched on while the Mac is up."""
    momentary: ClassVar[bool] = False
    """It happens once, when it is switched on, and cannot be switched off."""

    @property
    def needs(self) -> str:
        """What it needs to be switched on, for people."""
        return "a Mac that is up" if self.needs_running or self.momentary else "nothing"

    def active(self, names: Collection[str]) -> bool:
        """Whether it is among the faults that are on."""
        return self.name in names

    def shape(self, mac: Saved, on: bool) -> None:
        """Change the saved Mac at a switch, before anything that runs hears of it."""

    def outside(self, target: Target, on: bool) -> None:
        """Act outside the Mac at a switch, whether the Mac is up or not."""

    def inside(self, target: Target, on: bool) -> None:
        """Act on a Mac that is up and knows of the switch by now."""

    def settle(self, inside: Inside, on: bool) -> None:
        """From inside: make the Mac's disks agree with the fault. Doing it twice changes nothing more."""


class CommandFault(Fault):
    """A simulated command misbehaves: it asks the fault."""

    where = "command"


class DiskFault(CommandFault):
    """It changes the Mac's disks when it is switched; a subclass says how under `settle`."""

    needs_running = True

    def inside(self, target: Target, on: bool) -> None:
        target.settle()


class LaunchdFault(Fault):
    """Process 1 misbehaves: launchd, or what mounts the volumes at boot."""

    where = "launchd"


class EngineFault(Fault):
    """The stand-in engine misbehaves: it looks for the file /.lab/run/faults/<name>."""

    where = "engine"


@dataclass(frozen=True)
class LinkFault(Fault):
    """The Mac's link is worse than it is set to be."""

    where = "link"
    change: Mapping[str, Any] = field(default_factory=dict)
    """Fields of LinkSettings."""

    def inside(self, target: Target, on: bool) -> None:
        target.relink()


@dataclass(frozen=True)
class UpstreamFault(Fault):
    """github.com or huggingface.co misbehave for this Mac's requests."""

    where = "upstreams"
    rule: Mapping[str, Any] = field(default_factory=dict)
    """A rule of maclab.upstreams.rules, without name and client."""

    def outside(self, target: Target, on: bool) -> None:
        target.upstream(self.name, self.rule, on)


class PowerFault(Fault):
    """Power, sleep and the locked boot."""

    where = "power"


class Momentary(PowerFault):
    """It happens once; a subclass says how."""

    momentary = True

    def happen(self, target: Target) -> None:
        """Let it happen now."""
        raise NotImplementedError
