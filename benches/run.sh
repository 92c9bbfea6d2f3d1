#!/usr/bin/env bash
# Measures rvm's hypervisor beside QEMU microvm, and the commands that users wait for. The result is
# a table in Markdown on standard output. docs/performance.md says how to read it.
#
#   run.sh [-n ROUNDS] [-v] [-w] [ROW...]    rows: boot memory block net passt vhost folders projects
#                                            machines cli (default: all)
#
# All of a row run on the same kernel and the same initial RAM disk, in turns, in one run: on this machine's
# KVM where that is real, else in the lab with a clock that counts instructions, where figures hardly
# vary (-w: in the lab by the wall clock, where only ratios mean something). Compare figures of one row only.
#
# A turn that is not over within its time is ended and tried once more, and so is a row whose lab ends early. What is
# lost then has a mark in the table.
#
# Other hypervisors join with BENCH_VMM, one a line:
# `NAME|COMMAND|WORDS FOR A DISK|FOR A CARD|FOR A CARD OF PASST'S|FOR ONE BY VHOST-USER`.
# In the words @K@ is the kernel (ELF), @I@ the initial RAM disk, @C@ the kernel's command line, @M@ the
# guest's memory in MiB, @D@ a raw disk, @T@ a TAP interface, @S@ the socket of passt. The serial port has to
# be standard output. Without words for a disk or a card those rows stay empty. Words may not hold spaces.
#
# It takes root, for a TAP interface and for tracing (in the lab one is).
#
# RVM_TEST_BIN is the binary (default: the release build); BENCH_KERNEL another kernel than `fast`; BENCH_PASST
# another passt than the one that is installed (vhost-user takes one of November 2024 or later); VIRTIOFSD the
# programs beside which shared folders are measured (benches/folders.sh); BENCH_FILES the files in them; BENCH_RUNNING
# how many machines run beside `rvm status` (benches/machines.sh); BENCH_THP the lab's setting of transparent huge pages
# (default: always); BENCH_SECONDS what one row may take in the lab (default: 5400).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

memory=128 rounds=5 verbose=() wall='' inside='' rows=()
while [ $# -gt 0 ]; do
  case $1 in
    -n) rounds=$2 && shift 2 ;;
    -v) verbose=(-v) && shift ;;
    -w) wall=1 && shift ;;
    --inside) inside=$2 && shift 2 ;;
    -*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    *) rows+=("$1") && shift ;;
  esac
done
[ "${#rows[@]}" -gt 0 ] || rows=(boot memory block net passt vhost folders projects machines cli)

has() {
  local row
  for row in "${rows[@]}"; do [ "$row" != "$1" ] || return 0; done
  return 1
}

# Where a clock is 30 times slower, all that is waited for takes as much longer.
slow=$([ -n "$wall" ] && echo 10 || echo 1)
# The files of a project, in shared folders.
folder_files=${BENCH_FILES:-}

. benches/folders.sh
. benches/projects.sh
. benches/machines.sh
. benches/tables.sh

