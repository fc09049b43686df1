"""Deciding about APFS volumes: created once, by UUID ever after, never destroyed to change a quota."""

import pytest

from ds4agent.mac import volumes

UUID = "6CD8025B-76B4-4336-918B-04FEE498F9BD"
OTHER = "10DC02F1-71D9-4D8C-A666-899BFDFE2058"
MOUNT = "/opt/ds4/models"
LINE = volumes.fstab_line(UUID, MOUNT)
ROOT = {"owner": "root", "group": "wheel", "mode": "0755"}


def volume(**changes):
    base = {
        "uuid": UUID,
        "name": "ds4-models",
        "device": "disk3s7",
        "roles": [],
        "quota_bytes": 400,
        "reserve_bytes": 0,
    }
    return {**base, "in_use_bytes": 1, "locked": False, **changes}


def container(*held, reference="disk3", free_bytes=1000):
    return {"reference": reference, "uuid": "C-" + reference, "free_bytes": free_bytes, "volumes": list(held)}


def wanted(**changes):
    return {
        "name": "ds4-models",
        "mount_point": MOUNT,
        "quota_bytes": 400,
        "reserve_bytes": 0,
        "uuid": None,
        **changes,
    }


def facts(**changes):
    base = {
        "mount_point": MOUNT,
        "owners_enabled": True,
        "never_index": True,
        "root": ROOT,
        "fstab": LINE + "\n",
        "listed": LINE + "\n",
    }
    return {**base, **changes}


class TestWhose:
    #: Room in which somebody may have put data.
    USED = {"in_use_bytes": 1 << 30}

    def why(self, found, at="", texts=("", ""), **more):
        return volumes.whose(wanted(name=found["name"]), found, at, texts, **more)

    def test_ours_is_what_bears_a_name_of_ours_or_is_in_its_place_or_noted_for_it(self):
        other = volume(name="llm", **self.USED)
        assert self.why(volume(**self.USED), "/Volumes/ds4-models") == ""
        assert self.why(other, MOUNT) == ""
        assert self.why(other, "", (LINE, "")) == self.why(other, "/Volumes/llm", ("", LINE)) == ""
        # Made by a run that was cut off before it was mounted.
        assert self.why(volume(name="llm")) == ""

    def test_a_volume_of_somebody_is_not_ours(self):
        backup = volume(name="backup", **self.USED)
        assert "not ours" in self.why(backup, "/Volumes/backup")
        assert "not ours" in self.why(backup, "", (volumes.fstab_line(UUID, "/data"), ""))
        assert "not ours" in self.why(volume(name="backup"), deleting=True)

    def test_a_volume_of_macos_is_never_ours(self):
        assert "not ours" in self.why(volume(roles=["Data"]), MOUNT, (LINE, LINE))

    def test_nothing_is_mounted_over_another_volume(self):
        other = volume(uuid=OTHER, name="ds4-models", device="disk3s8")
        renamed = wanted(name="llm")
        assert "ds4-models is at /opt/ds4/models" in volumes.in_the_way(renamed, None, [(other, MOUNT)], ())
        noted = volumes.fstab_line(OTHER, MOUNT)
        assert "belongs at" in volumes.in_the_way(renamed, None, [(other, "")], ("", noted))
        assert volumes.in_the_way(renamed, None, [(other, "/Volumes/x")], ("", "")) == ""
        assert volumes.in_the_way(wanted(), volume(), [(volume(), MOUNT)], (LINE,)) == ""


class TestFinding:
    def test_by_uuid_whatever_it_is_called(self):
        found = volume(name="renamed")
        assert volumes.find(wanted(uuid=UUID.lower()), [container(found)])[1] is found

    def test_by_name_when_the_uuid_is_not_known(self):
        assert volumes.find(wanted(), [container(volume())])[1]["uuid"] == UUID

    def test_a_name_that_is_taken_twice_is_refused(self):
        with pytest.raises(volumes.Refusal, match="2 volumes named ds4-models"):
            volumes.find(wanted(), [container(volume(), volume(uuid=OTHER, device="disk3s8"))])

    def test_a_known_uuid_decides_between_two_of_one_name(self):
        pair = [container(volume(uuid=OTHER), volume())]
        assert volumes.find(wanted(uuid=UUID), pair)[1]["uuid"] == UUID

    def test_a_system_volume_of_that_name_is_not_ours(self):
        assert volumes.find(wanted(), [container(volume(roles=["Data"]))]) == (None, None)

    @pytest.mark.parametrize(
        ("asked", "found"), [(None, "disk3"), ("auto", "disk3"), ("disk5", "disk5"), ("C-disk5", "disk5")]
    )
    def test_container_by_reference_of_root_or_as_asked(self, asked, found):
        both = [container(reference="disk5"), container()]
        assert volumes.container_for(wanted(container=asked), both, "disk3")["reference"] == found

    def test_a_container_that_is_not_there_is_refused(self):
        with pytest.raises(volumes.Refusal, match="no APFS container disk9"):
            volumes.container_for(wanted(container="disk9"), [container()], "disk3")


