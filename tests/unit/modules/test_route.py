"""Sources of an order that want to be asked later, share a host, or lack what the order wants."""

import hashlib
import os
from pathlib import Path
from typing import Any, Callable

import pytest

from ds4agent.weights import fetch as weights_fetch
from ds4agent.weights import install, progress, transport

DATA = b"GGUF" + (3).to_bytes(4, "little") + bytes(16) + bytes(range(256)) * 64


class Run:
    """One order whose sources are fakes: `says` maps a URL to what a fetch from it does, by its number."""

    def __init__(self, folder: Path, *urls: str, **says: Callable[[int], None]) -> None:
        self.asked: list[str] = []
        self.slept: list[float] = []
        self.folder = folder
        run = self

        class Source:
            def __init__(self, url: str, size_bytes: int, token: str, pace: Any) -> None:
                self.url = url

            def fetch(self, start: int, write: Callable[[bytes], None], end: int) -> None:
                run.asked.append(self.url)
                self.wait(0)
                says[self.url[-1]](run.asked.count(self.url))
                write(DATA[start:end])

        wanted = {
            "name": "f",
            "path": str(folder / "f"),
            "bytes": len(DATA),
            "sha256": hashlib.sha256(DATA).hexdigest(),
            "urls": list(urls),
            "header": {},
        }
        order = {"id": "1", "dir": str(folder), "files": [wanted], "peers": [], "chunk_bytes": 4096}
        order.update(seed_slots=1, uid=os.getuid(), gid=os.getgid())
        self.state = progress.State(str(folder), order)
        self.fetch = weights_fetch.Fetch(str(folder), order, self.state, wait=self.sleep, source=Source)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def run(self) -> None:
        self.fetch.run()
        assert (self.folder / "f").read_bytes() == DATA


def busy(times: int, wait_s: float = 0) -> Callable[[int], None]:
    def say(number: int) -> None:
        if number <= times:
            raise transport.Busy("it is asked too often (status 429)", wait_s)

    return say


def lacks(_number: int) -> None:
    raise transport.SourceError("it does not have this file (status 404)")


def gives(_number: int) -> None:
    pass


def test_a_source_that_limits_its_callers_is_waited_for_with_growing_waits(tmp_path: Path) -> None:
    run = Run(tmp_path, "https://hub/a", a=busy(9))
    run.run()
    assert len(run.asked) == 10
    assert sum(run.slept) == 3 + 6 + 12 + 24 + 48 + 4 * 64
    assert max(run.slept) == 1, "an operator who pauses or aborts waits no longer than that"


def test_the_time_that_it_names_is_waited(tmp_path: Path) -> None:
    run = Run(tmp_path, "https://hub/a", a=busy(1, wait_s=250))
    run.run()
    assert (len(run.asked), sum(run.slept)) == (2, 250)


def test_it_is_given_up_in_the_end_with_its_reason(tmp_path: Path) -> None:
    run = Run(tmp_path, "https://hub/a", a=busy(10**6))
    with pytest.raises(install.InstallError, match="hub: it is asked too often"):
        run.run()
    assert transport.PATIENCE_S <= sum(run.slept) < 2 * transport.PATIENCE_S


def test_a_source_that_lacks_the_file_is_not_waited_for_as_long(tmp_path: Path) -> None:
    run = Run(tmp_path, "https://hub/a", a=lacks)
    with pytest.raises(install.InstallError, match="does not have this file"):
        run.run()
    assert sum(run.slept) < 30


def test_the_next_source_is_asked_while_one_wants_to_be_asked_later(tmp_path: Path) -> None:
    run = Run(tmp_path, "https://hub/a", "https://mirror/b", a=busy(10**6), b=gives)
    run.run()
    assert (run.asked, run.slept) == (["https://hub/a", "https://mirror/b"], [])


def test_two_places_of_one_host_are_two_sources(tmp_path: Path) -> None:
    run = Run(tmp_path, "https://hub/a", "https://hub/b", a=lacks, b=gives)
    run.run()
    assert run.asked == ["https://hub/a", "https://hub/b"]


def test_an_abort_ends_a_wait(tmp_path: Path) -> None:
    run = Run(tmp_path, "https://hub/a", a=busy(10**6))

    def sleep(seconds: float) -> None:
        run.slept.append(seconds)
        if len(run.slept) == 5:
            (tmp_path / "control").write_text("abort")

    run.fetch.route.wait = sleep
    with pytest.raises(progress.Aborted):
        run.run()
    assert len(run.slept) == 5
