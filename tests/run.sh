#!/usr/bin/env bash
# All tests, in the order in which they are cheap: format, lints, unit and command line tests, then
# real machines on QEMU here, then on KVM here or in the lab. Nothing is skipped.
#
#   run.sh [STAGE...]              only these stages: lint unit fuzz store qemu lab kvm
#   ONLY='NAME...' run.sh STAGE    only the end-to-end tests whose names hold one of these
#
# Ends with one line that counts the tests of all stages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=../scripts/common.sh
. scripts/common.sh

read -ra only <<<"${ONLY:-}"
passed=0 failed=0
began=$(date +%s)
log=$(mktemp)
finish() {
  local status=$?
  rm -f "$log" "$log".?
  [ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
  echo
  echo "all tests took $(($(date +%s) - began)) s"
  echo "$passed passed, $failed failed"
}
trap finish EXIT

stage() {
  echo
  echo "=== $* ($(($(date +%s) - began)) s)"
}

# Runs a command that prints results as `cargo test` does, and adds them up.
counted() {
  local status=0 line
  "$@" 2>&1 | tee "$log" || status=$?
  while IFS= read -r line; do
    passed=$((passed + $(sed -E 's/.* ([0-9]+) passed.*/\1/' <<<"$line")))
    failed=$((failed + $(sed -E 's/.* ([0-9]+) failed.*/\1/' <<<"$line")))
  done < <(grep -E '^test result: .* [0-9]+ passed; [0-9]+ failed' "$log" || true)
  return "$status"
}

# Runs a command for at most so many seconds: a test that hangs is a failure, and the last name
# printed says which it was.
within() {
  local limit=$1 status=0
  shift
  timeout --foreground -k 10 "$limit" "$@" || status=$?
  [ "$status" -ne 124 ] || echo "STOPPED: not done after $limit s: $*"
  return "$status"
}

# Path of the test program that cargo built.
test_program() {
  cargo test --quiet --locked --test "$1" --no-run --message-format=json 2>/dev/null |
    grep '"executable":"' | grep -o "\"executable\":\"[^\"]*/$1-[^\"]*\"" | tail -n 1 | cut -d'"' -f4
}

lint() {
  stage "format and lints"
  make --no-print-directory fmt lint
}

unit() {
  stage "unit, command line and layering tests"
  cargo test --locked --no-run
  counted within 1200 cargo test --locked
  if passt --help 2>&1 | grep -q -- '^  --vhost-user'; then
    counted within 60 cargo test --locked --test hostile -- --ignored passt_
  else
    echo "NOT RUN: the card by vhost-user with passt itself: the installed one is older than November 2024"
  fi
}

fuzz() {
  stage "fuzz targets, a short while each"
  counted scripts/fuzz.sh -s 10
}

# Boxes and kernels, each built only where the store lacks it.
store() {
  stage "boxes and kernels in $store"
  mkdir -p "$store"
  local box
  for box in micro debian/12 debian/13; do
    RVM_HOME=$store "$rvm" box add "$box" --kernel stock --kernel fast
  done
}

qemu() {
  stage "end to end on the provider qemu"
  counted within 1800 env RVM_TEST_BIN="$rvm" RVM_TEST_STORE="$store" "$(test_program e2e_qemu)" --test-threads=2 "${only[@]}"
}

lab() {
  if kvm_is_real; then return; fi
  stage "the lab"
  counted lab/selftest.sh
}

# How many labs may crash under the tests of the provider kvm before that counts as a failure.
# A lab whose own kernel panics says nothing about the tests that it had not finished.
lab_crashes=2
# How long the tests of the provider kvm may take, in seconds.
kvm_seconds=2700

# On a real KVM all tests run in one program. A lab has one processor, so there are two side by side,
# each with half of the tests, one after the other.
kvm() {
  local program names=() shards=1 shard n pids=() pid status=0
  program=$(test_program e2e_kvm)
  if kvm_is_real; then
    stage "end to end on the provider kvm, on this machine's KVM"
  else
    stage "end to end on the provider kvm, in two labs: this machine's KVM cannot run stock guests"
    # The first use fetches what labs are made of; that is not to be done twice.
    lab/lab.sh -- true
    shards=2
  fi
  mapfile -t names < <("$program" --list "${only[@]}" 2>/dev/null | sed -n 's/: test$//p')
  for ((shard = 0; shard < shards; shard++)); do
    local mine=()
    for ((n = shard; n < ${#names[@]}; n += shards)); do mine+=("${names[n]}"); done
    # With no names the program would run them all.
    [ "${#mine[@]}" -gt 0 ] || continue
    if [ "$shards" -eq 1 ]; then
      kvm_shard "$log.0" "${mine[@]}" &
    else
      kvm_shard "$log.$shard" "${mine[@]}" > >(sed -u "s/^/lab $shard: /") 2>&1 &
    fi
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=1; done
  passed=$((passed + $(cat "$log".? | grep -cE '^test .* \.\.\. ok$' || true)))
  failed=$((failed + $(cat "$log".? | grep -cE '^test .* \.\.\. FAILED$' || true)))
  return "$status"
}

# Runs tests, and again in a new lab those that a lab which crashed had not finished. What they print
# goes to `out`, too.
kvm_shard() {
  local out=$1 left=("${@:2}") end=$(($(date +%s) + kvm_seconds)) status name unfinished
  local variables=(RVM_TEST_BIN="$rvm" RVM_TEST_STORE="$store") run=("$program" --test-threads=2 --exact)
  if ! kvm_is_real; then
    # Their files belong on the disk that the store is on: a lab's root is in RAM.
    variables+=(RVM_TEST_TMP="$store/tmp")
    # The program runs from RAM: a machine's process reads pages of it again when it needs them, and one that
    # waits for a file of the host's holds its guest up. Guests stood still for eight minutes twice, which may
    # have been that.
    # shellcheck disable=SC2016
    run=(bash -c 'cp "$RVM_TEST_BIN" /tmp/rvm && export RVM_TEST_BIN=/tmp/rvm
      for name in "${@:2}"; do "$1" --test-threads=2 --exact "$name" || failed=1; done; exit ${failed:-0}'
      one-by-one "$program")
  fi
  : >"$out"
  while :; do
    status=0
    lab_options=(-t $((end - $(date +%s))))
    with_kvm timeout -k 10 $kvm_seconds env "${variables[@]}" "${run[@]}" "${left[@]}" 2>&1 |
      tee -a "$out" || status=$?
    [ "$status" -ne 124 ] || echo "STOPPED: not done after $kvm_seconds s"
    # 125: the lab itself failed, and has shown its console.
    if [ "$status" -ne 125 ] || [ "$lab_crashes" -eq 0 ]; then return "$status"; fi
    lab_crashes=$((lab_crashes - 1))
    unfinished=()
    for name in "${left[@]}"; do
      grep -qE "^test $name \.\.\. (ok|FAILED)$" "$out" || unfinished+=("$name")
    done
    left=("${unfinished[@]}")
    [ "${#left[@]}" -gt 0 ] || break
    echo "THE LAB HOST CRASHED (its console is above): a new one runs the ${#left[@]} tests that it had not finished"
  done
  ! grep -qE '^test .* \.\.\. FAILED$' "$out"
}

stages=("$@")
[ $# -gt 0 ] || stages=(lint unit fuzz store qemu lab kvm)
cargo build --release --locked
status=0
for name in "${stages[@]}"; do
  case $name in
    # The tests of real machines are told apart from each other: one that fails does not hide the rest.
    qemu | kvm) "$name" || status=1 ;;
    lint | unit | fuzz | store | lab) "$name" ;;
    *) echo "unknown stage $name (see the head of $0)" >&2 && exit 2 ;;
  esac
done
exit "$status"
