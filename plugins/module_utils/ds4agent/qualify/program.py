# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""`ds4agent qualify`: an Order on standard input, the Report on standard output, both as JSON.

It is run by the service account, by hand of the operator. Where an engine serves, no second one is started:
two of them do not fit into a Mac.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys

from ..border import bounded_json, plain, shaped
from ..mac import output
from .examine import examine
from .order import Order

#: Headers of nine kinds of weights have some hundred KiB.
ORDER_BYTES = 16 << 20
EX_USAGE, EX_DATAERR = 64, 65
PGREP = "/usr/bin/pgrep"


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 65 for an order that cannot be read."""
    if arguments:
        sys.stderr.write("usage: ds4agent qualify < ORDER\n")
        return EX_USAGE
    try:
        data = bounded_json.mapping(sys.stdin.buffer.read(ORDER_BYTES + 1), max_bytes=ORDER_BYTES)
        order = shaped.read(Order, data, "the order")
    except (bounded_json.JsonError, shaped.ModelError) as error:
        sys.stderr.write("the order is not understood: %s\n" % plain.line(error))
        return EX_DATAERR
    os.umask(0o077)
    busy = order.serve and is_serving()
    report = examine(dataclasses.replace(order, serve=order.serve and not busy))
    if busy:
        more = ("an engine serves on this Mac: stop it, or choose a staging Mac, to see the rest",)
        report = dataclasses.replace(report, unseen=(*report.unseen, *more))
    sys.stdout.write(json.dumps(shaped.to_json(report)) + "\n")
    return 0


def is_serving() -> bool:
    """Whether some ds4-server runs here. Without an answer one is presumed."""
    try:
        return output.run([PGREP, "-x", "ds4-server"], 10).returncode != 1
    except OSError:
        return True