class TestDeciding:
    def test_nothing_to_do_when_all_is_right(self):
        assert volumes.decide(wanted(), volume(), facts()) == []

    @pytest.mark.parametrize(
        ("found", "known", "steps"),
        [
            (None, {}, ["create", "owners", "never_index", "root", "fstab"]),
            (volume(), {"mount_point": ""}, ["mount", "owners", "never_index", "root"]),
            (
                volume(),
                {"mount_point": "/Volumes/ds4-models"},
                ["unmount", "mount", "owners", "never_index", "root"],
            ),
            (volume(), {"owners_enabled": False}, ["owners"]),
            (volume(), {"never_index": False}, ["never_index"]),
            (volume(), {"root": {"owner": "admin", "group": "staff", "mode": "0775"}}, ["root"]),
            (volume(), {"fstab": ""}, ["fstab"]),
            (volume(), {"listed": ""}, ["fstab"]),
            (volume(quota_bytes=64), {}, []),
            (None, {"beneath": "1 entry"}, ["aside", "create", "owners", "never_index", "root", "fstab"]),
            (
                volume(),
                {"mount_point": "", "beneath": "1 entry"},
                ["aside", "mount", "owners", "never_index", "root"],
            ),
        ],
    )
    def test_only_what_is_missing(self, found, known, steps):
        assert volumes.decide(wanted(), found, facts(**known)) == steps

    def test_a_locked_volume_is_refused(self):
        with pytest.raises(volumes.Refusal, match="is locked"):
            volumes.decide(wanted(), volume(locked=True), facts())

    def test_another_quota_is_reported_and_nothing_else(self):
        (sentence,) = volumes.differences(
            wanted(quota_bytes=2 * 10**9), container(), volume(quota_bytes=10**9)
        )
        assert "quota of 1.0 GB, wanted are 2.0 GB" in sentence
        assert "cannot be changed" in sentence

    def test_a_volume_in_another_container_stays_there(self):
        (sentence,) = volumes.differences(wanted(container="disk5"), container(), volume())
        assert "stays there" in sentence


class TestRoom:
    def test_a_reserve_that_does_not_fit_is_refused(self):
        with pytest.raises(volumes.Refusal, match="disk3 has 0.0 GB free"):
            volumes.check_room(wanted(reserve_bytes=2000, quota_bytes=4000), container())

    def test_a_reserve_above_the_quota_is_refused(self):
        with pytest.raises(volumes.Refusal, match="larger than the quota"):
            volumes.check_room(wanted(reserve_bytes=500), container())

    def test_a_quota_may_be_larger_than_what_is_free_now(self):
        volumes.check_room(wanted(quota_bytes=4000), container())


class TestCommands:
    def test_creation_names_reserve_quota_and_mount_point(self):
        arguments = volumes.create_arguments(wanted(reserve_bytes=7), container())
        assert arguments == [
            *["apfs", "addVolume", "disk3", "APFS", "ds4-models"],
            *["-reserve", "7B", "-quota", "400B", "-mountpoint", MOUNT],
        ]

    def test_no_quota_is_no_option(self):
        assert "-quota" not in volumes.create_arguments(wanted(quota_bytes=0), container())


class TestFstab:
    @pytest.mark.parametrize(
        "before",
        [
            "",
            "# kept\nUUID=X /other apfs rw\n",
            f"UUID={UUID.lower()} /Volumes/old apfs rw\n",
            f"UUID={OTHER} {MOUNT} apfs rw\n",
            f"{LINE}\n{LINE}\n",
            "# no newline at the end",
        ],
    )
    def test_there_is_one_line_for_the_volume_and_writing_again_changes_nothing(self, before):
        after = volumes.with_fstab_entry(before, UUID, MOUNT)
        assert after.splitlines().count(LINE) == 1
        assert [line for line in after.splitlines() if MOUNT in line and not line.startswith("#")] == [LINE]
        assert volumes.with_fstab_entry(after, UUID, MOUNT) == after
        assert all(line in after for line in before.splitlines())
        assert volumes.without_fstab_entry(after, UUID, MOUNT) == "".join(
            f"{line}\n" for line in after.splitlines() if line != LINE
        )

    def test_a_right_line_among_others_is_left_as_it_is(self):
        text = f"# a\n{LINE}\nUUID=X /other apfs rw\n"
        assert volumes.with_fstab_entry(text, UUID, MOUNT) == text

    def test_removal_takes_only_our_line(self):
        text = f"# {MOUNT}\n{LINE}\nUUID=X /other apfs rw\n"
        assert volumes.without_fstab_entry(text, UUID, MOUNT) == f"# {MOUNT}\nUUID=X /other apfs rw\n"
        assert volumes.without_fstab_entry("# x", UUID, MOUNT) == "# x"

    def test_blanks_are_written_as_fstab_wants_them(self):
        text = volumes.with_fstab_entry("", UUID, "/opt/a b")
        assert " /opt/a\\040b apfs " in text
        assert volumes.without_fstab_entry(text, UUID, "/opt/a b") == ""
