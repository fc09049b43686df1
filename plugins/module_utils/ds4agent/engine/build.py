# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Fetch, build, prove, switch and remove releases of the engine in one directory tree (engine.release)."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..mac import clear, safe
from ..mac import output as mac_output
from ..mac.full_sync import flush
from . import parser
from .capabilities import TOPICS, is_metal, targets, topics
from .made import TooMuch, gather
from .release import MARKER, linked_id, list_releases, read_marker, release_id, to_go_back_to

if TYPE_CHECKING:
    from ..shapes import Capabilities, Marker

GIT = "/usr/bin/git"
MAKE = "/usr/bin/make"
TAR = "/usr/bin/tar"
OTOOL = "/usr/bin/otool"
XCRUN = "/usr/bin/xcrun"
#: What launchd gives a daemon; sudo's environment must not decide what is built.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    "LANG": "C",
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "HOME": "/var/root",
}
#: A transfer below 1 kB/s for a minute is dead, whatever TCP thinks.
GIT_OPTIONS = ["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60", "-c", "safe.directory=*"]
#: Without FETCH_HEAD, so that a commit that is not there leaves a mirror as it was.
FETCH = ["fetch", "--quiet", "--no-write-fetch-head"]
TAIL_LINES = 15
#: As much of a build's log as its end is looked for in, and of what a built program says about itself.
TAIL_BYTES = HELP_BYTES = 262144


class EngineError(Exception):
    """One sentence for the operator, and what a command said."""

    def __init__(self, sentence: str, detail: str = "") -> None:
        super().__init__(sentence)
        self.detail = detail


