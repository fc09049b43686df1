"""What a probe asks and how it reads the answers."""

from __future__ import annotations

import inspect

from ds4agent.mac import parse
from ds4agent.mac.run import Result
from ds4agent.observe import read_probes

ERROR = "<plist><dict><key>Error</key><true/></dict></plist>"


def result(out: str = "", err: str = "", rc: int = 0) -> Result:
    return Result(["/usr/bin/it"], rc, out, err)


def test_every_parser_is_held_against_a_real_output():
    parsers = {
        name
        for name, function in inspect.getmembers(parse, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == parse.__name__
    }
    held = {name for names, _command, _holds in read_probes.CHECKS for name in names.split()}
    assert held == parsers


def test_every_check_has_a_command_that_a_probe_runs():
    of_write_probes = {"localtime", "add volume", "busy"}
    asked = set(read_probes.commands("admin"))
    assert {command for _names, command, _holds in read_probes.CHECKS} <= asked | of_write_probes


def test_an_output_of_another_form_is_a_problem_with_its_text():
    told = read_probes.check(
        {"pmset": result("Currently in use\n"), "fdesetup": result("FileVault is Off.\n")}
    )
    by_command = {tuple(item["parsers"]): item for item in told}
    assert by_command["pmset",]["problem"]
    assert by_command["pmset",]["out"] == "Currently in use\n"
    assert by_command["filevault",]["problem"] is None
    assert by_command["filevault",]["out"] == ""


def test_a_parser_that_raises_is_a_problem_and_not_the_end():
    (told,) = read_probes.check({"apfs": result("garbage")})
    assert "ParseError" in told["problem"]


def test_read_only_answers_come_from_statuses_and_streams():
    answers = read_probes.read_only_answers(
        {
            "unknown disk": result(ERROR, rc=0),
            "no member": result("no nobody is NOT a member of admin\n", rc=67),
            "no key": result(err="No such key: Ds4NoSuchKey\n"),
            "no job": result(err='Bad request.\nCould not find service "x" in domain for system\n', rc=113),
        }
    )
    assert answers == {
        "info_unknown_rc": 0,
        "checkmember_no_rc": 67,
        "print_missing_rc": 113,
        "dscl_missing_key_stream": "stderr",
    }


def test_an_output_that_answers_nothing_is_no_answer():
    nothing = dict.fromkeys(("unknown disk", "no member", "no key", "no job"), result("what?", rc=1))
    assert read_probes.read_only_answers(nothing) == {}


class TestMetal:
    def test_the_working_set_at_limit_0_is_the_stock_limit(self):
        assert read_probes.metal('{"device": true, "bytes": 107374182400}', 0)[0] == {
            "stock_limit_mib": 102400
        }

    def test_at_another_limit_it_is_only_seen(self):
        answers, findings, why = read_probes.metal('{"device": true, "bytes": 107374182400}', 102400)
        assert (answers, why) == ({}, None)
        assert findings["working_set_mib_at_limit"] == [102400, 102400]

    def test_no_device_and_no_framework_are_told_apart(self):
        assert read_probes.metal('{"device": false, "bytes": 0}', 0)[1] == {"metal_device": False}
        assert "no framework" in read_probes.metal('{"error": "no framework"}', 0)[2]


def test_df_tells_quota_from_container():
    head = "Filesystem 1024-blocks Used Available Capacity iused ifree %iused Mounted on\n"
    quota = head + "/dev/disk3s7 62500 32 62468 1% 0 624680 0% /private/var/tmp/x/1\n"
    assert read_probes.df_size(quota, 64000000) == "quota"
    assert read_probes.df_size(quota.replace(" 62500 ", " 482797652 "), 64000000) == "container"
    assert read_probes.df_size("df: no such file", 64000000) is None


def test_texts_are_kept_without_names_and_numbers():
    text = "Volume on disk3s7 renamed to ds4-probe-2\n"
    assert read_probes.rename_text(text, "disk3s7", "ds4-probe-2") == "Volume on {device} renamed to {name}"
    assert read_probes.lines_without_numbers("Created new APFS Volume disk3s7\n") == [
        "Created new APFS Volume diskN"
    ]
