#!/bin/sh
# What busybox' DHCP client runs when its lease changes.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
case $1 in
deconfig)
    ip addr flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    for gateway in ${router:-}; do
        # passt and others may give a gateway outside the subnet.
        ip route replace "$gateway" dev "$interface"
        ip route replace default via "$gateway" dev "$interface"
        break
    done
    {
        [ -z "${domain:-}" ] || echo "search $domain"
        for server in ${dns:-}; do echo "nameserver $server"; done
    } >/run/resolv.conf.new
    # Networks without a name server leave the ones of others alone.
    if [ -n "${dns:-}" ]; then mv /run/resolv.conf.new /run/resolv.conf; fi
    ;;
esac
exit 0
