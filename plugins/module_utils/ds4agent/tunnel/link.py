"""One tunnel kept alive: the asyncio shell that carries out what `machine.Machine` orders."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from ..border import bounded_json
from . import ports, probe, ssh, telling
from .child import Child
from .machine import Machine, Order, Policy, State
from .spec import TunnelSpec
from .sshd_probe import keep_probing
from .within import within

STATE_MARK = "ds4-state "  # the forced command prints one such line whenever the Mac's drain state changes
#: A line that was silent for so long is given up for what comes anew; what it carries is left to ssh.
QUIET_S = ssh.ALIVE_INTERVAL_S * ssh.ALIVE_COUNT
ASK_AFTER_S = QUIET_S / 2
WATCH_EVERY_S = 0.25
#: A clock that jumped so far says that this process stood still, not the line.
STALL_S = 1.0

Listener = Callable[["Link", str], None]


class Front(Protocol):
    """What stands at a tunnel's fixed address and passes requests on to ssh."""

    def taken(self) -> str:
        """Why the address cannot be opened, "" when it can or is."""

    def open(self) -> str:
        """Opens the address unless it is; why it cannot, else ""."""

    def in_flight(self, transport: object) -> int:
        """Requests that the ssh of this process id carries."""


class Link:
    """Supervises the ssh child of one `TunnelSpec`.

    `await run()` works until `stop()`; `on_change(link, sentence)` is called at each change of state and for
    each remarkable line of ssh. Everything that the network does ends up in the state, never in an exception.

    With a `front` each ssh listens at a port of its own behind it, so that one whose line has fallen silent
    can be kept for the requests that it carries while another one is tried.
    """

    def __init__(
        self,
        spec: TunnelSpec,
        policy: Policy | None = None,
        on_change: Listener | None = None,
        front: Front | None = None,
    ) -> None:
        self.spec = spec
        self.front = front
        self.machine = Machine(policy or Policy(), probeable=spec.probeable)
        self.on_change = on_change
        self.ipv6 = ports.has_ipv6_loopback()
        self.latency_s: float | None = None
        self.models: Any = None
        self.host_state: dict[str, Any] = {}
        self.terminal = True
        self._events: asyncio.Queue[Callable[[], list[Order]]] = asyncio.Queue()
        self._forward = spec
        self._child: Child | None = None
        self._aside: dict[Child, asyncio.Task[None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._hurry = asyncio.Event()
        self._probe_now = asyncio.Event()

    # -- for others ---------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.machine.state

    @property
    def pid(self) -> int | None:
        """Process id of the ssh child, None while there is none."""
        return self._child.pid if self._child is not None and self._child.alive else None

    @property
    def port(self) -> int:
        """Where ssh listens on this machine; 0 while none is behind the front, at whose port it is not."""
        if self._child is not None:
            return self._child.port
        return self.spec.local_port if self.front is None else 0

    def standing(self, transport: object) -> bool:
        """Whether the ssh of this process id is there, current or set aside."""
        return any(child.pid == transport and child.alive for child in self._children())

    def refused(self, transport: object, since: float) -> bool:
        """Whether that ssh has said since then (monotonic) that the Mac took no connection."""
        return any(child.pid == transport and child.refused_at >= since for child in self._children())

    @property
    def draining(self) -> bool:
        """Whether the Mac says that it is being drained; a state whose time is over says nothing."""
        until = self.host_state.get("until")
        over = isinstance(until, (int, float)) and time.time() >= until
        return bool(self.host_state.get("draining")) and not over

    @property
    def stopping(self) -> bool:
        """Whether the Mac says that its engine is about to be stopped, whatever it still has to do."""
        return self.draining and bool(self.host_state.get("stopping"))

    def command(self) -> list[str]:
        """The exact ssh command under this tunnel."""
        ipv6 = self.ipv6 and self.front is None
        return ssh.command(self._forward, ssh.client_version(), ipv6, self.terminal)

    def snapshot(self) -> dict[str, Any]:
        """State for people and machines; JSON-able, seconds and milliseconds as named."""
        return telling.snapshot(self)

    def stop(self) -> None:
        """Ask `run` to end; every planned retry is cancelled."""
        self._post(lambda: self.machine.stop(self._now()))

    def retry(self) -> None:
        """Try again at once, also after giving up."""
        self._post(lambda: self.machine.start(self._now()))

    def doubt(self) -> None:
        """A request failed through this tunnel: ask for its health now, not at the next turn."""
        self._hurry.set()

    async def run(self) -> None:
        """Keep the tunnel until `stop`; returns with no child and no task left."""
        self._post(lambda: self.machine.start(self._now()))
        try:
            while self.machine.state is not State.STOPPED:
                event = await self._next_event()
                before = self.machine.state
                orders = event() if event is not None else self.machine.tick(self._now())
                if self.machine.state is not before:
                    self._announce(before)
                for order in orders:
                    await self._obey(order)
                self._keep_checking()
        finally:
            for name in [name for name in self._tasks if name != "child"]:
                await self._cancel(name)
            await self._end_child()
            for task in list(self._aside.values()):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    # -- the loop -----------------------------------------------------------------------------------------

    @staticmethod
    def _now() -> float:
        return time.monotonic()

    def _post(self, event: Callable[[], list[Order]]) -> None:
        self._events.put_nowait(event)

    async def _next_event(self) -> Callable[[], list[Order]] | None:
        deadline = self.machine.deadline()
        timeout_s = None if deadline is None else max(0.0, deadline - self._now())
        try:
            return await within(timeout_s, self._events.get())
        except asyncio.TimeoutError:
            return None

    def _announce(self, before: State) -> None:
        self._say(telling.change(self, before))

    def _say(self, text: str) -> None:
        if self.on_change is not None:
            self.on_change(self, text)

    async def _obey(self, order: Order) -> None:
        if order is Order.START_SSH:
            await self._start_child()
        elif order is Order.STOP_SSH:
            await self._end_child()
        elif order is Order.START_PROBING:
            self._probe_now.set()
            if "probe" not in self._tasks:
                self._tasks["probe"] = asyncio.ensure_future(self._probe())
        else:
            await self._cancel("probe")

    async def _cancel(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    # -- probing -----------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        def told(seconds: float | None, reason: str) -> None:
            if isinstance(reason, probe.TurnedAway):
                self._post(lambda: self.machine.turned_away(self._now(), reason))
            elif seconds is None:
                self._post(lambda: self.machine.probe_silent(self._now(), reason))
            else:
                self._post(lambda: self.machine.probe_answered(self._now()))

        def pause_s() -> float:
            return self.machine.probe_after_s(self._now())

        timeout_s = self.machine.policy.probe_timeout_s
        await keep_probing(self.spec, timeout_s, pause_s, self._probe_now, told)

    # -- health -------------------------------------------------------------------------------------------

    def _keep_checking(self) -> None:
        wanted = self.machine.health_after_s() is not None
        if wanted and "health" not in self._tasks:
            self._tasks["health"] = asyncio.ensure_future(self._check())
        elif not wanted and "health" in self._tasks:
            self._tasks.pop("health").cancel()

    async def _check(self) -> None:
        policy = self.machine.policy
        while True:
            state, since, child = self.machine.state, self.machine.since, self._child
            answer = await probe.ask(self.port, policy.health_timeout_s)
            if (state, since, child) == (self.machine.state, self.machine.since, self._child):
                self._digest(answer)
                await asyncio.sleep(0)  # the loop takes the event first, then the pace is known
            self._hurry.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                pause_s = self.machine.health_after_s() or policy.health_every_s
                await within(pause_s, self._hurry.wait())

    def _digest(self, answer: probe.Answer) -> None:
        if answer.outcome not in ("silent", "refused") and self._child is not None:
            self._child.hear()
            if self.front is not None and (taken := self.front.open()):
                self._post(lambda: [*self.machine.ssh_ended(self._now(), taken), Order.STOP_SSH])
                return
        if answer.ok:
            self.latency_s, self.models = answer.latency_s, answer.models
            self._post(lambda: self.machine.healthy(self._now()))
        elif self.machine.state is State.CONNECTING:
            if answer.outcome != "refused":
                self._post(lambda: self.machine.port_open(self._now()))
        else:
            self._post(lambda: self.machine.unhealthy(self._now(), answer.reason))

    # -- the child ----------------------------------------------------------------------------------------

    async def _start_child(self) -> None:
        try:
            await self._try_child()
        except OSError as error:
            # No more processes, terminals or descriptors may pass; a missing ssh does not.
            missing = isinstance(error, (FileNotFoundError, PermissionError))
            reason = f"cannot start {ssh.SSH}: {error.strerror}"
            self._post(lambda: self.machine.ssh_ended(self._now(), reason, permanent=missing))

    async def _try_child(self) -> None:
        self.ipv6 = ports.has_ipv6_loopback()
        taken = self.front.taken() if self.front is not None else ports.taken(self.spec.local_port, self.ipv6)
        if taken:
            self._post(lambda: self.machine.ssh_ended(self._now(), taken))
            return
        if self.front is not None:
            self._forward = replace(self.spec, local_port=ports.spare())
        self.host_state = {}
        child = Child(self._forward.local_port)
        await child.start(self.command())
        self._child = child
        await self._cancel("watch")
        self._tasks["child"] = asyncio.ensure_future(self._attend(child, self._forward))
        self._tasks["watch"] = asyncio.ensure_future(self._watch(child))

    async def _attend(self, child: Child, spec: TunnelSpec) -> None:
        def heard(line: str) -> None:
            child.hear()
            if child is self._child:
                self._heard(line)

        def warned(line: str) -> None:
            if child.warn(line):
                self._warned(line)

        await child.attend(heard, warned)
        if child is not self._child:
            return
        end = ssh.ending(spec, child.status, "\n".join(child.warnings))
        self._tasks.pop("child", None)
        self._post(lambda: self.machine.ssh_ended(self._now(), end.reason, end.permanent))

    async def _watch(self, child: Child) -> None:
        """Sees that the line has fallen silent, long before ssh does."""
        looked_at = self._now()
        while child is self._child:
            await asyncio.sleep(WATCH_EVERY_S)
            now = self._now()
            stalled, looked_at = now - looked_at > STALL_S, now
            if child.heard_at is None or self.machine.state not in (State.UP, State.UNHEALTHY):
                continue
            if stalled:
                child.hear()
            elif now - child.heard_at >= QUIET_S:
                await self._leave_silent(child)
            elif now - child.heard_at >= ASK_AFTER_S:
                self._hurry.set()

    async def _leave_silent(self, child: Child) -> None:
        """Nothing new goes over this line. What it carries keeps its ssh while that has patience: a
        line that comes back carries on."""
        flying = self.front.in_flight(child.pid) if self.front is not None else 0
        self._child = None
        keeping = asyncio.ensure_future(self._keep_aside(child, self._tasks.pop("child", None)))
        self._aside[child] = keeping
        if flying:
            kept = f"{flying} request{'s' if flying > 1 else ''} in flight kept for up to {ssh.PATIENCE_S} s"
            reason = f"no answer for {QUIET_S} s, {kept}"
        else:
            reason = f"no answer for {QUIET_S} s, connection given up"
        if self.front is None:
            await asyncio.wait({keeping})  # the next one needs its port
        self._post(lambda: self.machine.ssh_ended(self._now(), reason))

    async def _keep_aside(self, child: Child, attending: asyncio.Task[None] | None) -> None:
        try:
            while self.front is not None and child.alive and self.front.in_flight(child.pid):
                await asyncio.sleep(WATCH_EVERY_S)
        finally:
            await child.end()
            if attending is not None:
                await asyncio.wait({attending})
            self._aside.pop(child, None)

    def _children(self) -> list[Child]:
        return [*([self._child] if self._child is not None else []), *self._aside]

    def _heard(self, line: str) -> None:
        _before, mark, payload = line.partition(STATE_MARK)
        if not mark:
            return
        try:
            state = bounded_json.mapping(payload)
        except bounded_json.JsonError:
            return
        if state != self.host_state:
            self.host_state = state
            self._say("the engine stops" if self.stopping else "draining" if self.draining else "serving")

    def _warned(self, line: str) -> None:
        if "PTY allocation request failed" in line:
            self.terminal = False  # the next round goes without
            self._say("the account gives no terminal: streamed tokens may wait for a round trip")
        # Found to end, ssh says so (OpenSSH 10); that is no news.
        if self.machine.state is not State.STOPPED:
            self._say(f"ssh: {line}")

    async def _end_child(self) -> None:
        child, task = self._child, self._tasks.get("child")
        if child is not None:
            await child.end()
        if task is not None:
            await asyncio.wait({task})
        self._child = None
