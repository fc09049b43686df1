"""The links of a lab: each Mac's and the operator's, plain cables or long lines."""

from __future__ import annotations

import json
import os
from typing import Any

from maclab import rpc
from maclab.faults import FAULTS
from maclab.faults.base import LinkFault
from maclab.lab.places import Places
from maclab.lab.session import Session
from maclab.lab.state import State, StateFile
from maclab.network import net
from maclab.network.link import LinkSettings, open_tap

OPERATOR = "operator"
"""Name of the operator's own link."""


class Links:
    """What the links of a lab are set to, and how that gets to them."""

    def __init__(self, places: Places, file: StateFile, session: Session) -> None:
        self._places, self._file, self._session = places, file, session

    def set(self, host: str, settings: LinkSettings) -> None:
        """Remember and apply what a Mac's link, or the operator's, is from now on."""
        state = self._file.load()
        if host != OPERATOR:
            state.entry(host)
        if settings == LinkSettings():
            state.links.pop(host, None)
        else:
            state.links[host] = settings
        self._file.save(state)
        self.apply(host, state)

    def settings(self, host: str, state: State) -> dict[str, Any]:
        """What was asked for, made worse by the faults of the link that are on; empty = the plain cable."""
        asked = state.links.get(host)
        settings = asked.to_dict() if asked else {}
        names = self._faults_of(host)
        for fault in FAULTS.values():
            if isinstance(fault, LinkFault) and fault.active(names):
                settings = {**LinkSettings().to_dict(), **settings, **fault.change}
        return settings

    def apply(self, host: str, state: State) -> None:
        """Make a link of a lab that is up what it is set to."""
        settings = self.settings(host, state)
        if host == OPERATOR:
            self._apply_to_operator(settings, state)
        else:
            self._session.ask("link", host=host, settings=settings)

    def _apply_to_operator(self, settings: dict[str, Any], state: State) -> None:
        interface = self._places.interface
        if not settings:
            self._session.ask("link", host=OPERATOR, settings={})
            net.remove_interface(interface)
            net.connect_operator(interface, state.subnet, self._session.pid(state))
            self._session.ask("plug_in_operator")
        elif state.operator_link:
            self._session.ask("link", host=OPERATOR, settings=settings)
        else:
            net.remove_interface(interface)
            tap = open_tap(interface)
            try:
                net.configure_operator(interface, state.subnet)
                rpc.ask(self._places.socket, "link", host=OPERATOR, settings=settings, fds=[tap])
            finally:
                os.close(tap)
        state.operator_link = bool(settings)
        self._file.save(state)

    def _faults_of(self, host: str) -> list[str]:
        saved = self._places.mac_file(host)
        return list(json.loads(saved.read_text()).get("faults", [])) if saved.exists() else []
