# Shared folders, for run.sh: a guest of rvm's has one that its hypervisor serves, guests of QEMU's have one that
# virtiofsd serves or QEMU itself over 9p, and all do the same work in it, one guest after the other.
# shellcheck shell=bash disable=SC2154,SC2034 # ram, qemu, own and such: run.sh

# Each virtiofsd that is there, a line `NAME PATH`: those of VIRTIOFSD, or of its package and of QEMU's.
virtiofsds() {
  local place version
  for place in ${VIRTIOFSD:-/usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd}; do
    [ -x "$place" ] || continue
    version=$("$place" --version 2>/dev/null | grep -o '[0-9]\+\.[0-9]\+' | head -n 1) || true
    echo "virtiofsd-${version:-unknown} $place"
  done
}

folder_peers="rvm $(virtiofsds | cut -d' ' -f1 | paste -sd' ') 9p"
folder_figures="folder_create_us folder_status_us folder_status_again_us folder_read_us folder_remove_us \
folder_write_mib_s folder_read_mib_s"

folders() {
  # 9p takes less than 10 ms for all that is done with one file.
  each_folder folder "rounds=1 files=$folder_files" /bench/initrd 512 "$((60 + folder_files / 20))"
}

# Has all guests do their work, in turns, in at most three rounds: KIND WORDS INITRD MIB SECONDS.
each_folder() {
  local round peer path turn peers=() log=$ram/bench/folders.log
  take "$inside/rvm"
  take "$(command -v qemu-system-x86_64)"
  mkdir -p "$ram"/bench/{machine,share} "$ram/var/run" "$ram/run"
  peers=('rvm -')
  while read -r peer path; do
    take "$path"
    peers+=("$peer $path")
  done < <(virtiofsds)
  [ ${#peers[@]} -gt 1 ] || echo "bench: there is no virtiofsd (apt install virtiofsd, or qemu-system-common)" >&2
  peers+=('9p -')
  for round in $(seq 1 "$((rounds < 3 ? rounds : 3))"); do
    echo "round $round" >&2
    for peer in "${peers[@]}"; do
      for turn in 1 2; do
        rm -rf "$ram"/bench/share/* "$ram"/bench/machine/*
        folder_turn "${peer% *}" "${peer#* }" "$@" && break
        lost "${peer% *}" "$1" "$turn"
        tail -n 5 "$log" "$ram/bench/out" >&2
      done
    done
    # Each goes first once.
    peers=("${peers[@]:1}" "${peers[0]}")
  done
}

# The guest of one peer, to its end: PEER PATH KIND WORDS INITRD MIB SECONDS.
folder_turn() {
  local peer=$1 path=$2 kind=$3 work=$4 initrd=$5 memory=$6 seconds=$7 daemon=''
  mkdir "$ram/bench/share/$peer"
  words=()
  if [ "$peer" = rvm ]; then
    fill "$(cut -d'|' -f2 <<<"$own")" "${kind}s peer=$peer $work"
    words+=(--share "$peer=/bench/share/$peer")
  else
    fill "$(cut -d'|' -f2 <<<"$qemu")" "${kind}s peer=$peer $work"
    # The default is older than what virtiofsd speaks.
    fill "-global virtio-mmio.force-legacy=false"
    if [ "$peer" = 9p ]; then
      fill "-fsdev local,id=nine,path=/bench/share/9p,security_model=none -device virtio-9p-device,fsdev=nine,mount_tag=9p"
    else
      chroot "$ram" "$path" --socket-path=/bench/machine/virtiofsd.sock -o source="/bench/share/$peer" -o cache=auto \
        -o sandbox=chroot >"$log" 2>&1 &
      daemon=$!
      until [ -S "$ram/bench/machine/virtiofsd.sock" ] || ! kill -0 "$daemon" 2>/dev/null; do sleep 0.1; done
      fill "-machine memory-backend=ram -object memory-backend-memfd,id=ram,size=${memory}M,share=on
        -chardev socket,id=fsd,path=/bench/machine/virtiofsd.sock
        -device vhost-user-fs-device,chardev=fsd,queue-size=1024,tag=$peer"
    fi
  fi
  limited "$seconds" chroot "$ram" "${words[@]//\/bench\/initrd/$initrd}" </dev/null 2>>"$log" |
    tr -d '\r' >"$ram/bench/out" || true
  if [ -n "$daemon" ]; then
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" || true
  fi
  grep -q '^DONE' "$ram/bench/out" || return 1
  sed -n 's/^RESULT //p' "$ram/bench/out"
}
