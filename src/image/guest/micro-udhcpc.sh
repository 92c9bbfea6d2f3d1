#!/bin/sh
# What busybox' DHCP client runs when its lease changes.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
case $1 in
deconfig)
    ip -4 addr flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip -4 addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    for gateway in ${router:-}; do
        # passt and others may give a gateway outside the subnet.
        ip route replace "$gateway" dev "$interface"
        ip route replace default via "$gateway" dev "$interface"
        break
    done
    # The seed has said who knows the names of a private network.
    [ "${PRIVATE:-no}" = no ] || exit 0
    {
        private=/run/rvm-resolv.conf
        search="$(sed -n 's/^search //p' "$private" 2>/dev/null) ${domain:-}"
        [ "$search" = " " ] || echo "search $search"
        grep '^nameserver' "$private" 2>/dev/null
        for server in ${dns:-}; do echo "nameserver $server"; done
    } >/run/resolv.conf.new
    # Networks without a name server leave the ones of others alone.
    if [ -n "${dns:-}" ]; then mv /run/resolv.conf.new /run/resolv.conf; fi
    ;;
esac
exit 0
