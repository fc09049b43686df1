"""The life of one tunnel as a state machine: events and a clock in, orders out. No input or output here.

probing -> connecting -> up <-> unhealthy
    ^           |          |
    |           v          v
    +------- waiting <-----+        (1, 4, 16, 60 s; then gave up: still listening for the host's return)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class State(str, Enum):
    """Where a tunnel is; the value is what people and `--json` see."""

    IDLE = "idle"
    PROBING = "probing"
    CONNECTING = "connecting"
    UP = "up"
    UNHEALTHY = "unhealthy"
    WAITING = "waiting"
    GAVE_UP = "gave up"
    STOPPED = "stopped"


class Order(Enum):
    """What the shell around the machine has to do."""

    START_SSH = "start ssh"
    STOP_SSH = "stop ssh"
    START_PROBING = "start probing"
    STOP_PROBING = "stop probing"


@dataclass(frozen=True)
class Policy:
    """Times of the supervisor, all in seconds.

    backoff_s        waits after the first, second, ... failure in a row; after the last one: gave up
    silence_s        how long the host may stay silent before a round counts as failed
    connect_s        from starting ssh to a local port that accepts; above ssh's own ConnectTimeout
    stable_s         a connection that stood this long proves that the host takes us: failures start anew
    late_s           between tries once it gave up on something that may heal by itself
    health_every_s   between health questions while all is well
    recheck_s        between them while it is not, and for the second opinion before a tunnel is called so
    health_timeout_s how long the engine may take for its model list
    probe_every_s    between banner questions while the host is away
    probe_slow_s     the same once it has been away for probe_slow_after_s
    """

    backoff_s: tuple[float, ...] = (1, 4, 16, 60)
    silence_s: float = 3.0
    connect_s: float = 20.0
    stable_s: float = 1.0
    late_s: float = 300.0
    health_every_s: float = 5.0
    recheck_s: float = 0.5
    health_timeout_s: float = 4.0
    opening_every_s: float = 0.02
    probe_every_s: float = 0.3
    probe_timeout_s: float = 2.0
    probe_slow_s: float = 5.0
    probe_slow_after_s: float = 900.0


@dataclass
class Machine:
    """State of one tunnel.

    probeable  whether the host's sshd can be asked directly; without it only the back-off decides
    failures   rounds failed in a row
    reason     the last thing that went wrong, one sentence; "" while up
    permanent  whether only a person can fix it (a wrong host key)
    retry_at   when the next round starts (clock of the caller), None when none is planned
    stood_at   since when this connection stands (logged in, the local port open), None while it does not
    """

    policy: Policy = field(default_factory=Policy)
    probeable: bool = True
    state: State = State.IDLE
    since: float = 0.0
    failures: int = 0
    reason: str = ""
    retry_at: float | None = None
    drops: int = 0
    stood_at: float | None = None
    lost_at: float | None = None
    permanent: bool = False
    _deadline: float | None = None
    _bad_answers: int = 0
    _silent: bool = False
    _turned_away: bool = False

    # -- what happened ------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Order]:
        """Begin, or try again at once (a person asked)."""
        if self.state in (State.UP, State.UNHEALTHY, State.CONNECTING, State.PROBING):
            return []
        self.failures = 0
        stop = [Order.STOP_PROBING] if self.state in (State.WAITING, State.GAVE_UP) else []
        return stop + self._round(now)

    def stop(self, now: float) -> list[Order]:
        """End for good; cancels every planned retry."""
        orders = []
        if self.state in (State.CONNECTING, State.UP, State.UNHEALTHY):
            orders.append(Order.STOP_SSH)
        if self.state in (State.PROBING, State.WAITING, State.GAVE_UP):
            orders.append(Order.STOP_PROBING)
        self._enter(State.STOPPED, now)
        return orders

    def probe_answered(self, now: float) -> list[Order]:
        """sshd sent its banner."""
        if self.state is State.PROBING or (self._silent and self.state in (State.WAITING, State.GAVE_UP)):
            if self.state is State.GAVE_UP:
                self.failures = 0
            return [Order.STOP_PROBING, *self._connect(now)]
        return []

    def probe_silent(self, now: float, reason: str) -> list[Order]:
        """A banner question went unanswered: from now on an answer is news."""
        if self.state in (State.PROBING, State.WAITING, State.GAVE_UP):
            self.reason = reason
        if self.state in (State.WAITING, State.GAVE_UP):
            self._silent = True
        if self.state is State.GAVE_UP:
            self._deadline = self.retry_at = None  # the probes tell when there is something to try
        return []

    def turned_away(self, now: float, reason: str) -> list[Order]:
        """sshd said instead of its banner that it refuses this address for now: it is there, and each
        question makes that last longer. The next round logs in without one.
        """
        if self.state not in (State.PROBING, State.WAITING, State.GAVE_UP):
            return []
        self.reason = reason
        self._turned_away = True
        back = self.state is State.GAVE_UP and self._silent
        self._silent = False
        if back:
            self.failures = 0
        if back or self.state is State.PROBING:
            return [Order.STOP_PROBING, *self._failed(now, silent=False)]
        return [Order.STOP_PROBING]

    def ssh_ended(self, now: float, reason: str, permanent: bool = False) -> list[Order]:
        """The ssh child is gone."""
        if self.state not in (State.CONNECTING, State.UP, State.UNHEALTHY):
            return []
        was, stood_s = self.state, now - self.stood_at if self.stood_at is not None else 0.0
        self.stood_at = None
        self.reason = reason
        if self.lost_at is None:
            self.lost_at = now
        if was is not State.CONNECTING:
            self.drops += 1
        self.permanent = permanent
        if permanent:
            return self._give_up(now, listen=False)
        if stood_s >= self.policy.stable_s:
            self.failures = 0
            if was is State.UP:
                return self._round(now)
        return self._failed(now, silent=False)

    def port_open(self, now: float) -> list[Order]:
        """The local port accepts, the engine does not answer (yet)."""
        if self.state is State.CONNECTING:
            self.stood_at = now
            self._enter(State.UNHEALTHY, now)
            self.reason = "the engine has not answered yet"  # what was said of an earlier try is over
        return []

    def healthy(self, now: float) -> list[Order]:
        """The engine answered through the tunnel."""
        self._bad_answers = 0
        if self.state in (State.CONNECTING, State.UNHEALTHY):
            self.stood_at = now if self.stood_at is None else self.stood_at
            self._enter(State.UP, now)
            self.failures = 0
            self.reason = ""
            self.lost_at = None
        return []

    def unhealthy(self, now: float, reason: str) -> list[Order]:
        """The engine did not answer through a tunnel that stands; two in a row count."""
        self._bad_answers += 1
        if self.state is State.UNHEALTHY:
            self.reason = reason
        elif self.state is State.UP and self._bad_answers >= 2:
            self._enter(State.UNHEALTHY, now)
            self.reason = reason
        return []

    def tick(self, now: float) -> list[Order]:
        """Time has passed."""
        if self._deadline is None or now < self._deadline:
            return []
        if self.state is State.PROBING:
            self.reason = self.reason or "the host does not answer"
            return self._failed(now, silent=True)
        if self.state is State.CONNECTING:
            self.reason = f"no connection within {self.policy.connect_s:g} s"
            return [Order.STOP_SSH, *self._failed(now, silent=False)]
        if self.state is State.WAITING:
            if self._silent:
                return self._failed(now, silent=True)
            return self._round(now)
        if self.state is State.GAVE_UP and not self._silent:
            return self._round(now)
        return []

    # -- what the shell asks ------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """When `tick` has something to say next; None: not before something happens."""
        return self._deadline

    def health_after_s(self) -> float | None:
        """Seconds to the next health question; None when there is nothing to ask."""
        if self.state is State.CONNECTING:
            return self.policy.opening_every_s
        if self.state is State.UP:
            return self.policy.recheck_s if self._bad_answers else self.policy.health_every_s
        if self.state is State.UNHEALTHY:
            return self.policy.recheck_s
        return None

    def probe_after_s(self, now: float) -> float:
        """Seconds between two banner questions."""
        away_s = now - self.lost_at if self.lost_at is not None else 0.0
        # An sshd that answers counts each question as a visitor who left without logging in
        # (PerSourcePenalties), so only a silent one is asked often.
        answers = self.state is not State.PROBING and not self._silent
        slow = answers or away_s >= self.policy.probe_slow_after_s
        return self.policy.probe_slow_s if slow else self.policy.probe_every_s

    # -- transitions --------------------------------------------------------------------------------------

    def _enter(self, state: State, now: float, deadline: float | None = None) -> None:
        self.state, self.since = state, now
        self._deadline = deadline
        self.retry_at = deadline if state in (State.WAITING, State.GAVE_UP) else None
        self._bad_answers = 0

    def _round(self, now: float) -> list[Order]:
        """A new try; the order to probe also hurries a probe that is at work already."""
        self._silent = False
        if self.lost_at is None:
            self.lost_at = now
        if not self.probeable or self._turned_away:
            return self._connect(now)
        self._enter(State.PROBING, now, now + self.policy.silence_s)
        return [Order.START_PROBING]

    def _connect(self, now: float) -> list[Order]:
        self._silent = self._turned_away = False
        self.stood_at = None
        self._enter(State.CONNECTING, now, now + self.policy.connect_s)
        return [Order.START_SSH]

    def _failed(self, now: float, silent: bool) -> list[Order]:
        """A round failed. While the host is silent, probing goes on through the wait."""
        probing = self.state in (State.PROBING, State.WAITING) and silent
        if self.failures >= len(self.policy.backoff_s):
            return self._give_up(now, listen=True, probing=probing)
        wait_s = self.policy.backoff_s[self.failures]
        self.failures += 1
        self._enter(State.WAITING, now, now + wait_s)
        self._silent = silent
        return [] if probing or not self.probeable or self._turned_away else [Order.START_PROBING]

    def _give_up(self, now: float, listen: bool, probing: bool = False) -> list[Order]:
        self._enter(State.GAVE_UP, now, now + self.policy.late_s if listen and not probing else None)
        self._silent = probing
        asks = listen and self.probeable and not probing and not self._turned_away
        return [Order.START_PROBING] if asks else []
