#!/usr/bin/env bash
# Builds the guest kernel of `kernel = "fast"` from Debian's kernel source package.
#
#   build.sh --config FILE --out DIR --work DIR [--source TARBALL] [--mirror URL] [--jobs N]
#
#   --config FILE     wanted options, one `CONFIG_X=value` a line, on top of allnoconfig
#   --out DIR         gets `vmlinux` (stripped ELF that carries the PVH note) and `version`
#   --work DIR        scratch space, about 2.5 GiB; what is there already is used again
#   --source TARBALL  linux-source-6.12.tar.xz; fetched with apt when not given or empty
#   --mirror URL      Debian mirror, where this host's own package lists lack the source
#   --jobs N          parallel compilers (default: all processors)
#
# Standard output carries only lines `progress DONE TOTAL TEXT`; everything else goes to
# standard error, and the compiler's output to WORK/build.log. Needs no root and installs
# nothing. Exit status: 0 done, 1 failed, 2 wrong usage, 3 tools are missing (the message
# names the Debian packages), 4 an option of FILE did not hold in the kernel's config.
set -euo pipefail
export LC_ALL=C

package=linux-source-6.12
# Objects that a full build makes: only the scale of the progress lines hangs on it.
units=2500

die() { local status=$1; shift; printf 'kernel: %s\n' "$*" >&2; exit "$status"; }
progress() { printf 'progress %d %d %s\n' "$1" "$units" "$2"; }

config='' out='' work='' source='' mirror='' jobs=''
while [ $# -gt 0 ]; do
  case $1 in
    --config | --out | --work | --source | --mirror | --jobs)
      [ $# -ge 2 ] || die 2 "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    *) die 2 "unknown argument $1 (usage: see the head of build.sh)" ;;
  esac
done
[ -n "$config" ] && [ -n "$out" ] && [ -n "$work" ] || die 2 "--config, --out and --work are required"
[ -r "$config" ] || die 2 "cannot read the configuration $config"
jobs=${jobs:-$(nproc)}
case $jobs in '' | 0 | *[!0-9]*) die 2 "--jobs takes a number from 1, not $jobs" ;; esac
mkdir -p "$out" "$work"
config=$(realpath "$config") out=$(realpath "$out") work=$(realpath "$work")
[ -z "$source" ] || source=$(realpath "$source")

# --- tools: say all that is missing at once, as one command
missing_packages() {
  local pair
  for pair in make:make gcc:gcc ld:binutils flex:flex bison:bison bc:bc perl:perl xz:xz-utils \
    tar:tar strip:binutils dpkg-deb:dpkg; do
    command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
  done
  # objtool, which the speculation mitigations need, links against libelf.
  echo '#include <gelf.h>' | gcc -E - >/dev/null 2>&1 || echo libelf-dev
  echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || echo libc6-dev
}
missing=$(missing_packages | sort -u | tr '\n' ' ')
[ -z "$missing" ] || die 3 "building a kernel needs packages that are not installed: apt-get install ${missing% }"

# --- source: the caller's file, this host's package lists, or lists of our own
fetch_from_mirror() {
  local apt=$work/apt suite lists=()
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -r "$keyring" ] || die 1 "no $keyring: apt-get install debian-archive-keyring"
  for suite in trixie trixie-updates; do
    lists+=("deb [arch=amd64 signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} $suite main")
  done
  printf '%s\n' "${lists[@]}" >"$apt/sources.list"
  : >"$apt/status"
  local options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
    -o APT::Architecture=amd64 -o APT::Sandbox::User= -o Acquire::Languages=none)
  apt-get -qq "${options[@]}" update >&2 || return 1
  (cd "$work/deb" && apt-get -qq "${options[@]}" download "$package" >&2)
}

fetch_source() {
  command -v apt-get >/dev/null || die 3 "fetching $package needs apt-get; or give --source"
  rm -rf "$work/deb"
  mkdir -p "$work/deb"
  progress 0 "fetching $package"
  if [ -n "$mirror" ] || ! (cd "$work/deb" && apt-get -qq -o APT::Sandbox::User= download "$package" >&2); then
    fetch_from_mirror || die 1 "cannot fetch $package from ${mirror:-the Debian mirror} (try: apt-get update)"
  fi
  local deb
  deb=$(find "$work/deb" -name "${package}_*.deb" -print -quit)
  [ -n "$deb" ] || die 1 "apt-get left no $package package in $work/deb"
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/deb" --strip-components=3 "./usr/src/$package.tar.xz"
  dpkg-deb --field "$deb" Version >"$work/deb/version"
  rm -f "$deb"
  mv "$work/deb/$package.tar.xz" "$work/source.tar.xz"
  mv "$work/deb/version" "$work/source.version"
}

