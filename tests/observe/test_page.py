from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from balancer.observe import page
from balancer.observe.log import Level, Recent
from balancer.observe.page import View
from balancer.observe.snapshot import LastCheck
from balancer.observe.trends import Drain
from balancer.pool.orders import Condition, ServerState
from balancer.pool.routers import PeerFacts, ScriptFacts, Standing, Term, Trouble
from tests.observe.conftest import router, two_routers

NOW = 1_795_392_514.0
VOID = {"meta", "link", "input", "col"}


class Tree(HTMLParser):
    """Rows of cells (text and title), and whatever is not well-formed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[tuple[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append(("", dict(attrs).get("title") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and {"td", "th"} & set(self.open):
            text, title = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, title)

    def row(self, name: str) -> list[str]:
        (found,) = [row for row in self.rows if row[0][0].startswith(name)]
        return [text.strip() for text, _ in found]


def read(text: str) -> Tree:
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert tree.open == []
    return tree


def test_the_table_is_haproxys(house) -> None:
    tree = read(page.render(house.look(), View("HAProxy Statistics")))
    heads = next(row for row in tree.rows if row[0][0] == "Name" and row[1][0] == "Queue")
    assert [text for text, _ in heads] == [
        "Name", "Queue", "Session rate", "Sessions", "Bytes", "Denied", "Errors", "Warnings", "Server",
    ]  # fmt: skip
    columns = tree.rows[tree.rows.index(heads) + 1]
    assert [text for text, _ in columns] == [
        "Cur", "Max", "Limit", "Cur", "Max", "Limit", "Cur", "Max", "Limit", "Total", "LbTot", "Last", "In", "Out",
        "Req", "Resp", "Req", "Conn", "Resp", "Retr", "Redis",
        "Status", "LastChk", "Wght", "Act", "Bck", "Chk", "Dwn", "Dwntme", "Thrtle",
    ]  # fmt: skip
    widths = {len(row) for row in tree.rows[tree.rows.index(heads) + 2 :] if row[0][0] != "Name" and row[0][0] != "Cur"}
    assert widths == {len(columns) + 1}


def test_a_server_says_all_about_itself(house) -> None:
    tree = read(page.render(house.look(), View("r")))
    assert tree.row("down")[22:] == ["DOWN 30s", "L4CON in 0ms", "1/1", "Y", "-", "5", "2", "40s", "-"]
    up = tree.row("up")
    assert up[7:13] == ["5", "6", "-", "5\u202f000", "4\u202f000", "2s"]
    assert up[13:15] == ["9.8 K", "1.9 M"]
    assert up[22:27] == ["UP 1m30s", "L7OK/200 in 3ms", "3/3", "Y", "-"]
    assert tree.row("one")[22:24] == ["UP 1/3 0s", "INI"]
    assert tree.row("ns")[22:] == ["DRAIN 5s", "", "1/1", "Y", "-", "", "", "", "-"]


def test_a_frontend_shows_where_it_listens_and_that_it_is_full(house) -> None:
    tree = read(page.render(house.look(), View("r")))
    web, tls = tree.row("web"), tree.row("tls")
    assert web[1] == "http 192.0.2.1:80, [2001:db8::1]:80 → app"
    assert (web[-1], tls[-1]) == ("OPEN", "FULL")


def test_the_head_tells_who_it_is(house) -> None:
    text = page.render(house.look(), View("HAProxy Statistics", refresh=5.0))
    for words in (
        "Nodo Master",
        "director",
        "pid 4711",
        "up 1h",
        "pybalancer 0.1.0",
        "HAProxy Statistics",
        "every 5 s",
    ):
        assert words in text


def test_what_runs_is_in_the_page_and_named_by_its_policy(house) -> None:
    text = page.render(house.look(), View("r", refresh=7.0, source="/haproxy?stats;live", epoch="e", token="t"))
    tree = read(text)
    assert '<noscript><meta http-equiv="refresh" content="7"></noscript>' in text
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in page.POLICY
    assert "unsafe" not in page.POLICY
    assert not {"src", "style"} & {name for _, attrs in tree.tags for name in attrs}


def test_last_events_and_drains(house) -> None:
    recent = (Recent(1, NOW - 5, Level.ALERT, "<b>one</b>"), Recent(2, NOW, Level.NOTICE, "two"))
    drains = (
        Drain("app", "up", "DRAIN", 65.0, 3, 61.0, 125.0, 3700.0),
        Drain("app", "down", "MAINT", 5.0, 1, None, None),
        Drain("raw", "one", "weight 0", 5.0, 0, 70.0, 0.0),
    )
    text = page.render(house.look(), View("r", source="/s;live", recent=recent, drains=drains))
    assert text.index("</b> two") < text.index("&lt;b&gt;one")
    tree = read(text)
    assert tree.row("app/up")[1:] == ["DRAIN", "1m5s", "3", "1h1m", "1m1s", "2m5s"]
    assert tree.row("app/down")[1:] == ["MAINT", "5s", "1", "?", "-", "?"]
    assert tree.row("raw/one")[1:] == ["weight 0", "5s", "0", "-", "-", "empty"]


def test_it_loads_and_runs_nothing(house) -> None:
    tree = read(page.render(house.look(), View("r", refresh=1.0)))
    assert not {"script", "img", "iframe", "object", "form"} & {tag for tag, _ in tree.tags}
    links = [attrs[name] or "" for _, attrs in tree.tags for name in ("href", "src") if name in attrs]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert not [name for _, attrs in tree.tags for name in attrs if name.startswith("on")]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onmouseover='alert(1)",
        "</td></table><h1>mine",
        "{{ 7 * 7 }}{% raw %}",
        "&lt;b&gt;",
        "caf\xe9 \xff \u202e",
    ],
)
def test_nothing_that_was_said_becomes_markup(house, make_house, text: str) -> None:
    calm = read(page.render(house.look(), View("r")))
    house.set(
        "app", "down", ServerState(Condition.DOWN), LastCheck("L7STS", "Layer7 wrong status", 500, text, 0.1, NOW)
    )
    house.process = house.process._replace(description=text, node=text)
    tree = read(page.render(house.look(), View(text)))
    assert [tag for tag, _ in tree.tags] == [tag for tag, _ in calm.tags]
    assert [sorted(attrs) for _, attrs in tree.tags] == [sorted(attrs) for _, attrs in calm.tags]
    titles = [title for row in tree.rows for _, title in row]
    assert f"Layer7 wrong status: {text} (0s ago)" in titles


def test_a_nul_in_a_checks_answer_stays_text(house) -> None:
    house.set(
        "app", "down", ServerState(Condition.DOWN), LastCheck("L7RSP", "Layer7 invalid response", None, "a\0<b", 0, NOW)
    )
    assert "a\0&lt;b" in page.render(house.look(), View("r"))


def test_pieces_make_the_whole(house) -> None:
    assert "".join(page.pieces(house.look(), View("r"))) == page.render(house.look(), View("r"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (61, "1m1s"), (3600, "1h"), (7260, "2h1m"), (86400 * 3 + 4 * 3600, "3d4h"),
     (-5, "0s")],
)  # fmt: skip
def test_durations_have_their_two_largest_units(house, seconds: float, text: str) -> None:
    house.process = house.process._replace(started=NOW - seconds)
    assert f"· up {text} ·" in page.render(house.look(), View("r"))


@pytest.mark.parametrize(
    ("octets", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0 K"), (1536, "1.5 K"), (200 * 1024, "200 K"), (5 << 30, "5.0 G"),
     (1 << 62, "4096 P")],
)  # fmt: skip
def test_octets_are_short(house, octets: int, text: str) -> None:
    house.count("frontend", "web", bin=octets)
    row = read(page.render(house.look(), View("r"))).row("web")
    assert re.sub(r"\s+", " ", row[9]) == text


# Virtual routers


def test_without_virtual_routers_there_is_no_section_of_them(house) -> None:
    assert "Virtual routers" not in page.render(house.look(), View("r"))
    house.routers = Standing(at=NOW)
    assert "Virtual routers" not in page.render(house.look(), View("r"))


def test_virtual_routers_show_where_they_stand_and_why(house) -> None:
    house.routers = two_routers()
    text = page.render(house.look(), View("r"))
    tree = read(text)
    outer, inner = tree.row("VI_E"), tree.row("VI_I")
    assert outer[1] == "MASTER 3m12s"
    assert outer[2].splitlines() == [
        "130/150         150  priority",
        "           0  interface eth1: is up (weight -5)",
        "         -20  backend web: 2 of 3 servers up here, 3 of 3 at 10.9.0.3 (weight -60)",
        "        ----",
        "         130  effective priority",
    ]
    assert outer[3:5] == ["itself", "standby BACKUP; 192.0.2.3, priority 100, heard 3m12s ago"]
    assert outer[5:] == ["192.0.2.200/32, 192.0.2.202/24", "eth0", "51", "VG1", "no master is heard"]
    assert inner[1] == "FAULT 5s released for 30m"
    assert inner[3] == "192.0.2.3, priority 100, every 1s"
    tones = [attrs["class"] for tag, attrs in tree.tags if tag == "tr" and attrs.get("class")]
    assert tones[:2] == ["up", "maint"]
    for words in (
        "VI_E: 192.0.2.9 is master too (3 times, first 5m ago, last 2s ago)",
        "Script ping: bad, exit status 1",
        "Peer 10.9.0.3:694 (standby): alive, heard 0s ago, VI_E BACKUP, web 3 of 3 up",
        "Peer 10.9.0.4:694: was never heard",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("state", "tone"),
    [("MASTER", "up"), ("BACKUP", "unchecked"), ("FAULT", "down"), ("INIT", "maint"), ("STOPPED", "maint")],
)
def test_the_colour_says_the_state_too(house, state: str, tone: str) -> None:
    house.routers = Standing(at=NOW, routers=(router(state=state),))
    tags = read(page.render(house.look(), View("r"))).tags
    assert next(attrs["class"] for tag, attrs in tags if tag == "tr" and attrs.get("class")) == tone


@pytest.mark.parametrize(("silent", "tones"), [(5, ["up", "maint"]), (6, ["maint", "maint"])])
def test_what_may_be_true_no_more_is_said_first_and_not_green(house, silent: int, tones: list[str]) -> None:
    house.routers = replace(two_routers(), at=NOW - silent)
    text = page.render(house.look(), View("r"))
    said = "The supervisor has been silent for 6s; this is what it said last."
    assert (said in text) is (silent > 5)
    assert text.find(said) < text.find("VI_E")
    assert [attrs["class"] for tag, attrs in read(text).tags if tag == "tr" and attrs.get("class")][:2] == tones


def test_nothing_that_came_over_the_network_becomes_markup(house) -> None:
    evil = "<script>alert(1)</script>"
    house.routers = Standing(
        at=NOW,
        routers=(router(why=evil, master=evil, troubles=(Trouble(evil, NOW, NOW, 1),), terms=(Term(evil, 1, evil),)),),
        scripts=(ScriptFacts(name="s", is_good=None, text=evil),),
        peers=(
            PeerFacts(address="a", is_alive=True, node=evil, last=NOW, states={evil: evil}, servers={evil: (0, 1)}),
        ),
    )
    tree = read(page.render(house.look(), View("r")))
    assert "script" not in {tag for tag, _ in tree.tags}
    assert "details" in {tag for tag, _ in tree.tags}


@pytest.mark.parametrize(
    ("microseconds", "shown"),
    [(255, "0.26"), (125, "0.13"), (200, "0.2"), (1000, "1"), (9960, "10"), (10500, "11"), (11500, "12"), (0, "0")],
)
def test_times_are_rounded_as_the_pages_script_does_it(house, microseconds: int, shown: str) -> None:
    house.count("server", "app", "up", ttime_max=microseconds)
    (up, *_) = re.findall('total [0-9.]+/([0-9.]+)"', page.render(house.look(), View("r")))
    assert up == shown
