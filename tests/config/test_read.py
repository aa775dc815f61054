from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balancer.config import read
from balancer.config.model import Config, User
from balancer.errors import ConfigError

Complaints = Callable[..., list[str]]
Load = Callable[..., Config]

WEB = """\
frontends:
  web: {mode: http, bind: "10.0.0.1:80", default_backend: b}
backends:
  b: {servers: {a: {address: "10.0.1.1:80"}}}
"""


def first_complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read.load(path, node="this", environ={})
    return str(caught.value.problems[0]).removeprefix(str(path))


# Files


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(WEB, encoding="utf-8")
    assert read.load(tmp_path / "b.yaml", node="this", environ={}).frontends["web"].mode == "http"
    assert read.load(str(tmp_path / "b.yaml"), node="this", environ={}).frontends["web"].mode == "http"


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xef\xbb\xbf" + WEB.replace("\n", "\r\n").encode())
    assert read.load(tmp_path / "b.yaml", node="this", environ={}).frontends["web"].mode == "http"


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        (b"", ":1:1: is empty; it wants at least `frontends:` and `backends:`"),
        (b"# \xc3\xa4\n# \xe4\n", ":2:3: octet 0xe4 is not UTF-8; save the file as UTF-8"),
        ("stats: {}".encode("utf-16"), ":1:1: octet 0xff is not UTF-8; save the file as UTF-8"),
        (b"stats:\n  bind: \0", ":2:9: the character U+0000 is not allowed in YAML"),
        (b"stats:\n  bind: \x1b[0m", ":2:9: the character U+001B is not allowed in YAML"),
        (b"x" * 10_000_000, ":1:1: is too large; 4 MiB are allowed"),
        (b"\xff" * 10_000_000, ":1:1: is too large; 4 MiB are allowed"),
    ],
    ids=["empty", "latin-1", "utf-16", "nul", "escape", "10 MB", "10 MB of no UTF-8"],
)
def test_octets_that_are_no_yaml(tmp_path: Path, octets: bytes, says: str) -> None:
    (tmp_path / "b.yaml").write_bytes(octets)
    assert first_complaint(tmp_path / "b.yaml") == says


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert first_complaint(tmp_path / "none.yaml") == ":1:1: cannot be read: No such file or directory"
    assert first_complaint(tmp_path) == ":1:1: cannot be read: Is a directory"
    assert first_complaint(Path("a\0b")) == ":1:1: cannot be read: embedded null byte"


def test_relative_paths_start_from_the_directory_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "503.html").write_text("<h1>Later</h1>", encoding="utf-8")
    (tmp_path / "b.yaml").write_text(WEB + "defaults: {error_files: {503: 503.html}}\n", encoding="utf-8")
    config = read.load(tmp_path / "b.yaml", node="this", environ={})
    assert config.defaults.error_files.paths == {503: str(tmp_path / "503.html")}


# Anchors


def test_what_a_mapping_says_itself_wins_over_what_is_merged(config: Load) -> None:
    read_ = config("""
        frontends:
          one: &one {mode: tcp, bind: "10.0.0.1:80", default_backend: b, maxconn: 1, log: false}
          two: &two {<<: *one, bind: "10.0.0.1:81", maxconn: 2}
          three: {maxconn: 3, bind: "10.0.0.1:82", <<: *two}
          four: {<<: [*two, *one], bind: "10.0.0.1:83"}
          five: {<<: [*one, *two], bind: "10.0.0.1:84"}
        backends:
          b: {servers: {a: {address: "10.0.1.1:80"}}}
        """)
    assert {name: frontend.maxconn for name, frontend in read_.frontends.items()} == {
        "one": 1, "two": 2, "three": 3, "four": 2, "five": 1,
    }  # fmt: skip
    assert not any(frontend.log for frontend in read_.frontends.values())


def test_a_merged_mapping_is_replaced_whole_but_an_override_is_merged_key_by_key(config: Load) -> None:
    text = (
        WEB
        + """
defaults: &d {retries: 1, timeout: {connect: 1s, client: 1s}}
nodes:
  other: {defaults: {<<: *d, timeout: {connect: 2s}}}
"""
    )
    timeout = config(text, node="other").defaults.timeout
    assert (timeout.connect, timeout.client) == (2.0, 1.0)


