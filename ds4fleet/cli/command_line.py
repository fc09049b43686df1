"""What may stand on a command line of `fab`: one verb, its own options, each with a value where it takes one.

Fabric takes options of its own wherever they stand (`--dry`, `--hosts`, `--echo`, ...). No verb of ours does
anything with them, so that `fab upgrade --dry` upgraded and `--hosts tyo-01` meant the whole fleet.
"""

from __future__ import annotations

import ast
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from types import FrameType

from invoke.collection import Collection
from invoke.exceptions import ParseError
from invoke.parser import Parser
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext, to_flag
from invoke.program import Program

from ds4fleet import blocks
from ds4fleet.cli import helping
from ds4fleet.cli.endings import operator_errors
from ds4fleet.errors import EXIT_USAGE, OperatorError

#: Options of the runner that serve us: what it lists and shows, and where it looks for the verbs.
WITHOUT_A_VERB = frozenset(
    ["complete", "help", "list", "list-depth", "list-format", "print-completion-script", "version"]
)
BESIDE_A_VERB = frozenset(["collection", "complete", "help", "search-root"])
#: What people mean by an option of Fabric's or Ansible's, by the first of these that the verb has.
LOOKS_FIRST = ("plan-only", "dry-run")
PLACES = ("host", "limit", "region")
MEANT = {
    **dict.fromkeys(("dry", "R", "dry-run", "check", "C", "diff", "noop", "plan"), LOOKS_FIRST),
    **dict.fromkeys(("hosts", "H", "host", "limit", "l", "inventory"), PLACES),
    **dict.fromkeys(("force", "y"), ("yes",)),
    "staged": ("prefetched",),
}
#: Verbs that have another name now.
RENAMED = {"stage": "prefetch"}
#: Options that say which Macs are meant; left out, they mean all of them.
SELECTORS = frozenset(["host", "region", "regions", "limit", "then", "canary"])


class Usage(ParseError):
    """Somebody asked for help where Invoke expects a word; the text is the answer."""


@operator_errors
def check(verbs: Collection) -> None:
    """Ends the program that is loading `verbs` where its line has something that none of them knows.

    To be called where the verbs are defined: the program has not parsed, asked or started anything by then.
    """
    program = _running()
    if program is not None:
        _Line(program).check(verbs)


@operator_errors
def check_again() -> None:
    """The same of what the program made of its line, when it calls a verb."""
    program = _running()
    if program is not None:
        _Line(program).judge(program.core[0].args.values(), program.tasks)


