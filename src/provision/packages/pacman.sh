#!/bin/sh
# Installs the packages "$@" that are missing. Runs as root; names are checked on the host. Ends with
# 219 when a mirror cannot be reached.
export LC_ALL=C.UTF-8
# Those that no installed package satisfies; `name=version` is a constraint.
missing=$(pacman -T "$@" | tr '\n' ' ')
if [ -z "$missing" ]; then
  echo "already installed: $*"
  exit 0
fi

log=$(mktemp) || exit
trap 'rm -f "$log"' EXIT

# pacman does not wait for another one.
lock=/var/lib/pacman/db.lck
waited=0
while [ -e "$lock" ] && [ "$waited" -lt 120 ]; do
  [ "$waited" -gt 0 ] || echo "waiting for another pacman to end ($lock)"
  sleep 2
  waited=$((waited + 2))
done

run() {
  pacman --noconfirm --noprogressbar "$@" 2>"$log"
  code=$?
  cat "$log" >&2
  return "$code"
}
update() {
  run -Sy && return
  if grep -Eiq 'could not resolve|could not connect|failed to connect|timed out|connection refused|operation too slow' "$log"; then
    exit 219
  fi
  return 1
}
install() {
  # shellcheck disable=SC2086 # a list of words without special characters
  run -S --needed $missing
}
if [ -z "$(find /var/lib/pacman/sync -name '*.db' 2>/dev/null)" ]; then
  update && install
  exit
fi
install && exit
echo 'once more, with fresh package lists'
update && install
exit
