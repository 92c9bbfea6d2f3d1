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

for card in /sys/class/net/*; do
    # Only what has hardware behind it.
    [ -e "$card/device" ] || continue
    ip link set "${card##*/}" up
    udhcpc -S -b -t 10 -T 1 -A 5 -i "${card##*/}" -x "hostname:$(cat /proc/sys/kernel/hostname)" \
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
