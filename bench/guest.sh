#!/bin/bash
# What vm.py has done on the system that it boots. guest.sh bench SOURCE: makes that system; guest.sh run SOURCE ONLY…:
# is its process 1, measures, writes bench.json to the second serial line, and switches it off.
set -uo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
what=$1 source=$2
shift 2

if [ "$what" = bench ]; then
    set -e
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends linux-image-amd64 initramfs-tools kmod make python3 python3-venv gcc \
        python3-dev nftables iproute2 procps ipvsadm haproxy dnsdist nginx-light libnginx-mod-stream bind9 bind9-dnsutils \
        dnsperf apache2-utils curl openssl util-linux >/dev/null
    make -C "$source" .venv/.installed-bench compiled
    exit
fi

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
# The clock of an emulated machine is its own: no time server, no drift that matters within minutes.
modprobe -a ip_vs ip_vs_rr nf_tables nft_chain_nat nft_masq nf_conntrack veth
cd "$source" || exit
.venv/bin/python bench/run.py --package build/compiled --quick --out /tmp/results --only "$@"
echo "status: $?"
cat /tmp/results/bench.json >/dev/ttyS1
sync
echo o >/proc/sysrq-trigger
sleep 60