tree=$work/$package
if ! [ -e "$tree/.unpacked" ]; then
  if [ -z "$source" ]; then
    [ -s "$work/source.tar.xz" ] && [ -s "$work/source.version" ] || fetch_source
    source=$work/source.tar.xz
  fi
  progress 0 "unpacking $(basename "$source")"
  rm -rf "$tree"
  mkdir -p "$tree"
  # Drivers of real hardware are two thirds of the tree. Only their Kconfig files are read.
  tar -x -f "$source" -C "$tree" --strip-components=1 \
    --exclude='*/drivers/gpu/*.[ch]' --exclude='*/drivers/media/*.[ch]' --exclude='*/sound/*.[ch]' \
    --exclude='*/drivers/net/ethernet/*.[ch]' --exclude='*/drivers/net/wireless/*.[ch]' \
    --exclude='*/drivers/staging/*.[ch]' --exclude='*/tools/testing/*' --exclude='*/Documentation/*.rst' \
    --exclude='*.dts' --exclude='*.dtsi' >&2 || die 1 "cannot unpack $source into $tree"
  [ -e "$work/source.version" ] && cp "$work/source.version" "$tree/.debian-version"
  touch -r "$source" "$tree/.unpacked"
  [ "$source" != "$work/source.tar.xz" ] || rm -f "$source"
fi
cd "$tree"

# The same source and options give the same kernel on every host.
KBUILD_BUILD_TIMESTAMP=$(date -u -r .unpacked '+%Y-%m-%d %H:%M:%S')
export KBUILD_BUILD_TIMESTAMP KBUILD_BUILD_USER=rvm KBUILD_BUILD_HOST=rvm

# --- configuration, and the check that it is what was asked for
configure() {
  make -s allnoconfig >/dev/null && scripts/kconfig/merge_config.sh -m .config "$config" >/dev/null &&
    make -s olddefconfig >/dev/null
}
unheld_options() {
  local line name
  grep -E '^CONFIG_[A-Z0-9_a-z]+=' "$config" | while IFS= read -r line; do
    name=${line%%=*}
    if [ "${line#*=}" = n ]; then
      grep -E "^$name=" .config | sed 's/$/ (wanted: off)/' || true
    elif ! grep -qxF "$line" .config; then
      echo "$line ($(grep -E "^$name=" .config || echo off))"
    fi
  done
}
progress 1 "configuring"
configure >"$work/config.log" 2>&1 || { tail -n 20 "$work/config.log" >&2; die 1 "the kernel's configuration failed"; }
unheld=$(unheld_options)
[ -z "$unheld" ] || die 4 "these options of $config did not hold:
$unheld"

# --- build
version=$(make -s kernelrelease)
echo "kernel: building Linux $version with $jobs jobs; log: $work/build.log" >&2
count=1
: >"$work/build.log"
set +e
# shellcheck disable=SC2094
make -j "$jobs" vmlinux 2>&1 | while IFS= read -r line; do
  printf '%s\n' "$line" >>"$work/build.log"
  case $line in
    '  CC '* | '  AS '* | '  AR '* | '  HOSTCC '* | '  LD '*)
      count=$((count + 1))
      [ "$count" -lt "$units" ] || count=$((units - 1))
      [ $((count % 20)) -ne 0 ] || progress "$count" "compiling ${line##* }"
      ;;
  esac
done
status=${PIPESTATUS[0]}
set -e
[ "$status" -eq 0 ] || { tail -n 30 "$work/build.log" >&2; die 1 "the kernel did not compile (log: $work/build.log)"; }

strip --strip-all -o "$out/vmlinux.part" vmlinux
readelf -n "$out/vmlinux.part" 2>/dev/null | grep -q Xen || die 1 "the kernel carries no PVH note"
cp .config "$out/config"
{
  echo "$version"
  if [ -e .debian-version ]; then echo "$package $(cat .debian-version)"; fi
} >"$out/version"
mv "$out/vmlinux.part" "$out/vmlinux"
progress "$units" "Linux $version"
