#!/Library/Developer/CommandLineTools/usr/bin/python3
"""Hand out chunks of the weights of an order; see ansible/module_utils/ds4_seed.py below lib."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from ansible.module_utils import ds4_seed  # noqa: E402

ds4_seed.main()
