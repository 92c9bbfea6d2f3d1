#!/usr/bin/env bash
# Runs one command on an emulated host that has a real /dev/kvm.
#
#   lab.sh [options] -- CMD [ARGS...]
#   lab.sh [options] --shell
#
# For machines whose own KVM is missing or cannot run stock guests. QEMU's software emulation
# plays an AMD processor with SVM; a distribution kernel on it loads kvm-amd. The root directory
# of this machine is the root of that host, read-only below a RAM overlay: the command sees every
# file here, and what it writes is gone afterwards except where an option says otherwise. Code
# runs about 30 times slower inside than outside, so build outside and run inside.
#
#   -m MIB         memory of the lab host (default 3072)
#   -c N           its processors (default 1: with more, QEMU emulates nested SVM with a fault that makes
#                  kernels panic, the lab's or the inner one, after some boots)
#   -t SECONDS     give up after this long (default 600)
#   --steady       one processor whose clock counts instructions (1 ns each): times inside hardly
#                  vary between runs and do not depend on what else this machine does; slower.
#                  A wait for this machine, such as for a file, lets that clock run ahead: what is
#                  timed has to be in RAM
#   --image DIR    put DIR, packed, on a disk of its own mounted at the same path: fast to read,
#                  and writes go to a file here, not to the lab's RAM; dropped afterwards
#   --free MIB     free space on that disk (default 8192, sparse)
#   --rw DIR       writes under DIR reach this machine (slow; may be repeated)
#   --logs DIR     where the lab's console goes when the lab itself fails (default: the cache)
#   --shell        an interactive shell on this terminal instead of a command
#   -v             show the lab kernel's messages and the time taken, on standard error
#
# The command runs as root with the caller's environment and working directory and an empty
# standard input. Its output arrives as it is written, its exit status is ours. The lab's own:
#   124  the time was up        125  the lab failed; its console is shown and kept
#
# LAB_KERNEL_PACKAGE (default linux-image-amd64) is fetched with apt once and never installed;
# LAB_CACHE is where it is kept (default: rvm/lab in the XDG cache folder); LAB_QEMU the emulator.
set -euo pipefail

die() { printf 'lab: %s\n' "$*" >&2; exit 125; }

# The features taken away are those that software emulation lacks; it would warn about each.
cpu=EPYC,+svm,+npt,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,-nrip-save,-xsavec
modules='virtio_pci virtio_net virtio_console virtio_rng virtio_blk 9pnet_virtio 9p overlay ext4
  kvm_amd tun vhost_net vhost_vsock bridge veth loop'

memory=3072 processors=1 limit=600 steady='' image='' free=8192 logs='' shell='' verbose='' writable=()
while [ $# -gt 0 ]; do
  case $1 in
    -m) memory=$2 && shift 2 ;;
    -c) processors=$2 && shift 2 ;;
    -t) limit=$2 && shift 2 ;;
    --steady) steady=1 && shift ;;
    --image) image=$(realpath -e "$2") && shift 2 ;;
    --free) free=$2 && shift 2 ;;
    --rw) writable+=("$(realpath -e "$2")") && shift 2 ;;
    --logs) mkdir -p "$2" && logs=$(realpath "$2") && shift 2 ;;
    --shell) shell=1 && shift ;;
    -v) verbose=1 && shift ;;
    --) shift && break ;;
    -*) die "unknown option $1 (see the head of $0)" ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || [ -n "$shell" ] || die "no command given (usage: $0 [options] -- CMD ARGS)"
[ -z "$image" ] || [ -d "$image" ] || die "--image takes a folder, not $image"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
started=$(date +%s)
PATH=$PATH:/usr/sbin:/sbin
package=${LAB_KERNEL_PACKAGE:-linux-image-amd64}
cache=${LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rvm/lab}
mkdir -p "$cache"
logs=${logs:-$cache}
for tool in "${LAB_QEMU:-qemu-system-x86_64}:qemu-system-x86" busybox:busybox-static cpio:cpio modprobe:kmod depmod:kmod \
  mke2fs:e2fsprogs xz:xz-utils flock:util-linux; do
  command -v "${tool%%:*}" >/dev/null || die "${tool%%:*} is missing: apt-get install ${tool##*:}"
