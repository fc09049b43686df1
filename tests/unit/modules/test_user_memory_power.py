"""Accounts, wired limit and power settings: what is decided before anything is run."""

import pytest

from ds4agent.mac import accounts
from ds4agent.mac import updates as settings
from ds4agent.mac import wired_limit as limit

GROUPS = [{"name": "_ds4"}]
USERS = [{"name": "_ds4", "home": "/var/empty", "shell": "/usr/bin/false", "hidden": True}]


class TestIds:
    def test_the_first_id_that_no_user_and_no_group_has(self):
        gids, uids = accounts.choose_ids(GROUPS, USERS, {"_a": 400}, {"_b": 401, "admin": 501})
        assert gids == uids == {"_ds4": 402}

    def test_two_accounts_get_two_ids(self):
        groups, users = [*GROUPS, {"name": "_t"}], [*USERS, {"name": "_t"}]
        gids, uids = accounts.choose_ids(groups, users, {}, {})
        assert gids == uids == {"_ds4": 400, "_t": 401}

    def test_what_is_there_keeps_its_id(self):
        gids, uids = accounts.choose_ids(GROUPS, USERS, {"_ds4": 450}, {"_ds4": 451})
        assert (gids, uids) == ({"_ds4": 450}, {"_ds4": 451})

    def test_a_half_made_account_is_completed_with_the_id_of_its_group(self):
        assert accounts.choose_ids(GROUPS, USERS, {"_ds4": 450}, {})[1] == {"_ds4": 450}

    def test_another_id_than_wanted_is_refused_as_macos_cannot_change_it(self):
        with pytest.raises(accounts.Refusal, match="has the id 450, wanted is 460"):
            accounts.choose_ids([{"name": "_ds4", "gid": 460}], [], {"_ds4": 450}, {})

    def test_an_id_of_somebody_else_is_refused(self):
        with pytest.raises(accounts.Refusal, match="belongs to _other"):
            accounts.choose_ids([], [{"name": "_ds4", "uid": 450}], {}, {"_other": 450})

    def test_no_id_left(self):
        with pytest.raises(accounts.Refusal, match="all ids from 400 to 499"):
            accounts.free_id(set(range(400, 500)))


class TestWhose:
    OURS = {"uid": 402, "home": "/var/empty", "real_name": "ds4 service"}

    @pytest.mark.parametrize(
        "facts",
        [
            None,
            OURS,
            {**OURS, "home": "/Users/Shared"},  # drifted: it is put right
            {**OURS, "uid": 620},  # by ds4_service_uid
            {"uid": None, "home": None, "real_name": "ds4 service"},  # cut off while it was made
            {"uid": 402, "home": None, "real_name": None},
            {"uid": 402, "home": "/var/empty", "real_name": "_ds4"},
        ],
    )
    def test_ours_is_what_a_run_of_ours_has_made(self, facts):
        assert accounts.whose("_ds4", facts, "ds4 service") == ""

    @pytest.mark.parametrize(
        "facts",
        [
            {"uid": 0, "home": "/var/root", "real_name": "System Administrator"},
            {"uid": 501, "home": "/Users/ada", "real_name": "Ada"},
            {"uid": 501, "home": "/Users/ada", "real_name": "ds4 service"},
            {"uid": 501, "home": "/Users/ada", "real_name": None},
            {"uid": 70, "home": "/Library/WebServer", "real_name": "World Wide Web Server"},
            {"uid": 402, "home": "/var/empty", "real_name": "Another Service"},
            {**OURS, "real_name": "ds4 tunnel"},
        ],
    )
    def test_anybody_elses_is_told_with_its_id_and_name(self, facts):
        why = accounts.whose("x", facts, "ds4 service")
        assert str(facts["uid"]) in why
        assert "is not ours" in why

    def test_a_group_is_ours_when_nobody_else_is_in_it(self):
        for gid, wanted, user_gid in (
            (None, None, None),
            (450, None, None),
            (620, 620, None),
            (620, None, 620),
        ):
            assert accounts.whose_group("_ds4", gid, wanted, user_gid, set()) == ""
        assert "id 20" in accounts.whose_group("staff", 20, None, None, set())
        assert "ada" in accounts.whose_group("llm", 450, None, 450, {"ada"})


class TestRecords:
    def test_what_says_whose_it_is_is_written_before_what_makes_an_account_of_it(self):
        keys = [key for key, _value in accounts.user_attributes(USERS[0], 400, 400)]
        assert keys.index("RealName") == 0 < keys.index("UniqueID")
        assert accounts.group_attributes(GROUPS[0], 400)[0][0] == "RealName"

    def test_a_new_user_is_hidden_and_no_password_fits(self):
        attributes = dict(accounts.user_attributes(USERS[0], 400, 400))
        assert attributes["IsHidden"] == "1"
        assert attributes["Password"] == "*"
        assert attributes["RealName"] == "_ds4"

    def test_only_what_is_missing_is_written(self):
        attributes = accounts.user_attributes(USERS[0], 400, 400)
        record = {**dict(attributes), "Password": "********"}
        assert accounts.missing(attributes, record) == []
        del record["UserShell"]
        assert accounts.missing(attributes, record) == [("UserShell", "/usr/bin/false")]
        assert accounts.missing(attributes, {}) == attributes


class TestWiredLimit:
    @pytest.mark.parametrize(
        ("wanted", "present", "running", "verdict"),
        [
            (114688, 114688, True, "keep"),
            (114688, 0, False, "set"),
            (114688, 0, True, "set"),
            (120000, 114688, True, "set"),
            (100000, 114688, True, "postpone"),
            (100000, 114688, False, "set"),
            (0, 114688, True, "postpone"),
            (0, 114688, False, "set"),
            (131072, 0, False, "refuse"),
            (-1, 0, False, "refuse"),
        ],
    )
    def test_never_lowered_under_a_running_engine(self, wanted, present, running, verdict):
        assert limit.decide(wanted, present, 131072, running) == verdict


class TestPower:
    def test_only_what_differs_and_this_mac_knows(self):
        wanted = {"sleep": 0, "womp": 1, "autorestart": 1, "lidwake": 0}
        wrong, unknown = settings.power(wanted, {"sleep": 10, "womp": 1}, {"sleep", "womp", "autorestart"})
        assert wrong == {"sleep": 0, "autorestart": 1}
        assert unknown == ["lidwake"]

    def test_updates_of_macos_are_held_and_those_of_its_defences_come(self):
        held = {"AutomaticDownload": False, "AutomaticallyInstallMacOSUpdates": False}
        assert settings.updates({}) == held
        assert settings.updates(held) == {}
        defences = {"AutomaticCheckEnabled", "CriticalUpdateInstall", "ConfigDataInstall"}
        assert settings.updates(dict.fromkeys(settings.UPDATE_KEYS, False)) == dict.fromkeys(defences, True)

    def test_updates_that_are_off_altogether_or_kept(self):
        assert settings.updates({}, "off") == dict.fromkeys(settings.UPDATE_KEYS, False)
        assert settings.updates({}, "keep") == {}

    def test_checking_is_switched_with_its_schedule(self):
        assert settings.update_commands({"AutomaticCheckEnabled": True}) == [
            ("softwareupdate", "--schedule", "on"),
            ("defaults", "write", settings.UPDATE_DOMAIN, "AutomaticCheckEnabled", "-bool", "true"),
        ]
        assert settings.update_commands({}) == []
