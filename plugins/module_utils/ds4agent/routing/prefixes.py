# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Which Mac holds how much of a prompt in its KV cache, as far as requests that went through here tell.

The engine goes on from the end of a prompt that it had, or from a checkpoint on its disk; a beginning that
two prompts share is of no use to it otherwise. So only these places are kept: the end of each prompt, the
last user turn before the first answer (cold checkpoint), and a boundary each CONTINUED_TOKENS.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from .conversation import Unit

#: The engine's continued checkpoints: its interval of 10,000 tokens in steps of 2,048.
CONTINUED_TOKENS = 10_240
#: Of one prompt: a million tokens have 103 checkpoints.
PLACES = 128
ENTRIES = 65_536
HINTS = 8_192
_DIGEST_BYTES = 16

Chain = Sequence["tuple[bytes, int]"]


def chain(units: Sequence[Unit], scope: str = "") -> list[tuple[bytes, int]]:
    """(digest, tokens) of the prompt up to the end of each unit.

    scope  what else has to be the same for a cache to be of use: the model
    """
    digest = hashlib.blake2b(scope.encode("utf-8", "replace"), digest_size=_DIGEST_BYTES).digest()
    tokens, links = 0, []
    for unit in units:
        made = hashlib.blake2b(digest, digest_size=_DIGEST_BYTES)
        made.update(unit.kind.encode() + b"\0")
        made.update(unit.text)
        digest, tokens = made.digest(), tokens + unit.tokens
        links.append((digest, tokens))
    return links


def places(units: Sequence[Unit], links: Chain) -> list[tuple[bytes, int]]:
    """The links that an engine can go on from after this prompt, the longest last."""
    kept = []
    users = [number for number, unit in enumerate(units) if unit.kind == "user"]
    first_answer = next((n for n, unit in enumerate(units) if unit.kind == "assistant"), len(units))
    cold = max((number for number in users if number < first_answer), default=0) - 1
    due = CONTINUED_TOKENS
    for number, link in enumerate(links):
        if number in (cold, len(links) - 1) or link[1] >= due:
            kept.append(link)
        if link[1] >= due:
            due = link[1] + CONTINUED_TOKENS
    return kept[:1] + kept[1:][-(PLACES - 1) :]


class Prefixes:
    """Places in prompts and the Macs that hold them. Bounded: what was used last stays."""

    def __init__(self, entries: int = ENTRIES, hints: int = HINTS) -> None:
        self._entries = entries
        self._hints = hints
        #: By Mac: a Mac that is new to its cache is forgotten as a whole.
        self._held: dict[str, OrderedDict[bytes, None]] = {}
        self._hinted: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(held) for held in self._held.values())

    def warm_tokens(self, mac: str, links: Chain) -> int:
        """Tokens of this prompt that a Mac need not prefill."""
        held = self._held.get(mac)
        if not held:
            return 0
        for digest, tokens in reversed(links):
            if digest in held:
                held.move_to_end(digest)
                return tokens
        return 0

    def hinted(self, hint: str) -> str:
        """The Mac that had the conversation of that name last, "" when none is known."""
        return self._hinted.get(hint, "")

    def sent(self, mac: str, units: Sequence[Unit], links: Chain, hint: str = "") -> None:
        """A Mac has prefilled this prompt."""
        held = self._held.setdefault(mac, OrderedDict())
        for digest, _tokens in places(units, links):
            held[digest] = None
            held.move_to_end(digest)
        # A share for each Mac: a busy one does not make the others forget.
        share = max(PLACES, self._entries // len(self._held))
        for table in self._held.values():
            while len(table) > share:
                table.popitem(last=False)
        if hint:
            self._hinted[hint] = mac
            self._hinted.move_to_end(hint)
            while len(self._hinted) > self._hints:
                self._hinted.popitem(last=False)

    def forget(self, mac: str) -> None:
        """A Mac has lost its cache, or is no member any more."""
        self._held.pop(mac, None)
        for hint in [hint for hint, name in self._hinted.items() if name == mac]:
            del self._hinted[hint]
