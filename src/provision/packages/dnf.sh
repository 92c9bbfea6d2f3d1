#!/bin/sh
# Installs the packages "$@" that are missing. Runs as root; names are checked on the host. Ends with
# 219 when a mirror cannot be reached.
export LC_ALL=C.UTF-8
missing=
for package; do
  case $package in
    # dnf and rpm write a version behind a `-`.
    *=*) package=${package%%=*}-${package#*=} ;;
  esac
  if ! rpm -q "$package" >/dev/null 2>&1; then
    missing="$missing $package"
  fi
done
if [ -z "$missing" ]; then
  echo "already installed: $*"
  exit 0
fi

log=$(mktemp) || exit
trap 'rm -f "$log"' EXIT

# dnf waits by itself for another one that holds the lock.
install() {
  # shellcheck disable=SC2086 # a list of words without special characters
  dnf -y --setopt=timeout=30 --setopt=retries=3 "$@" install $missing 2>"$log"
  code=$?
  cat "$log" >&2
  return "$code"
}
install && exit
if grep -Eq 'Curl error \((5|6|7|28|35)\)|[Cc]ould( not|n.t) (resolve|connect)|All mirrors were tried|Timeout was reached' "$log"; then
  exit 219
fi
echo 'once more, with fresh package lists'
install --refresh
exit
