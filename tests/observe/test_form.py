from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.observe import form
from balancer.observe.form import Form
from balancer.observe.steering import Change
from balancer.pool.orders import Admin, Condition, ServerState


def changes(house, body: str) -> list[Change]:
    return [each.change for each in form.found(Form.of(body.encode()), house.look())]


@pytest.mark.parametrize(
    ("action", "change"),
    [
        ("ready", {"admin": Admin.READY}),
        ("DRAIN", {"admin": Admin.DRAIN}),
        ("stop", {"admin": Admin.DRAIN}),
        ("maint", {"admin": Admin.MAINT}),
        ("disable", {"admin": Admin.MAINT}),
        ("enable", {}),
        ("weight&weight=50%25", {"weight": 1}),
        ("weight&weight=+7+", {"weight": 7}),
        ("ehlth", {"is_checked": True}),
        ("dhlth", {"is_checked": False}),
        ("hrunn", {"condition": Condition.UP}),
        ("hdown", {"condition": Condition.DOWN}),
        ("shutdown", {"shuts": True}),
        ("start", None),
        ("hnolb", None),
        ("weight", None),
        ("", None),
    ],
)
def test_every_action(house, action: str, change: dict[str, object] | None) -> None:
    wanted = [] if change is None else [Change(backend="app", server="up", **change)]
    assert changes(house, f"b=app&s=up&action={action}") == wanted


def test_start_ends_a_drain_and_enable_a_maintenance(house) -> None:
    ready = [Change(backend="names", server="ns", admin=Admin.READY)]
    assert changes(house, "b=names&s=ns&action=start") == ready
    house.set("names", "ns", ServerState(Condition.UP, Admin.MAINT))
    assert changes(house, "b=names&s=ns&action=enable") == ready
    assert changes(house, "b=names&s=ns&action=start") == []


def test_a_server_is_named_once(house) -> None:
    asked = Form.of(b"s=up&s=up&s=app/up&b=app&action=ready")
    assert asked.servers == ("up", "app/up")
    assert form.code(asked, 1) == "PART"


@given(st.binary(max_size=200))
def test_no_body_raises_but_one_of_too_many_fields(body: bytes) -> None:
    Form.of(body)
    with pytest.raises(ValueError):
        Form.of(b"&=" * 20_001 + body)
