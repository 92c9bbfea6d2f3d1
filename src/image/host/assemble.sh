# Makes a box from the packages that mmdebstrap has unpacked: the root disk, and what its
# kernel needs. Runs as root, or as root of a user namespace where the user has none.
#
#   sh assemble.sh WORK BYTES
#
# WORK holds packages.tar and guest/ (the recipe and files for the box); it gets out/:
# root.ext4, vmlinuz, version, busybox, modules/, packages. Lines `stage TEXT` on standard output say what is done.
set -eu
work=$1
size=$2
root=$work/root
guest=$work/guest
out=$work/out

trap 'rm -rf "$root"' EXIT
trap 'exit 130' HUP INT TERM
mkdir -p "$root" "$out"

echo "stage unpacking"
# No device nodes: a user namespace may not make them, and the guest's kernel does.
tar -x -f "$work/packages.tar" -C "$root" --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*'

echo "stage adding the kernel's modules"
tree=$root/rvm-kernel/tree
[ -d "$tree/usr/lib/modules" ] && modules=$tree/usr/lib/modules || modules=$tree/lib/modules
version=$(ls "$modules")
echo "$version" >"$out/version"
cp "$tree/boot/vmlinuz-$version" "$out/vmlinuz"
for busybox in "$tree/usr/bin/busybox" "$tree/bin/busybox"; do
    if [ -e "$busybox" ]; then cp "$busybox" "$out/busybox"; fi
done
mkdir -p "$root/usr/lib/modules"
mv "$modules/$version" "$root/usr/lib/modules/"

# A recipe sets up $root, says in $image what goes to the disk, and writes the package list.
. "$guest/recipe"

echo "stage writing the disk image"
cp -r "$root/usr/lib/modules/$version" "$out/modules"
rm -rf "$root/rvm-kernel"
# One inode for 32 KiB: half the usual, so that a machine's first start has less to write.
mke2fs -q -t ext4 -F -L rvm-root -b 4096 -i 32768 -m 1 -E lazy_itable_init=1 -d "$image" "$out/root.ext4" "$((size / 1024))k"
