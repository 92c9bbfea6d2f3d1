# Machines as users have them, for run.sh: `rvm up` of box `micro` with the kernel `fast` and the project's folder, on
# each provider, in turns; and `rvm status` beside twenty of them that run.
# shellcheck shell=bash disable=SC2154,SC2034 # ram, inside and such: run.sh

machine_peers='kvm qemu'
machine_figures="up_ms up_own_ms up_to_ssh_ms machine_beside_kib machine_threads"
# As many that run as the figure says; fewer to try the row out.
running=${BENCH_RUNNING:-20}

# Runs words with the RAM as their root, for so many seconds at most. passt makes itself a root of its own, which takes a
# mount and no chroot.
rooted() {
  local seconds=$1
  shift
  # shellcheck disable=SC2016 # for the inner shell
  limited "$seconds" env -u CI RVM_HOME=/bench/home RVM_CWD=/bench/up HOME=/bench PATH=/usr/bin:/usr/sbin:/bin:/sbin unshare --mount \
    /bin/bash -c 'cd "$0" && mount --rbind . . && cd "$0" && mkdir -p old && pivot_root . old && cd /bench/up && exec "$@"' \
    "$ram" "$@"
}

# What stands in one field of a document of one value a line.
field() { sed -n "s/^ *\"$1\": *\([0-9.]*\),*$/\1/p" "$2"; }

# Milliseconds of the phases of a document of --timings.
phases() {
  awk -v wanted=" $1 " '
    /"phase":/ { split($0, part, "\""); counts = index(wanted, " " part[4] " ") }
    /"duration_ms":/ { gsub(/[^0-9.]/, ""); if (counts) sum += $0 }
    END { printf "%.3f", sum }' "$2"
}

# The process of the machine at /bench/home, or what it started: that whose program is called so.
machine_process() {
  local exe
  for exe in /proc/[0-9]*/exe; do
    case $1:$(tr '\0' ' ' <"${exe%exe}cmdline" 2>/dev/null) in
      kvm:*' __vm /bench/home/'* | qemu:*qemu-system-x86_64*/bench/home/*) basename "${exe%/exe}" && return ;;
    esac
  done
  return 1
}

# One `rvm up` with what comes of it; a second time where it fails: PROVIDER.
one_up() {
  local turn
  for turn in 1 2; do
    ! up_and_down "$1" || return 0
    lost "$1" machines "$turn"
  done
}

up_and_down() {
  local provider=$1 document=$ram/bench/up/times/one.json total pid
  rm -rf "$ram/bench/up/times"
  if ! rooted 120 "$inside/rvm" up --provider "$provider" --timings=/bench/up/times >"$ram/bench/up.log" 2>&1; then
    echo "bench: rvm up failed on provider $provider" >&2
    cat "$ram/bench/up.log" >&2
    rooted 60 "$inside/rvm" destroy -f >&2 || true
    return 1
  fi
  total=$(field total_ms "$document")
  echo "$provider up_ms $total"
  echo "$provider up_own_ms $(awk -v all="$total" -v guest="$(phases 'kernel user_space boot ask' "$document")" 'BEGIN { print all - guest }')"
  echo "$provider up_to_ssh_ms $(phases 'vmm kernel user_space boot' "$document")"
  if pid=$(machine_process "$provider"); then
    sleep 3
    "$ram/bench/runner" process 128 "$pid" | sed -n "s/^RESULT /$provider machine_/p" | sed 's/machine_beside_guest/machine_beside/'
  fi
  [ ${#verbose[@]} -eq 0 ] || cat "$document" >&2
  rooted 60 "$inside/rvm" destroy -f >>"$ram/bench/up.log" 2>&1 || {
    echo "bench: rvm destroy failed on provider $provider" >&2
    cat "$ram/bench/up.log" >&2
  }
}

machine_words() {
  printf '[[machine]]\nname = "%s"\nbox = "micro"\nkernel = "fast"\nmemory = "%s"\ncpus = 1\n' "$1" "$2"
}

users_machines() {
  local tool kernel box provider turn number
  kernel=$(find "$inside/store/kernels" -maxdepth 1 -name 'fast-*' 2>/dev/null | head -n 1)
  box=$(find "$inside/store/boxes/micro" -mindepth 1 -maxdepth 1 2>/dev/null | head -n 1)
  if [ -z "$kernel" ] || [ -z "$box" ]; then
    echo "bench: machines are left out: the store lacks the box micro or the kernel fast (run tests/run.sh store)" >&2
    return 0
  fi
  for tool in bash sh ssh passt qemu-system-x86_64 "$inside/rvm"; do take "$(command -v "$tool")"; done
  mkdir -p "$ram/bench/home" "$ram/bench/up" "$ram/etc" "$ram/bin" "$ram/usr/bin" "$ram/root"
  [ -e "$ram/bin/bash" ] || ln -s /usr/bin/bash "$ram/bin/bash"
  cp /etc/passwd /etc/group "$ram/etc"
  echo 'nameserver 192.0.2.53' >"$ram/etc/resolv.conf"
  cp -r "$inside/store/." "$ram/bench/home"
  machine_words one 128M >"$ram/bench/up/Vagrantfile"
  # The first turn is thrown away.
  for provider in $machine_peers; do one_up "$provider" >/dev/null; done
  for turn in $(seq 1 "$((rounds < 5 ? rounds : 5))"); do
    for provider in $machine_peers; do one_up "$provider"; done
  done
  [ "$running" -gt 0 ] || return 0
  : >"$ram/bench/up/Vagrantfile"
  for number in $(seq 1 "$running"); do machine_words "m$number" 96M >>"$ram/bench/up/Vagrantfile"; done
  # It goes on where it stopped.
  for turn in 1 2 3; do
    ! rooted 600 "$inside/rvm" up --provider kvm >"$ram/bench/up.log" 2>&1 || break
    echo "bench: $running machines do not all start (turn $turn of 3)" >&2
    tail -n 20 "$ram/bench/up.log" >&2
    [ "$turn" -lt 3 ] || return 0
  done
  local in_ram=(chroot "$ram" /bench/runner wall 41)
  export RVM_HOME=/bench/home RVM_CWD=/bench/up
  wall status_running_ms "${in_ram[@]}" "$inside/rvm" status
  wall global_status_running_ms "${in_ram[@]}" "$inside/rvm" global-status
  unset RVM_HOME RVM_CWD
  rooted 300 "$inside/rvm" destroy -f >>"$ram/bench/up.log" 2>&1
}
