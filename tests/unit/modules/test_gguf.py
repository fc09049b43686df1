"""Headers of GGUF files that are damaged, odd or hostile: one sentence each, in little memory and time."""

import math
import struct

import pytest

from ds4agent.weights import gguf
from tests.support import bounded

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def file(*pairs, tensors=b"", count=0, version=3, keys=None):
    head = struct.pack("<4sIQQ", b"GGUF", version, count, len(pairs) if keys is None else keys)
    return head + b"".join(pairs) + tensors


def tensor(name="t", dimensions=(1,), kind=0):
    return text(name) + struct.pack("<I%dQIQ" % len(dimensions), len(dimensions), *dimensions, kind, 0)


BIG = (1 << 63) - 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian order"),
        (file(version=2), "GGUF version 2"),
        (file(pair("general.alignment", U32, struct.pack("<I", 0))), "general.alignment is 0"),
        (file(pair("general.alignment", U32, struct.pack("<I", 48))), "general.alignment is 48"),
        (
            file(pair("general.alignment", U64, struct.pack("<Q", 1 << 60))),
            "general.alignment is 1152921504606846976",
        ),
        (file(pair("general.alignment", STRING, text("32"))), "general.alignment is 32; the data"),
        (file(pair("general.alignment", BOOL, b"\1")), "general.alignment is True"),
        (file(pair("general.alignment", F32, struct.pack("<f", math.nan))), "general.alignment is nan"),
        (file(pair("a", ARRAY, struct.pack("<IQ", ARRAY, 1))), "array of arrays"),
        (file(pair("a", ARRAY, struct.pack("<IQ", 77, 1))), "array of values of type 77"),
        (file(pair("a", 77, b"")), "value type 77 is not known"),
        (file(keys=BIG), "names 9223372036854775807 keys"),
        (file(count=BIG), "names 9223372036854775807 tensors"),
        (file(struct.pack("<Q", BIG), keys=1), "a text of 9223372036854775807 bytes"),
        (file(count=1, tensors=text("t") + struct.pack("<I", 1 << 31)), "2147483648 dimensions"),
        (file(pair("a", ARRAY, struct.pack("<IQ", 0, BIG))), "header is longer than"),
        (file(pair("a", ARRAY, struct.pack("<IQ", STRING, BIG))), "header is longer than"),
    ],
)
def test_an_odd_header_is_one_sentence(data, why):
    with pytest.raises(gguf.GgufError, match=why) as refused:
        gguf.parse(data)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_values_that_are_no_use_are_passed_over_and_small_ones_are_kept():
    data = file(
        pair("ratios", ARRAY, struct.pack("<IQ3I", U32, 3, 4, 4, 128)),
        pair("words", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("b")),
        pair("many", ARRAY, struct.pack("<IQ", 0, 100_000) + bytes(100_000)),
        pair("rate", F32, struct.pack("<f", math.nan)),
    )
    keys = gguf.parse(data)["keys"]
    assert keys.pop("rate") != keys.get("rate")
    assert keys == {"ratios": [4, 4, 128]}


def test_objections_are_short_whatever_the_header_says():
    data = file(
        pair("general.architecture", STRING, text(b"x" * 100_000 + b"\x1b[2J")),
        pair("n", ARRAY, struct.pack("<IQ", 0, 4_000) + bytes(4_000)),
    )
    found = gguf.objections(gguf.parse(data), {"architecture": "deepseek4", "keys": {"n": 7}}, 1)
    assert len(found) == 3 and all(len(one) < 120 and "\x1b" not in one for one in found)


HOSTILE = """
import struct
from ds4agent.weights import gguf
told = []
size = gguf.MAX_HEADER_BYTES
start = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
for kind, body in given:
    data = start + struct.pack("<I", kind) + bytes.fromhex(body)
    try:
        gguf.parse(data + bytes(size - len(data)))
        told.append("")
    except gguf.GgufError as error:
        told.append(str(error))
tell(told)
"""


def test_a_header_as_long_as_one_may_be_takes_little_memory_and_time():
    bytes_of, words_of = struct.pack("<IQ", 0, 64_000_000), struct.pack("<IQ", STRING, 1 << 40)
    found = bounded.run(HOSTILE, [(ARRAY, bytes_of.hex()), (ARRAY, words_of.hex())])
    assert found == ["", "header is longer than 67108864 bytes"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (None, False),
        ("df42c109", False),
        ("df42c109f1defefcbfcedbe7d905718a12266e40", False),
        ("0a1b2c3d", True),
    ],
)
def test_a_file_of_other_weights_is_told_by_the_revision_in_its_header(said, told):
    pairs = [pair("general.architecture", STRING, text("deepseek41"))]
    if said:
        pairs.append(pair("general.source.revision", STRING, text(said)))
    expected = {"architecture": "deepseek41", "revision": "df42c109f1defefcbfcedbe7d905718a12266e40"}
    found = gguf.objections(gguf.parse(file(*pairs)), expected, 10_000)
    assert bool(found) is told
    assert not told or "it was made from the revision 0a1b2c3d" in found[0]
