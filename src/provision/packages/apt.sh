#!/bin/sh
# Installs the packages "$@" that are missing. Runs as root; names are checked on the host. Ends with
# 219 when a mirror cannot be reached. RVM_PINS has lines of a name and the version that it is locked in;
# where the mirror would give another one of these, it says so and ends with 218. RVM_LOCKED, where it is set: what
# has no such line and is not among its words is not installed either; it says so and ends with 217.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
missing=
for package; do
  case $package in
    *=*) want=${package#*=} ;;
    *) want= ;;
  esac
  have=$(dpkg-query -W -f '${db:Status-Abbrev}${Version}\n' "${package%%=*}" 2>/dev/null | sed -n 's/^.i *//p')
  if [ -z "$have" ] || { [ -n "$want" ] && [ "$have" != "$want" ]; }; then
    missing="$missing $package"
  fi
done
if [ -z "$missing" ]; then
  echo "already installed: $*"
  exit 0
fi

# A mirror that does not answer is given up within minutes, not a quarter of an hour.
net='-o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 -o Acquire::Retries=1'
unreachable='Could not resolve|Temporary failure resolving|Could not connect|Cannot initiate the connection'
unreachable="$unreachable|Connection timed out|Connection failed|Unable to connect|Connection refused|Network is unreachable"

pinned= work=
if [ -n "${RVM_PINS:-}${RVM_LOCKED:-}" ]; then
  work=$(mktemp -d) || exit
  trap 'rm -rf "$work"' EXIT
  echo "${RVM_PINS:-}" >"$work/locked"
  pinned="-o Dir::Etc::Preferences=$work/pins"
  {
    cat /etc/apt/preferences 2>/dev/null
    while read -r name version; do
      [ -z "$name" ] || printf '\nPackage: %s\nPin: version %s\nPin-Priority: 1001\n' "$name" "$version"
    done <"$work/locked"
  } >"$work/pins"
fi

locked_as() {
  while read -r name version; do
    [ "$name" != "$1" ] || echo "$version"
  done <"$work/locked"
}

# Whether something would come in another version than it is locked in, or that is not locked where all has to be;
# what, is in two files.
differs() {
  [ -n "$work" ] || return 1
  # shellcheck disable=SC2086 # a list of options, a list of words
  apt-get -q -s $pinned install $missing 2>/dev/null |
    sed -n 's/^Inst \([^ ]*\) \(\[[^]]*\] \)\{0,1\}(\([^ )]*\).*/\1 \3/p' >"$work/plan"
  : >"$work/differs"
  : >"$work/more"
  while read -r name version; do
    want=$(locked_as "$name")
    if [ -n "$want" ]; then
      [ "$want" = "$version" ] ||
        echo "$name is locked as $want, and the mirror has $version" >>"$work/differs"
    elif [ -n "${RVM_LOCKED:-}" ]; then
      case $RVM_LOCKED in
        *" $name "*) ;;
        *) echo "$name $version is not locked" >>"$work/more" ;;
      esac
    fi
  done <"$work/plan"
  [ -s "$work/differs" ] || [ -s "$work/more" ]
}

# apt-get waits for the lock of dpkg by itself, but not for that of the package lists, which
# a first boot's own timers may hold.
update() {
  waited=0
  log=$(mktemp) || return
  while :; do
    # shellcheck disable=SC2086 # a list of options
    apt-get -q $net -o APT::Update::Error-Mode=any update 2>"$log"
    code=$?
    cat "$log" >&2
    if [ "$code" -ne 0 ] && grep -Eq "$unreachable" "$log"; then
      code=219
    fi
    if [ "$code" -eq 0 ] || [ "$waited" -ge 120 ] || ! grep -q 'Could not get lock' "$log"; then
      rm -f "$log"
      return "$code"
    fi
    sleep 2
    waited=$((waited + 2))
  done
}

install() {
  # A package that was cut off half-way is finished first; apt-get refuses to work before.
  if [ -n "$(ls /var/lib/dpkg/updates 2>/dev/null)" ]; then
    dpkg --configure -a
  fi
  # shellcheck disable=SC2086 # a list of words without special characters
  apt-get -q -y $net $pinned -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install $missing
}

updated=
lists=/var/lib/apt/lists
if [ -z "$(find $lists -maxdepth 1 -name '*_Packages*' 2>/dev/null)" ] ||
  [ -z "$(find $lists $lists/partial -maxdepth 0 -mtime -1 2>/dev/null)" ]; then
  update || exit
  updated=1
fi
if differs && { [ -n "$updated" ] || { update || exit; updated=1; differs; }; }; then
  cat "$work/differs" "$work/more" >&2
  [ -s "$work/differs" ] || exit 217
  exit 218
fi
install
code=$?
if [ "$code" -ne 0 ] && [ -z "$updated" ]; then
  echo 'once more, with fresh package lists'
  update && install
  code=$?
fi
exit "$code"
