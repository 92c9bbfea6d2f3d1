#!/bin/sh
# Installs the packages "$@" that are missing. Runs as root; names are checked on the host. Ends with
# 219 when a mirror cannot be reached.
export LC_ALL=C.UTF-8
missing=
for package; do
  # A name, or `name=version`, which is a constraint here as it is for `add`.
  if ! apk info -q -e "$package" >/dev/null 2>&1; then
    missing="$missing $package"
  fi
done
if [ -z "$missing" ]; then
  echo "already installed: $*"
  exit 0
fi

log=$(mktemp) || exit
trap 'rm -f "$log"' EXIT

# `--wait`: another apk may hold the lock. Standard input is empty, so nothing is asked.
# shellcheck disable=SC2086 # a list of words without special characters
if apk --wait 120 --no-progress add $missing; then
  exit 0
fi
echo 'once more, with fresh package lists'
apk --wait 120 --no-progress update >"$log" 2>&1
code=$?
cat "$log"
if [ "$code" -ne 0 ] && grep -Eiq 'temporary error|network error|network connection|DNS|could not connect|timed out|connection refused' "$log"; then
  exit 219
fi
# shellcheck disable=SC2086
apk --wait 120 --no-progress add $missing
