#!/bin/sh
# Start of the micro box.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mounted() { grep -q " $1 " /proc/mounts; }
mount -t proc proc /proc
mount -t sysfs sys /sys
mounted /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
mount -t tmpfs -o mode=755,nosuid,nodev run /run
mount -t tmpfs -o mode=1777,nosuid,nodev tmp /tmp
mount -o remount,rw,noatime /
ip link set lo up

# The network needs the name for its DHCP request, the SSH server its keys.
/usr/lib/rvm/seed

# Folders of the host, and those in memory.
mount -a -t virtiofs,tmpfs

# Sets up the card $1 as its line of the seed says; fails where it still has to ask for an address.
private_card() {
    name=$1
    set -- $(grep "^$(cat "/sys/class/net/$name/address") " /run/rvm-networks 2>/dev/null)
    [ $# -eq 8 ] || return 1
    # 1: its Ethernet address, 2: MTU, 3: mode, 4: routers, 5: addresses, 6: resolvers, 7: search, 8: domains.
    private=yes
    ip link set "$name" mtu "$2"
    [ "$4" = routers ] || echo 0 >"/proc/sys/net/ipv6/conf/$name/accept_ra"
    ip link set "$name" up
    for address in $(echo "$5" | tr , ' '); do
        [ "$address" = - ] || ip addr add "$address" dev "$name"
    done
    [ "$3" = static ]
}

# The first resolvers are those of private networks, which refuse what they do not know, and then the next one is
# asked. Three are asked at most, and one of them has to lead out.
if [ -r /run/rvm-networks ]; then
    while read -r mac mtu mode routers addresses resolvers search domains; do
        # Networks of the host have none, and no names.
        [ "$resolvers" = - ] || echo "nameserver ${resolvers%%,*}"
        [ "$search" = - ] || searched="${searched:-} $(echo "$search" | tr , ' ')"
    done </run/rvm-networks >/run/rvm-resolvers
    if [ -s /run/rvm-resolvers ]; then
        { echo "search$searched" && head -n 2 /run/rvm-resolvers; } >/run/rvm-resolv.conf
        cp /run/rvm-resolv.conf /run/resolv.conf
    fi
fi

for card in /sys/class/net/*; do
    # Only what has hardware behind it.
    [ -e "$card/device" ] || continue
    private=no
    private_card "${card##*/}" && continue
    ip link set "${card##*/}" up
    PRIVATE=$private udhcpc -S -b -t 10 -T 1 -A 5 -i "${card##*/}" -x "hostname:$(cat /proc/sys/kernel/hostname)" \
        -p "/run/udhcpc.${card##*/}.pid" -s /usr/lib/rvm/udhcpc >/dev/null 2>&1 &
done

# -s: no passwords. With a hash in /etc/shadow they are wanted.
passwords=-s
grep -q '^[^:]*:\$' /etc/shadow && passwords=
# It listens when this returns, and the host may hear so.
dropbear $passwords -r /etc/dropbear/dropbear_ed25519_host_key -P /run/dropbear.pid &&
    { /usr/lib/rvm/agent ready </dev/null >/dev/null 2>&1 & }

# The power button of ACPI; without an input device there is none.
for event in /dev/input/event*; do
    [ -e "$event" ] && acpid -c /etc/acpi -p /run/acpid.pid && break
done
exit 0
