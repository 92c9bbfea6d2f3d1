#!/bin/sh
# Makes this machine the one that its seed disk describes: host name, user, keys, password,
# SSH host key; and grows the root file system to its disk. Runs at each boot, before sshd.
# For Debian (dash, systemd) and for the micro box (busybox, dropbear) alike.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 022

seed=/run/rvm-seed
state=/var/lib/rvm

say() { echo "rvm-seed: $*" >&2; }

# The first line of a file of the seed, or nothing.
fact() {
    fact_value=
    [ -r "$seed/$1" ] && IFS= read -r fact_value <"$seed/$1"
    printf '%s' "$fact_value"
}

# The block device whose ISO 9660 volume has the label CIDATA.
find_seed() {
    for block in /sys/class/block/*; do
        disk=/dev/${block##*/}
        # The label is at byte 40 of the volume descriptor, which is in sector 16.
        case $(dd if="$disk" bs=1 skip=32808 count=6 2>/dev/null | tr -d '\000') in
        CIDATA | cidata) printf '%s' "$disk" && return 0 ;;
        esac
    done
    return 1
}

open_seed() {
    tries=0
    until disk=$(find_seed); do
        tries=$((tries + 1))
        [ "$tries" -lt 20 ] || return 1
        sleep 0.1
    done
    mkdir -p -m 700 "$seed" && mount -t iso9660 -o ro "$disk" "$seed"
}

# Replaces the content of a file and keeps its owner and mode; a crash leaves the old or the new.
replace() {
    cat >"$1.rvm-new" || return 1
    if [ -e "$1" ]; then
        chown --reference="$1" "$1.rvm-new" 2>/dev/null || chown "$(stat -c %u:%g "$1")" "$1.rvm-new"
        chmod "$(stat -c %a "$1")" "$1.rvm-new"
    fi
    mv "$1.rvm-new" "$1"
}

set_hostname() {
    name=$(fact hostname)
    [ -n "$name" ] || return 0
    [ "$(cat /etc/hostname 2>/dev/null)" = "$name" ] || echo "$name" >/etc/hostname
    echo "$name" >/proc/sys/kernel/hostname
    short=${name%%.*}
    [ "$short" = "$name" ] && line="127.0.1.1 $name" || line="127.0.1.1 $name $short"
    grep -qxF "$line" /etc/hosts 2>/dev/null && return 0
    { grep -v '^127\.0\.1\.1[[:space:]]' /etc/hosts 2>/dev/null; echo "$line"; } >/etc/hosts.rvm-new
    chmod 644 /etc/hosts.rvm-new && mv /etc/hosts.rvm-new /etc/hosts
}

# Names that the host gives: each line of /etc/hosts that it gave before goes.
set_hosts() {
    { grep -v '# rvm$' /etc/hosts; [ ! -r "$seed/hosts" ] || sed 's/$/ # rvm/' "$seed/hosts"; } 2>/dev/null >/etc/hosts.rvm-new
    cmp -s /etc/hosts /etc/hosts.rvm-new && rm -f /etc/hosts.rvm-new && return 0
    chmod 644 /etc/hosts.rvm-new && mv /etc/hosts.rvm-new /etc/hosts
}

# The home of a user of /etc/passwd.
home_of() {
    while IFS=: read -r name _ _ _ _ home _; do
        [ "$name" = "$1" ] && printf '%s' "$home" && return 0
    done </etc/passwd
    return 1
}

# A free number in /etc/passwd and /etc/group, from 1000 on.
free_id() {
    id=1000
    while grep -q "^[^:]*:[^:]*:$id:" /etc/passwd /etc/group; do id=$((id + 1)); done
    printf '%s' "$id"
}

