"""Which flags a built engine knows: asked of its option parser, whatever its help says."""

from collections.abc import Callable, Sequence

import pytest

from ds4agent.engine import parser

JULY = """Usage: ds4-server [options]

  -m, --model FILE               GGUF model path; ./ds4 has --inspect
  --metal | --cuda | --cpu       Select the backend explicitly.
  --gpu-vram N[,N,...]|auto      budgets
  --ssd-streaming-cache-experts N|NGB
      SSD streaming: N is an exact count; --ssd-streaming-cold skips it
  --mtp FILE                     support weights
  --dspark-confidence F          threshold
  --listen HOST PORT             wait there
  --tensor-parallel              split over two Macs
  --transport auto|rdma|tcp      how
"""


def engine(**takes: int) -> Callable[[Sequence[str]], int]:
    """A parser of flags {name: how many values it takes} that ends as ds4-server does."""
    known = {"--" + name.replace("_", "-"): values for name, values in takes.items()}

    def ends(words: Sequence[str]) -> int:
        at = 0
        while at < len(words):
            if words[at] == "--help":
                return 0
            if words[at] not in known:
                return 2
            at += 1 + known[words[at]]
        raise AssertionError("it would serve now: %s" % " ".join(words))

    return ends


def test_a_flag_that_the_help_names_and_the_parser_refuses_is_not_there():
    found = parser.flags(engine(model=1, mtp=1, metal=0), JULY)
    assert found == ["--metal", "--model", "--mtp"]


def test_a_flag_that_the_help_leaves_out_and_the_parser_takes_is_there():
    assert "--chdir" in parser.flags(engine(model=1, chdir=1), JULY)


def test_a_flag_that_is_new_to_us_is_tried_as_its_help_says():
    new = "  --answer-in N  seconds\n  --color-of FILE  c\n  --between HOST PORT  where\n  --loud  so\n"
    found = parser.flags(engine(answer_in=1, color_of=1, between=2, loud=0), new)
    assert found == ["--answer-in", "--between", "--color-of", "--loud"]


@pytest.mark.parametrize("values", [0, 1])
def test_mtp_is_there_with_a_file_or_as_a_switch(values):
    """Since September it takes no value: a question that it took for its file would begin to serve."""
    assert parser.flags(engine(mtp=values)) == ["--mtp"]


def test_values_are_tried_where_the_help_says_what_they_are():
    assert parser.documented(JULY) == {
        "--model": ["x"],
        "--metal": [],
        "--cuda": [],
        "--cpu": [],
        "--gpu-vram": ["x"],
        "--ssd-streaming-cache-experts": ["1"],
        "--mtp": ["x"],
        "--dspark-confidence": ["0.5"],
        "--listen": ["x", "x"],
        "--tensor-parallel": [],
        "--transport": ["x"],
    }


def test_a_question_cannot_begin_to_serve():
    """The lock is taken before weights are opened, and this one cannot be."""
    assert parser.ENVIRONMENT["DS4_LOCK_FILE"].startswith("/dev/null/")
