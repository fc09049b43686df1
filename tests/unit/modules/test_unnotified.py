"""Who is still connected to an engine when it is stopped: programs that no endpoint is in front of."""

import os
import pwd
import shutil
import socket
import subprocess
import sys

import pytest

from ds4agent.mac import run as mac_run
from ds4agent.switch import unnotified

#: lsof -FpcLn: an engine, its two clients, and one that has nothing to do with it.
SHOWN = """p7
cds4-server
L_ds4
f5
n127.0.0.1:8000->127.0.0.1:50001
f6
n127.0.0.1:8000->127.0.0.1:50002
p31
ccurl
Lalice
f3
n127.0.0.1:50001->127.0.0.1:8000
p32
csshd-session
Lbob
f9
n192.168.1.5:22->192.168.1.9:61000
f11
n127.0.0.1:50002->127.0.0.1:8000
p33
cnode
Lcarol
f3
n127.0.0.1:50003->127.0.0.1:9000
"""


def test_they_are_those_at_the_other_end_of_the_engines_connections():
    assert unnotified.named(SHOWN, 7) == ["curl of alice", "sshd-session of bob"]
    assert unnotified.named(SHOWN, 33) == []


@pytest.mark.parametrize("text", ["", "n\n", "p\nn->\n", "p7\nn1->2", "x" * 100_000, "\n" * 1000])
def test_what_lsof_does_not_print_names_no_one(text):
    assert unnotified.named(text, 7) == []


def test_a_program_cannot_write_to_the_terminal_by_its_name():
    shown = SHOWN.replace("ccurl", "c\x1b]0;x\x07" + "y" * 200)
    name = unnotified.named(shown, 7)[0]
    assert "\x1b" not in name and len(name) <= unnotified.NAME_CHARS


def test_a_crowd_is_named_by_five():
    crowd = ["p7\n" + "".join(f"n127.0.0.1:8000->127.0.0.1:{50000 + n}\n" for n in range(40))]
    crowd += [f"p{100 + n}\nccurl\nLu{n:02}\nn127.0.0.1:{50000 + n}->127.0.0.1:8000\n" for n in range(40)]
    assert unnotified.named("".join(crowd), 7) == [f"curl of u{n:02}" for n in range(5)]


@pytest.mark.parametrize("rc", [mac_run.RC_MISSING, mac_run.RC_TIMEOUT])
def test_without_lsof_no_one_is_named(rc):
    assert unnotified.clients(7, lambda *_words: mac_run.Result(["lsof"], rc, SHOWN, "")) == []
    assert unnotified.clients(None) == []


def test_a_sentence_says_why_they_were_not_notified():
    assert unnotified.sentence([]) == ""
    assert unnotified.sentence(["curl of alice"]).endswith("no endpoint is in front of them: curl of alice")


def of_this_machine(tool, *words):
    """mac_run.run, where lsof may lie in another folder than on a Mac."""
    done = subprocess.run([tool, *words], capture_output=True, text=True, timeout=60, check=False)
    return mac_run.Result([tool], done.returncode, done.stdout, done.stderr)


@pytest.mark.skipif(not shutil.which("lsof"), reason="lsof is not installed")
def test_a_real_client_is_found_by_its_connection():
    connect = (
        "import socket, sys; kept = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        " print('there', flush=True); sys.stdin.read()"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [sys.executable, "-c", connect, str(server.getsockname()[1])]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout.readline() == "there\n"
            kept, _address = server.accept()
            with kept:
                (name,) = unnotified.clients(os.getpid(), of_this_machine)
            client.stdin.close()
    assert name.startswith("python") and name.endswith(f" of {pwd.getpwuid(os.getuid()).pw_name}")