done
if ldd "$(command -v busybox)" >/dev/null 2>&1; then
  die "busybox is not statically linked: apt-get install busybox-static"
fi

# --- the lab host's kernel: a Debian package, unpacked once
# A meta package depends on the package of one kernel version, which depends on no other.
resolve_package() {
  local name=$1 next
  while next=$(apt-cache depends --important "$name" | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)$/\1/p' | head -n 1) && [ -n "$next" ]; do
    name=$next
  done
  echo "$name"
}
unpack_kernel() {
  local target=$1 real
  real=$(resolve_package "$package")
  echo "lab: fetching $real (once, about 70 MB)" >&2
  rm -rf "$target" "$target.part"
  mkdir -p "$target.part/deb"
  (cd "$target.part/deb" && apt-get -qq -o APT::Sandbox::User= download "$real" >&2) || die "cannot download $real (try: apt-get update)"
  dpkg-deb -x "$target.part"/deb/*.deb "$target.part"
  rm -rf "$target.part/deb"
  mv "$target.part" "$target"
}

# --- its initial RAM disk: busybox, the modules in the order they load, our init
pack_initrd() {
  local target=$1 tree version file base name
  tree=$(mktemp -d "$cache/initrd.XXXXXX")
  mkdir -p "$tree"/{bin,mods,proc,sys,dev,base/lib/modules}
  version=$(basename "$module_tree")
  ln -s "$module_tree" "$tree/base/lib/modules/$version"
  [ -e "$module_tree/modules.dep" ] || depmod -b "$tree/base" "$version"
  for name in $modules; do
    modprobe -d "$tree/base" -S "$version" --show-depends "$name" 2>/dev/null || true
  done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$tree/order"
  while IFS= read -r file; do
    base=$(basename "$file")
    case $base in
      *.xz) base=${base%.xz} && xz -dc "$file" >"$tree/mods/$base" ;;
      *.zst) base=${base%.zst} && zstd -qdc "$file" >"$tree/mods/$base" ;;
      *) cp "$file" "$tree/mods/$base" ;;
    esac
    echo "$base" >>"$tree/mods/list"
  done <"$tree/order"
  rm -rf "$tree/base" "$tree/order"
  cp "$(command -v busybox)" "$tree/bin/busybox"
  cp "$here/init.sh" "$tree/init"
  chmod 755 "$tree/init"
  (cd "$tree" && find . | cpio -o -H newc --quiet) >"$target.part"
  mv "$target.part" "$target"
  rm -rf "$tree"
}

# shellcheck source=qemu.sh
. "$here/qemu.sh"
exec 9>"$cache/lock"
flock 9
choose_qemu
[ -d "$cache/$package" ] || unpack_kernel "$cache/$package"
kernel=$(find "$cache/$package/boot" -name 'vmlinuz-*' -print -quit)
module_tree=$(find "$cache/$package" -path '*/lib/modules/*' -prune -print -quit)
[ -n "$kernel" ] && [ -n "$module_tree" ] || die "$cache/$package holds no kernel: remove it and try again"
key=$(cat "$here/init.sh" - <<<"$modules $kernel" | sha256sum | cut -c1-16)
initrd=$cache/initrd-$key.cpio
[ -e "$initrd" ] || pack_initrd "$initrd"
exec 9>&-

# --- what to run, and the channels its output comes back through
run=$(mktemp -d "$cache/run.XXXXXX")
emulator=''
finish() {
  [ -z "$emulator" ] || kill "$emulator" 2>/dev/null || true
  rm -rf "$run"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$run/control"
cp "$here/main.sh" "$run/control/main"
chmod 755 "$run/control/main"
printf '%s' "$image" >"$run/control/image"
printf '%s\n' ${writable[@]+"${writable[@]}"} >"$run/control/writable"
{
  declare -px | grep -vE '^declare -x (PWD|OLDPWD|SHLVL|TERM|_)(=|$)' || true
  echo 'export RVM_LAB=1'
  printf 'cd %q || exit 125\n' "$PWD"
  if [ -n "$shell" ]; then echo 'exec bash -i'; else printf 'exec' && printf ' %q' "$@" && echo; fi
} >"$run/control/command"

# Counting instructions takes one thread for all processors.
# shellcheck disable=SC2054 # the commas are QEMU's
pace=(-accel tcg,thread=multi,tb-size=1024 -smp "$processors")
[ -z "$steady" ] || pace=(-accel tcg,thread=single,tb-size=1024 -smp 1 -icount shift=0,sleep=off)
arguments=(-nodefaults -no-user-config -display none -no-reboot -M q35,smm=off,vmport=off
  "${pace[@]}" -cpu "$cpu" -m "$memory"
  -kernel "$kernel" -initrd "$initrd"
  -nic user,model=virtio-net-pci -device virtio-rng-pci -device virtio-serial-pci
  -fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
  -device virtio-9p-pci,fsdev=root,mount_tag=root
  -fsdev "local,id=control,path=$run/control,security_model=none"
  -device virtio-9p-pci,fsdev=control,mount_tag=control)
for stream in out err; do
  mkfifo "$run/$stream"
  arguments+=(-chardev "file,id=$stream,path=$run/$stream" -device "virtserialport,chardev=$stream,name=$stream")
done
index=0
for folder in ${writable[@]+"${writable[@]}"}; do
  arguments+=(-fsdev "local,id=rw$index,path=$folder,security_model=none,multidevs=remap"
    -device "virtio-9p-pci,fsdev=rw$index,mount_tag=rw$index")
  index=$((index + 1))
done
if [ -n "$image" ]; then
  size=$(($(du -sm "$image" | cut -f1) * 11 / 10 + 64 + free))
  truncate -s "${size}M" "$run/disk"
  mke2fs -q -t ext4 -m 0 -O ^has_journal -E lazy_itable_init=1 -d "$image" "$run/disk" >&2 || die "cannot pack $image"
  arguments+=(-drive "file=$run/disk,if=none,id=image,format=raw,cache=unsafe,discard=unmap"
    -device virtio-blk-pci,drive=image)
fi
append="panic=1 quiet tsc=reliable mitigations=off audit=0"

# --- run it
status=0
if [ -n "$shell" ]; then
  timeout --foreground -k 5 "$limit" "${qemu[@]}" "${arguments[@]}" -serial mon:stdio \
    -append "console=ttyS0 loglevel=3 lab.shell $append" || status=$?
else
  cat "$run/out" &
  readers=($!)
  cat "$run/err" >&2 &
  readers+=($!)
  timeout -k 5 "$limit" "${qemu[@]}" "${arguments[@]}" -serial "file:$run/console" \
    -append "console=ttyS0 ${verbose:+loglevel=7} $append" </dev/null 2>"$run/qemu.log" &
  emulator=$!
  wait "$emulator" || status=$?
  emulator=''
  # The emulator held the other ends: the readers end with it, unless it never opened them.
  [ -e "$run/control/alive" ] || kill "${readers[@]}" 2>/dev/null || true
  wait "${readers[@]}" 2>/dev/null || true
fi
if [ -n "$verbose" ]; then
  cat "$run/console" >&2 2>/dev/null || true
  echo "lab: $(($(date +%s) - started)) s in all" >&2
fi

# --- what came of it
[ -s "$run/control/status" ] && exit "$(cat "$run/control/status")"
kept=$logs/lab-console.log
cat "$run/qemu.log" "$run/console" >"$kept" 2>/dev/null || true
tail -n 30 "$kept" >&2
case $status in
  124 | 137) echo "lab: the time was up after $limit s; console: $kept" >&2 && exit 124 ;;
  *) die "the lab host ended without a status (emulator: $status); console: $kept" ;;
esac
