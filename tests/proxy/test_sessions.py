from __future__ import annotations

from balancer.proxy import sessions
from balancer.proxy.sessions import Moment
from tests.proxy.rig import GET, OK, http, rig, run, tcp, until

UP = {"check": False}


def views(r, *, whole: bool = False) -> list[sessions.SessionView]:
    moment = Moment.of(3)
    found = [sessions.view(member, moment, whole=whole) for member in r.worker._sweeper.members]
    return [view for view in found if view is not None]


def test_a_request_is_seen_while_it_goes_on_and_not_longer() -> None:
    async def main() -> None:
        async with rig(http(server=UP)) as r:
            client, server = await r.pair()
            await server.head()
            (view,) = views(r, whole=True)
            assert (view.mode, view.protocol, view.source) == ("http", "tcpv4", "{}:{}".format(*client.address))
            assert (view.frontend, view.backend, view.server) == ("front", "back", "s0")
            assert (view.requests, view.status, view.request) == (1, -1, "GET / HTTP/1.1")
            assert view.waits_for == "server" and view.received == len(GET)
            assert view.listener.startswith("127.0.0.1:") and view.server_fd >= 0
            await server.send(OK)
            await client.expect(OK)
            assert views(r) == [], "an idle connection is no session"
            await client.send(GET)
            await server.head()
            assert [view.requests for view in views(r)] == [2]
            await server.send(OK)
            await client.expect(OK)

    run(main)


def test_a_tcp_session_is_seen_and_found_by_its_number() -> None:
    async def main() -> None:
        async with rig(tcp(server=UP)) as r:
            _, server = await r.pair(b"hello")
            await server.expect(b"hello")
            await until(lambda: [view.waits_for for view in views(r)] == ["both"], "they talk")
            (view,) = views(r)
            assert (view.mode, view.server, view.received, view.sent) == ("tcp", "s0", 5, 0)
            members = r.worker._sweeper.members
            found = sessions.find(members, view.number, 3)
            assert found in members
            assert sessions.find(members, view.number, 4) is None, "another worker's"
            assert sessions.find(members, view.number + 1, 3) is None
            backend, name, since = sessions.began(found)
            assert (backend, name) == ("back", "s0") and 0 <= Moment.of(3).now - since < 60
            await r.at_rest()
            assert views(r) == []

    run(main)


def test_each_has_a_number_of_its_own() -> None:
    async def main() -> None:
        async with rig(http(server=UP)) as r:
            pairs = [await r.pair() for _ in range(5)]
            assert len({view.number for view in views(r)}) == 5
            for client, server in pairs:
                await server.head()
                await server.send(OK)
                await client.expect(OK)

    run(main)
