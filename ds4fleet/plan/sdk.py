"""Whether the SDK that builds the engine knows the Mac's chip. Pure.

On an M5 or later, an engine built with an SDK of before macOS 26 has no Metal 4 tensor path and reads prompts
at half the speed (antirez/ds4#584). Chips before the M5 have no use for that path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ds4fleet.components.base import NOTHING
from ds4fleet.plan.known import Known

#: The first chip that needs it, and the first SDK that has it.
CHIP, SDK = 5, 26


def warnings(known: Known) -> Iterator[str]:
    """What is built or would be built at half the speed."""
    seen = known.seen or NOTHING
    chip = seen.hardware.chip or str(known.declared.get("chip") or "")
    generation = re.search(r"\bM(\d+)\b", chip)
    if generation is None or int(generation[1]) < CHIP:
        return
    slow = f"has no Metal 4 tensor path: {chip} reads prompts at half the speed (antirez/ds4#584)"
    serving = next((one for one in seen.engine.releases if one.id == seen.engine.current), None)
    if serving is not None and _is_old(serving.sdk):
        yield (
            f"release {serving.id} was built with the SDK of macOS {serving.sdk} and {slow}; install Command"
            f" Line Tools of macOS {SDK}, remove that release and run site.yml"
        )
    elif _is_old(seen.toolchain.sdk_version):
        yield (
            f"the selected SDK is that of macOS {seen.toolchain.sdk_version}; an engine built with it {slow};"
            f" install Command Line Tools of macOS {SDK}, and select them with xcode-select where an Xcode is"
            " selected"
        )


def _is_old(version: str | None) -> bool:
    major = (version or "").split(".")[0]
    return major.isdigit() and int(major) < SDK
