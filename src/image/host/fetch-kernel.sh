# Hook of mmdebstrap: puts the distribution's cloud kernel, and busybox for its first stage, into
# rvm-kernel/ of the new root. The packages are unpacked, not installed: a kernel would bring an
# initramfs generator and run it.
set -eu
root=$1
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir -p "$root/rvm-kernel/tree"
cd "$root/rvm-kernel"

# What mmdebstrap has unpacked without installing is in no dpkg database.
for deb in "$root"/var/cache/apt/archives/*.deb; do
    [ -e "$deb" ] && dpkg-deb -W "$deb" >>packages
done

image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ <>]*\)$/\1/p' | head -n 1)
[ -n "$image" ] || { echo "the mirror has no package linux-image-cloud-amd64" >&2; exit 1; }
apt-get -q -o APT::Sandbox::User=root download "$image" busybox-static
for deb in ./*.deb; do
    dpkg-deb -W "$deb" >>packages
    dpkg-deb -x "$deb" tree
    rm -f "$deb"
done