def _running() -> Program | None:
    """The program that this is called from. Invoke tells neither a module nor a task of it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Program):
            return found
        frame = frame.f_back
    return None


class _Line:
    """The command line of a program. Invoke itself takes it apart: what it takes for an option is one."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.words = program.argv[1:]

    def check(self, verbs: Collection) -> None:
        """Raises OperatorError unless the line can be meant."""
        parser = Parser(contexts=verbs.to_contexts(), initial=self.program.initial_context)
        try:
            parsed = parser.parse_argv(self.program.core.unparsed)
        except Usage as usage:
            blocks.write(f"{usage}\n")
            sys.exit(0)
        except ParseError as error:
            raise self._not_understood(error, parser, verbs) from error
        except ValueError as error:  # of int() and float(), which Invoke lets through
            raise _refusal(f"{str(error).rpartition(': ')[2]} is not a number") from error
        self._help(self.program.core[0].args["help"].value or parsed[0].args["help"].value, verbs)
        self.judge([*self.program.core[0].args.values(), *parsed[0].args.values()], parsed[1:])

    def _help(self, of: object, verbs: Collection) -> None:
        """Shows what `--help` asks for, of one verb or of all; ends the program then."""
        if not of:
            return
        known = dict(helping.named(verbs)) | {name: verbs[name] for name in verbs.task_names}
        if isinstance(of, str) and of not in known:
            near = difflib.get_close_matches(of, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`fab --help` shows those it has."
            raise _refusal(f"fab has no verb '{of}'; {hint}")
        text = helping.page(of, known[of]) if isinstance(of, str) else helping.overview(verbs)
        blocks.write(f"{text}\n")
        sys.exit(0)

    def judge(self, of_the_runner: Iterable[Argument], called: Sequence[ParserContext]) -> None:
        """The same of a line that was taken apart: the runner's options, and the verbs that it calls."""
        given = [one for one in of_the_runner if one.got_value]
        if any(one.name == "complete" for one in given):
            return
        allowed = BESIDE_A_VERB if called else BESIDE_A_VERB | WITHOUT_A_VERB
        for one in given:
            if one.name not in allowed:
                raise self._foreign(self._as_typed(one), called[0] if called else None)
        if "--" in self.words:
            raise _refusal("fab takes nothing behind '--'")
        if len(called) > 1:
            first, second = self._verb(called[0]), self._verb(called[1])
            raise _refusal(f"fab does one thing at a time, and '{second}' stands behind '{first}'")
        for context in called:
            for argument in context.args.values():
                if argument.kind is str and argument.got_value:
                    self._judge_value(context, argument)

    def _judge_value(self, context: ParserContext, argument: Argument) -> None:
        name, value = argument.name or "", str(argument.value)
        option = f"{to_flag(name)} of fab {self._verb(context)}"
        if not value.strip(" \t\n,:" if name in SELECTORS else None):
            all_of_them = " for all of them" if name in SELECTORS else ""
            raise _refusal(f"{option} is empty: give it a value, or leave it out{all_of_them}")
        if value.startswith("-") and value != "-":
            raise _refusal(f"{option} has no value: '{value}' behind it looks like another option")

    def _not_understood(self, error: ParseError, parser: Parser, verbs: Collection) -> OperatorError:
        """Invoke's refusal in our words."""
        context, text = error.context, str(error)
        unknown = re.search(r"No idea what (.+) is!", text, re.S)
        needs = re.search(r"Flag <Argument: (\S+?)[ >].*needed value", text)
        if context is not None and not context.name:
            context = None
        verb = self._verb(context) if context else ""
        if unknown:
            word = str(ast.literal_eval(unknown[1]))
            if word.startswith("-"):
                meant = context or next(
                    (parser.contexts[w] for w in self.words if w in parser.contexts), None
                )
                return self._foreign(self._whole(word), meant)
            if context:
                return _refusal(f"fab {verb} takes no word '{word}'{_selector(context)}")
            if word in RENAMED:
                return _refusal(f"fab {word} is called fab {RENAMED[word]} now")
            near = difflib.get_close_matches(word, verbs.task_names, n=1)
            hint = f"did you mean {near[0]}?" if near else "`fab --list` shows those it has."
            return _refusal(f"fab has no verb '{word}'; {hint}")
        if needs:
            return _refusal(f"{to_flag(needs[1])} of fab {verb} needs a value")
        if "positional" in text:
            return _refusal(f"fab {verb} needs a word more: `fab --help {verb}` shows which")
        return OperatorError(text, exit_code=EXIT_USAGE)

    def _foreign(self, typed: str, context: ParserContext | None) -> OperatorError:
        if context is None:
            return _refusal(f"fab has no option {typed}; `fab --help VERB` shows those of a verb")
        own = [flag for flag in context.flags if flag != "--words"]
        name = typed.lstrip("-") if typed.startswith("--") else typed[1:2]
        near = [f"--{one}" for one in MEANT.get(name, ()) if f"--{one}" in own]
        if len(name) > 1:
            near = near or [flag for flag in own if flag.startswith(f"--{name}")]
            near = near or difflib.get_close_matches(f"--{name}", own, n=2, cutoff=0.7)
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        elif MEANT.get(name) == LOOKS_FIRST and "--yes" in own:
            hint = "without --yes it shows what it would do, and asks."
        else:
            hint = f"`fab --help {context.name}` shows those it has."
        return _refusal(f"fab {self._verb(context)} has no option {typed}; {hint}")

    def _as_typed(self, argument: Argument) -> str:
        forms = [to_flag(name) for name in argument.names]
        long = [form for form in forms if form.startswith("--") and self._stands(form)]
        short = [self._whole(form) for form in forms if not form.startswith("--")]
        return (long or short or forms)[0]

    def _stands(self, form: str) -> bool:
        return any(word.partition("=")[0] == form for word in self.words)

    def _whole(self, option: str) -> str:
        """An option as a word of the line: short ones may stand together, or with their value."""
        if option.startswith("--") or self._stands(option):
            return option
        groups = [word for word in self.words if re.match(r"-[^-]", word) and option[1] in word[1:]]
        return groups[0] if groups else option

    def _verb(self, context: ParserContext) -> str:
        return next((word for word in self.words if word in context.aliases), str(context.name))


def _selector(context: ParserContext) -> str:
    found = [f"--{name}" for name in PLACES if f"--{name}" in context.flags]
    return f"; a Mac is named with {' or '.join(found)}" if found else ""


def _refusal(sentence: str) -> OperatorError:
    end = " Nothing was done." if sentence.endswith(("?", ".")) else "; nothing was done."
    return OperatorError(sentence + end, exit_code=EXIT_USAGE)
