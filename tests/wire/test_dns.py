"""DNS questions, with dnspython as second opinion."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balancer.wire.dns import is_answer, qname, question_end, question_text, servfail


def header(ident=0x1234, flags=0x0100, counts=(1, 0, 0, 0)):
    return b"".join(number.to_bytes(2, "big") for number in (ident, flags, *counts))


QUESTION = b"\3www\7example\3org\0\0\1\0\1"
QUERY = header() + QUESTION
END = len(QUERY)
ANSWER = header(flags=0x8180) + QUESTION

# A slow machine is no failure.
patient = settings(deadline=None)
labels = st.binary(min_size=1, max_size=63)
names = st.lists(labels, max_size=6).filter(lambda name: sum(len(label) + 1 for label in name) + 1 <= 255)


def wire(name):
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


# Where the question ends


@patient
@given(names, st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=100))
def test_a_query_is_understood_whatever_follows_its_question(name, kind, family, rest):
    question = wire(name) + kind.to_bytes(2, "big") + family.to_bytes(2, "big")
    assert question_end(header() + question + rest) == 12 + len(question)


@patient
@given(st.binary(max_size=300))
@example(QUERY)
def test_octets_at_random_are_refused_or_have_a_question_that_dnspython_reads_the_same_way(message):
    end = question_end(message)
    if not end:
        return
    assert not message[2] & 0x80
    assert end <= len(message)
    name, used = dns.name.from_wire(message, 12)
    assert 12 + used + 4 == end
    assert qname(message, end) == name.to_wire().lower()
    text = question_text(message, end)
    assert text.isascii() and text.isprintable() and "\n" not in text
    assert dns.name.from_text(text.split(" ", 1)[0]) == name


@patient
@given(names, st.integers(0, 65535), st.data())
def test_a_query_cut_short_is_refused(name, kind, data):
    message = header() + wire(name) + kind.to_bytes(2, "big") + b"\0\1"
    assert question_end(message[: data.draw(st.integers(0, len(message) - 1))]) == 0


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x",
        b"x" * 11,
        header(),
        header(counts=(0, 0, 0, 0)),
        header(counts=(0, 0, 0, 0)) + QUESTION,
        ANSWER,
        header() + b"\3ww",
        header() + b"\x40" + QUESTION,
        header() + b"\x80" + QUESTION,
        header() + b"\xc0\x0c\0\1\0\1",
        header() + b"\xc0\x20\0\1\0\1" + b"\3www\0" * 4,
        header() + b"\3www\xc0\x0c\0\1\0\1",
        header() + b"\3www\0",
        header() + b"\3www\0\0\1\0",
        header() + b"\x3f" + b"a" * 63 + b"\x40" + b"b" * 64 + b"\0\0\1\0\1",
    ],
    ids=[
        "nothing", "1 octet", "11 octets", "header only", "no question", "question not counted", "answer", "cut name",
        "label type 0x40", "label type 0x80", "pointer to itself", "forward pointer", "pointer after label", "no type",
        "cut class", "label of 64",
    ],
)  # fmt: skip
def test_what_is_no_query_is_refused(message):
    assert question_end(message) == 0


def test_a_name_has_255_octets_at_most():
    longest = b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63 + b"\x3d" + b"d" * 61 + b"\0"
    assert len(longest) == 255
    assert question_end(header() + longest + b"\0\1\0\1") == 12 + 255 + 4
    one_more = longest[:192] + b"\x3e" + b"d" * 62 + b"\0"
    assert question_end(header() + one_more + b"\0\1\0\1") == 0
    assert question_end(header() + b"\1a" * 127 + b"\0" + b"\0\1\0\1") == 12 + 255 + 4
    assert question_end(header() + b"\1a" * 128 + b"\0" + b"\0\1\0\1") == 0
    assert question_end(header() + b"\1a" * 30000) == 0


@pytest.mark.parametrize(
    "message",
    [
        header(flags=0x0300) + QUESTION,
        header(flags=0x2800) + QUESTION,
        header(flags=0x7800) + QUESTION,
        header(counts=(2, 0, 0, 0)) + QUESTION + QUESTION,
        header(counts=(1, 0, 0, 65535)) + QUESTION,
        header(counts=(256, 0, 0, 0)) + QUESTION,
        header(ident=0) + b"\0\0\xff\0\xff",
        header(ident=65535) + b"\3\0\xff.\0\0\xfc\0\3",
    ],
    ids=["TC", "update", "opcode 15", "two questions", "ARCOUNT lies", "256 questions", "root ANY", "binary AXFR CH"],
)
def test_what_is_odd_but_well_formed_passes(message):
    assert question_end(message) > 12


# Which message answers which


def test_an_answer_carries_the_question():
    assert is_answer(ANSWER, QUERY, END)
    assert is_answer(ANSWER + b"\xc0\xff anything at all", QUERY, END)


def test_the_case_of_letters_may_change():
    assert is_answer(ANSWER.replace(b"example", b"eXAMPLe"), QUERY, END)


def test_type_and_class_are_no_letters():
    # 0x41 and 0x61 are A and a.
    asked = header() + b"\1x\0\0\x41\0\1"
    assert not is_answer(header(flags=0x8180) + b"\1x\0\0\x61\0\1", asked, len(asked))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        ANSWER[:5],
        ANSWER[:11],
        ANSWER[:-1],
        QUERY,
        ANSWER.replace(b"www", b"wwx"),
        ANSWER[:-3] + b"\x1c\0\1",
        ANSWER[:-1] + b"\3",
        header(flags=0x8180, counts=(2, 0, 0, 0)) + QUESTION,
        header(flags=0x8180, counts=(0, 0, 0, 0)),
        header(flags=0x8183, counts=(0, 0, 0, 0)),
        header(flags=0x8185, counts=(1, 0, 0, 0)),
    ],
    ids=[
        "nothing", "5 octets", "11 octets", "cut", "a query", "another name", "another type", "another class",
        "two questions", "only a header, NOERROR", "only a header, NXDOMAIN", "REFUSED, question promised",
    ],
)  # fmt: skip
def test_what_is_no_answer(message):
    assert not is_answer(message, QUERY, END)


@pytest.mark.parametrize("rcode", [1, 2, 4, 5, 9])
def test_an_error_may_come_as_a_header_alone(rcode):
    assert is_answer(header(flags=0x8180 | rcode, counts=(0, 0, 0, 0)), QUERY, END)


def test_an_update_is_acknowledged_by_a_header_alone():
    update = header(flags=0x2800) + QUESTION
    assert is_answer(header(flags=0xA800, counts=(0, 0, 0, 0)), update, len(update))


@patient
@given(st.binary(max_size=64))
def test_no_octets_break_the_comparison(message):
    if is_answer(message, QUERY, END):
        assert message[2] & 0x80


# What pybalancer answers itself


@patient
@given(
    names,
    st.sampled_from(["A", "AAAA", "ANY", "HTTPS", "TYPE65280"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, False, True]),
)
def test_servfail_is_what_dnspython_takes_for_the_answer_to_the_query(name, kind, recursion, unchecked, edns):
    query = dns.message.make_query(dns.name.Name((*name, b"")), kind)
    query.flags = (dns.flags.RD if recursion else 0) | (dns.flags.CD if unchecked else 0)
    if edns is not None:
        query.use_edns(0, dns.flags.DO if edns else 0, 4096)
    message = query.to_wire()
    answer = dns.message.from_wire(servfail(message, question_end(message)), one_rr_per_rrset=True)
    assert query.is_response(answer)
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert answer.flags == query.flags | dns.flags.QR | dns.rcode.SERVFAIL
    assert answer.opcode() == query.opcode()
    assert answer.edns == query.edns
    assert answer.ednsflags == query.ednsflags
    assert len(answer.to_wire()) <= len(message)


def test_servfail_to_two_questions_carries_the_first():
    query = header(counts=(2, 0, 0, 0)) + QUESTION + QUESTION
    assert servfail(query, END) == header(flags=0x8102) + QUESTION


@patient
@given(st.binary(max_size=40), st.tuples(*[st.integers(0, 3)] * 3))
def test_servfail_is_well_formed_whatever_follows_the_question(rest, counts):
    query = header(counts=(1, *counts)) + QUESTION + rest
    answer = servfail(query, END)
    assert is_answer(answer, query, END)
    assert len(answer) <= len(query)
    assert dns.message.from_wire(answer).rcode() == dns.rcode.SERVFAIL


# What the log says


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (QUESTION, "www.example.org. A"),
        (b"\0\0\2\0\1", ". NS"),
        (b"\7version\4bind\0\0\x10\0\3", "version.bind. CH TXT"),
        (b"\1a\0\xff\0\0\xff", "a. ANY TYPE65280"),
        (b"\1a\0\0\x41\0\7", "a. CLASS7 HTTPS"),
        (b'\x08a.b c"\n\xff\0\0\1\0\1', "a\\046b\\032c\\034\\010\\255. A"),
        (b"\x04_sip\x04_udp\0\0\x21\0\1", "_sip._udp. SRV"),
    ],
)
def test_a_question_as_text(question, text):
    message = header() + question
    assert question_text(message, question_end(message)) == text