add_user() {
    if command -v useradd >/dev/null; then
        useradd -m -U -s /bin/bash "$1"
        return
    fi
    id=$(free_id)
    echo "$1:x:$id:$id::/home/$1:/bin/sh" >>/etc/passwd
    echo "$1:x:$id:" >>/etc/group
    echo "$1:*:19000:0:99999:7:::" >>/etc/shadow
    mkdir -p -m 755 "/home/$1" && chown "$id:$id" "/home/$1"
}

# The hash goes through a file and a shell variable, never through an argument.
set_password() {
    hash=$(fact password_hash)
    [ -n "$hash" ] || hash='*'
    while IFS=: read -r name old rest; do
        [ "$name" = "$1" ] && old=$hash
        printf '%s:%s:%s\n' "$name" "$old" "$rest"
    done </etc/shadow | (umask 077; replace /etc/shadow)
}

set_user() {
    user=$(fact user)
    [ -n "$user" ] || return 0
    home_of "$user" >/dev/null || add_user "$user" || say "cannot add user $user"
    home=$(home_of "$user") || return 1
    set_password "$user"
    # Whom the console logs in.
    echo "$user" | replace "$state/user"
    if [ "$user" != root ] && [ -d /etc/sudoers.d ]; then
        echo "$user ALL=(ALL:ALL) NOPASSWD: ALL" | (umask 337; replace /etc/sudoers.d/rvm)
    fi
    # Keys that were added inside the guest stay.
    keys=$home/.ssh/authorized_keys
    mkdir -p -m 700 "$home/.ssh"
    touch "$keys"
    while IFS= read -r key; do
        [ -n "$key" ] || continue
        grep -qxF "$key" "$keys" || echo "$key" >>"$keys"
    done <"$seed/authorized_keys"
    chmod 600 "$keys"
    chown "$user:" "$home/.ssh" "$keys" 2>/dev/null || chown "$(stat -c %u:%g "$home")" "$home/.ssh" "$keys"
}

# Key files are for their owner only from the first byte on.
install_key() {
    cmp -s "$1" "$2" && return 0
    (umask 077; cat "$1" >"$2.rvm-new") && mv "$2.rvm-new" "$2"
}

set_openssh() {
    host_key=/etc/ssh/ssh_host_ed25519_key
    if [ -s "$seed/host_key" ]; then
        install_key "$seed/host_key" "$host_key"
        install_key "$seed/host_key.pub" "$host_key.pub" && chmod 644 "$host_key.pub"
    elif [ ! -s "$host_key" ]; then
        ssh-keygen -q -t ed25519 -N '' -f "$host_key"
    fi
    # sshd takes the first value that it reads: this file comes before 50-rvm.conf.
    if [ -s "$seed/password_hash" ]; then
        printf 'PasswordAuthentication yes\n' >/etc/ssh/sshd_config.d/10-rvm-seed.conf
        [ "$(fact user)" != root ] || echo 'PermitRootLogin yes' >>/etc/ssh/sshd_config.d/10-rvm-seed.conf
    elif [ -s "$seed/user" ]; then
        rm -f /etc/ssh/sshd_config.d/10-rvm-seed.conf
    fi
}

set_dropbear() {
    host_key=/etc/dropbear/dropbear_ed25519_host_key
    if [ -s "$seed/host_key" ] && ! cmp -s "$seed/host_key" "$state/host_key"; then
        (umask 077; rm -f "$host_key.rvm-new"
            dropbearconvert openssh dropbear "$seed/host_key" "$host_key.rvm-new" 2>/dev/null) &&
            mv "$host_key.rvm-new" "$host_key" && install_key "$seed/host_key" "$state/host_key"
    fi
    [ -s "$host_key" ] || dropbearkey -t ed25519 -f "$host_key" >/dev/null
}

# The block device of the virtio disk with that serial number.
disk_called() {
    for block in /sys/block/*; do
        [ "$(cat "$block/serial" 2>/dev/null)" = "$1" ] && printf '%s' "/dev/${block##*/}" && return 0
    done
    return 1
}

