"""What lies in the place of a volume before it is mounted: put aside, taken over once proven, never lost."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from ds4agent.mac import aside as mac_aside
from ds4agent.weights import fetch as weights_fetch
from ds4agent.weights import install as weights_install
from ds4agent.weights import progress, stamp
from ds4agent.weights.progress import Aborted
from tests.support.waited_fetch import Place

DATA = b"GGUF" + (3).to_bytes(4, "little") + bytes(16) + bytes(range(256)) * 9000
NAME = "w.gguf"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The mount point, with a file that somebody put there."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / NAME).write_bytes(DATA)
    return folder


def mounted(place: Path) -> Path:
    """The place, put aside and with an empty volume in it; returns where the rest went."""
    aside = Path(mac_aside.put_aside(str(place)))
    place.mkdir()
    return aside


def wanted(place: Path, data: bytes = DATA, *urls: str) -> dict:
    entry = {"name": NAME, "path": str(place / NAME), "bytes": len(data), "urls": list(urls), "header": {}}
    return {**entry, "sha256": hashlib.sha256(data).hexdigest()}


CHUNK = 100_000


def fetch(place: Path, **more: object) -> Place:
    return Place(place, CHUNK, **more)


class TestThePlace:
    def test_what_nobody_would_miss_is_nothing(self, tmp_path):
        assert mac_aside.beneath(str(tmp_path / "missing")) == ""
        (tmp_path / ".DS_Store").touch()
        (tmp_path / ".fseventsd").mkdir()
        assert mac_aside.beneath(str(tmp_path)) == ""

    def test_what_is_there_is_said_with_its_size(self, place):
        assert mac_aside.beneath(str(place)) == "1 entry, 0.0 GB in files"
        (place / "kv").mkdir()
        os.mkfifo(place / "pipe")
        assert mac_aside.beneath(str(place)).startswith("3 entries")

    def test_more_than_can_be_counted_is_not_counted(self, tmp_path, monkeypatch):
        monkeypatch.setattr(mac_aside, "MAX_ENTRIES", 5)
        for number in range(9):
            (tmp_path / str(number)).touch()
        assert mac_aside.beneath(str(tmp_path)).startswith("5 or more entries")

    def test_a_link_and_a_file_in_the_place_are_refused(self, place):
        link = place.parent / "link"
        link.symlink_to(place)
        with pytest.raises(ValueError, match="is a link to .*: remove it"):
            mac_aside.beneath(str(link))
        with pytest.raises(ValueError, match="is no directory"):
            mac_aside.beneath(str(place / NAME))

    def test_another_volume_in_the_place_is_refused(self):
        with pytest.raises(ValueError, match="another volume is mounted at /proc"):
            mac_aside.beneath("/proc")

    def test_it_is_renamed_whole_and_only_root_changes_it_then(self, place):
        place.chmod(0o777)
        inode = (place / NAME).stat().st_ino
        aside = Path(mac_aside.put_aside(str(place)))
        assert aside == place.parent / "models.before-volume" and not place.exists()
        assert (aside / NAME).stat().st_ino == inode and aside.stat().st_mode & 0o777 == 0o755

    def test_a_second_time_goes_beside_the_first(self, place):
        mounted(place)
        (place / "more").touch()
        assert mac_aside.put_aside(str(place)).endswith("models.before-volume-2")
        assert [Path(folder).name for folder in mac_aside.folders(str(place))] == [
            "models.before-volume",
            "models.before-volume-2",
        ]


class TestTakingOver:
    def test_a_file_of_the_plan_is_proven_on_its_way_and_nothing_is_fetched(self, place):
        aside = mounted(place)
        item = wanted(place, DATA, "http://127.0.0.1:1/never")
        result = fetch(place).bring(item, "missing")
        assert (result["action"], result["fetched_bytes"]) == ("adopted", 0)
        assert (result["hashed_bytes"], result["source"]) == (len(DATA), str(aside))
        assert (place / NAME).read_bytes() == DATA and stamp.read(item["path"])[1]
        assert not aside.exists()
        assert sorted(path.name for path in place.iterdir()) == [NAME, NAME + ".manifest", NAME + ".stamp"]

    def test_what_else_lay_there_stays(self, place):
        (place / "mine.gguf").touch()
        aside = mounted(place)
        fetch(place).bring(wanted(place), "missing")
        assert [path.name for path in aside.iterdir()] == ["mine.gguf"]

    def test_a_file_that_is_not_what_it_should_be_stays_and_is_not_served(self, place):
        aside = mounted(place)
        other = wanted(place, DATA[:-1] + b"x")
        with pytest.raises(weights_install.InstallError, match="could not be fetched"):
            fetch(place).bring(other, "missing")
        assert (aside / NAME).read_bytes() == DATA and list(place.iterdir()) == []

    def test_a_cut_costs_what_was_under_way_and_nothing_else(self, place, monkeypatch):
        aside = mounted(place)
        real, budget, written = os.pwrite, [500_000], []

        def write(descriptor, data, at):
            budget[0] -= len(data)
            if budget[0] < 0:
                raise OSError(5, "Input/output error")
            written.append(at)
            return real(descriptor, data, at)

        monkeypatch.setattr(os, "pwrite", write)
        with pytest.raises(weights_install.InstallError, match="cannot be taken over"):
            fetch(place).bring(wanted(place), "missing")
        assert (aside / NAME).read_bytes() == DATA and not (place / NAME).exists()
        budget[0] = 10**9
        assert fetch(place).bring(wanted(place), "missing")["action"] == "adopted"
        assert (place / NAME).read_bytes() == DATA
        assert sorted(written) == [*range(0, len(DATA), CHUNK)], "each chunk once"

    def test_what_an_earlier_release_had_copied_goes_on(self, place):
        mounted(place)
        part = place / (NAME + ".part.before-volume")
        part.write_bytes(DATA[: 3 * CHUNK])
        Path(f"{part}.journal").write_text(json.dumps({"done_bytes": 3 * CHUNK, "total_bytes": len(DATA)}))
        assert fetch(place).bring(wanted(place), "missing")["action"] == "adopted"
        assert sorted(path.name for path in place.iterdir()) == [NAME, NAME + ".manifest", NAME + ".stamp"]

    def test_without_room_it_is_said_what_to_do_and_nothing_is_lost(self, place, monkeypatch):
        aside = mounted(place)
        real = os.statvfs

        class Full:
            f_bavail, f_frsize = 0, 4096

        monkeypatch.setattr(os, "statvfs", lambda path: Full if path == str(place) else real(path))
        with pytest.raises(
            weights_install.InstallError, match=r"lies in .*before-volume and needs .*another disk"
        ):
            fetch(place).bring(wanted(place), "missing")
        assert (aside / NAME).read_bytes() == DATA

    @pytest.mark.parametrize("kind", ["link", "fifo", "directory", "shorter"])
    def test_what_is_no_such_file_is_not_opened(self, place, kind):
        path = place / NAME
        path.unlink()
        if kind == "link":
            path.symlink_to("/etc/passwd")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        else:
            path.write_bytes(DATA[:-1])
        mounted(place)
        size = Path("/etc/passwd").stat().st_size if kind == "link" else len(DATA)
        assert mac_aside.find(str(place), NAME, size) == (None, None)
        assert fetch(place).installer.take_over(wanted(place)) is None


class TestStaging:
    def fetch(self, place: Path, wait=lambda _seconds: None, **more: object) -> weights_fetch.Fetch:
        folder = place.parent / "var"
        folder.mkdir()
        order = {"id": "1", "dir": str(place), "files": [wanted(place)], "peers": [], "chunk_bytes": 65536}
        order.update(seed_slots=1, uid=os.getuid(), gid=os.getgid(), **more)
        return weights_fetch.Fetch(str(folder), order, progress.State(str(folder), order), wait=wait)

    def test_an_order_takes_it_over_too(self, place):
        mounted(place)
        fetch = self.fetch(place)
        fetch.run()
        assert (place / NAME).read_bytes() == DATA
        assert fetch.state.values["hashed_bytes"] == len(DATA)

    def test_nothing_is_written_in_the_place_of_a_volume_that_is_late(self, place, monkeypatch):
        waits = []

        def mount(seconds):
            waits.append(seconds)
            assert [path.name for path in place.iterdir()] == [NAME]

        monkeypatch.setattr(os.path, "ismount", lambda path: len(waits) >= 3)
        self.fetch(place, mount, on_volume=True).run()
        assert len(waits) == 3

    def test_a_run_soon_after_boot_looks_when_the_volume_is_there(self, place, monkeypatch):
        waits = []
        monkeypatch.setattr(os.path, "ismount", lambda path: len(waits) >= 2)
        late = fetch(place, on_volume=True)
        late.wait = waits.append
        late.await_volume(120)
        fetch(place).await_volume(120)
        assert waits == [1, 1]

    def test_a_job_waits_for_its_volume_until_an_operator_ends_it(self, place, monkeypatch):
        monkeypatch.setattr(os.path, "ismount", lambda path: False)
        late, waits = fetch(place, on_volume=True), []
        late.wait = waits.append
        monkeypatch.setattr(late.state, "control", lambda: ("abort" if len(waits) > 1000 else "run", ""))
        with pytest.raises(Aborted):
            late.run()
        assert late.state.values["reason"].startswith("waits for the volume of")
        assert [path.name for path in place.iterdir()] == [NAME]

    def test_a_volume_that_never_comes_is_the_reason(self, place, monkeypatch):
        monkeypatch.setattr(os.path, "ismount", lambda path: False)
        with pytest.raises(weights_install.InstallError, match="is not mounted; nothing was fetched"):
            fetch(place, on_volume=True).await_volume(120)
        assert [path.name for path in place.iterdir()] == [NAME]
