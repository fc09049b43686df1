"""newsyslog rotates by its rules, and says what is wrong with a line."""

from __future__ import annotations

import bz2
import os
from datetime import datetime
from pathlib import Path

import pytest

from maclab.commands import newsyslog
from maclab.machine import etc
from maclab.machine.job_spec import next_moment, parse_job
from tests.unit.maclab.fake import bare, run


def rotate(tmp_path: Path, line: str, *flags: str) -> str:
    conf = tmp_path / "x.conf"
    conf.write_text(f"# logfilename [owner:group] mode count size when flags\n{line}\n")
    return run(bare(), "newsyslog", *flags, "-f", str(conf)).out


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for owners")


def test_a_log_that_is_large_enough_is_renamed_and_an_empty_one_takes_its_place(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("x" * 5000)
    held = log.open("a")
    rotate(tmp_path, f"{log} root:wheel 640 3 4 * BN")
    assert (tmp_path / "server.log.0").read_text() == "x" * 5000
    assert log.read_text() == ""
    held.write("late")
    held.close()
    # Whoever keeps it open writes on into the renamed file.
    assert (tmp_path / "server.log.0").read_text().endswith("late")


def test_a_small_log_stays_unless_forced(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("x")
    rotate(tmp_path, f"{log} 644 3 4 * BN")
    assert not (tmp_path / "server.log.0").exists()
    rotate(tmp_path, f"{log} 644 3 4 * BN", "-F")
    assert (tmp_path / "server.log.0").exists()


def test_only_as_many_as_asked_for_are_kept_and_they_are_packed(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    for number in range(5):
        log.write_text(str(number))
        rotate(tmp_path, f"{log} 644 2 * * JBN", "-F")
    kept = sorted(p.name for p in tmp_path.glob("server.log.*"))
    assert kept == ["server.log.0.bz2", "server.log.1.bz2"]
    assert bz2.decompress((tmp_path / "server.log.0.bz2").read_bytes()) == b"4"


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("x" * 5000)
    out = rotate(tmp_path, f"{log} 644 3 4 * N", "-n", "-v")
    assert "trimming" in out
    assert not (tmp_path / "server.log.0").exists()


@pytest.mark.parametrize(
    "line", ["/x 644 3", "/x 9z 3 4 * N", "/x 644 many 4 * N", "/x 644 3 4 sometimes N", "/x 644 3 4 * Q"]
)
def test_a_bad_line_is_refused(line: str) -> None:
    with pytest.raises(newsyslog.BadLine):
        newsyslog.parse(line, "test")


def test_all_forms_of_times_and_owners_are_understood() -> None:
    text = "/a admin:staff 600 5 1000 @T00 GJ\n/b 644 7 * $D0 Z /var/run/b.pid 30\n/c 644 7 * 24\n"
    first, second, third = newsyslog.parse(text, "test")
    assert (first.owner, first.size_kb, first.when, first.flags) == ("admin:staff", 1000, "@T00", "GJ")
    assert (second.size_kb, second.pid_file, second.signal) == (-1, "/var/run/b.pid", 30)
    assert third.when == "24"


def test_macos_runs_it_at_every_full_and_half_hour() -> None:
    # Reference 2.7 (mark B): com.apple.newsyslog, every 30 minutes.
    job = parse_job(etc._NEWSYSLOG_JOB, "/System/Library/LaunchDaemons/com.apple.newsyslog.plist")
    now = datetime(2026, 5, 4, 10, 7)
    first = next_moment(job.calendar, now)
    assert first
    second = next_moment(job.calendar, first)
    assert [first, second] == [datetime(2026, 5, 4, 10, 30), datetime(2026, 5, 4, 11, 0)]
