#!/Library/Developer/CommandLineTools/usr/bin/python3
"""Bring the weights of an order to this Mac; see ansible/module_utils/ds4_fetch.py below lib."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from ansible.module_utils import ds4_fetch  # noqa: E402

ds4_fetch.main()
