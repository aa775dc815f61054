"""show info: what the process says of itself."""

from __future__ import annotations

import json
import re

from balancer.observe import info
from tests.observe.conftest import NOW


def test_every_line_is_a_name_and_a_value(house) -> None:
    facts = dict(line.split(": ", 1) for line in info.plain(house.look(), 1000).splitlines())
    assert facts["Name"] == "HAProxy" and facts["Version"] == "0.1.0-pybalancer"
    assert re.fullmatch(r"[0-9]{4}/[0-9]{2}/[0-9]{2}", facts["Release_date"])
    assert facts["Uptime"] == "0d 1h00m00s" and facts["Uptime_sec"] == "3600"
    assert facts["Pid"] == "4711" and facts["Nbthread"] == "2" and facts["Maxconn"] == "100"
    assert facts["CurrConns"] == "7" and facts["CumConns"] == "900" and facts["DroppedLogs"] == "3"
    assert facts["CumReq"] == "5050", "HTTP requests and DNS queries"
    assert facts["Idle_pct"] == "100" and facts["Hard_maxconn"] == "100"
    assert facts["Listeners"] == "4" and facts["Ulimit-n"] == "1000"
    assert facts["Start_time_sec"] == str(int(NOW - 3600))
    assert facts["description"] == "Nodo Master" and facts["node"] == "director"


def test_typed_and_json_say_the_same(house) -> None:
    plain = dict(line.split(": ", 1) for line in info.plain(house.look(), 1000).splitlines())
    typed = {}
    for line in info.typed(house.look(), 1000).splitlines():
        place, tags, type_, value = line.split(":", 3)
        assert len(tags) == 3 and (type_ == "str" or value.isdigit())
        typed[place.split(".")[1]] = value
    assert typed == plain
    facts = json.loads(info.json_(house.look(), 1000))
    assert {fact["field"]["name"]: str(fact["value"]["value"]) for fact in facts} == plain
    assert facts[0]["tags"] == {"origin": "Product", "nature": "Output", "scope": "Service"}


def test_who_says_nothing_of_itself_has_no_description(house) -> None:
    house.process = house.process._replace(description="")
    assert "description" not in info.plain(house.look(), 1000)
