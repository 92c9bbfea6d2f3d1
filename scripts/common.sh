# shellcheck shell=bash
# What the scripts of this project share. To be sourced, from the project's folder.

cache=${XDG_CACHE_HOME:-$HOME/.cache}
# Boxes and kernels, built once and kept: of the tests and of the demo.
store=${RVM_TEST_STORE:-$cache/rvm-test/store}
target=${CARGO_TARGET_DIR:-target}
rvm=$(realpath -m "$target/release/rvm")

# Whether this machine's own KVM can run stock guests; rvm runs a small guest to find out.
kvm_is_real() {
  RVM_HOME=$store "$rvm" doctor --json 2>/dev/null | tr -d ' \n' | grep -q '"kvm":true'
}

# Runs a command where KVM is real: here, or in the lab with the store on a disk of its own.
with_kvm() {
  if kvm_is_real; then "$@"; else lab/lab.sh -m 6144 --image "$store" "${lab_options[@]}" -- "$@"; fi
}
lab_options=()
