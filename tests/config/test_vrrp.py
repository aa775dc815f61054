from __future__ import annotations

from typing import Any

import pytest

from balancer.config.vrrp import SyncGroup, TrackedBackend, TrackedScript, VirtualAddress, Vrrp, VrrpInstance

INSTANCE: dict[str, Any] = {"interface": "eth0", "virtual_router_id": 51, "virtual_ipaddress": "192.0.2.1"}


def instance(**changes: Any) -> VrrpInstance:
    return VrrpInstance.model_validate(INSTANCE | changes)


def test_the_defaults_are_keepaliveds() -> None:
    own = instance()
    assert (own.priority, own.advert_int, own.preempt, own.down_timer_adverts) == (100, 1.0, True, 3)
    assert (own.garp_master_repeat, own.garp_master_delay, own.garp_master_refresh) == (5, 5.0, 60.0)
    script = Vrrp.model_validate({"scripts": {"a": {"script": "/bin/true"}}}).scripts["a"]
    assert (script.interval, script.timeout, script.rise, script.fall, script.weight) == (1.0, None, 1, 1, 0)


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [
        ("virtual_ipaddress", "192.0.2.9/24", (VirtualAddress(address="192.0.2.9/24"),)),
        (
            "virtual_ipaddress",
            ("192.0.2.9", {"address": "192.0.2.8", "scope": "link"}),
            (VirtualAddress(address="192.0.2.9"), VirtualAddress(address="192.0.2.8", scope="link")),
        ),
        ("unicast_peer", "192.0.2.2", ("192.0.2.2",)),
        ("track_script", "site", (TrackedScript(script="site"),)),
        ("track_script", {"script": "site", "weight": -5}, (TrackedScript(script="site", weight=-5),)),
        ("track_backend", ("web",), (TrackedBackend(backend="web", weight=-100),)),
        ("notify", "/bin/echo 'a b' c", ("/bin/echo", "a b", "c")),
        ("notify", ("/bin/echo", "a b"), ("/bin/echo", "a b")),
        ("garp_master_delay", "0s", 0.0),
    ],
)
def test_what_may_be_written_short(key: str, written: Any, read: Any) -> None:
    assert getattr(instance(**{key: written}), key) == read


@pytest.mark.parametrize("written", ["A", ("A",), {"group": "A"}, {"group": ("A",)}])
def test_a_sync_group_is_a_list_or_says_more(written: Any) -> None:
    assert Vrrp.model_validate({"sync_groups": {"G": written}}).sync_groups == {"G": SyncGroup(group=("A",))}
