#!/usr/bin/env bash
# Builds and runs the fuzz targets of fuzz/.
#
#   fuzz.sh [-s SECONDS] [TARGET...]   fuzzes each target for that long (default 10; all targets),
#                                      as many at a time as there are processors
#   fuzz.sh TARGET FILE                runs one input, such as one that was found to crash
#   fuzz.sh --keep TARGET...           takes some of what was found over into fuzz/corpus/TARGET
#
# One build and one program serve all targets. What is found grows a corpus in the build folder; it
# starts from fuzz/corpus, which is committed. An input that fails is kept in fuzz/artifacts and
# shown with the command that runs it again. Exit status 1 when a target failed.
#
# Stable Rust does for all but the address sanitizer, which RUSTC_BOOTSTRAP=1 lets in; cargo-fuzz is
# not needed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

triple=x86_64-unknown-linux-gnu
build=${CARGO_TARGET_DIR:-fuzz/target}
program=$build/$triple/release/rvm-fuzz
found=$build/corpus
artifacts=fuzz/artifacts
# Inputs that are committed for each target, beside those of fuzz/seeds.sh, and their bytes at most.
keep_inputs=50 keep_bytes=15000

mapfile -t targets < <(sed -n 's/^    ("\([a-z0-9]*\)", .*/\1/p' fuzz/src/targets/mod.rs)

seconds=10 keep='' names=()
while [ $# -gt 0 ]; do
  case $1 in
    -s) seconds=$2 && shift 2 ;;
    --keep) keep=1 && shift ;;
    -*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    *) names+=("$1") && shift ;;
  esac
done

known() {
  local name
  for name in "${targets[@]}"; do [ "$name" != "$1" ] || return 0; done
  return 1
}

compile() {
  local flags=(
    --cfg fuzzing
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Zsanitizer=address
  )
  # With --target the flags are for the program alone, not for what runs while it is built.
  RUSTC_BOOTSTRAP=1 RUSTFLAGS="${flags[*]}" cargo build --quiet --release --locked \
    --manifest-path fuzz/Cargo.toml --target-dir "$build" --target "$triple"
}

# Runs the program for one target. Leaks are not looked for: guest memory is never unmapped.
fuzz() {
  local target=$1
  shift
  RVM_FUZZ_TARGET=$target ASAN_OPTIONS=detect_leaks=0 "$program" -timeout=60 -rss_limit_mb=3072 "$@"
}

# Bytes of an input at most: files are larger than a driver's doings.
longest() {
  case $1 in
    elf | bzimage | qcow2 | config | control | import) echo 8192 ;;
    *) echo 2048 ;;
  esac
}

# Folders with the committed inputs of a target, a line each: the samples of the tests of `import` serve
# both.
committed() {
  case $1 in
    import) echo tests/import ;;
  esac
  if [ -d "fuzz/corpus/$1" ]; then echo "fuzz/corpus/$1"; fi
}

# One target for the time given; prints one line as `cargo test` does.
run() {
  local target=$1 log status=0 runs inputs
  log=$build/fuzz-$target.log
  mapfile -t inputs < <(committed "$target")
  mkdir -p "$found/$target" "$artifacts"
  fuzz "$target" -max_total_time="$seconds" -max_len="$(longest "$target")" -print_final_stats=1 \
    -artifact_prefix="$artifacts/$target-" "$found/$target" "${inputs[@]}" >"$log" 2>&1 || status=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  if [ "$status" -eq 0 ] && [ "${runs:-0}" -gt 0 ]; then
    echo "test fuzz::$target ... ok ($runs runs)"
    return 0
  fi
  echo "test fuzz::$target ... FAILED"
  tail -n 60 "$log"
  sed -n "s|.*Test unit written to \(.*\)$|again: scripts/fuzz.sh $target \1|p" "$log"
  return 1
}

# Of a small set that reaches all that was reached: some of each size.
keep() {
  local target=$1 file size total=0 every inputs
  rm -rf "$build/merged" && mkdir -p "$build/merged" "fuzz/corpus/$target" "$found/$target"
  mapfile -t inputs < <(committed "$target")
  fuzz "$target" -merge=1 -max_len="$(longest "$target")" "$build/merged" "${inputs[@]}" "$found/$target" \
    >"$build/fuzz-$target.log" 2>&1
  # Names of 40 digits are the fuzzer's.
  find "fuzz/corpus/$target" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
  every=$(($(find "$build/merged" -type f | wc -l) / keep_inputs + 1))
  while read -r size file; do
    total=$((total + size))
    [ "$total" -le "$keep_bytes" ] || break
    cp "$file" "fuzz/corpus/$target/"
  done < <(find "$build/merged" -type f -printf '%s %p\n' | sort -n | awk -v every="$every" 'NR % every == 0')
  echo "$target: $(find "fuzz/corpus/$target" -type f | wc -l) inputs"
}

compile
if [ "${#names[@]}" -eq 2 ] && [ -f "${names[1]}" ]; then
  fuzz "${names[0]}" "${names[1]}"
  exit
fi
[ "${#names[@]}" -gt 0 ] || names=("${targets[@]}")
for name in "${names[@]}"; do
  known "$name" || { echo "fuzz: no target $name; there are: ${targets[*]}" >&2 && exit 2; }
done
if [ -n "$keep" ]; then
  for name in "${names[@]}"; do keep "$name"; done
  exit
fi

failed=0 running=0 jobs=$(nproc)
for name in "${names[@]}"; do
  if [ "$running" -ge "$jobs" ]; then
    wait -n || failed=$((failed + 1))
    running=$((running - 1))
  fi
  run "$name" &
  running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
  wait -n || failed=$((failed + 1))
  running=$((running - 1))
done
passed=$((${#names[@]} - failed))
echo "test result: $([ "$failed" -eq 0 ] && echo ok || echo FAILED). $passed passed; $failed failed; $seconds s each"
[ "$failed" -eq 0 ]