def test_an_alias_of_a_value_repeats_it(config: Load) -> None:
    read_ = config(WEB + "stats: {bind: &a '10.0.0.9:7000', description: *a, realm: &b Off-limits, uri: /x}\n")
    assert read_.stats is not None
    assert read_.stats.description == "10.0.0.9:7000"


@pytest.mark.parametrize(
    "bomb",
    [
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 20)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{b: *a{i - 1}, c: *a{i - 1}}}\n" for i in range(1, 25)),
        f"a0: &a0 {{{','.join(f'k{i}: 1' for i in range(9999))}}}\n"
        + "".join(f"a{i}: {{<<: *a0}}\n" for i in range(1, 99)),
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 10_000)),
        "[" * 1_000_000,
        "{a: " * 200_000,
        "- " * 1_000_000,
        "".join(" " * i + "a:\n" for i in range(1500)),
    ],
    ids=["lists", "mappings", "merges", "chain", "brackets", "braces", "dashes", "blocks"],
)
def test_a_bomb_is_refused_at_once(complaints: Complaints, bomb: str) -> None:
    began = time.perf_counter()
    says = complaints(bomb)
    # It takes milliseconds; expanding any of them would take minutes, or the stack.
    assert time.perf_counter() - began < 10
    assert len(says) == 1
    assert "allowed" in says[0]


# Keys and plain values


def test_keys_are_text_whatever_yaml_makes_of_them(config: Load) -> None:
    read_ = config("""
        frontends:
          on: {mode: tcp, bind: "10.0.0.1:80", default_backend: "1"}
        backends:
          1: {servers: {no: {address: "10.0.1.1:80"}, 0660: {address: "10.0.1.1:81"}, 22:22: {address: "10.0.1.1:82"}}}
        """)
    assert list(read_.frontends) == ["on"]
    assert list(read_.backends["1"].servers) == ["no", "0660", "22:22"]


@pytest.mark.parametrize("word", ["true", "yes", "on", "True", "ON"])
def test_every_word_for_true_is_true_where_a_truth_value_is_wanted(config: Load, word: str) -> None:
    assert config(WEB + f"defaults: {{redispatch: {word}}}").defaults.redispatch is True


def test_text_in_quotes_stays_text(config: Load) -> None:
    read_ = config(WEB + "stats: {bind: ':7000', realm: '0660', description: \"no\", users: {a: '123', b: !!str 456}}")
    assert read_.stats is not None
    assert (read_.stats.realm, read_.stats.description) == ("0660", "no")
    assert read_.stats.users == {"a": User(password="123"), "b": User(password="456")}


# Environment


def test_variables_are_replaced_and_plain_values_read_anew(config: Load) -> None:
    read_ = config(
        """
        global:
          workers: ${N}
          maxconn: ${LIMIT:-500}
        stats:
          bind: ${HOST:-127.0.0.1}:${PORT:-7000}
          description: "costs $5, $${N} and ${N}"
          realm: "${EMPTY:-Realm}"
          admin: ${ADMIN}
          users: {admin: "${PASSWORD}"}
        """,
        N="4",
        EMPTY="",
        ADMIN="true",
        PASSWORD="123",
    )
    stats = read_.stats
    assert stats is not None
    assert (read_.global_.workers, read_.global_.maxconn) == (4, 500)
    assert str(stats.bind[0].address) == "127.0.0.1:7000"
    assert stats.description == "costs $5, ${N} and 4"
    assert (stats.realm, stats.admin, stats.users) == ("Realm", True, {"admin": User(password="123")})


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50))
def test_a_variable_cannot_add_structure(value: str) -> None:
    config = read.loads(WEB + 'stats: {bind: ":7000", description: "${X}"}', node="this", environ={"X": value})
    assert config.stats is not None
    assert config.stats.description == value


