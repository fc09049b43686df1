"""The fetch that ds4_weights waits for, without Ansible and without waiting."""

import os
from pathlib import Path

from ds4agent.weights import fetch, progress


class Place(fetch.Fetch):
    """A directory of weights. The seconds that it would have waited are in `slept`."""

    def __init__(self, folder: Path, chunk_bytes: int = 1024 * 1024, **more: object) -> None:
        order = {"id": "", "dir": str(folder), "files": [], "peers": [], "chunk_bytes": chunk_bytes}
        order.update(uid=os.getuid(), gid=os.getgid(), **more)
        self.slept: list[float] = []
        super().__init__("", order, progress.Unwatched(order), wait=self.slept.append)

    def look(self, item: dict) -> str:
        return self.installer.look(item)
