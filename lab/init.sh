#!/bin/busybox sh
# shellcheck shell=dash
# First process of the lab host: mounts this machine's root below a RAM overlay and goes there.
b=/bin/busybox
export PATH=/bin
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
# A module that this processor or kernel has no use for is no failure; what is missing shows below.
for module in $($b cat /mods/list); do $b insmod "/mods/$module" 2>/dev/null; done

fail() {
  echo "lab: $*" >/dev/console
  $b poweroff -f
}
share=trans=virtio,version=9p2000.L,msize=512000
$b mkdir -p /lower /upper /root /control
$b mount -t 9p -o $share,cache=loose,ro root /lower || fail "cannot mount the root share"
$b mount -t tmpfs -o size=70% upper /upper || fail "cannot mount the RAM overlay"
$b mkdir /upper/files /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /root || fail "cannot mount the overlay"
$b mount -t 9p -o $share,cache=none control /control || fail "cannot mount the control share"

for tree in proc sys dev; do
  $b mkdir -p /root/$tree
  $b mount --move /$tree /root/$tree
done
$b mkdir -p /root/run /root/dev/pts /root/dev/shm
$b mount -t tmpfs -o mode=755 run /root/run
$b mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /root/dev/pts
$b mount -t tmpfs -o mode=1777 shm /root/dev/shm
$b mount -t cgroup2 cgroup /root/sys/fs/cgroup
for link in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do $b ln -sf "/proc/self/${link#*:}" "/root/dev/${link%%:*}"; done
for device in kvm net/tun vhost-net vhost-vsock; do
  [ -e "/root/dev/$device" ] && $b chmod 666 "/root/dev/$device"
done

$b mkdir -p /root/run/lab
$b mount --move /control /root/run/lab
$b cp /bin/busybox /root/run/busybox
image=$($b cat /root/run/lab/image)
if [ -n "$image" ]; then
  $b mkdir -p "/root$image"
  $b mount -t ext4 -o noatime,discard /root/dev/vda "/root$image" || fail "cannot mount the image of $image"
fi
index=0
while read -r folder; do
  [ -n "$folder" ] || continue
  $b mkdir -p "/root$folder"
  $b mount -t 9p -o $share,cache=none rw$index "/root$folder" || fail "cannot mount the share of $folder"
  index=$((index + 1))
done </root/run/lab/writable

$b ip link set lo up
for card in $($b ls /root/sys/class/net); do
  case $card in e*) break ;; esac
done
$b ip link set "$card" up
$b ip addr add 10.0.2.15/24 dev "$card"
$b ip route add default via 10.0.2.2
$b rm -f /root/etc/resolv.conf
echo nameserver 10.0.2.3 >/root/etc/resolv.conf
$b hostname lab
exec $b switch_root /root /run/lab/main
