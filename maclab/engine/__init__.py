"""The stand-in engine as a git repository: one commit per generation that a fleet can meet.

`src/` holds the C sources, common to all; what differs between generations is a header with a few switches
and the targets of download_model.sh, both written here. Authors and dates are fixed, so the same sources give
the same commits on every machine.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maclab import published
from maclab.errors import LabError

SOURCES = Path(__file__).with_name("src")
BRANCH = "main"
_AUTHOR = "Stand-in Upstream <upstream@ds4-lab.invalid>"
_PROGRAMS = ("/ds4", "/ds4-server", "/ds4-bench", "/ds4-eval", "/ds4-agent", "/ds4-metal")
_BUILT = ("*.o", *_PROGRAMS, "/gguf/", "/ds4flash.gguf")
_EXECUTABLE = ("download_model.sh",)


@dataclass(frozen=True)
class Generation:
    """One commit of the repository.

    name: what tests and people call it. stands_for: the upstream commit whose place it takes (a full hash or
    a known prefix), or None when it is only itself. generation: key of the catalogue's `generations`.
    by_itself: whether the lab's catalogue also knows it by its own commit, as one to upgrade to. confidence:
    what `--dspark-confidence` is by default. has_765: slots are chosen by what a request reuses (upstream PR
    #765), and work ends when its client leaves, of which no earlier commit is known.
    """

    name: str
    stands_for: str | None
    generation: str
    date: str
    says: str
    known_bad: bool = False
    link_fails: bool = False
    server_fails: bool = False
    speed_percent: int = 100
    by_itself: bool = False
    confidence: str = "0.9"
    has_765: bool = False


GENERATIONS = (
    Generation("may", "8d576642c39b9a2d782a80159ba84ef5a81c0b81", "2026-05", "2026-05-21T10:00:00+0000",
               "Answer prompts, serve them over HTTP, keep KV checkpoints"),
    Generation("no-build", "15f42aa", "2026-05", "2026-05-29T10:00:00+0000",
               "Load tensor operations at start", known_bad=True, link_fails=True),
    Generation("slow", "3c3ad4c", "2026-07", "2026-06-04T10:00:00+0000",
               "Stream experts from disk, help by topic, PRO", known_bad=True, speed_percent=10),
    Generation("july", "54b36ed9ba42da31b24f2d1a5feb075c2475dbb1", "2026-07", "2026-07-28T10:00:00+0000",
               "Bring decoding back to full speed"),
    Generation("no-serve", None, "2026-07", "2026-07-30T10:00:00+0000",
               "Create sessions lazily", known_bad=True, server_fails=True),
    Generation("august", "b0309611041655f4e45671cfd9c9886aff161406", "2026-08", "2026-08-05T12:00:00+0000",
               "Name targets after the model, load MXFP4, refuse what ended the engine", by_itself=True,
               confidence="0.7"),
    Generation("august-10", "84cc882352757baf628a1776badf7cc54d584e28", "2026-08", "2026-08-10T10:00:00+0000",
               "Decode fast, choose the same rows each time", by_itself=True, confidence="0.6"),
    Generation("september-13", "bd66c402070042bf0a79ad6ece8242de4c93680c", "2026-09",
               "2026-09-13T10:00:00+0000", "Take images, load V4.1", by_itself=True, confidence="0.6"),
    Generation("september", "0aaea5a238fb41a35106a551e73c8409dfb751ac", "2026-09", "2026-09-20T10:00:00+0000",
               "Choose slots by what is reused, stop working for clients that have gone", by_itself=True,
               confidence="0.6", has_765=True),
)  # fmt: skip
"""Oldest first, as the history has them."""

# Targets of May that fetch files without a use today; they are in no catalogue.
_LEGACY = {
    "q2": "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2.gguf",
    "q4": "DeepSeek-V4-Flash-Q4KExperts-F16HC-F16Compressor-F16Indexer-Q8Attn-Q8Shared-Q8Out-chat-v2.gguf",
}
# Which weights the script takes with the Hugging Face client instead of curl (since 2026-06-02).
_WITH_CLIENT = ("pro", "mxfp4")
# Where the script takes what it is not told the place of.
_REPO = "antirez/deepseek-v4-gguf"


def build_repo(path: Path) -> dict[str, str]:
    """Create the bare repository at `path` (if it is not there) and say which commit stands for which.

    Returns {upstream commit: commit in this repository}; prefixes stand where the full hash is not known.
    Raises LabError when git is missing or fails.
    """
    made = commits(path)
    return {
        generation.stands_for: made[generation.name] for generation in GENERATIONS if generation.stands_for
    }


def commits(path: Path) -> dict[str, str]:
    """{name of a generation: its commit} of the repository at `path`, which is created when it is missing."""
    if not (path / "HEAD").exists():
        _import(path)
    names = [generation.name for generation in GENERATIONS]
    found = _git(["-C", str(path), "rev-parse", *(f"refs/tags/lab/{name}^{{commit}}" for name in names)])
    return dict(zip(names, found.split(), strict=True))


def overlay_engines(path: Path) -> dict[str, dict[str, object]]:
    """Catalogue entries (`engines`) for commits that are known by their own hash."""
    made = commits(path)
    return {
        made[generation.name]: {
            "generation": generation.generation,
            "date": generation.date[:10],
            "known_bad": generation.known_bad,
            "note": f"the lab's {generation.name} engine",
        }
        for generation in GENERATIONS
        if generation.stands_for is None or generation.by_itself
    }


def tree(generation: Generation) -> dict[str, str]:
    """The files of one generation: {path: text}. Also what unit tests compile."""
    files = {
        str(file.relative_to(SOURCES)): file.read_text()
        for file in sorted(SOURCES.rglob("*"))
        if file.is_file() and file.suffix != ".in"
    }
    files["generation.h"] = _header(generation)
    files["download_model.sh"] = _download_script(generation.generation)
    files[".gitignore"] = "".join(f"{name}\n" for name in _BUILT)
    return files


def export(generation: Generation, folder: Path) -> None:
    """Write the files of one generation into `folder`, as a checkout would."""
    for name, text in tree(generation).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o755 if name in _EXECUTABLE else 0o644)


def named(name: str) -> Generation:
    """The generation of that name. Raises KeyError."""
    return {generation.name: generation for generation in GENERATIONS}[name]


def _header(generation: Generation) -> str:
    switches = {
        "DS4_GENERATION": generation.generation.replace("-", ""),
        "DS4_GENERATION_NAME": f'"{generation.generation}"',
        "DS4_FAULT_LINK": int(generation.link_fails),
        "DS4_FAULT_SERVER": int(generation.server_fails),
        "DS4_SPEED_PERCENT": generation.speed_percent,
        "DS4_DSPARK_CONFIDENCE": f'"{generation.confidence}"',
        "DS4_HAS_765": int(generation.has_765),
    }
    lines = [f"#define {name} {value}" for name, value in switches.items()]
    return "\n".join(
        ["/* What this commit is. */", "#ifndef GENERATION_H", "#define GENERATION_H", *lines, "#endif", ""]
    )


@dataclass(frozen=True)
class _Target:
    """What the script fetches for a word. linked: whether ds4flash.gguf is linked to it. joined: the file
    that the fetched ones are parts of.
    """

    files: list[str]
    via: str = "curl"
    linked: bool = True
    repo: str = ""
    joined: str = ""

    def settings(self) -> str:
        """As the shell reads it."""
        said = f'FILES="{" ".join(self.files)}"; VIA={self.via}; LINK={"yes" if self.linked else "no"}'
        said += f'; REPO="{self.repo}"' if self.repo not in ("", _REPO) else ""
        return said + (f'; JOIN="{self.joined}"' if self.joined else "")


def _targets(generation: str) -> Mapping[str, _Target]:
    """{target: what it fetches} of a generation's script."""
    targets: dict[str, _Target] = {}
    for release in published.load().releases:
        if generation not in release.targets:
            continue
        by_client = (
            release.quant is not None
            and generation > "2026-05"
            and any(word in release.id for word in _WITH_CLIENT)
        )
        [first, *others] = release.files
        targets[release.targets[generation]] = _Target(
            [piece.name for piece in first.pieces] or [file.name for file in release.files],
            "hf" if by_client else "curl",
            release.quant is not None and not others,
            first.repo,
            first.name if first.pieces else "",
        )
    if generation == "2026-05":
        targets |= {target: _Target([file]) for target, file in _LEGACY.items()}
    return targets


def _download_script(generation: str) -> str:
    targets = _targets(generation)
    helps = [f"  {target}  {', '.join(one.files)}" for target, one in targets.items()]
    cases = [f"    {target}) {one.settings()} ;;" for target, one in targets.items()]
    text = (SOURCES / "download_model.sh.in").read_text()
    return text.replace("@HELP@", "\n".join(helps)).replace("@CASES@", "\n".join(cases))


def _import(path: Path) -> None:
    """All commits in one `git fast-import`; the folder appears only when it is complete."""
    stream = bytearray()
    previous: dict[str, str] = {}
    for mark, generation in enumerate(GENERATIONS, 1):
        files = tree(generation)
        message = generation.says + "\n"
        stream += (
            f"commit refs/heads/{BRANCH}\nmark :{mark}\n"
            f"committer {_AUTHOR} {generation.date}\ndata {len(message)}\n{message}\n"
        ).encode()
        for name in sorted(previous.keys() - files.keys()):
            stream += f"D {name}\n".encode()
        for name, text in sorted(files.items()):
            raw = text.encode()
            mode = "100755" if name in _EXECUTABLE else "100644"
            stream += f"M {mode} inline {name}\ndata {len(raw)}\n".encode() + raw + b"\n"
        previous = files
    for mark, generation in enumerate(GENERATIONS, 1):
        stream += f"reset refs/tags/lab/{generation.name}\nfrom :{mark}\n\n".encode()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    _git(["init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(unfinished)])
    _git(["-C", str(unfinished), "fast-import", "--quiet", "--date-format=rfc2822"], bytes(stream))
    _git(["-C", str(unfinished), "config", "http.receivepack", "false"])
    # A pinned commit is fetched by its hash, as GitHub allows.
    _git(["-C", str(unfinished), "config", "uploadpack.allowAnySHA1InWant", "true"])
    unfinished.rename(path)


def _git(arguments: list[str], stdin: bytes | None = None) -> str:
    try:
        # Somebody's own git configuration must not change the commits.
        env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        env.pop("GIT_DIR", None)
        done = subprocess.run(["git", *arguments], input=stdin, capture_output=True, check=True, env=env)
    except FileNotFoundError:
        raise LabError("the lab needs git: install it") from None
    except subprocess.CalledProcessError as error:
        raise LabError(
            "git could not make the stand-in engine's repository",
            detail=error.stderr.decode(errors="replace"),
        ) from error
    return done.stdout.decode()
