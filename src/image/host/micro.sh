# Recipe of the micro box, read by assemble.sh: busybox, dropbear, sudo, resize2fs and the
# libraries that they need, nothing else.
image=$root/rvm-root
sort -u "$root/rvm-kernel/packages" >"$out/packages"
# The packages were unpacked without base-files, which has these links.
for dir in bin sbin lib lib64; do
    [ -e "$root/$dir" ] || ln -s "usr/$dir" "$root/$dir"
done

echo "stage choosing files"
mkdir -p "$image"
for dir in usr/bin usr/sbin usr/lib usr/lib64 etc/init.d etc/acpi/PWRF etc/dropbear etc/pam.d etc/sudoers.d \
    dev proc sys run tmp root home var/lib/rvm var/log; do
    mkdir -p "$image/$dir"
done
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$image/$dir"; done
ln -s ../run "$image/var/run"
chmod 700 "$image/root" "$image/var/lib/rvm" "$image/etc/dropbear"
chmod 750 "$image/etc/sudoers.d"
chmod 1777 "$image/tmp"

# A file of the packages, with its mode, owner and place; and the libraries that it loads.
loader=/lib64/ld-linux-x86-64.so.2
take() {
    mkdir -p "$image$(dirname "$1")"
    cp -p "$(realpath "$root$1")" "$image$1"
    chroot "$root" "$loader" --list "$1" 2>/dev/null | sed -n 's/^.*=> \(\/[^ ]*\) .*$/\1/p' | while read -r library; do
        [ -e "$image$library" ] || { mkdir -p "$image$(dirname "$library")" && cp -L "$root$library" "$image$library"; }
    done
}
cp "$out/busybox" "$image/usr/bin/busybox"
for file in /usr/sbin/dropbear /usr/bin/dropbearkey /usr/bin/dropbearconvert /usr/bin/sudo /usr/sbin/resize2fs; do
    take "$file"
done
# What sudo loads by name.
for file in /usr/libexec/sudo/sudoers.so /usr/lib/x86_64-linux-gnu/security/pam_permit.so \
    /usr/lib/x86_64-linux-gnu/security/pam_deny.so; do
    take "$file"
done
cp -L "$root$loader" "$image$loader"
"$out/busybox" --list-full | while read -r applet; do
    path=$image/usr/${applet#usr/}
    [ -e "$path" ] || [ -L "$path" ] || ln -s /usr/bin/busybox "$path"
done

echo "stage configuring"
put() { install -D -m "$1" "$guest/$2" "$image$3"; }
put 755 seed.sh /usr/lib/rvm/seed
put 755 agent /usr/lib/rvm/agent
put 755 micro-udhcpc.sh /usr/lib/rvm/udhcpc
put 755 micro-console.sh /usr/lib/rvm/console
put 755 console-login.sh /usr/lib/rvm/console-login
put 644 micro-inittab /etc/inittab
put 755 micro-rcS.sh /etc/init.d/rcS
put 755 micro-rcK.sh /etc/init.d/rcK
put 755 micro-power.sh /etc/acpi/PWRF/00000080
ln -s usr/sbin/init "$image/init"

etc=$image/etc
cat >"$etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
vagrant:x:1000:1000::/home/vagrant:/bin/sh
END
cat >"$etc/group" <<'END'
root:x:0:
tty:x:5:
sudo:x:27:vagrant
shadow:x:42:
vagrant:x:1000:
END
cat >"$etc/shadow" <<'END'
root:*:19000:0:99999:7:::
vagrant:*:19000:0:99999:7:::
END
chmod 640 "$etc/shadow"
chown 0:42 "$etc/shadow"
mkdir -p "$image/home/vagrant"
chown 1000:1000 "$image/home/vagrant"
echo 'LABEL=rvm-root / ext4 noatime 0 0' >"$etc/fstab"
printf '/bin/sh\n/bin/ash\n' >"$etc/shells"
printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n' >"$etc/nsswitch.conf"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$etc/hosts"
echo micro >"$etc/hostname"
ln -s ../run/resolv.conf "$etc/resolv.conf"
printf 'PATH=/usr/sbin:/usr/bin:/sbin:/bin\nexport PATH\n' >"$etc/profile"
cat >"$etc/os-release" <<'END'
PRETTY_NAME="rvm micro (busybox and dropbear of Debian 13)"
NAME="rvm micro"
ID=rvm-micro
ID_LIKE=debian
END
cat >"$etc/sudoers" <<'END'
Defaults secure_path="/usr/sbin:/usr/bin:/sbin:/bin"
root ALL=(ALL:ALL) ALL
@includedir /etc/sudoers.d
END
chmod 440 "$etc/sudoers"
for file in sudo sudo-i; do
    printf 'auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n' \
        >"$etc/pam.d/$file"
done
printf 'auth required pam_deny.so\naccount required pam_deny.so\npassword required pam_deny.so\nsession required pam_deny.so\n' \
    >"$etc/pam.d/other"
