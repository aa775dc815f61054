#!/usr/bin/env bash
# Makes of a Debian 12 system one machine of the cluster: provision.sh director|web|dns|nas|client SOURCE
# SOURCE is this project's checkout. As root; again does no harm. Interfaces are found by their addresses, and are eth0
# (outside) and eth1 (inside) where those are not there yet.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
role=${1:?director, web, dns, nas or client}
source=$(realpath "${2:?where the checkout is}")
files=$source/tests/lab/files

packages() {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

card() { # its name, by the network that it has an address of
    ip -o -4 address show to "$1" | awk 'NR == 1 { print $2 }'
}

# Clients are known to the servers by their own addresses: the way back is through the active director.
route_back() {
    cat >/etc/systemd/system/way-back.service <<EOF
[Unit]
Description=The way back to clients is through the active director
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/ip route replace 192.168.1.0/24 via 10.0.100.200

[Install]
WantedBy=multi-user.target
EOF
    systemctl enable -q way-back
    [ ! -d /run/systemd/system ] || systemctl restart way-back
}

director() {
    packages make python3 python3-venv gcc python3-dev nftables dnsmasq-base iproute2
    make -C "$source" install
    local outer inner
    outer=$(card 192.168.1.0/24) inner=$(card 10.0.100.0/24)
    # One may have the other's name in the file.
    sed "s/interface: eth0/interface: ${outer:=eth0}/; t; s/interface: eth1/interface: ${inner:=eth1}/" \
        "$source/config/cluster.yaml" >/etc/pybalancer/balancer.yaml.new
    chown root:pybalancer /etc/pybalancer/balancer.yaml.new
    chmod 0640 /etc/pybalancer/balancer.yaml.new
    mv /etc/pybalancer/balancer.yaml.new /etc/pybalancer/balancer.yaml
    sed "s/^interface=eth1/interface=$inner/" "$files/dnsmasq.conf" >/etc/dnsmasq.conf
    for host in 2 3 4 5 6 7; do
        printf '08:00:27:01:01:%02x 10.0.100.%d\n' "$host" "$host"
    done >/etc/ethers
    cat >/etc/systemd/system/leases.service <<EOF
[Unit]
Description=Addresses for the machines inside
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=/usr/sbin/dnsmasq --keep-in-foreground --conf-file=/etc/dnsmasq.conf
Restart=on-failure

[Install]
WantedBy=multi-user.target
EOF
    systemctl enable -q leases pybalancer
    [ ! -d /run/systemd/system ] || systemctl restart leases pybalancer
}

web() {
    packages apache2 libapache2-mod-php ssl-cert nfs-common iproute2
    mkdir -p /srv/www
    grep -q 10.0.100.100:/srv/www /etc/fstab 2>/dev/null ||
        echo '10.0.100.100:/srv/www /srv/www nfs ro,nofail,x-systemd.automount,x-systemd.mount-timeout=5 0 0' >>/etc/fstab
    # Until the documents can be mounted it has its own.
    mountpoint -q /srv/www || cp "$files"/{index,pi}.php /srv/www
    [ ! -d /run/systemd/system ] || { systemctl daemon-reload && systemctl start srv-www.automount; }
    cat >/etc/apache2/sites-available/cluster.conf <<'EOF'
Listen 8000
<VirtualHost *:80 *:8000>
    DocumentRoot /srv/www
</VirtualHost>
<VirtualHost *:443>
    DocumentRoot /srv/www
    SSLEngine on
    SSLCertificateFile /etc/ssl/certs/ssl-cert-snakeoil.pem
    SSLCertificateKeyFile /etc/ssl/private/ssl-cert-snakeoil.key
</VirtualHost>
<Directory /srv/www>
    DirectoryIndex index.php
    Require all granted
</Directory>
EOF
    a2enmod -q ssl
    a2dissite -q 000-default
    a2ensite -q cluster
    systemctl enable -q apache2
    [ ! -d /run/systemd/system ] || systemctl restart apache2
    route_back
}

zone_head() {
    cat <<'EOF'
$TTL 38400
@ IN SOA dns1.lab.local. admin.lab.local. (2014092900 28800 3600 604800 38400)
@ IN NS dns1.lab.local.
@ IN NS dns2.lab.local.
@ IN NS dns3.lab.local.
EOF
}

dns() {
    packages bind9 bind9-dnsutils iproute2
    sed 's|directory "/run/named"|directory "/var/cache/bind"|' "$files/named.conf" >/etc/bind/named.conf
    {
        zone_head
        printf '%s IN A 10.0.100.%s\n' master 1 standby 50 web1 2 web2 3 web3 4 dns1 5 dns2 6 dns3 7 nas 100
    } >/etc/bind/rd.lab.local
    {
        zone_head
        printf '%s IN PTR %s.lab.local.\n' 1 master 50 standby 2 web1 3 web2 4 web3 5 dns1 6 dns2 7 dns3 100 nas
    } >/etc/bind/ri.lab.local
    systemctl enable -q named
    [ ! -d /run/systemd/system ] || systemctl restart named
    route_back
}

nas() {
    packages nfs-kernel-server iproute2
    mkdir -p /srv/www
    cp "$files"/{index,pi}.php /srv/www
    echo '/srv/www 10.0.100.0/24(ro,no_subtree_check)' >/etc/exports
    systemctl enable -q nfs-server
    [ ! -d /run/systemd/system ] || systemctl restart nfs-server
}

client() {
    packages curl bind9-dnsutils apache2-utils dnsperf iproute2
}

case $role in
    director | web | dns | nas | client) "$role" ;;
    *) echo "no such role: $role" >&2 && exit 2 ;;
esac
echo "provisioned: $role"
