#!/usr/bin/env bash
# Writes the inputs that the fuzzer could hardly find by itself: files with a shape. The others in
# fuzz/corpus were found by it (`scripts/fuzz.sh --keep`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/corpus"

# Little-endian and big-endian numbers: BYTES VALUE.
le() { local n; for ((n = 0; n < $1; n++)); do printf '%b' "\\x$(printf %02x $((($2 >> (8 * n)) & 255)))"; done; }
be() { local n; for ((n = $1 - 1; n >= 0; n--)); do printf '%b' "\\x$(printf %02x $((($2 >> (8 * n)) & 255)))"; done; }
zeros() { head -c "$1" /dev/zero; }

# A 64-bit x86 ELF with one segment of 16 bytes at 1 MiB: TYPE.
elf() {
  printf '\177ELF\2\1\1' && zeros 9
  le 2 "$1" && le 2 62 && le 4 1 && le 8 $((0x100000)) && le 8 64 && le 8 0
  le 4 0 && le 2 64 && le 2 56 && le 2 1 && le 2 0 && le 2 0 && le 2 0
  le 4 1 && le 4 5 && le 8 120 && le 8 $((0x100000)) && le 8 $((0x100000)) && le 8 16 && le 8 64 && le 8 4096
  zeros 16
}

# A bzImage with that file as its payload: FILE.
bzimage() {
  zeros $((0x1f1)) && le 1 1 && zeros 12 && printf '\125\252' && zeros 2
  printf HdrS && le 2 $((0x20f)) && zeros $((0x248 - 0x208)) && le 4 0 && le 4 "$(stat -c %s "$1")"
  zeros $((1024 - 0x250)) && cat "$1"
}

# A qcow2 image of 64 KiB with clusters of 512 bytes; in front what the driver does:
# CLUSTER [SECOND-TABLE] [INCOMPATIBLE-FEATURES].
qcow2() {
  zeros 96
  printf 'QFI\373' && be 4 3 && be 8 0 && be 4 0 && be 4 9 && be 8 65536 && be 4 0
  be 4 2 && be 8 1536 && be 8 512 && be 4 1 && be 4 0 && be 8 0
  be 8 "${3:-0}" && be 8 0 && be 8 0 && be 4 4 && be 4 104 && zeros $((512 - 104))
  be 8 1024 && zeros 504
  be 2 1 && be 2 1 && be 2 1 && be 2 1 && be 2 1 && be 2 1 && zeros 500
  be 8 $((0x8000000000000000 | 2048)) && be 8 "${2:-0}" && zeros 496
  be 8 "$1" && zeros 504
  zeros 512
}

mkdir -p balloon block bzimage chain config console control elf fs import mmio net pci qcow2 rng serial switch vhost vsock
elf 2 >elf/exec
elf 3 >elf/dyn
payload=$(mktemp)
trap 'rm -f "$payload"' EXIT
elf 2 | gzip -9n >"$payload" && bzimage "$payload" >bzimage/gzip
elf 2 | xz -9 >"$payload" && bzimage "$payload" >bzimage/xz
elf 2 | zstd -q -19 -c >"$payload" && bzimage "$payload" >bzimage/zstd
{ printf '\2\41\114\30' && le 4 10 && printf '\177' && head -c 9 /dev/zero; } >"$payload" && bzimage "$payload" >bzimage/lz4
qcow2 0 >qcow2/empty
qcow2 $((0x8000000000000000 | 2560)) >qcow2/cluster
qcow2 1 >qcow2/zero
# Both mapping tables at one place; entries of 16 bytes.
qcow2 0 $((0x8000000000000000 | 2048)) >qcow2/shared
qcow2 0 0 16 >qcow2/extended
printf '{"op":"status"}\n{"op":"power_button","version":1}\n{"op":"stop"}\n' >control/all
printf '{"op":"wait","version":2}\n\n{}\n[' >control/wrong
cat >config/all - <(printf '\377A=1\nB="two"\nRVM_SSH_PASSWORD=x\n') <<'END'
rvm_version = ">=0.1"
box = "debian/13"
memory = "1GiB"
provider = "qemu"
kernel = "fast"
[[machine]]
name = "web"
hostname = "${H:-web}"
cpus = 2
[[machine.port]]
guest = 80
host = 8080
protocol = "udp"
auto_correct = true
[[provision]]
name = "x"
shell = "echo ${A}"
env = ["A"]
run = "always"
[[provision]]
packages = ["tree"]
[[provision]]
file = { source = "Vagrantfile", destination = "x" }
END
printf 'Vagrant.configure("2") do |config|\nend\n' >config/ruby
cp ../../tests/import/*.rb import/
for target in balloon block chain console fs mmio net pci rng serial switch vhost vsock; do
  for start in 1 2 3; do
    # Numbers of a fixed sequence: chains and accesses of all kinds.
    for ((n = 0, x = start * 7919; n < 160; n++)); do
      x=$(((x * 1103515245 + 12345) & 0x7fffffff))
      le 1 $((x >> 16))
    done >"$target/start$start"
  done
done
