# Recipe of the Debian boxes, read by assemble.sh: systemd, networkd, resolved, sshd.
image=$root
dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Package}\t${Version}\n' >"$out/packages"
cat "$root/rvm-kernel/packages" >>"$out/packages"
chroot "$root" depmod "$version"

echo "stage configuring"
put() { install -D -m "$1" "$guest/$2" "$root$3"; }
put 755 seed.sh /usr/lib/rvm/seed
put 755 agent /usr/lib/rvm/agent
put 644 rvm-agent.service /usr/lib/systemd/system/rvm-agent.service
put 644 rvm-seed.service /usr/lib/systemd/system/rvm-seed.service
put 755 console-login.sh /usr/lib/rvm/console-login
put 644 hvc0-getty.conf /etc/systemd/system/serial-getty@hvc0.service.d/rvm.conf
put 644 80-rvm.network /etc/systemd/network/80-rvm.network
put 644 50-rvm.conf /etc/ssh/sshd_config.d/50-rvm.conf
put 644 debian.sources /etc/apt/sources.list.d/debian.sources
# Settings of the build are not those of the guest.
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/0*.list \
    "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
# The package lists stay, with apt's index of them, so that the first installation in a machine does
# not fetch and read them once more while they are fresh. Descriptions in other languages are a third
# of all that `apt-get update` fetches.
put 644 60-rvm-apt.conf /etc/apt/apt.conf.d/60-rvm
chroot "$root" apt-cache -q gencaches

echo 'LABEL=rvm-root / ext4 noatime 0 0' >"$root/etc/fstab"
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
echo debian >"$root/etc/hostname"
# The package that has this is not among those of a small system: without it only root can ping.
mkdir -p "$root/etc/sysctl.d"
echo 'net.ipv4.ping_group_range = 0 2147483647' >"$root/etc/sysctl.d/50-rvm-ping.conf"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
# Each machine makes its own.
: >"$root/etc/machine-id"
rm -f "$root"/var/lib/dbus/machine-id "$root"/etc/ssh/ssh_host_*

chroot "$root" useradd -m -U -s /bin/bash -p '*' vagrant
mkdir -p "$root/var/lib/rvm"
chmod 700 "$root/var/lib/rvm"

export SYSTEMD_OFFLINE=1
chroot "$root" systemctl -q enable rvm-seed.service rvm-agent.service systemd-networkd.service systemd-resolved.service \
    systemd-timesyncd.service ssh.service
# Nobody reads these in a machine like this, and each delays its start or surprises it later.
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
    systemd-firstboot.service systemd-pstore.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# Who may log in is a matter of the network; nothing is to listen on the socket to the host.
mkdir -p "$root/etc/systemd/system-generators"
ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-ssh-generator"
# What waits for the network waits for one card, and not for two minutes.
wait_online=/usr/lib/systemd/systemd-networkd-wait-online
[ -e "$root$wait_online" ] || wait_online=/lib/systemd/systemd-networkd-wait-online
mkdir -p "$root/etc/systemd/system/systemd-networkd-wait-online.service.d"
printf '[Service]\nExecStart=\nExecStart=%s --any --timeout=30\n' "$wait_online" \
    >"$root/etc/systemd/system/systemd-networkd-wait-online.service.d/rvm.conf"
