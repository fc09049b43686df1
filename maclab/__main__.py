"""`python -m maclab`, the same as `maclab`."""

from __future__ import annotations

import sys

from maclab.cli import main

sys.exit(main())