# Guest and runner are built here, the rest is brought together in one folder.
prepare() {
  # shellcheck source=../scripts/common.sh
  . scripts/common.sh
  local kernel binary
  binary=${RVM_TEST_BIN:-$rvm}
  [ -x "$binary" ] || { echo "bench: $binary is not there: run make" >&2 && exit 1; }
  kernel=${BENCH_KERNEL:-$(find "$store/kernels" -path '*/fast-*/vmlinux' 2>/dev/null | head -n 1)}
  [ -n "$kernel" ] || { echo "bench: no kernel in $store: run tests/run.sh store" >&2 && exit 1; }
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work/tree/proc" "$work/tree/dev"
  gcc -O2 -static -s -o "$work/tree/init" benches/guest.c benches/folders.c benches/projects.c
  gcc -O2 -static -pthread -o "$work/runner" benches/runner.c
  (cd "$work/tree" && printf '%s\n' . init proc dev | cpio -o -H newc --quiet) >"$work/initrd"
  cp "$kernel" "$work/vmlinux"
  cp "$binary" "$work/rvm"
  if has machines; then
    mkdir -p "$work/store/boxes/micro" "$work/store/kernels"
    # The newest is what this version makes.
    find "$store"/boxes/micro/* -maxdepth 0 -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2 |
      xargs -I{} cp -r --reflink=auto {} "$work/store/boxes/micro"
    cp -r "$store"/kernels/fast-* "$work/store/kernels"
  fi
  local own_kvm='' row turn
  if rvm=$binary kvm_is_real; then
    own_kvm=1 wall='' slow=1
    echo "On this machine's own KVM." >&2
  else
    echo "In the lab, $([ -n "$wall" ] && echo 'by the wall clock' || echo 'its clock counting instructions')." >&2
  fi
  # In the lab each takes thirty times as long.
  folder_files=${folder_files:-$([ -n "$own_kvm" ] && echo 10000 || echo 500)}
  : >"$work/results"
  for row in "${rows[@]}"; do
    if [ "$row" = projects ] && ! project_initrd; then
      echo "row lost $row" >>"$work/results"
      continue
    fi
    for turn in 1 2; do
      ! measure_row | tee -a "$work/results" >&2 || break
      echo "bench: row $row ended early (turn $turn of 2); what it measured until then counts" >&2
      [ "$turn" -lt 2 ] || echo "row lost $row" >>"$work/results"
    done
  done
  tables "$work/results"
}

# Measures the row `row`; what comes of it are lines `PEER FIGURE VALUE`.
measure_row() {
  local memory=3072
  local command=(unshare --mount "$PWD/benches/run.sh" --inside "$work" -n "$rounds" "${verbose[@]}" ${wall:+-w} "$row")
  export BENCH_FILES=$folder_files
  if [ -n "$own_kvm" ]; then
    timeout -k 10 "${BENCH_SECONDS:-5400}" "${command[@]}"
    return
  fi
  # Twenty machines take more memory.
  case $row in machines) memory=6144 ;; projects) memory=4096 ;; esac
  local clock=(--steady)
  [ -z "$wall" ] || clock=()
  lab/lab.sh "${clock[@]}" -m "$memory" -t "${BENCH_SECONDS:-5400}" -- "${command[@]}"
}

# --- below: where KVM is real; everything in RAM
# With rtc=off the kernel waits a second for the clock that it is not told to be missing.
qemu='qemu|qemu-system-x86_64 -M microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on'
# The qboot of QEMU 10 (Debian 13) starts no kernel.
case $(qemu-system-x86_64 --version) in
  *'version '[1-9].*) qemu+=',x-option-roms=off -bios qboot.rom' ;;
esac
qemu+=' -accel kvm -cpu host -m @M@ -smp 1 -nodefaults -no-user-config -nographic'
qemu+=' -serial stdio -no-reboot -kernel @K@ -initrd @I@ -append @C@'
qemu+='|-drive id=d,file=@D@,format=raw,if=none -device virtio-blk-device,drive=d'
qemu+='|-netdev tap,id=n,ifname=@T@,script=no,downscript=no -device virtio-net-device,netdev=n'
qemu+='|-netdev stream,id=n,server=off,addr.type=unix,addr.path=@S@ -device virtio-net-device,netdev=n'
qemu+='|-chardev socket,id=c,path=@S@ -netdev vhost-user,id=n,chardev=c -device virtio-net-device,netdev=n'
qemu+=' -object memory-backend-memfd,id=m,size=@M@M,share=on -machine memory-backend=m'
# passt serves no legacy devices, which are this machine's default.
qemu+=' -global virtio-mmio.force-legacy=false'

# Words of a template, with the places filled in: TEMPLATE KIND. The result is in `words`.
fill() {
  local word
  for word in $1; do
    case $word in
      @C@) word="console=ttyS0 reboot=k panic=1 quiet bench=$2" ;;
      *)
        word=${word//@K@/\/bench\/vmlinux} word=${word//@I@/\/bench\/initrd} word=${word//@M@/$memory}
        word=${word//@D@/\/bench\/disk} word=${word//@T@/bench0} word=${word//@S@/\/bench\/net.sock}
        ;;
    esac
    words+=("$word")
  done
}

# One measurement: MODE KIND TEMPLATE. Its results are lines `VMM RESULT VALUE`.
measure() {
  local mode=$1 kind=$2 name command disk card passt vhost turn listener=()
  IFS='|' read -r name command disk card passt vhost <<<"$3"
  words=()
  fill "$command" "$kind"
  case $kind in
    block) [ -n "$disk" ] || return 0 && fill "$disk" "$kind" ;;
    net) [ -n "$card" ] || return 0 && fill "$card" "$kind" ;;
    passt) [ -n "$passt" ] || return 0 && fill "$passt" "$kind" && listener=(network) ;;
    vhost) [ -n "$vhost" ] || return 0 && fill "$vhost" "$kind" && listener=(network --vhost-user) ;;
    # What it costs to have them there, for the memory of all that a machine usually has.
    hold) fill "$disk $card" "$kind" ;;
  esac
  for turn in 1 2; do
    "${listener[@]}"
    if limited 30 chroot "$ram" /bench/runner "${verbose[@]}" "$mode" "$memory" "${words[@]}" >"$ram/bench/out"; then
      sed -n "s/^RESULT /$name /p" "$ram/bench/out"
      return
    fi
    lost "$name" "$kind" "$turn"
  done
}

# Runs words that are ended when so many seconds of a real machine are over. A clock that counts instructions knows no
# busy neighbours, and a guest that hangs there takes some ten minutes for half of one of its.
limited() {
  local seconds=$(($1 * slow))
  [ -z "${RVM_LAB:-}" ] || [ -n "$wall" ] || seconds=$((seconds / 3))
  shift
  # The process that is timed gets a group of its own, which ends with it.
  timeout -k 5 "$seconds" "$@"
}

# A turn that came to nothing: PEER KIND TURN.
lost() {
  echo "bench: $1 failed at $2, or was not done in time (turn $3 of 2)" >&2
  echo "$1 lost $2"
}

# passt for one guest, with words of its own. It is in the background once it listens, and ends with its first
# client. Its gateway is the host.
network() {
  "$ram/bench/passt" --quiet --one-off --socket "$ram/bench/net.sock" "$@" \
    -a 192.0.2.2 -n 24 -g 192.0.2.1 -t none -u none || echo "bench: passt does not start" >&2
}

wall() {
  local row=$1
  shift
  limited 60 "$@" | sed -n "s/^RESULT wall_ms /cli $row /p"
}

# Twenty machines that were made and never started, in one project.
machines() {
  local number id
  mkdir -p "$ram/bench/project"
  echo 'box = "micro"' >"$ram/bench/project/Vagrantfile"
  for number in $(seq 1 20); do
    id=$(printf '%032x' "$number")
    printf '[[machine]]\nname = "m%d"\n' "$number" >>"$ram/bench/project/Vagrantfile"
    mkdir -p "$ram/bench/home/machines/$id" "$ram/bench/project/.rvm/machines/m$number"
    printf '%s' "$id" >"$ram/bench/project/.rvm/machines/m$number/id"
    cat >"$ram/bench/home/machines/$id/machine.json" <<END
{"version":1,"id":"$id","name":"m$number","project":"/bench/project","file":"/bench/project/Vagrantfile",
"created":0,"made":true,"started":false,"reached":false,"applied":{"box_name":"micro","disk":null,"cpus":1,
"memory":1073741824,"hostname":"m$number","kernel":"stock","provider":null,"ports":[]},"image":null,
"provider":null,"ports":[],"ssh":null,"user":"vagrant","identity":null}
END
  done
}

commands() {
  local in_ram=(chroot "$ram" /bench/runner wall 41)
  export RVM_HOME=/bench/home RVM_CWD=/bench/project
  machines
  take /bin/true
  if ! chroot "$ram" "$inside/rvm" status | grep -q 'm20 .*poweroff'; then
    echo "bench: \`rvm status\` does not show the machines" >&2
    return 1
  fi
  wall nothing_ms "${in_ram[@]}" /bin/true
  wall status_ms "${in_ram[@]}" "$inside/rvm" status
  wall global_status_ms "${in_ram[@]}" "$inside/rvm" global-status
  # It is too many files to bring into RAM, where time runs ahead while one is read.
  [ -n "${RVM_LAB:-}" ] || ! command -v ruby >/dev/null || wall ruby_ms "$ram/bench/runner" wall 41 ruby -e 0
}

# The shared libraries of a program, with the loader, a path a line.
libraries() {
  ldd "$1" 2>/dev/null | sed -n 's/^[^/]*\(\/[^ ]*\).*/\1/p'
}

