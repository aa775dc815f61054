from __future__ import annotations

from balancer.kernel.nft import Nft
from balancer.kernel.tables import tables
from tests.kernel.conftest import as_root
from tests.vrrp.conftest import Net


@as_root
def test_the_tables_of_a_namespace():
    net = Net()
    try:
        with net:
            nft = Nft()
            assert tables() == []
            names = ["inet pybalancer", "ip filter", "ip6 filter", "bridge a_rather_long_name_of_a_table", "arp x"]
            nft.run("\n".join(f"add table {name}" for name in names))
            assert sorted(tables()) == sorted(names)
            more = [f"ip t{number}" for number in range(2000)]
            nft.run("\n".join(f"add table {name}" for name in more))
            assert set(tables()) == {*names, *more}
            nft.close()
    finally:
        net.close()
