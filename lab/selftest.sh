#!/usr/bin/env bash
# Tests of lab.sh: what comes back from a command in the lab is what the command did.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
passed=0 failed=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

check() {
  local name=$1 wanted=$2 got=$3
  if [ "$wanted" = "$got" ]; then
    passed=$((passed + 1))
    echo "test lab::$name ... ok"
  else
    failed=$((failed + 1))
    printf 'test lab::%s ... FAILED\n  wanted: %s\n  got:    %s\n' "$name" "$wanted" "$got"
  fi
}

mkdir "$folder/image" "$folder/rw"
echo packed >"$folder/image/file"
# shellcheck disable=SC2016
lab/lab.sh -t 120 --image "$folder/image" --rw "$folder/rw" --logs "$folder" -- bash -c '
  [ -c /dev/kvm ] && [ -w /dev/kvm ] && echo kvm
  seq 100000 | sha256sum
  echo error >&2
  cat "$1/image/file"
  df --output=avail -m "$1/image" | tail -n 1 | awk "{ print (\$1 > 7000) }"
  echo written >"$1/image/new" && echo written >"$1/rw/new" && echo written >"$1/new" && exit 7
' bash "$folder" >"$folder/out" 2>"$folder/err"
check exit_status 7 $?
check output_and_image "kvm $(seq 100000 | sha256sum) packed 1" "$(paste -sd' ' "$folder/out")"
check standard_error error "$(cat "$folder/err")"
check shared_folder written "$(cat "$folder/rw/new" 2>&1)"
check the_rest_is_dropped "image rw" "$(cd "$folder" && ls -d image rw new image/new 2>/dev/null | paste -sd' ')"

lab/lab.sh -t 6 --logs "$folder" -- sleep 1000 >/dev/null 2>"$folder/err"
check timeout_status 124 $?
check timeout_is_said 1 "$(grep -c 'the time was up after 6 s' "$folder/err")"
check usage_status 125 "$(lab/lab.sh --nonsense -- true >/dev/null 2>&1; echo $?)"

echo
echo "test result: $([ "$failed" -eq 0 ] && echo ok || echo FAILED). $passed passed; $failed failed"
[ "$failed" -eq 0 ]
