"""The settings of a Mac: variables of the inventory, read and checked, or one clear sentence. Pure.

Variables come as Ansible merged them, also as text from -e; what is said here is about the variable alone
(`make_plan` puts the host's name in front).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ds4agent import naming
from ds4fleet.components.shapes import Wishes
from ds4fleet.errors import OperatorError

ROLES = ("auto", "serve", "stream", "staging", "jump")
MODES = ("auto", "resident", "streaming")


class Reader:
    """Variables as they come (also as text from -e), or one clear sentence."""

    def __init__(self, variables: Mapping[str, object]) -> None:
        self.vars = variables

    def _bad(self, name: str, what: str) -> OperatorError:
        return OperatorError(f"{name} is {self.vars.get(name)!r}; it must be {what}")

    def choice(self, name: str, options: Sequence[str]) -> str:
        value = self.vars.get(name)
        if value not in options:
            raise self._bad(name, f"one of {', '.join(options)}")
        return str(value)

    def text(self, name: str) -> str:
        value = self.vars.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._bad(name, "a text")
        return value

    def flag(self, name: str) -> bool:
        value = self.vars.get(name)
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
            return value.lower() in ("true", "yes")
        if not isinstance(value, bool):
            raise self._bad(name, "true or false")
        return value

    def mapping(self, name: str) -> Mapping[str, object]:
        value = self.vars.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self._bad(name, "a mapping")
        return value

    def words(self, name: str) -> tuple[str, ...]:
        value = self.vars.get(name)
        if not isinstance(value, list | tuple) or any(isinstance(item, list | dict) for item in value):
            raise self._bad(name, "a list of texts")
        return tuple(str(item) for item in value)

    def names(self, name: str) -> tuple[str, ...]:
        """Like `words`, but a single text stands for a list of one, and nothing but texts will do."""
        value = self.vars.get(name)
        if isinstance(value, str):
            value = [value] if value else []
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise self._bad(name, "a list of texts")
        return tuple(value)

    def auto_int(self, name: str, least: int, most: int | None = None) -> int | None:
        value = self.vars.get(name)
        if value is None or value in ("auto", ""):
            return None
        return self._whole(name, value, least, most, "auto or a whole number")

    def number(self, name: str, least: int, most: int | None = None) -> int:
        return self._whole(name, self.vars.get(name), least, most, "a whole number")

    def _whole(self, name: str, value: Any, least: int, most: int | None, what: str) -> int:
        if isinstance(value, str) and re.fullmatch(r"\d[\d_]*", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._bad(name, what)
        if value < least or (most is not None and value > most):
            raise self._bad(name, f"{what} from {least}" + (f" to {most}" if most is not None else ""))
        return value


@dataclass(frozen=True)
class Settings:
    """The variables that decide a plan, read and checked."""

    role: str
    mode: str
    model: str
    context: int | None
    sessions: int
    wired_limit_mib: int | None
    override: str
    prefill_chunk: int | None
    sidecars: tuple[str, ...]
    kv_budget_mib: int
    desktop: bool
    port: int
    host: str


def read_settings(read: Reader) -> Settings:
    """Read the variables that decide a plan. Raises OperatorError for the first that is invalid."""
    read.choice("ds4_root", naming.ROOTS)
    found = Settings(
        role=read.choice("ds4_role", ROLES),
        mode=read.choice("ds4_mode", MODES),
        model=read.text("ds4_model"),
        context=read.auto_int("ds4_context", least=1),
        sessions=read.number("ds4_sessions", least=1, most=64),
        wired_limit_mib=read.auto_int("ds4_wired_limit_mib", least=1),
        override=read.text("ds4_memory_override").strip(),
        prefill_chunk=read.auto_int("ds4_prefill_chunk", least=1),
        sidecars=read.names("ds4_sidecars"),
        kv_budget_mib=read.number("ds4_kv_budget_mib", least=0),
        desktop=read.flag("ds4_desktop"),
        port=read.number("ds4_port", least=1, most=65535),
        host=read.text("ds4_listen_address"),
    )
    if len(found.sidecars) > 1:
        raise OperatorError("ds4_sidecars names more than one draft head; the engine takes one")
    _listen_address(found.host, read.flag("ds4_listen_public_confirmed"))
    return found


def wishes(read: Reader, found: Settings) -> Wishes:
    """What components go by. Raises OperatorError for the first variable that is invalid."""
    return Wishes(
        root=str(read.vars["ds4_root"]),
        service_user=str(read.vars["ds4_service_user"]),
        tunnel_user=str(read.vars["ds4_tunnel_user"]),
        seed_user=str(read.vars["ds4_seed_user"]),
        weights_method=str(read.vars["ds4_weights_method"]),
        listen_address=found.host,
        port=found.port,
        sessions=found.sessions,
        prefill_chunk=found.prefill_chunk,
        power_percent=read.auto_int("ds4_power_percent", least=1, most=100),
        kv_budget_mib=found.kv_budget_mib,
        start_wait_s=read.number("ds4_start_wait_s", least=0),
        throttle_s=read.number("ds4_throttle_s", least=1),
        exit_timeout_s=read.auto_int("ds4_exit_timeout_s", least=1),
        cors=read.flag("ds4_cors"),
        server_extra_args=read.words("ds4_server_extra_args"),
        tunnel_keys=read.words("ds4_tunnel_keys"),
        access=read.vars.get("ds4_access"),
        verify_prompt=read.text("ds4_verify_prompt"),
    )


def _listen_address(address: str, confirmed: bool) -> None:
    if address == "localhost":
        return
    try:
        literal = ipaddress.IPv4Address(address)
    except ValueError:
        raise OperatorError(
            f"ds4_listen_address is {address!r}; the engine listens only on an IPv4 address or localhost"
        ) from None
    if not literal.is_loopback and not confirmed:
        raise OperatorError(
            f"ds4_listen_address {address} opens an engine without any password to the network; keep"
            " 127.0.0.1 and use the tunnel, or set ds4_listen_public_confirmed: true"
        )
