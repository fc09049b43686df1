"""Tools whose BSD and GNU forms agree but for options that only GNU has: those are refused as BSD refuses
them.

Source: the manual pages of macOS (FreeBSD's tools); the letters of each are its getopt string. Confidence
A for the letters that a role uses.
"""

from __future__ import annotations

import re

from maclab.commands.bsd._gate import Refused, host, options, refuse
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

#: name -> (path on the Mac, letters, status of a refusal, usage line). Letters that the host spells
#: differently are translated below.
_TOOLS: dict[str, tuple[str, str, int, str]] = {
    "readlink": ("/usr/bin/readlink", "fn", 1, "usage: readlink [-fn] [file ...]"),
    "mktemp": (
        "/usr/bin/mktemp",
        "dp:qt:u",
        1,
        "usage: mktemp [-d] [-p tmpdir] [-q] [-t prefix] [-u] template ...",
    ),
    "base64": (
        "/usr/bin/base64",
        "Ddhb:i:o:w:",
        1,
        "Usage:\tbase64 [-Ddh] [-b num] [-i in_file] [-o out_file]",
    ),
    "cp": (
        "/bin/cp",
        "acHfiLlnNPpRrsvXxS",
        64,
        "usage: cp [-R [-H | -L | -P]] [-fi | -n] [-aclpSsvXx] source target",
    ),
    "xargs": (
        "/usr/bin/xargs",
        "0E:I:J:L:n:oP:prR:S:s:tx",
        1,
        "usage: xargs [-0opt] [-E eofstr] [-I replstr] [-n number] [-P maxprocs] [utility [argument ...]]",
    ),
    "du": (
        "/usr/bin/du",
        "AB:Hg:I:LPasd:cghkmnrtx",
        64,
        "usage: du [-Aclnx] [-H | -L | -P] [-g | -h | -k | -m] [file ...]",
    ),
    "head": ("/usr/bin/head", "c:n:qv", 1, "usage: head [-n lines | -c bytes] [file ...]"),
    "tail": (
        "/usr/bin/tail",
        "Fb:c:fn:qrv",
        1,
        "usage: tail [-F | -f | -r] [-q] [-b # | -c # | -n #] [file ...]",
    ),
    "ln": (
        "/bin/ln",
        "FLPfhinsvw",
        1,
        "usage:\tln [-s [-F] | -L | -P] [-f | -i] [-hnv] source_file [target_file]",
    ),
    "mv": ("/bin/mv", "fhinv", 64, "usage: mv [-f | -i | -n] [-hv] source target"),
    "realpath": ("/bin/realpath", "q", 1, "usage: realpath [-q] [path ...]"),
    "install": (
        "/usr/bin/install",
        "B:bCcdf:g:MN:o:pSsvm:l:",
        64,
        "usage: install [-bCcpSsv] [-f flags] [-g group] [-m mode] [-o owner] source ... target",
    ),
    "wc": ("/usr/bin/wc", "Lclmw", 1, "usage: wc [-Lclmw] [file ...]"),
    "chmod": (
        "/bin/chmod",
        "CEfhHiLNPRvaI",
        1,
        "usage:\tchmod [-fhv] [-R [-H | -L | -P]] [-a | +a | =a  [i][# [ n]]] mode file ...",
    ),
}
INFO = [
    CommandInfo(
        name=name,
        paths=(path,),
        source=f"{name}(1)",
        confidence="A",
        does="macOS's options over the host's tool; GNU's are refused",
        lacks="access control lists (accepted, no effect)" if name == "chmod" else "",
    )
    for name, (path, _, _, _) in _TOOLS.items()
]


def main(ctx: Context) -> int:
    """Check the options, translate the few that differ, become the host's tool."""
    _, letters, status, usage = _TOOLS[ctx.name]
    if ctx.name == "chmod":
        return _chmod(ctx)
    words = ctx.args
    if ctx.name in ("head", "tail"):
        # The oldest spelling, -5 or +5, which BSD takes with several files as well.
        words = [f"-n{word.lstrip('-')}" if re.fullmatch(r"[-+]\d+", word) else word for word in words]
    try:
        found, rest = options(words, letters)
    except Refused as refused:
        return refuse(ctx, refused, usage, status)
    if ctx.name == "tail" and ("r", "") in found:
        return host(ctx, "tac", rest)
    args: list[str] = []
    for letter, value in found:
        args += _translate(ctx, letter, value)
    if ctx.name == "mktemp" and not rest and not any(letter == "t" for letter, _ in found):
        args += ["-t", "tmp.XXXXXXXXXX"]
    if ctx.name == "readlink" and ("f", "") in found:
        # readlink -f of macOS wants every part to exist, the last one too.
        args = ["-e" if a == "-f" else a for a in args]
    return host(ctx, ctx.name, [*args, "--", *rest] if ctx.name != "xargs" else [*args, *rest])


def _translate(ctx: Context, letter: str, value: str) -> list[str]:
    name = ctx.name
    if name == "mktemp" and letter == "t":
        return ["-t", f"{value}.XXXXXXXX"]
    if name == "cp":
        return {
            "c": ["--reflink=auto"],
            "N": [],
            "X": [],
            "S": ["--sparse=never"],
            "p": ["--preserve=mode,ownership,timestamps"],
        }.get(letter, [f"-{letter}"])
    if name in ("ln", "mv"):
        # -h of ln and mv (do not follow a link that is the target) is GNU's -n and -T.
        return {"h": ["-n"] if name == "ln" else ["-T"], "F": [], "w": []}.get(letter, [f"-{letter}"])
    if name in ("head", "tail") and letter == "b":
        return [f"-c{int(value) * 512}"]
    if name == "install" and letter in "fNMlB":
        return []
    if name == "realpath":
        return ["-q", "-e"]
    if name == "base64":
        return {"D": ["-d"], "b": [f"-w{value}"], "i": [value], "h": ["--help"]}.get(
            letter, [f"-{letter}{value}"]
        )
    if name == "du":
        return {"A": ["--apparent-size"], "g": ["-BG"], "d": [f"-d{value}"], "P": ["-P"]}.get(
            letter, [f"-{letter}"]
        )
    if name == "xargs":
        return {"J": [f"-I{value}"], "r": ["-r"], "o": ["-o"], "S": [], "R": []}.get(
            letter, [f"-{letter}{value}"] if value else [f"-{letter}"]
        )
    return [f"-{letter}{value}"]


def _chmod(ctx: Context) -> int:
    args = list(ctx.args)
    for word in args:
        if word.startswith("--") and word != "--":
            return refuse(ctx, Refused("-"), _TOOLS["chmod"][3])
    if any(word in ("+a", "-a", "=a", "+ai", "+a#") for word in args):
        # An access control list entry: accepted; the host's file system has no NFSv4 lists.
        return 0
    return host(
        ctx, "chmod", [word.replace("h", "") if word == "-h" else word for word in args if word != "-h"]
    )
