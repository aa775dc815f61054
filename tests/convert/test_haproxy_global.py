from __future__ import annotations

import pytest

LISTEN = "listen l\n bind :1\n log global\n server s 10.0.0.1:80\n"


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("user u", {"user": "u"}),
        ("maxconn 500", {"maxconn": 500}),
        ("nbthread 4", {"workers": 4}),
        ("hard-stop-after 5000", {"hard_stop_after": "5s"}),
        ("tune.bufsize 32k", {"max_header_size": 32768}),
        ("tune.http.maxhdr 300", {"max_headers": 300}),
        ("maxzlibmem 64", {"maxcompmem": "64m"}),
        ("log /dev/log local3", {"log": {"target": "syslog", "facility": "local3"}}),
        ("log 192.0.2.1 daemon", {"log": {"target": "udp://192.0.2.1:514", "facility": "daemon"}}),
        ("log [2001:db8::1]:10514 local0", {"log": {"target": "udp://[2001:db8::1]:10514", "facility": "local0"}}),
        ("log stdout format raw local0", {"log": {"target": "stdout", "facility": "local0"}}),
        ("log fd@2 format raw local0", {"log": {"target": "stderr", "facility": "local0"}}),
        ("log /dev/log local1 notice", {"log": {"target": "syslog", "facility": "local1", "level": "notice"}}),
        ("log /run/x.sock local0 debug", {"log": {"target": "unix:/run/x.sock", "facility": "local0"}}),
        (
            "log 192.0.2.1:514 len 512 format rfc5424 sample 2-3,8:11 local0",
            {
                "log": {
                    "target": "udp://192.0.2.1:514",
                    "len": 512,
                    "sample": "2-3,8:11",
                    "facility": "local0",
                    "header": "rfc5424",
                }
            },
        ),
        (
            "log tcp@192.0.2.1:601 local0",
            {"log": {"target": "tcp://192.0.2.1:601", "facility": "local0", "header": "rfc3164"}},
        ),
        (
            "log /dev/log local0\n log /dev/log local0\n log /dev/log local1 err",
            {
                "log": [
                    {"target": "syslog", "facility": "local0"},
                    {"target": "syslog", "facility": "local1", "level": "err"},
                ]
            },
        ),
    ],
)
def test_what_there_is(convert, line, made):
    found = convert(f"global\n {line}\n{LISTEN}")
    own = found.made["global"]
    assert {key: own[key] for key in made} == made
    assert found.told == []


def test_the_socket(convert):
    found = convert(
        f"global\n stats socket /run/h.sock mode 600 level admin expose-fd listeners\n stats timeout 1m\n{LISTEN}"
    )
    assert found.made["global"]["runtime_socket"] == {"path": "/run/h.sock", "mode": "0600", "level": "admin"}
    assert convert(LISTEN).made["global"]["runtime_socket"] == {"path": "/run/pybalancer/admin.sock"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("lua-load /x.lua", "no code is loaded"),
        ("log ring@r local0", "UDP and TCP receivers"),
        ("log /dev/log local0 loud", "neither a facility nor a level"),
        ("log 10.0.0.1 len 9 local0", "no number"),
        ("log 10.0.0.1 sample 9:1 local0", "numbers go up"),
        ("log 10.0.0.1 len 9000 local0", "4095 octets at most"),
        ("log 10.0.0.1 local0 debug notice", "second level"),
        ("log 10.0.0.1 format raw local0", "no format raw"),
        ("log stdout format rfc5424 local0", "without its priority"),
        ("stats socket ipv4@127.0.0.1:1", "Unix socket"),
        ("wrong 1", "no such setting"),
        ("maxconn many", "no number"),
        ("nbthread", "says nothing"),
        ("log /dev/log", "an address and a facility"),
    ],
)
def test_what_there_is_not(convert, line, why):
    (told,) = convert(f"global\n {line}\n{LISTEN}").told
    assert told.startswith("2: ")
    assert why in told


@pytest.mark.parametrize("section", ["peers p\n peer a 127.0.0.1:1", "ring r\n format raw", "program p\n command x"])
def test_sections_that_there_are_not(convert, section):
    assert [told.partition(":")[0] for told in convert(f"{section}\n{LISTEN}").told] == ["1", "2"]


def test_what_means_nothing_here_is_listed_in_the_file(convert):
    found = convert(f"global\n daemon\n chroot /x\n ssl-default-bind-options x\n tune.maxrewrite 1\n{LISTEN}")
    assert found.told == []
    assert found.text.count("#   0.conf:") == 5


def test_pages_of_a_section(convert, tmp_path):
    page = tmp_path / "503.http"
    page.write_text("HTTP/1.0 503 x\r\n\r\nbody")
    errors = f"http-errors e\n errorfile 503 {page}\n errorfile 404 {page}\n"
    found = convert(f"{errors}listen l\n mode http\n bind :1\n errorfiles e 503\n server s 10.0.0.1:80\n")
    assert found.made["frontends"]["l"]["error_files"] == {503: str(page)}


def test_resolvers_are_ours_under_other_names(convert):
    lines = (
        "nameserver a 10.0.0.1:53", "nameserver b tcp@[2001:db8::1]:5353", "parse-resolv-conf", "resolve_retries 2",
        "timeout resolve 2s", "timeout retry 500", "hold valid 10s", "hold nx 0", "hold obsolete 1m",
        "accepted_payload_size 8192",
    )  # fmt: skip
    found = convert("resolvers r\n " + "\n ".join(lines) + f"\n{LISTEN}")
    assert found.told == []
    assert found.made["resolvers"] == {
        "r": {
            "nameservers": {"a": "10.0.0.1:53", "b": "tcp@[2001:db8::1]:5353"},
            "parse_resolv_conf": True,
            "resolve_retries": 2,
            "timeout": {"resolve": "2s", "retry": "500ms"},
            "hold": {"valid": "10s", "nx": "0s", "obsolete": "1m"},
            "accepted_payload_size": 8192,
        }
    }


@pytest.mark.parametrize("line", ["colour red", "nameserver a quic@10.0.0.1:853", "nameserver a", "hold mine 5s"])
def test_what_resolvers_have_not(convert, line):
    (told,) = convert(f"resolvers r\n nameserver n 10.0.0.1:53\n {line}\n{LISTEN}").told
    assert told.startswith("3: ")
