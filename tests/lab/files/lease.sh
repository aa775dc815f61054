#!/bin/sh
# What udhcpc was given, put to use.
case $1 in
    deconfig)
        ip addr flush dev "$interface"
        ;;
    bound | renew)
        ip link set dev "$interface" mtu "${mtu:-1500}"
        ip addr replace "$ip/$mask" dev "$interface"
        ip route replace default via "$router" dev "$interface"
        printf 'search %s\nnameserver %s\n' "$domain" "$dns" >/etc/resolv.conf
        ;;
esac
