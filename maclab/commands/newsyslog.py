"""newsyslog: rotate logs as /etc/newsyslog.conf and /etc/newsyslog.d say.

Source: reference 2.7 (line format, flags J Z N B G C, `when`), newsyslog(8). Confidence A; the wording of
complaints about a bad line is C. Rotation renames: a job that keeps its log open writes on into the
renamed file.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import os
import pwd
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="newsyslog",
    paths=("/usr/sbin/newsyslog",),
    source="newsyslog(8)",
    confidence="A, C (complaints)",
    does="-n -v -r -F -C -f FILE, named logs; size, hours, @ and $ times; flags J Z N B G C; pid file",
    lacks="-a, -d, -t, -R, -s",
)
#: The include directive is Apple's own; the drop-in folder is read by a bare run.
_CONF = Path("/etc/newsyslog.conf")


@dataclass(frozen=True)
class Rule:
    """One line of the configuration."""

    path: str
    owner: str
    mode: int
    count: int
    size_kb: int
    when: str
    flags: str
    pid_file: str
    signal: int


class BadLine(Exception):
    """A line that newsyslog stops at."""


def parse(text: str, name: str) -> list[Rule]:
    """Rules of one file. Raises BadLine with the complaint."""
    rules = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if not words or words[0] == "<include>":
            continue
        owner = words.pop(1) if len(words) > 1 and (":" in words[1]) else ""
        if len(words) < 5:
            raise BadLine(f"newsyslog: malformed line (missing fields) in {name}:\n{line}")
        path, mode, count, size, when = words[:5]
        flags = words[5].upper() if len(words) > 5 and not words[5].startswith("/") else ""
        rest = words[6:] if flags else words[5:]
        if (
            not re.fullmatch(r"[0-7]{3,4}", mode)
            or not count.isdigit()
            or not (size.isdigit() or size == "*")
        ):
            raise BadLine(f"newsyslog: error in config file; bad permissions, count or size:\n{line}")
        if not re.fullmatch(r"\*|\d+|(\d+)?[@$][\dTDWMLH]+", when):
            raise BadLine(f"newsyslog: error in config file; bad at:\n{line}")
        if set(flags) - set("JZXYNBGCDMPRSTUW-"):
            raise BadLine(f"newsyslog: illegal flag in config file -- {flags}")
        number = int(rest[1]) if len(rest) > 1 and rest[1].isdigit() else signal.SIGHUP
        limit = int(size) if size.isdigit() else -1
        rules.append(
            Rule(path, owner, int(mode, 8), int(count), limit, when, flags, rest[0] if rest else "", number)
        )
    return rules


def main(ctx: Context) -> int:
    """Rotate what is due; -n only says what would be done."""
    flags, conf, names = "", None, []
    words = list(ctx.args)
    while words:
        word = words.pop(0)
        if word == "-f":
            conf = Path(ctx.cwd, words.pop(0))
        elif word.startswith("-f"):
            conf = Path(ctx.cwd, word[2:])
        elif word.startswith("-"):
            bad = set(word[1:]) - set("nvrFCf")
            if bad:
                return ctx.unsupported(f"-{min(bad)}")
            flags += word[1:]
            if word.endswith("f"):
                conf = Path(ctx.cwd, words.pop(0))
        else:
            names.append(word)
    if not ctx.is_root and "r" not in flags:
        ctx.err("newsyslog: must have root privs")
        return 1
    try:
        rules = _rules(ctx, conf)
    except (BadLine, OSError) as problem:
        ctx.err(str(problem))
        return 1
    for rule in rules:
        paths = sorted(glob.glob(rule.path)) if "G" in rule.flags else [rule.path]  # noqa: PTH207
        for path in paths:
            if not names or path in names:
                _handle(ctx, rule, Path(path), flags)
    return 0


def _rules(ctx: Context, conf: Path | None) -> list[Rule]:
    files = [conf] if conf else [_CONF, *sorted(Path("/etc/newsyslog.d").glob("*.conf"))]
    rules: list[Rule] = []
    for path in files:
        with ctx.as_caller():
            text = path.read_text()
        rules += parse(text, str(path))
    return rules


def _suffix(rule: Rule) -> str:
    return ".bz2" if "J" in rule.flags else ".gz" if "Z" in rule.flags else ""


def _handle(ctx: Context, rule: Rule, path: Path, flags: str) -> None:
    verbose, dry = "v" in flags, "n" in flags
    head = f"{path} <{rule.count}{'J' if 'J' in rule.flags else 'Z' if 'Z' in rule.flags else ''}>: "
    if not path.exists():
        if "C" in rule.flags or "C" in flags:
            ctx.out(f"{head}does not exist, creating") if verbose or dry else None
            if not dry:
                _create(rule, path)
        elif verbose:
            ctx.out(f"{head}does not exist, skipped.")
        return
    size_kb = (path.stat().st_size + 1023) // 1024
    due = "F" in flags or (rule.size_kb >= 0 and size_kb >= rule.size_kb) or _time_is_due(rule, path)
    if verbose or dry:
        shown = f"size (Kb): {size_kb} [{rule.size_kb if rule.size_kb >= 0 else '*'}] "
        ctx.out(f"{head}{shown}--> {'trimming log....' if due else 'skipping'}")
    if due and not dry:
        _rotate(rule, path)


def _time_is_due(rule: Rule, path: Path) -> bool:
    if rule.when == "*":
        return False
    newest = path.with_name(f"{path.name}.0{_suffix(rule)}")
    last_s = newest.stat().st_mtime if newest.exists() else None
    hours = re.match(r"\d+", rule.when)
    if hours and (last_s is None or time.time() - last_s >= 3600 * int(hours[0])):
        return last_s is not None
    if "@" in rule.when or "$" in rule.when:
        hour = re.search(r"[TD](\d+)", rule.when)
        # newsyslog runs every half hour: the time is due in the hour that it names, once.
        here = time.localtime()
        return (
            hour is not None
            and here.tm_hour == int(hour[1])
            and (last_s is None or time.time() - last_s > 3600)
        )
    return False


def _rotate(rule: Rule, path: Path) -> None:
    suffix = _suffix(rule)
    path.with_name(f"{path.name}.{rule.count - 1}{suffix}").unlink(missing_ok=True)
    for number in range(rule.count - 2, -1, -1):
        old = path.with_name(f"{path.name}.{number}{suffix}")
        if old.exists():
            old.rename(path.with_name(f"{path.name}.{number + 1}{suffix}"))
    first = path.with_name(f"{path.name}.0")
    path.rename(first)
    _create(rule, path)
    if "N" not in rule.flags:
        _tell(rule)
    if suffix:
        data = first.read_bytes()
        packed = first.with_name(first.name + suffix)
        packed.write_bytes(bz2.compress(data) if suffix == ".bz2" else gzip.compress(data))
        _own(rule, packed)
        first.unlink()
    else:
        _own(rule, first)


def _create(rule: Rule, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (
        ""
        if "B" in rule.flags
        else f"{time.strftime('%b %e %H:%M:%S')} newsyslog[{os.getpid()}]: logfile turned over\n"
    )
    path.write_text(text)
    _own(rule, path)


def _own(rule: Rule, path: Path) -> None:
    path.chmod(rule.mode)
    user, _, group = rule.owner.partition(":")
    try:
        uid = pwd.getpwnam(user).pw_uid if user else 0
        import grp

        os.chown(path, uid, grp.getgrnam(group).gr_gid if group else 0)
    except KeyError:
        os.chown(path, 0, 0)


def _tell(rule: Rule) -> None:
    if not rule.pid_file:
        return
    try:
        os.kill(int(Path(rule.pid_file).read_text().split()[0]), rule.signal)
    except (OSError, ValueError, IndexError):
        return