# An ext4 disk is one that was made for this machine, and grows with its file.
mount_disk() {
    disk=$(disk_called "$name") || { echo "the machine has no such disk"; return 1; }
    mkdir -p "$place" && mount -t "$kind" -o "$access" "$disk" "$place" || return 1
    [ "$kind" != ext4 ] || [ "$access" != rw ] || resize2fs "$disk" >/dev/null 2>&1 ||
        { echo "it is mounted, but cannot grow"; return 1; }
}

# What becomes of each disk is in /run/rvm-disks, where the host looks.
mount_disks() {
    [ -r "$seed/disks" ] || return 0
    while read -r name access kind place; do
        if trouble=$(mount_disk 2>&1); then trouble=ok; else say "disk $name: $trouble"; fi
        echo "$name" $trouble
    done <"$seed/disks" >/run/rvm-disks
}

# A file of networkd's for a card in a private network. "~" makes a domain one that is only asked about.
networkd_file() {
    printf '[Match]\nMACAddress=%s\nKind=!*\n\n[Link]\nMTUBytes=%s\nRequiredForOnline=no\n\n[Network]\n' "$mac" "$mtu"
    [ "$mode" = dhcp ] && echo DHCP=ipv4 || echo DHCP=no
    [ "$routers" = routers ] && echo IPv6AcceptRA=yes || echo IPv6AcceptRA=no
    for address in $(words "$addresses"); do echo "Address=$address"; done
    for resolver in $(words "$resolvers"); do echo "DNS=$resolver"; done
    printf 'DNSDefaultRoute=no\nDomains=%s' "$(words "$search")"
    for domain in $(words "$domains"); do printf ' ~%s' "$domain"; done
    printf '\n\n[DHCPv4]\nClientIdentifier=mac\nUseDNS=no\nUseDomains=no\nUseGateway=no\n'
}

# The items of a list of the seed.
words() { [ "$1" = - ] || echo "$1" | tr , ' '; }

# Cards in private networks: for networkd, or for the start script of the micro box.
set_networks() {
    rm -f /run/systemd/network/70-rvm-*.network /run/rvm-networks
    [ -r "$seed/networks" ] || return 0
    if [ ! -d /etc/systemd/network ]; then
        cat "$seed/networks" >/run/rvm-networks
        return
    fi
    mkdir -p /run/systemd/network
    while read -r mac mtu mode routers addresses resolvers search domains; do
        networkd_file >"/run/systemd/network/70-rvm-$(echo "$mac" | tr -d :).network"
    done <"$seed/networks"
}

# The root file system grows when its disk is not as large as last time.
grow() {
    while read -r _ _ numbers _ mountpoint _; do
        [ "$mountpoint" = / ] && root=$numbers
    done </proc/self/mountinfo
    [ -n "${root:-}" ] && read -r sectors <"/sys/dev/block/$root/size" || return 0
    [ "$(cat "$state/root-sectors" 2>/dev/null)" = "$sectors" ] && return 0
    disk=$(sed -n 's/^DEVNAME=//p' "/sys/dev/block/$root/uevent")
    resize2fs "/dev/$disk" >/dev/null 2>&1 && echo "$sectors" >"$state/root-sectors"
}

mkdir -p -m 700 "$state"
if open_seed; then
    set_hostname || say "cannot set the host name"
    set_hosts || say "cannot set the names of other hosts"
    set_user || say "cannot set up the user"
    mount_disks
    set_networks || say "cannot set up the private networks"
else
    say "no seed disk (label CIDATA): the machine keeps the identity that it has"
fi
if [ -d /etc/ssh ]; then
    set_openssh || say "cannot set up sshd"
else
    set_dropbear || say "cannot set up dropbear"
fi
if mountpoint=$(grep " $seed " /proc/self/mountinfo) && [ -n "$mountpoint" ]; then
    umount "$seed"
fi
grow || say "cannot grow the root file system"
exit 0
