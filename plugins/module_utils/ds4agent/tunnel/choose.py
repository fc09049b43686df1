"""Which Mac gets the next request; pure, with the caller's clock.

One Mac is active at a time, because its memory holds the conversations' KV cache; another takes over when it
is not healthy or is being drained, and the preferred one gets the work back only after it has been well for a
while. With `spread` every well Mac of the best tier takes part, fewest requests in flight first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass
class Member:
    """A Mac behind an endpoint.

    tier           0 for the region asked for, 1 for the first --then region, and so on
    fit_since      since when it is healthy, through a tunnel that stands, and not draining; None: it is not
    draining       the rollout wants no new work for it
    stopping       its engine is about to be stopped, whatever it still has to do
    suspect_until  a request failed on it: no new work before then
    in_flight      requests of this endpoint that it works on
    """

    name: str
    tier: int = 0
    fit_since: float | None = None
    draining: bool = False
    stopping: bool = False
    suspect_until: float = float("-inf")
    in_flight: int = 0

    def steady_since(self, now: float) -> float | None:
        """Since when it could have taken work without a break; None when it cannot now."""
        if self.fit_since is None or now < self.suspect_until:
            return None
        return max(self.fit_since, self.suspect_until)


class Chooser:
    """Keeps the members in order of preference and remembers which one is active."""

    def __init__(
        self,
        members: Iterable[Member],
        return_after_s: float = 30.0,
        spread: bool = False,
        settle_until: float = float("-inf"),
    ) -> None:
        """settle_until: before then only the most preferred one becomes the first active Mac, so that
        a start is not decided by whose tunnel stood a moment earlier."""
        self.settle_until = settle_until
        self.members = list(members)
        self.return_after_s = return_after_s
        self.spread = spread
        self.active: str | None = None

    def see(self, name: str, well: bool, draining: bool, now: float) -> None:
        """What is known of a member now."""
        member = self.member(name)
        member.draining = draining
        if not well or draining:
            member.fit_since = None
        elif member.fit_since is None:
            member.fit_since = now
            member.suspect_until = float("-inf")  # it is another tunnel than the one that failed

    def suspect(self, name: str, now: float, for_s: float) -> None:
        """A request failed on it before an answer began: no new work for a moment."""
        self.member(name).suspect_until = now + for_s

    def member(self, name: str) -> Member:
        """The member of that name."""
        return next(member for member in self.members if member.name == name)

    def choose(self, now: float) -> Member | None:
        """The Mac for a request that arrives now; None when none is fit."""
        steady = {member.name: member.steady_since(now) for member in self.members}
        fit = [member for member in self.members if steady[member.name] is not None]
        if not fit:
            return None
        current = next((member for member in fit if member.name == self.active), None)
        if self.spread:
            best_tier = min(member.tier for member in fit)
            chosen = min((m for m in fit if m.tier == best_tier), key=lambda member: member.in_flight)
        elif current is None:
            chosen = fit[0]
            if self.active is None and now < self.settle_until and chosen is not self.members[0]:
                return None
        else:
            settled = now - self.return_after_s
            chosen = next(m for m in fit if m is current or (steady[m.name] or 0.0) <= settled)
        self.active = chosen.name
        return chosen

    def other(self, now: float, tried: Collection[str]) -> Member | None:
        """A fit Mac that was not tried yet, for one request; the active one stays as it is."""
        fit = [m for m in self.members if m.name not in tried and m.steady_since(now) is not None]
        return min(fit, key=lambda member: (member.tier, member.in_flight), default=None)