# Copies a program with its libraries to the same places in RAM.
take() {
  local file
  for file in "$1" $(libraries "$1"); do
    mkdir -p "$ram$(dirname "$file")"
    cp -L "$file" "$ram$file"
  done
}

# KiB of each binary and of what it loads.
sizes() {
  local name command
  while IFS='|' read -r name command _; do
    read -r -a words <<<"$command"
    command=$ram${words[0]}
    echo "$name binary_kib $(($(stat -c %s "$command") / 1024))"
    # The places are the same here and there.
    libraries "$command" | xargs -r stat -Lc %s |
      awk -v name="$name" '{ sum += $1 } END { if (sum) print name, "libraries_kib", int(sum / 1024) }'
  done < <(printf '%s\n' "${list[@]}")
}

bench() {
  [ -z "${RVM_LAB:-}" ] || echo "${BENCH_THP:-always}" >/sys/kernel/mm/transparent_hugepage/enabled
  # A root of its own: what is timed must wait for no file, see lab/lab.sh --steady. The mounts are
  # seen by this process alone.
  ram=$(mktemp -d /dev/shm/bench.XXXXXX)
  trap clear EXIT
  trap 'exit 143' TERM
  chmod 755 "$ram"
  mkdir -p "$ram"/{bench,dev,proc,sys,tmp,usr/share}
  # passt, which gives up being root, makes its socket there.
  chmod 1777 "$ram/bench"
  mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
  local place
  for place in dev proc sys; do mount --rbind "/$place" "$ram/$place"; done
  cp "$inside"/{vmlinux,initrd,runner} "$ram/bench"
  cp -L "$(command -v "${BENCH_PASST:-passt}")" "$ram/bench/passt"
  cp -RL /usr/share/qemu /usr/share/seabios "$ram/usr/share" 2>/dev/null || true
  own="rvm|$inside/rvm boot --kernel @K@ --initrd @I@ --cmdline @C@ --memory @M@"
  own+='|--disk @D@|--net tap=@T@|--net stream=@S@|--net vhost-user=@S@'
  templates=$(printf '%s\n%s\n%s' "$own" "$qemu" "${BENCH_VMM:-}")
  # Pages that are there: what is measured is the way to them.
  head -c 64M /dev/urandom >"$ram/bench/disk"
  ip tuntap add dev bench0 mode tap
  ip addr add 192.0.2.1/24 dev bench0
  ip link set bench0 up
  local round template kind name command words
  list=()
  while IFS='|' read -r name command template; do
    [ -n "$name" ] || continue
    read -r -a words <<<"$command"
    words[0]=$(command -v "${words[0]}")
    take "${words[0]}"
    list+=("$name|${words[*]}|$template")
  done <<<"$templates"
  ! has boot || sizes
  # The first turn is thrown away.
  for template in "${list[@]}"; do ! has boot || measure boot boot "$template" >/dev/null; done
  for round in $(seq 1 "$rounds"); do
    echo "round $round" >&2
    for template in "${list[@]}"; do
      ! has boot || { measure boot boot "$template" && measure entry boot "$template"; }
      ! has memory || [ "$round" -gt 3 ] || measure hold hold "$template"
      for kind in block net passt vhost; do
        ! has "$kind" || [ "$round" -gt 3 ] || measure work "$kind" "$template"
      done
    done
    # Each goes first once.
    list=("${list[@]:1}" "${list[0]}")
  done
  ! has cli || commands
  ! has folders || folders
  ! has projects || projects
  ! has machines || users_machines
}

# Leaves nothing behind, however it ends.
clear() {
  ip link del bench0 2>/dev/null || true
  for place in dev proc sys; do umount -l "$ram/$place" 2>/dev/null || true; done
  rm -rf --one-file-system "$ram"
}

if [ -n "$inside" ]; then bench; else prepare; fi
