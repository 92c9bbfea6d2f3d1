# Shared folders, for run.sh: a guest of QEMU's has two of them at the same time, served by virtiofsd and by QEMU itself
# over 9p, a guest of rvm's has one that its hypervisor serves, and they do the same work in each (folders.c).
# shellcheck shell=bash disable=SC2154,SC2034 # ram, results, folder_peers and such: run.sh

folder_peers='rvm virtiofsd 9p'
folder_figures="folder_create_us folder_status_us folder_status_again_us folder_read_us folder_remove_us \
folder_write_mib_s folder_read_mib_s"
# The files of a project; the table is about one of them. In the lab each takes thirty times as long.
folder_files=${BENCH_FILES:-$([ -n "${RVM_LAB:-}" ] && echo 500 || echo 10000)}

# virtiofsd: that of VIRTIOFSD, of its package, or of QEMU's.
virtiofsd() {
  local place
  for place in "${VIRTIOFSD:-}" /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd; do
    [ ! -x "$place" ] || { echo "$place" && return; }
  done
  echo "bench: shared folders are left out: there is no virtiofsd (apt install virtiofsd, or qemu-system-common)" >&2
  return 1
}

folders() {
  local daemon words log=$ram/bench/folders.log memory=512 work
  work="rounds=$((rounds < 3 ? rounds : 3)) files=$folder_files"
  daemon=$(virtiofsd) || return 0
  take "$daemon"
  take "$inside/rvm"
  take "$(command -v qemu-system-x86_64)"
  mkdir -p "$ram"/bench/machine "$ram"/bench/share/{rvm,virtiofsd,9p} "$ram/var/run" "$ram/run"
  chroot "$ram" "$daemon" --socket-path=/bench/machine/virtiofsd.sock -o source=/bench/share/virtiofsd -o cache=auto \
    -o sandbox=chroot >>"$log" 2>&1 &
  until [ -S "$ram/bench/machine/virtiofsd.sock" ]; do sleep 0.1; done
  words=()
  fill "$(cut -d'|' -f2 <<<"$qemu")" "folders peers=virtiofsd,9p $work"
  # The default is older than what virtiofsd speaks.
  fill "-global virtio-mmio.force-legacy=false -machine memory-backend=ram -object memory-backend-memfd,id=ram,size=${memory}M,share=on
    -chardev socket,id=fsd,path=/bench/machine/virtiofsd.sock
    -device vhost-user-fs-device,chardev=fsd,queue-size=1024,tag=virtiofsd
    -fsdev local,id=nine,path=/bench/share/9p,security_model=none -device virtio-9p-device,fsdev=nine,mount_tag=9p"
  folder_guest
  words=()
  fill "$(cut -d'|' -f2 <<<"$own")" "folders peers=rvm $work"
  words+=(--share rvm=/bench/share/rvm)
  folder_guest
}

# Runs the guest of `words` to its end, and keeps what it measured.
folder_guest() {
  chroot "$ram" "${words[@]}" </dev/null 2>>"$log" | tr -d '\r' >"$ram/bench/out" || true
  if ! grep -q '^DONE' "$ram/bench/out"; then
    tail -n 20 "$log" "$ram/bench/out" >&2
    return 1
  fi
  sed -n 's/^RESULT //p' "$ram/bench/out" | tee -a "$results" >&2
}
