# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Hours in which bulk may be moved: `01:00-07:00 Asia/Tokyo`."""

from __future__ import annotations

import os
import re
import time

ZONES = "/usr/share/zoneinfo"
_FORM = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d) (\S+)")
#: A path below ZONES and nowhere else.
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*){0,2}")


def parse(text: str) -> tuple[int, int, str]:
    """(minute of the day it opens, minute it closes, time zone); ValueError with a sentence."""
    match = _FORM.fullmatch(text.strip())
    if not match:
        raise ValueError("'%s' is no window: write it like 01:00-07:00 Asia/Tokyo" % text)
    zone = match[5]
    if not _ZONE.fullmatch(zone) or not os.path.isfile(os.path.join(ZONES, zone)):
        raise ValueError("'%s' is no time zone that this machine knows" % zone)
    opens, closes = (int(match[n]) * 60 + int(match[n + 1]) for n in (1, 3))
    if opens == closes:
        raise ValueError("the window '%s' is empty" % text)
    return opens, closes, zone


def is_open(text: str, now_s: float) -> bool:
    """Whether the window is open at `now_s` (seconds since the epoch); one that is not set always is."""
    if not text:
        return True
    opens, closes, zone = parse(text)
    minute = _minute(now_s, zone)
    # A window may reach over midnight.
    return (opens <= minute < closes) if opens < closes else (minute >= opens or minute < closes)


def _minute(now_s: float, zone: str) -> int:
    """Minute of the day in a time zone. By the C library: zoneinfo wants more than every Python has."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        local = time.localtime(now_s)
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()
    return local.tm_hour * 60 + local.tm_min
