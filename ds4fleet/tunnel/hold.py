"""The tunnel daemon by the name that service files have which `fab tunnel --persist` wrote before 2026-12.

Such a file outlives an update of ds4-fleet on the operator's machine, and starts this module at each login.
"""

from __future__ import annotations

import sys

from ds4fleet.tunnel.daemon import main

if __name__ == "__main__":
    sys.exit(main())
