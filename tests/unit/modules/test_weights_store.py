"""The directory of weights as a whole: who needs what, what could go, and proof anew."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from ds4agent.weights import stamp, store
from tests.support.collection import module
from tests.support.states import saved
from tests.unit.modules.test_weights import DATA, HEADER

GOOD = {"bytes": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest(), "header": HEADER}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("models", "kv", "run", "etc", "var/prefetch", "var/switch"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def put(root: Path, name: str, data: bytes = b"x", stamped: bool = False) -> str:
    path = root / "models" / name
    path.write_bytes(data)
    if stamped:
        stamp.write(str(path), hashlib.sha256(data).hexdigest())
    return str(path)


def needless(root: Path, *keep: str, known: tuple[str, ...] = (), wrong: bool = False) -> dict[str, str]:
    needed = store.users(str(root))
    for name in keep:
        needed.setdefault(name, []).append("planned")
    found = store.items(str(root / "models"))
    return {item.name: why for item, why in store.needless(found, needed, known, wrong)}


class TestWhatIsThere:
    def test_things_are_told_apart_by_name_and_stamp(self, root):
        put(root, "a.gguf", stamped=True)
        for name in (
            "b.gguf",
            "b.gguf.stamp",
            "b.gguf.part.0123abcd.relay",
            "b.gguf.part.0123abcd.relay.chunks",
            "b.gguf.part.4567",
            "b.gguf.part.4567.journal",
            "b.gguf.part",
            "b.gguf.sha-mismatch",
            "a.gguf.manifest",
            "notes.txt",
            "b.gguf.orig",
        ):
            put(root, name)
        found = {item.name: item for item in store.items(str(root / "models"))}
        assert {name: item.kind for name, item in found.items()} == {
            "a.gguf": "proven",
            "b.gguf": "unproven",
            "b.gguf.part": "part",
            "b.gguf.part.0123abcd.relay": "part",
            "b.gguf.part.4567": "part",
            "b.gguf.sha-mismatch": "wrong",
        }
        beside = {name: [Path(path).name for path in item.beside] for name, item in found.items()}
        assert beside["a.gguf"] == ["a.gguf.manifest", "a.gguf.stamp"]
        assert beside["b.gguf.part.0123abcd.relay"] == ["b.gguf.part.0123abcd.relay.chunks"]
        assert beside["b.gguf.part.4567"] == ["b.gguf.part.4567.journal"]

    def test_a_link_is_not_ours(self, root):
        (root / "models" / "a.gguf").symlink_to("/etc/hosts")
        assert store.items(str(root / "models")) == []

    def test_a_part_counts_what_it_takes_and_not_what_it_will(self, root):
        os.truncate(put(root, "a.gguf.part.01.relay"), 1 << 30)
        (part,) = store.items(str(root / "models"))
        assert part.bytes < 1 << 20

    def test_a_mac_without_the_directory_has_nothing(self, tmp_path):
        assert store.items(str(tmp_path / "models")) == []
        assert store.users(str(tmp_path)) == {}


class TestEntries:
    """Directories of KV entries are needed for as long as a version is that could use them."""

    NOW, BEFORE, LONG_AGO = (f"flash-{letter * 12}-abi2" for letter in "abc")

    @pytest.fixture
    def kv(self, root):
        for name in (self.NOW, self.BEFORE, self.LONG_AGO, "somebody's"):
            (root / "kv" / name).mkdir()
            (root / "kv" / name / "1.kv").write_text("entry")
        (root / "etc" / "server.conf").write_text(f"kv_dir={root}/kv/{self.NOW}\n")
        before = saved(f"kv_dir={root}/kv/{self.BEFORE}\n")
        (root / "var/switch/previous.json").write_text(json.dumps(before))
        return root / "kv"

    def test_those_of_now_and_before_stay_and_the_others_can_go(self, root, kv):
        found = {item.name: item for item in store.kv_items(str(root))}
        assert set(found) == {f"kv/{name}" for name in (self.NOW, self.BEFORE, self.LONG_AGO)}
        assert all(item.bytes > 0 for item in found.values())
        ((item, why),) = store.needless(found.values(), store.users(str(root)), (), False)
        assert item.name == f"kv/{self.LONG_AGO}" and why
        store.remove(str(root / "models"), item)
        assert sorted(path.name for path in kv.iterdir()) == sorted((self.NOW, self.BEFORE, "somebody's"))

    def test_what_is_no_entry_in_them_neither_stops_nor_counts(self, root):
        folder = root / "kv" / self.NOW
        folder.mkdir()
        folder.chmod(0o777)
        os.mkfifo(folder / "a.kv")
        (folder / "b.kv").symlink_to("nowhere")
        (folder / "c.kv").mkdir()
        (folder / "d.kv").write_bytes(b"x" * 4096)
        (found,) = store.kv_items(str(root))
        assert found.bytes == (folder / "d.kv").stat().st_blocks * 512
        store.remove(str(root / "models"), found)
        assert not folder.exists()

    def test_a_mac_without_them_has_nothing(self, tmp_path):
        assert store.kv_items(str(tmp_path)) == []


class TestWhoNeedsIt:
    def test_everything_that_names_a_file_needs_it(self, root):
        (root / "run" / "server.running.conf").write_text("weights=aa /m/a.gguf\narg=--model\n")
        (root / "etc" / "server.conf").write_text("weights=bb /m/b.gguf\nweights=cc /m/mtp.gguf\n")
        for which, name in (("current", "b"), ("previous", "d")):
            (root / "engine" / which).mkdir(parents=True)
            (root / "engine" / which / "ds4flash.gguf").symlink_to(f"/m/{name}.gguf")
        (root / "var/switch/previous.json").write_text(json.dumps(saved("weights=ee /m/e.gguf\n")))
        (root / "var/prefetch/order.json").write_text(json.dumps({"files": [{"name": "f.gguf"}]}))
        assert store.users(str(root)) == {
            "a.gguf": ["served"],
            "b.gguf": ["configured", "current release"],
            "mtp.gguf": ["configured"],
            "d.gguf": ["previous release"],
            "e.gguf": ["version before"],
            "f.gguf": ["being prefetched"],
        }

    def test_the_copy_is_found_where_it_is_now(self, root):
        (root / "var" / "server.running.conf").write_text("weights=aa /m/a.gguf\nkv_dir=/k/flash-1\n")
        assert store.users(str(root)) == {"a.gguf": ["served"], "kv/flash-1": ["served"]}

    @pytest.mark.parametrize("kind", ["fifo", "dangling link", "directory", "endless"])
    def test_what_the_service_user_puts_in_its_place_stops_nobody(self, root, kind):
        path = root / "run" / "server.running.conf"
        (root / "run").chmod(0o777)
        (root / "etc" / "server.conf").write_text("weights=bb /m/b.gguf\n")
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "dangling link":
            path.symlink_to(root / "nowhere")
        elif kind == "directory":
            path.mkdir()
        else:
            path.touch()
            os.truncate(path, 1 << 40)
        assert store.users(str(root)) == {"b.gguf": ["configured"]}

    def test_a_rollout_that_has_the_mac_is_named(self, root):
        assert store.held_by(str(root)) == ""
        lock = {"run_id": "r1", "owner": "eva", "since": "noon"}
        (root / "var/switch/lock.json").write_text(json.dumps(lock))
        assert store.held_by(str(root)) == "rollout r1 of eva has this Mac since noon"


class TestWhatCanGo:
    def test_what_is_served_planned_or_on_its_way_stays(self, root):
        (root / "run" / "server.running.conf").write_text("weights=aa /m/served.gguf\n")
        (root / "var/prefetch/order.json").write_text(json.dumps({"files": [{"name": "coming.gguf"}]}))
        for name in ("served", "planned", "old"):
            put(root, f"{name}.gguf", stamped=True)
        put(root, "coming.gguf.part.01.relay")
        put(root, "planned-too.gguf.part.01")
        assert needless(root, "planned.gguf", "planned-too.gguf") == {"old.gguf": "no version needs it"}

    def test_an_unproven_file_goes_only_when_the_catalogue_knows_it(self, root):
        put(root, "mine.gguf")
        put(root, "known.gguf")
        assert needless(root, known=("known.gguf",)) == {"known.gguf": "no version needs it"}

    def test_parts_go_when_the_whole_is_here_or_nobody_waits(self, root):
        put(root, "a.gguf", stamped=True)
        put(root, "a.gguf.part.01.relay")
        put(root, "b.gguf.part.02")
        assert needless(root, "a.gguf") == {
            "a.gguf.part.01.relay": "the whole is here",
            "b.gguf.part.02": "no transfer is waiting for it",
        }

    def test_a_copy_kept_aside_goes_only_when_told_so(self, root):
        put(root, "a.gguf.sha-mismatch")
        assert needless(root) == {}
        assert needless(root, wrong=True) == {"a.gguf.sha-mismatch": "failed its proof"}

    def test_what_was_prefetched_stays_until_it_is_asked_for(self, root):
        stamp.mark(put(root, "next.gguf", stamped=True), "flash-q4")
        put(root, "old.gguf", stamped=True)
        params = {"keep": [], "known": {}, "wrong": False, "root": str(root)}

        def pruned(prefetched):
            chosen, needed = store.items(str(root / "models")), store.users(str(root))
            given = {**params, "prefetched": prefetched}
            found, _changed = module("ds4_weights_store").prune(
                str(root / "models"), chosen, needed, given, True
            )
            return {one["name"]: (one["state"], one["why"]) for one in found}

        gone = ("free", "no version needs it")
        assert pruned(False) == {"next.gguf": ("kept", "prefetched for flash-q4"), "old.gguf": gone}
        assert pruned(True) == {"next.gguf": ("free", "prefetched for flash-q4"), "old.gguf": gone}

    def test_a_file_goes_with_all_that_belongs_to_it(self, root):
        put(root, "a.gguf", stamped=True)
        put(root, "a.gguf.manifest")
        put(root, "b.gguf", stamped=True)
        (item,) = [item for item in store.items(str(root / "models")) if item.name == "a.gguf"]
        store.remove(str(root / "models"), item)
        assert sorted(path.name for path in (root / "models").iterdir()) == ["b.gguf", "b.gguf.stamp"]


class TestMarks:
    def test_a_mark_says_nothing_about_the_proof_and_outlives_a_new_one(self, root):
        path = put(root, "a.gguf", stamped=True)
        before = stamp.read(path)
        assert stamp.mark(path, "flash-q4") and not stamp.mark(path, "flash-q4")
        assert stamp.read(path) == ({**before[0], "prefetched_for": "flash-q4"}, True)
        stamp.write(path, before[0]["sha256"])
        assert stamp.read(path)[0]["prefetched_for"] == "flash-q4"
        assert stamp.mark(path, "") and stamp.read(path)[0]["prefetched_for"] == ""

    def test_a_file_without_a_proof_is_not_marked(self, root):
        path = put(root, "a.gguf")
        assert not stamp.mark(path, "flash-q4") and not Path(stamp.stamp_path(path)).exists()

    def test_what_is_used_by_now_loses_its_mark_when_something_else_is_prefetched(self, root):
        used, waiting = (put(root, name, stamped=True) for name in ("used.gguf", "waiting.gguf"))
        for path in (used, waiting):
            stamp.mark(path, "flash-q4")
        (root / "etc" / "server.conf").write_text("weights=aa /m/used.gguf\n")
        rehearsal, real = (
            module("ds4_prefetch").Prefetch(str(root), str(root / "keys"), dry) for dry in (True, False)
        )
        rehearsal.unmark_used(str(root))
        assert rehearsal.changed and store.prefetched(str(root)).keys() == {"used.gguf", "waiting.gguf"}
        real.unmark_used(str(root))
        assert store.prefetched(str(root)) == {"waiting.gguf": "prefetched for flash-q4"}


class TestProvenAnew:
    @pytest.fixture
    def progress(self, tmp_path):
        return store.Progress(len(DATA), path=str(tmp_path / "status"), clock=iter(range(99)).__next__)

    def prove(self, root, progress, wanted=GOOD, data=DATA, **options):
        path = put(root, "a.gguf", data, stamped=True)
        return path, store.prove(path, wanted, progress, **options)

    def test_a_good_file_gets_a_new_stamp(self, root, progress):
        path = put(root, "a.gguf", DATA)
        assert store.prove(path, GOOD, progress) == ("proven", "")
        assert stamp.read(path)[1]
        assert progress.values["done_bytes"] == len(DATA)

    def test_a_spoilt_file_loses_its_stamp_and_is_not_touched(self, root, progress):
        spoilt = DATA[:-1] + b"X"
        path, (state, why) = self.prove(root, progress, data=spoilt)
        assert state == "wrong" and why.startswith("its sha256 is")
        assert Path(path).read_bytes() == spoilt and not stamp.read(path)[1]

    def test_another_size_is_wrong_without_reading_it(self, root, progress):
        _path, (state, why) = self.prove(root, progress, data=DATA[:-4])
        assert state == "wrong" and why.startswith("it has")
        assert progress.values["done_bytes"] == 0

    def test_a_file_that_is_written_to_meanwhile_is_neither_good_nor_bad(self, root, progress, monkeypatch):
        real = progress.read

        def read(count):
            os.utime(root / "models" / "a.gguf", (1, 1))
            real(count)

        monkeypatch.setattr(progress, "read", read)
        path, (state, _why) = self.prove(root, progress)
        assert state == "changed"

    def test_without_the_catalogue_the_stamp_says_what_it_should_be(self, root):
        path = put(root, "a.gguf", DATA, stamped=True)
        Path(path).write_bytes(DATA[:-1] + b"X")
        assert store.expected(path, {})["sha256"] == GOOD["sha256"]
        assert store.expected(path, {"a.gguf": {"sha256": None}})["sha256"] == GOOD["sha256"]
        assert store.expected(path, {"a.gguf": GOOD}) is GOOD
        assert store.expected(put(root, "b.gguf"), {}) is None

    def test_what_nobody_described_is_not_judged(self, root, progress):
        path, (state, _why) = self.prove(root, progress, wanted=None)
        assert state == "unknown" and stamp.read(path)[1]

    def test_a_rehearsal_reads_nothing(self, root, progress):
        _path, (state, _why) = self.prove(root, progress, dry=True)
        assert state == "unread" and progress.values["done_bytes"] == 0

    def test_progress_can_be_read_while_it_goes_on_and_is_gone_at_the_end(self, tmp_path):
        progress = store.Progress(100, path=str(tmp_path / "status"), clock=iter(range(0, 99, 2)).__next__)
        progress.read(40)
        said = json.loads((tmp_path / "status").read_text())
        assert (said["done_bytes"], said["total_bytes"]) == (40, 100)
        progress.end()
        assert not (tmp_path / "status").exists()
