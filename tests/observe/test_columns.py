"""show stat: HAProxy's columns."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config import model
from balancer.observe import columns
from balancer.observe.columns import Selection
from balancer.pool.orders import Admin, Condition, ServerState
from tests.observe.conftest import NOW, US

# HAProxy 2.8's, by its management manual and src/stats.c.
HEADER = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,act,"
    "bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,rate_max,"
    "check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate,"
    "req_rate_max,req_tot,cli_abrt,srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,qtime,ctime,"
    "rtime,ttime,agent_status,agent_code,agent_duration,check_desc,agent_desc,check_rise,check_fall,check_health,"
    "agent_rise,agent_fall,agent_health,addr,cookie,mode,algo,conn_rate,conn_rate_max,conn_tot,intercepted,dcon,dses,"
    "wrew,connect,reuse,cache_lookups,cache_hits,srv_icur,src_ilim,qtime_max,ctime_max,rtime_max,ttime_max,eint,"
    "idle_conn_cur,safe_conn_cur,used_conn_cur,need_conn_est,uweight,agg_server_status,agg_server_check_status,"
    "agg_check_status,srid,sess_other,h1sess,h2sess,h3sess,req_other,h1req,h2req,h3req,proto,-,\n"
)


ALL = Selection()


def written(house, selection: Selection = ALL) -> str:
    return "".join(columns.csv(columns.selected(house.look(), selection)))


def rows(house, selection: Selection = ALL) -> dict[tuple[str, str], dict[str, str]]:
    found = list(csv.DictReader(io.StringIO(written(house, selection).removeprefix("# "))))
    return {(row["pxname"], row["svname"]): row for row in found}


def test_the_header_is_haproxys(house) -> None:
    text = written(house)
    assert text.startswith(HEADER)
    assert all(line.endswith(",-,") and line.count(",") == HEADER.count(",") for line in text.splitlines()[1:])


def test_every_counter_stands_in_its_column(house) -> None:
    """Each gets another value; what is shown must be exactly that one."""
    per_server = {
        name: 1000 + i
        for i, name in enumerate(
            ("qcur", "qmax", "scur", "smax", "stot", "bin", "bout", "dresp", "econ", "eresp", "wretr", "wredis",
             "lbtot", "hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other", "req_tot", "cli_abrt",
             "srv_abrt", "connect", "reuse", "eint")
        )
    }  # fmt: skip
    house.count("server", "app", "up", **per_server)
    per_frontend = {
        name: 3000 + i
        for i, name in enumerate(
            ("scur", "smax", "stot", "bin", "bout", "dreq", "dresp", "ereq", "hrsp_1xx", "hrsp_2xx", "hrsp_3xx",
             "hrsp_4xx", "hrsp_5xx", "hrsp_other", "req_tot", "conn_tot", "intercepted", "dcon", "dses", "eint")
        )
    }  # fmt: skip
    house.count("frontend", "web", **per_frontend)
    found = rows(house)
    assert {name: int(found["app", "up"][name]) for name in per_server} == per_server
    assert {name: int(found["web", "FRONTEND"][name]) for name in per_frontend} == per_frontend
    assert found["app", "up"]["used_conn_cur"] == str(per_server["scur"])


def test_of_times_there_are_milliseconds(house) -> None:
    house.count("server", "app", "up", qtime_max=1999, ctime_max=2000, rtime_max=70_000, ttime_max=999)
    found = rows(house)["app", "up"]
    assert [found[f"{letter}time_max"] for letter in "qcrt"] == ["1", "2", "70", "0"]
    # 5000 requests in a second, 40 of them on new connections: what they took in all, by 5000.
    assert (found["ctime"], found["rtime"], found["ttime"]) == ("6", "0", "0")


def test_limits_stand_where_there_are_any(make_house) -> None:
    config = {"address": "10.0.0.1:80", "maxconn": 30, "maxqueue": 4}
    limited = model.Config.model_validate(
        {
            "frontends": {"web": {"mode": "http", "bind": ("192.0.2.1:80",), "default_backend": "app"}},
            "backends": {"app": {"servers": {"a": config, "b": {"address": "10.0.0.2:80"}}}},
        }
    )
    found = rows(make_house(limited))
    assert [(found["app", name]["slim"], found["app", name]["qlimit"]) for name in "ab"] == [("30", "4"), ("", "")]


def test_who_never_had_a_session_says_so(house) -> None:
    house.count("server", "app", "up", lastsess=int(NOW) - 7)
    found = rows(house)
    assert found["app", "up"]["lastsess"] == "7"
    assert found["app", "spare"]["lastsess"] == "-1"
    assert found["web", "FRONTEND"]["lastsess"] == ""


def test_a_server_in_maintenance_is_not_checked(house) -> None:
    up = ServerState(Condition.UP, weight=3, health=4, last_change=int(NOW - 5) * US, downs=2, check_failures=9)
    house.set("app", "up", up)
    found = rows(house)["app", "up"]
    assert (found["status"], found["weight"], found["chkfail"], found["chkdown"]) == ("UP", "3", "9", "2")
    assert found["check_status"] and found["lastchg"] == "5"
    house.set("app", "up", up._replace(admin=Admin.MAINT))
    found = rows(house)["app", "up"]
    assert (found["status"], found["check_status"], found["check_rise"]) == ("MAINT", "", "")


@pytest.mark.parametrize(
    ("selection", "kinds"),
    [
        (Selection(), {"FRONTEND", "BACKEND", "server"}),
        (Selection(kinds=1), {"FRONTEND"}),
        (Selection(kinds=2), {"BACKEND"}),
        (Selection(kinds=4), {"server"}),
        (Selection(kinds=6), {"BACKEND", "server"}),
        (Selection(iid=99), set()),
        (Selection(proxy="nobody"), set()),
        (Selection(scope="nobody"), set()),
    ],
)
def test_kinds_of_rows_can_be_chosen(house, selection: Selection, kinds: set[str]) -> None:
    found = {svname if svname.isupper() else "server" for _, svname in rows(house, selection)}
    assert found == kinds


def test_numbers_find_what_they_name(house) -> None:
    for (proxy, name), row in rows(house).items():
        chosen = rows(house, Selection(iid=int(row["iid"]), sid=int(row["sid"]), kinds=2 ** int(row["type"])))
        assert list(chosen) == [(proxy, name)] or name in ("FRONTEND", "BACKEND")


def test_what_is_down_or_out_can_be_left_out(house) -> None:
    house.set("app", "up", ServerState(Condition.DOWN))
    house.set("app", "spare", ServerState(Condition.UP, Admin.MAINT, health=4))
    everyone = set(rows(house))
    assert everyone - set(rows(house, Selection(hides_maint=True))) == {("app", "spare")}
    gone = everyone - set(rows(house, Selection(hides_down=True)))
    assert {("app", "up"), ("app", "down"), ("app", "spare"), ("app", "BACKEND"), ("names", "BACKEND")} == gone


def test_the_page_leaves_the_same_out(house) -> None:
    house.set("app", "spare", ServerState(Condition.UP, Admin.MAINT, health=4))
    for selection in (Selection(), Selection(hides_maint=True), Selection(hides_down=True), Selection(scope="app")):
        narrowed = columns.narrowed(house.look(), selection)
        shown = {(row.name, "FRONTEND") for row in narrowed.frontends}
        shown |= {(row.name, server.name) for row in narrowed.backends for server in row.servers}
        assert shown == {row for row in rows(house, selection) if row[1] != "BACKEND"}


def test_typed_and_json_say_what_the_table_says(house) -> None:
    table = rows(house)
    names = HEADER.removeprefix("# ").strip().split(",")
    by_number = {(row["type"], row["iid"], row["sid"]): row for row in table.values()}
    seen = dict.fromkeys(by_number, 0)
    kinds = {"F": "0", "B": "1", "S": "2"}
    for line in "".join(columns.typed(columns.selected(house.look()))).splitlines():
        place, _, type_, value = line.split(":", 3)
        kind, iid, sid, position, name, process = place.split(".")
        assert names[int(position)] == name and process == "1"
        assert by_number[kinds[kind], iid, sid][name] == value
        assert type_ == "str" or value.lstrip("-").isdigit()
        seen[kinds[kind], iid, sid] += 1
    for key, row in by_number.items():
        assert seen[key] == sum(value != "" for name, value in row.items() if name not in ("-", ""))
    facts = json.loads("".join(columns.json_(columns.selected(house.look()))))
    assert len(facts) == len(table)
    for row in facts:
        shown = table[row[0]["value"]["value"], row[1]["value"]["value"]]
        assert all(shown[fact["field"]["name"]] == str(fact["value"]["value"]) for fact in row)
    assert json.loads("".join(columns.json_([]))) == []


@given(st.text(max_size=40))
def test_whatever_a_server_says_stays_in_its_cell(text: str) -> None:
    line = f"a,{columns._cell(text)},b\n"
    assert line.count("\n") == 1
    assert next(csv.reader([line])) == ["a", text.replace("\r", " ").replace("\n", " "), "b"]
