"""One tunnel kept alive: the asyncio shell that carries out what `machine.Machine` orders."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import fcntl
import os
import pty
import signal
import termios
import time
from collections.abc import Callable
from typing import Any

from . import ds4_json, ds4_plain, ports, probe, ssh
from .knocking import keep_knocking
from .machine import Machine, Order, Policy, State
from .spec import TunnelSpec
from .within import within

STATE_MARK = "ds4-state "  # the forced command prints one such line whenever the Mac's drain state changes
STOP_GRACE_S = 2.0
#: An engine lists one model under a few aliases.
MOST_MODELS = 100
#: Of a line that ssh or the far side says; a state line has about 100.
LINE_LETTERS = 2000

Listener = Callable[["Link", str], None]


class Link:
    """Supervises the ssh child of one `TunnelSpec`.

    `await run()` works until `stop()`; `on_change(link, sentence)` is called at each change of state and for
    each remarkable line of ssh. Everything that the network does ends up in the state, never in an exception.
    """

    def __init__(
        self, spec: TunnelSpec, policy: Policy | None = None, on_change: Listener | None = None
    ) -> None:
        self.spec = spec
        self.machine = Machine(policy or Policy(), knockable=spec.knockable)
        self.on_change = on_change
        self.ipv6 = ports.has_ipv6_loopback()
        self.latency_s: float | None = None
        self.models: Any = None
        self.host_state: dict[str, Any] = {}
        self.terminal = True
        self.up_since_unix_s: float | None = None
        self._events: asyncio.Queue[Callable[[], list[Order]]] = asyncio.Queue()
        self._child: asyncio.subprocess.Process | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stderr: collections.deque[str] = collections.deque(maxlen=40)
        self._hurry = asyncio.Event()
        self._knock_now = asyncio.Event()

    # -- for others ---------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.machine.state

    @property
    def pid(self) -> int | None:
        """Process id of the ssh child, None while there is none."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    @property
    def draining(self) -> bool:
        """Whether the Mac says that it is being drained."""
        return bool(self.host_state.get("draining"))

    def command(self) -> list[str]:
        """The exact ssh command under this tunnel."""
        return ssh.command(self.spec, ssh.client_version(), self.ipv6, self.terminal)

    def snapshot(self) -> dict[str, Any]:
        """State for people and machines; JSON-able, seconds and milliseconds as named."""
        now = time.monotonic()
        machine = self.machine
        return {
            "name": self.spec.name,
            "region": self.spec.region,
            "state": machine.state.value,
            "for_s": round(now - machine.since, 1),
            "reason": machine.reason,
            "retry_in_s": round(max(0.0, machine.retry_at - now), 1) if machine.retry_at else None,
            "failures": machine.failures,
            "drops": machine.drops,
            "endpoint": self.spec.url,
            "address": self.spec.address,
            "ssh_pid": self.pid,
            "latency_ms": round(self.latency_s * 1000, 1) if self.latency_s is not None else None,
            "models": model_ids(self.models),
            "draining": self.draining,
            "no_delay": self.terminal,
        }

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
                self._keep_probing()
        finally:
            for name in list(self._tasks):
                await self._cancel(name)
            await self._end_child()

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
        machine = self.machine
        if machine.state is State.UP:
            self.up_since_unix_s = time.time()
            latency = f", answers in {self.latency_s * 1000:.0f} ms" if self.latency_s is not None else ""
            text = f"up at {self.spec.url}{latency}"
        elif machine.state is State.WAITING and machine.retry_at is not None:
            wait_s = machine.retry_at - machine.since
            text = f"{machine.reason}; next try in {wait_s:g} s ({machine.failures} failed)"
        elif machine.state is State.GAVE_UP:
            text = f"gave up: {machine.reason}"
        elif machine.state is State.KNOCKING and before in (State.UP, State.UNHEALTHY):
            text = f"dropped: {machine.reason}"
        elif machine.state in (State.KNOCKING, State.CONNECTING, State.STOPPED):
            text = machine.state.value
        else:
            text = f"{machine.state.value}: {machine.reason}"
        self._say(text)

    def _say(self, text: str) -> None:
        if self.on_change is not None:
            self.on_change(self, text)

    async def _obey(self, order: Order) -> None:
        if order is Order.START_SSH:
            await self._start_child()
        elif order is Order.STOP_SSH:
            await self._end_child()
        elif order is Order.START_KNOCKING:
            self._knock_now.set()
            if "knock" not in self._tasks:
                self._tasks["knock"] = asyncio.ensure_future(self._knock())
        else:
            await self._cancel("knock")

    async def _cancel(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    # -- knocking -----------------------------------------------------------------------------------------

    async def _knock(self) -> None:
        def told(seconds: float | None, reason: str) -> None:
            if isinstance(reason, probe.TurnedAway):
                self._post(lambda: self.machine.turned_away(self._now(), reason))
            elif seconds is None:
                self._post(lambda: self.machine.knock_silent(self._now(), reason))
            else:
                self._post(lambda: self.machine.knock_answered(self._now()))

        def pause_s() -> float:
            return self.machine.knock_after_s(self._now())

        timeout_s = self.machine.policy.knock_timeout_s
        await keep_knocking(self.spec, timeout_s, pause_s, self._knock_now, told)

    # -- health -------------------------------------------------------------------------------------------

    def _keep_probing(self) -> None:
        wanted = self.machine.probe_after_s() is not None
        if wanted and "probe" not in self._tasks:
            self._tasks["probe"] = asyncio.ensure_future(self._probe())
        elif not wanted and "probe" in self._tasks:
            self._tasks.pop("probe").cancel()

    async def _probe(self) -> None:
        policy = self.machine.policy
        while True:
            state, since = self.machine.state, self.machine.since
            answer = await probe.ask(self.spec.local_port, policy.health_timeout_s)
            if (state, since) == (self.machine.state, self.machine.since):
                self._digest(answer)
                await asyncio.sleep(0)  # the loop takes the event first, then the pace is known
            self._hurry.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                pause_s = self.machine.probe_after_s() or policy.health_every_s
                await within(pause_s, self._hurry.wait())

    def _digest(self, answer: probe.Answer) -> None:
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
        if not ports.is_free(self.spec.local_port, self.ipv6):
            found = ports.holder(self.spec.local_port) or "another process"
            reason = f"local port {self.spec.local_port} is held by {found}"
            self._post(lambda: self.machine.ssh_ended(self._now(), reason))
            return
        self._stderr.clear()
        self.host_state = {}
        master, slave = pty.openpty()
        try:
            # A pseudo-terminal as controlling terminal: when this process dies, however it dies, the kernel
            # hangs the terminal up and ssh with it, so that no orphan keeps the port.
            self._child = await asyncio.create_subprocess_exec(
                *self.command(),
                stdin=slave,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        except OSError:
            os.close(master)
            raise
        finally:
            os.close(slave)
        self._tasks["child"] = asyncio.ensure_future(self._attend(self._child, master))

    async def _attend(self, child: asyncio.subprocess.Process, master: int) -> None:
        assert child.stdout is not None and child.stderr is not None
        readers = {
            asyncio.ensure_future(self._read(child.stdout, self._heard)),
            asyncio.ensure_future(self._read(child.stderr, self._warned)),
        }
        try:
            await child.wait()
            await asyncio.wait(readers, timeout=STOP_GRACE_S)
        finally:
            for reader in readers:
                reader.cancel()
            os.close(master)
        end = ssh.ending(self.spec, child.returncode, "\n".join(self._stderr))
        self._tasks.pop("child", None)
        self._post(lambda: self.machine.ssh_ended(self._now(), end.reason, end.permanent))

    @staticmethod
    async def _read(stream: asyncio.StreamReader, use: Callable[[str], None]) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line beyond the reader's limit; nothing we wait for is that long
                continue
            if not line:
                return
            # Nothing of it has a meaning for a terminal, wherever it goes from here.
            use(ds4_plain.line(line.decode(errors="replace").strip(), LINE_LETTERS))

    def _heard(self, line: str) -> None:
        _, mark, payload = line.partition(STATE_MARK)
        if not mark:
            return
        try:
            state = ds4_json.mapping(payload)
        except ds4_json.JsonError:
            return
        if state != self.host_state:
            self.host_state = state
            self._say("draining" if self.draining else "serving")

    def _warned(self, line: str) -> None:
        if not line:
            return
        if "PTY allocation request failed" in line:
            self.terminal = False  # the next round goes without
            self._say("the account gives no terminal: streamed tokens may wait for a round trip")
        # Told to end, ssh says so (OpenSSH 10); that is no news.
        if self.machine.state is not State.STOPPED and (not self._stderr or self._stderr[-1] != line):
            self._say(f"ssh: {line}")
        self._stderr.append(line)

    async def _end_child(self) -> None:
        child, task = self._child, self._tasks.get("child")
        if child is not None and child.returncode is None:
            try:
                os.killpg(child.pid, signal.SIGTERM)
                await within(STOP_GRACE_S, child.wait())
            except asyncio.TimeoutError:
                os.killpg(child.pid, signal.SIGKILL)
                await child.wait()
            except ProcessLookupError:
                pass
        if task is not None:
            await asyncio.wait({task})
        self._child = None


def model_ids(models: Any) -> list[str]:
    """Ids in a /v1/models body, to be shown; [] when there is none."""
    try:
        return [ds4_plain.line(entry["id"], 200) for entry in models["data"][:MOST_MODELS]]
    except (KeyError, TypeError):
        return []