class Engine:
    """The directory tree of the engine; every method leaves what serves untouched until `switch`."""

    def __init__(self, root: str | Path, timeout_s: float) -> None:
        self.root = Path(root)
        self.mirror = self.root / "mirror.git"
        self.releases = self.root / "releases"
        self.timeout_s = timeout_s

    # Mirror.

    def resolve(self, commit: str) -> str | None:
        """Full hash of `commit` in the mirror, or None. Raises EngineError when it is ambiguous."""
        if not self.mirror.is_dir():
            return None
        done = self._git(self.mirror, "rev-parse", "--verify", "--quiet", commit + "^{commit}")
        if done.returncode == 0:
            return done.stdout.strip()
        listed = self._git(self.mirror, "rev-parse", "--disambiguate=" + commit).stdout.split()
        if len(listed) > 1 and len(commit) < 40:
            raise EngineError("engine commit %s is ambiguous: write more of its digits" % commit)
        return None

    def fetch(self, repo: str, commit: str) -> str:
        """Bring `commit` into the mirror and return its full hash; a mirror without it is not kept."""
        if self.mirror.is_dir():
            self._need(
                self._git(self.mirror, *FETCH, "--prune", repo, "+refs/heads/*:refs/heads/*"),
                repo,
            )
            found = self.resolve(commit)
            if not found and len(commit) == 40:
                # A commit that no branch holds any more; servers may still hand it out by name.
                self._git(self.mirror, *FETCH, repo, commit)
                found = self.resolve(commit)
            if not found:
                raise EngineError(_unknown(commit, repo))
            return found
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        partial = self.root / "mirror.git.partial"
        _clear(partial)
        try:
            self._need(self._git(None, "clone", "--quiet", "--bare", repo, str(partial)), repo)
            done = self._git(partial, "rev-parse", "--verify", "--quiet", commit + "^{commit}")
            if done.returncode != 0:
                raise EngineError(_unknown(commit, repo))
            partial.rename(self.mirror)
            return done.stdout.strip()
        finally:
            with contextlib.suppress(OSError):
                _clear(partial)
            with contextlib.suppress(OSError):
                for folder in made:
                    folder.rmdir()

    def _git(self, directory: Path | None, *arguments: str) -> mac_output.Ended:
        where = ["--git-dir", str(directory)] if directory else []
        return self._run([GIT, *GIT_OPTIONS, *where, *arguments])

    def _need(self, done: mac_output.Ended, repo: str) -> None:
        if done.returncode != 0:
            said = (done.stderr.strip() or "git said nothing").splitlines()[-1]
            raise EngineError("engine repository %s cannot be fetched: %s" % (repo, said), done.stderr)

    def _run(self, argv: Sequence[str], **options: Any) -> mac_output.Ended:
        try:
            done = mac_output.run(argv, self.timeout_s, **{"env": ENVIRONMENT, **options})
        except OSError as error:
            raise EngineError("%s cannot be run: %s" % (argv[0], error.strerror)) from None
        command = " ".join(argv[:4])
        if done.cut == mac_output.LATE:
            raise EngineError("%s took longer than %d s" % (command, self.timeout_s))
        if done.cut:
            raise EngineError("%s was ended: it printed without end" % command, done.stderr[-HELP_BYTES:])
        return done

    # Releases.

    def build(self, commit: str, make_args: Sequence[str], user: str) -> Marker:
        """Build `commit` beside the others and return its marker; a build that fails leaves only its log.

        The account makes what it makes in a tree of its own. The release is one that root unpacked, with
        copies of the files that were made: nothing in it was ever the account's, who may still hold its own
        open.
        """
        name = release_id(commit)
        partial = self.releases / (name + ".partial")
        work = self.releases / (name + ".build.partial")
        log = self.releases / (name + ".build.log")
        self.releases.mkdir(mode=0o755, parents=True, exist_ok=True)
        for folder in (partial, work):
            _clear(folder)
        account = pwd.getpwnam(user)
        archive = self.releases / (commit + ".tar")
        try:
            self._unpack(commit, archive, partial)
            self._make(work, archive, make_args, account, log)
            gather(str(work / "tree"), str(partial))
            _clear(work)
            self._prove_metal(partial / "ds4-server", log)
            capabilities = self._probe(partial, account)
            sdk = self._run([XCRUN, "--show-sdk-version"])
            marker: Marker = {
                "id": name,
                "commit": commit,
                "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "sdk": sdk.stdout.strip() if sdk.returncode == 0 else None,
                "capabilities": capabilities,
            }
            with (partial / MARKER).open("w") as handle:
                json.dump(marker, handle, indent=1, sort_keys=True)
                handle.flush()
                flush(handle.fileno())
            final = self.releases / name
            _clear(final)
            partial.rename(final)
            return marker
        except TooMuch as error:
            raise EngineError("the build of engine commit %s left %s" % (commit, error)) from None
        finally:
            for folder in (partial, work):
                with contextlib.suppress(OSError):
                    _clear(folder)
            if archive.exists():
                archive.unlink()

    def _unpack(self, commit: str, archive: Path, target: Path) -> None:
        done = self._git(self.mirror, "archive", "--format=tar", "--output=" + str(archive), commit)
        if done.returncode != 0:
            raise EngineError("engine commit %s cannot be unpacked: %s" % (commit, done.stderr.strip()))
        with tarfile.open(archive) as tar:
            tar.extractall(str(target))

    def _make(
        self, work: Path, archive: Path, make_args: Sequence[str], account: pwd.struct_passwd, log: Path
    ) -> None:
        """Unpack and make in `work`/tree, by the account, which owns that and nothing around it."""
        work.mkdir(mode=0o755)
        tree, temporary = work / "tree", work / "tmp"
        for folder in (tree, temporary):
            safe.keep_folder(str(folder), 0o755, account.pw_uid, account.pw_gid)
        environment = dict(ENVIRONMENT, HOME=str(temporary), TMPDIR=str(temporary))
        where: dict[str, Any] = {"cwd": str(tree), "env": environment, **_as(account)}
        done = self._run([TAR, "-xf", str(archive)], max_bytes=TAIL_BYTES, **where)
        if done.returncode != 0:
            raise EngineError("%s cannot unpack the engine: %s" % (account.pw_name, done.stderr.strip()))
        argv = [MAKE, "-j%d" % (os.cpu_count() or 1), *make_args]
        with log.open("wb") as output:
            making = subprocess.Popen(
                argv,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **where,
            )
            try:
                status = making.wait(self.timeout_s)
            except subprocess.TimeoutExpired:
                raise EngineError(
                    "the build took longer than %d s; log: %s" % (self.timeout_s, log)
                ) from None
            finally:
                if making.returncode is None:
                    # Make with all that it has started.
                    os.killpg(making.pid, signal.SIGKILL)
                    making.wait()
        if status != 0:
            lines = _end_of(log).splitlines()[-TAIL_LINES:]
            errors = [line for line in lines if "error" in line.lower()] or lines[-1:] or ["it said nothing"]
            raise EngineError(
                "make failed with status %d (%s); what served still serves. Log on the Mac: %s, its end:\n%s"
                % (status, errors[0].strip(), log, "\n".join(lines)),
            )

    def _prove_metal(self, binary: Path, log: Path) -> None:
        if not binary.is_file():
            raise EngineError("make ended well but made no ds4-server; log on the Mac: %s" % log)
        done = self._run([OTOOL, "-L", str(binary)])
        if done.returncode != 0 or not is_metal(done.stdout):
            raise EngineError(
                "the built ds4-server does not link Metal and will not be installed: a CPU build on macOS can"
                " panic the kernel (make_args must not ask for cpu)",
                done.stdout + done.stderr,
            )

    def _probe(self, directory: Path, account: pwd.struct_passwd) -> Capabilities:
        server = str(directory / "ds4-server")

        def ask(*argv: str) -> str:
            done = self._run(list(argv), cwd=str(directory), max_bytes=HELP_BYTES, **_as(account))
            return done.stdout + done.stderr if done.returncode == 0 else ""

        def ends(arguments: Sequence[str]) -> int:
            where: dict[str, Any] = {"cwd": str(directory), "max_bytes": HELP_BYTES, **_as(account)}
            environment = {**ENVIRONMENT, **parser.ENVIRONMENT}
            return self._run([server, *arguments], env=environment, **where).returncode

        plain = ask(server, "--help")
        by_topic = {topic: ask(server, "--help", topic) for topic in TOPICS}
        own = topics(plain, by_topic)
        found: Capabilities = {
            "flags": parser.flags(ends, plain, *[by_topic[topic] for topic in own]),
            "topics": own,
            "targets": targets(ask("/bin/sh", str(directory / "download_model.sh"), "--help")),
        }
        if "--model" not in found["flags"]:
            raise EngineError("ds4-server of the new build does not take --model FILE --help", plain)
        return found

    def has_from_commit(self, release: str, name: str) -> bool:
        """Whether a file of the release directory is the one of its commit: root runs no other.

        Of a release that an earlier ds4-fleet has made, the account that built it may have changed any.
        """
        marker = read_marker(release)
        if marker is None:
            return False
        done = self._git(self.mirror, "show", "%s:%s" % (marker["commit"], name))
        return done.returncode == 0 and done.stdout == safe.text("%s/%s" % (release, name))

    def switch(self, name: str) -> None:
        """Point `current` to a release and `previous` to the one before it; a rename each."""
        before = linked_id(self.root, "current")
        if before and before != name:
            self._link("previous", before)
        self._link("current", name)

    def _link(self, link: str, name: str) -> None:
        temporary = self.root / (link + ".new")
        if temporary.is_symlink():
            temporary.unlink()
        temporary.symlink_to(os.path.join("releases", name))
        temporary.replace(self.root / link)

    def prune(self, keep: int, in_use: Iterable[str] = ()) -> list[str]:
        """Names of complete releases beyond `keep`, oldest last.

        Never current, previous, one in use, or one that a switch may have to roll back to.
        """
        kept = {linked_id(self.root, "current"), linked_id(self.root, "previous"), *in_use}
        kept |= to_go_back_to(self.root)
        complete = [item for item in list_releases(self.root) if item["complete"]]
        complete.sort(key=lambda item: _built_at(item["path"]), reverse=True)
        spare = [item["id"] for item in complete if item["id"] not in kept]
        room = max(0, keep - len(complete) + len(spare))
        return spare[room:]

    def remove(self, name: str) -> None:
        doomed = self.releases / (name + ".partial")
        _clear(doomed)
        (self.releases / name).rename(doomed)
        _clear(doomed)
        log = self.releases / (name + ".build.log")
        if log.exists():
            log.unlink()


def _unknown(commit: str, repo: str) -> str:
    return "engine commit %s does not exist in %s: check ds4_engine_commit" % (commit, repo)


def _built_at(release: str) -> str:
    marker: Mapping[str, Any] = read_marker(release) or {}
    return str(marker.get("built_at", ""))


def _clear(directory: Path) -> None:
    """Nothing is there any more: what cannot be removed is an error, nothing to build upon."""
    clear.remove_tree(str(directory))


def _as(account: pwd.struct_passwd) -> dict[str, Any]:
    """Arguments of subprocess that drop to an account; nothing when we are it already."""
    if os.geteuid() == account.pw_uid:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _end_of(log: Path) -> str:
    with log.open("rb") as handle:
        handle.seek(max(0, os.fstat(handle.fileno()).st_size - TAIL_BYTES))
        return handle.read(TAIL_BYTES).decode("utf-8", "replace")
