# shellcheck shell=bash
# The emulator of the lab. To be sourced by lab.sh, which has set `cache`.
#
# QEMU emulates nested SVM with faults: 7.2 of Debian 12 makes kernels panic after a dozen boots, the
# lab's own or the inner one, 10 hardly with one processor (docs/testing.md tells the whole). Debian 12
# has it in its backports, it needs no other libraries, and is unpacked beside the lab's kernel and not
# installed.

qemu_wanted=10

qemu_major() {
  "$1" --version 2>/dev/null | sed -n '1s/.*version \([0-9]*\).*/\1/p'
}

# Fetches the packages into `target` and unpacks them there.
fetch_qemu() (
  target=$1
  codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  # Where this host's own Debian packages come from.
  site=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
    sed -n "s/^\([^ ]*\) $codename Debian$/\1/p" | head -n 1)
  [ -n "$codename" ] && [ -n "$site" ] || return 1
  part=$target.part
  rm -rf "$part"
  mkdir -p "$part"/{apt/lists/partial,apt/cache/archives/partial,deb,root}
  for suite in "$codename" "$codename-backports"; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main"
  done >"$part/apt/sources.list"
  options=(-o "Dir::Etc::sourcelist=$part/apt/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$part/apt/lists" -o "Dir::Cache=$part/apt/cache"
    -o APT::Sandbox::User= -o Acquire::Languages=none)
  echo "lab: fetching QEMU of $codename-backports (once, about 15 MB)" >&2
  apt-get -qq "${options[@]}" update >&2 || return 1
  (cd "$part/deb" && apt-get -qq "${options[@]}" -t "$codename-backports" download \
    qemu-system-x86 qemu-system-common qemu-system-data seabios >&2) || return 1
  for deb in "$part"/deb/*.deb; do dpkg-deb -x "$deb" "$part/root" || return 1; done
  [ "$(qemu_major "$part/root/usr/bin/qemu-system-x86_64")" -ge "$qemu_wanted" ] 2>/dev/null || return 1
  mv "$part/root" "$target"
  rm -rf "$part"
)

# Sets `qemu`, a command and its first arguments.
choose_qemu() {
  local major fetched=$cache/qemu
  if [ -n "${LAB_QEMU:-}" ]; then
    qemu=("$LAB_QEMU")
    return
  fi
  qemu=(qemu-system-x86_64)
  major=$(qemu_major "${qemu[0]}")
  [ "${major:-0}" -lt "$qemu_wanted" ] || return 0
  if [ -d "$fetched" ] || fetch_qemu "$fetched"; then
    qemu=("$fetched/usr/bin/qemu-system-x86_64" -L "$fetched/usr/share/qemu" -L "$fetched/usr/share/seabios"
      -L /usr/share/qemu -L /usr/lib/ipxe/qemu)
  else
    echo "lab: QEMU ${major:-?} is older than $qemu_wanted and no newer one can be fetched: kernels may panic in this lab for no fault of theirs" >&2
  fi
}
