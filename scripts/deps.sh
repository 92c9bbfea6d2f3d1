#!/usr/bin/env bash
# Installs the Debian packages that building, testing and running rvm need and that are missing.
# Says what it does before it does it; uses sudo only when it is not run by root.
set -euo pipefail

rust_needed=1.89
packages=(
  # to build
  gcc libc6-dev make pkg-config libssl-dev git ca-certificates
  # the fuzzer's own library
  g++
  # to run machines and to build boxes
  passt mmdebstrap uidmap e2fsprogs openssh-client qemu-system-x86 curl iproute2
  # the kernel of `kernel = "fast"`
  flex bison bc perl libelf-dev xz-utils binutils
  # the lab
  busybox-static cpio kmod
  # the tests talk to these two on loopback
  openssh-server dropbear-bin rsync
  # a guest of the tests runs it on a shared folder
  sqlite3
  # the tests run a playbook
  ansible-core
)

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

is_installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

if ! command -v apt-get >/dev/null; then
  echo "deps: this is no Debian: please install what provides ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
  echo "deps: installing ${missing[*]}"
  as_root apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
  # Nobody asked for a server that the world can reach.
  if [[ " ${missing[*]} " = *" openssh-server "* ]] && [ -d /run/systemd/system ]; then
    echo "deps: leaving the SSH server of this host switched off"
    as_root systemctl -q disable --now ssh.service ssh.socket || true
  fi
fi
# Downloading single packages (the lab's kernel, the kernel source) needs package lists.
if ! apt-cache show linux-image-amd64 >/dev/null 2>&1; then
  echo "deps: fetching package lists"
  as_root apt-get -qq update
fi

rust_is_new_enough() {
  local have
  have=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
  [ -n "$have" ] && [ "$(printf '%s\n' "$rust_needed" "$have" | sort -V | head -n 1)" = "$rust_needed" ]
}
if ! rust_is_new_enough; then
  # Debian 13 has rustup as a package; its own rustc, as that of Debian 12, is older than we need.
  if ! command -v rustup >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
    echo "deps: installing rustup"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends rustup >/dev/null
  fi
  if ! command -v rustup >/dev/null; then
    echo "deps: Rust $rust_needed or newer is needed and not here: install it with rustup, https://rustup.rs" >&2
    exit 1
  fi
  echo "deps: installing the stable Rust toolchain"
  rustup toolchain install stable --profile minimal --component clippy --component rustfmt
  rustup default stable
fi
