"""All that a plan is made from: variables read, what was observed, the catalogue, the Mac itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ds4fleet.catalogue.read import Catalogue, load
from ds4fleet.components import base
from ds4fleet.errors import OperatorError
from ds4fleet.layout import Paths
from ds4fleet.plan.settings import Reader, Settings, read_settings
from ds4fleet.sizing.estimate import MIB
from ds4fleet.sizing.types import Mac


@dataclass(frozen=True)
class Known:
    """variables: the host's, with the role's defaults. settings: those that decide a plan. seen: None plans
    from `ds4_hardware` alone. targets: of a jump Mac; None where they are not known."""

    host: str
    variables: Mapping[str, object]
    seen: base.Seen
    catalogue: Catalogue
    read: Reader
    declared: Mapping[str, object]
    settings: Settings
    mac: Mac
    targets: base.Targets | None

    @property
    def paths(self) -> Paths:
        return Paths(str(self.variables["ds4_root"]))


def known(
    host: str,
    variables: Mapping[str, object],
    seen: base.Seen,
    catalogue: Catalogue | None,
    targets: base.Targets | None,
) -> Known:
    """Reads the variables. Raises OperatorError for the first that is invalid, and for a Mac of whose
    memory nothing is known."""
    read = Reader(variables)
    catalogue = catalogue or load(read.names("ds4_catalogue"))
    declared = read.mapping("ds4_hardware")
    settings = read_settings(read)
    mac = _mac(host, declared, settings, seen)
    return Known(host, variables, seen, catalogue, read, declared, settings, mac, targets)


def _mac(host: str, declared: Mapping[str, object], settings: Settings, seen: base.Seen) -> Mac:
    live = (seen or base.NOTHING).memory
    size = (seen or base.NOTHING).hardware.memsize_bytes
    if not size:
        gigabytes = declared.get("memory_gb")
        if not isinstance(gigabytes, int) or gigabytes <= 0:
            raise OperatorError(
                "its memory is not known: declare ds4_hardware (memory_gb) or let the Mac be observed"
            )
        size = gigabytes << 30
    return Mac(
        memory_mib=size // MIB,
        stock_limit_mib=live.stock_limit_mib,
        wired_limit_mib=live.wired_limit_mib,
        desktop=settings.desktop,
        other_metal=(seen or base.NOTHING).other_metal,
        name=host,
    )
