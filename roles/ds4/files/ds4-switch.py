#!/usr/bin/python3
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Switches this Mac to another version of engine and weights, or back, as var/switch/order.json says.

Runs as root under launchd (com.ds4fleet.switch), at every boot too: a switch that was cut off is mended then.
"""

import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "lib"))

from ansible.module_utils.ds4_switch_mac import Switch  # noqa: E402

if __name__ == "__main__":
    phase = Switch(str(HERE.parent)).run()
    if phase:
        print(time.strftime("%Y-%m-%d %H:%M:%S"), phase, flush=True)
