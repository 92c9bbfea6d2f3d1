#!/bin/sh
# First stage: loads the modules that a machine needs to see its disks, mounts the root disk
# and hands over. Everything here is busybox.
PATH=/bin
export PATH
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys

fail() {
    echo "rvm: $*"
    echo "rvm: disks here: $(cd /sys/class/block && echo *)"
    # Whoever started this machine sees it end, and has these lines in the console log.
    sync
    poweroff -f
    reboot -f
}

while read -r module; do
    insmod "/modules/$module" || echo "rvm: cannot load $module"
done </modules/order

root= mode=ro fstype=ext4 flags= init=/sbin/init
for word in $(cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    rootfstype=*) fstype=${word#rootfstype=} ;;
    rootflags=*) flags=,${word#rootflags=} ;;
    init=*) init=${word#init=} ;;
    rw) mode=rw ;;
    ro) mode=ro ;;
    esac
done

# Sets $disk when the root disk is there.
find_root() {
    case $root in
    LABEL=*)
        for block in /sys/class/block/*; do
            disk=/dev/${block##*/}
            # ext4: the superblock is at 1024, the label at its byte 120 (16 bytes).
            label=$(dd if="$disk" bs=8 skip=143 count=2 2>/dev/null | tr -d '\000')
            [ "$label" = "${root#LABEL=}" ] && return 0
        done
        return 1
        ;;
    *)
        disk=$root
        [ -b "$disk" ]
        ;;
    esac
}

[ -n "$root" ] || fail "the kernel command line has no root="
tries=0
until find_root; do
    tries=$((tries + 1))
    [ "$tries" -lt 50 ] || fail "there is no root disk $root"
    usleep 100000
done
mkdir -p /root
mount -t "$fstype" -o "$mode$flags" "$disk" /root || fail "cannot mount $disk as $fstype"
[ -x "/root$init" ] || [ -L "/root$init" ] || fail "$disk has no $init"
umount /sys
umount /proc
mount --move /dev /root/dev || umount /dev
exec switch_root /root "$init"
fail "cannot start $init"