def test_keys_and_comments_hold_no_variables(complaints: Complaints) -> None:
    says = complaints("stats: {bind: ':7000'}  # ${UNSET}\nbackends: {'${UNSET}': {servers: {}}}")
    assert (
        says[0] == "2:12: backends.${UNSET}: '${UNSET}' is not allowed; names are made of letters, digits and - _ . :"
    )


def test_a_default_that_is_never_closed_is_no_variable(complaints: Complaints) -> None:
    says = complaints("stats: {bind: ':7000', description: '" + "${A:-" * 100_000 + "'}")
    assert says == [
        "1:37: stats.description: a variable is written ${NAME} or ${NAME:-default}, and a plain ${ is written $${"
    ]


# Amount


def test_five_thousand_servers(config: Load) -> None:
    servers = "".join(f"      s{i}: {{address: '10.1.{i // 250}.{i % 250}:80', cookie: c{i}}}\n" for i in range(5000))
    began = time.perf_counter()
    read_ = config(f"{WEB}  big:\n    cookie: {{name: S}}\n    servers:\n{servers}")
    # A fifth of a second where this was written.
    assert time.perf_counter() - began < 20
    assert len(read_.backends["big"].servers) == 5000


def test_of_many_problems_the_first_thousand_are_told(complaints: Complaints) -> None:
    says = complaints("".join(f"a{i}: *b\n" for i in range(100_000)))
    assert len(says) == 1001
    assert says[-1].endswith(": and more problems from here on")


# Anything


@pytest.mark.parametrize("name", ["minimal.yaml", "cluster.yaml", "full.yaml"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mangled_file_is_read_or_complained_of_in_its_own_lines(
    examples: Path, name: str, data: st.DataObject
) -> None:
    octets = bytearray((examples / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(octets)))
        length = data.draw(st.sampled_from([0, 0, 1, 1, 20]))
        octets[at : at + length] = data.draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from(
                    [b"\n", b"  ", b": ", b"- ", b"*web", b"&x ", b"{", b"]", b'"', b"!!x ", b"${", b"<<: ", b"~"]
                ),
                st.builds(lambda start: bytes(octets[start : start + 40]), st.integers(0, len(octets))),
            )
        )
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        text = octets.decode("latin-1")
    try:
        read.loads(text, file=str(examples / name), node="standby", environ={})
    except ConfigError as error:
        # YAML has more ends of lines than \n, and an error may be at the very end.
        lines = len(text.splitlines()) + 1
        assert error.problems
        for problem in error.problems:
            assert 1 <= problem.line <= lines
            assert problem.column >= 1
            assert problem.text
            assert "\n" not in problem.text


KEYS = [
    "global", "defaults", "frontends", "backends", "stats", "vrrp", "gateway", "nodes", "web", "mode", "bind",
    "default_backend", "servers", "check", "type", "instances", "timeout", "address", "error_files", "users",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.dates()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(KEYS),
                inner,
                max_size=4,
            ),
        ),
        max_leaves=20,
    )
)
def test_any_yaml_at_all_is_read_or_complained_of(value: object) -> None:
    text = yaml.safe_dump(
        {"stats": {"bind": ":1"}, "frontends": value, "backends": value, "nodes": value, "vrrp": value}
    )
    try:
        read.loads(text, node="web", environ={})
    except ConfigError as error:
        assert error.problems


def test_one_value_of_a_file_that_is_wrong(tmp_path: Path) -> None:
    file, loc = tmp_path / "b.yaml", ("global", "user")

    def found(text: str, *nodes: str) -> str | None:
        file.write_text(text)
        return read.written(file, loc, nodes=nodes, environ={"A": "a"})

    both = "global: {user: one, group: '${NONE}'}\nnodes: {n: {global: {user: '${A}'}}, m: {}}\nwrong: 5\n"
    assert [found(both), found(both, "m", "n"), found(both, "m")] == ["one", "a", "one"]
    for text in ("", "[", "global: one", "global: {user: 5}", "global: {user: '${NONE}'}", "global: {user: {x: y}}"):
        assert found(text, "n") is None, text
    assert read.written(tmp_path / "none", loc, nodes=(), environ={}) is None
