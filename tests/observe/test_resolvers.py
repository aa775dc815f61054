"""Name servers' counters, as HAProxy prints and exports them."""

from __future__ import annotations

from dataclasses import asdict

from balancer.names.asking import Tally
from balancer.observe.families import Family
from balancer.observe.resolvers import FAMILIES, rows, told

COUNTS = asdict(Tally(sent=7, valid=5, nx=1, timeout=1))


def test_all_that_is_counted_is_told() -> None:
    said = "".join(told({"dns1": [("ns1", COUNTS), ("ns2", COUNTS)], "dns2": []}))
    assert said.startswith(
        "Resolvers section dns1\n nameserver ns1:\n  sent:        7\n  snd_error:   0\n  valid:       5\n"
    )
    assert said.endswith("  outdated:    0\nResolvers section dns2\n")
    lines = [line.split(":")[0].strip() for line in said.splitlines() if line.startswith("  ")]
    assert lines == [*COUNTS, *COUNTS]


def test_the_metrics_have_haproxys_names_and_labels() -> None:
    ((labels, row),) = rows({"a b": [('n"1', COUNTS)]})
    assert labels == '{resolver="a b",nameserver="n\\"1"'
    by_name: dict[str, Family] = {each.name: each for each in FAMILIES}
    assert {"haproxy_resolver_sent", "haproxy_resolver_send_error", "haproxy_resolver_outdate"} <= by_name.keys()
    sent = by_name["haproxy_resolver_sent"]
    assert list(sent.samples(sent.name, labels, row)) == [
        'haproxy_resolver_sent{resolver="a b",nameserver="n\\"1"} 7\n'
    ]
