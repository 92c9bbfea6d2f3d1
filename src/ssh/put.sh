# Puts standard input into the guest: a file, or a folder as a tar archive. POSIX sh (dash, bash, busybox ash).
#
# $1 the login user's home, where `~/` and relative paths start; $2 the path; $3 `file` or `folder`; $4 the name that
# it gets where the path is a folder that is there; $5 the size of the file in bytes, or -; $6 its mode, or that of a
# folder that is made, or -; $7 `parents`: folders above it are made, and what is in a folder goes into the path itself;
# $8 owner and group as numbers, or -. Only root may give something away.
LC_ALL=C; export LC_ALL
path=$2 kind=$3 name=$4 size=$5 mode=$6 parents=$7 owner=$8
# shellcheck disable=SC2088 # a tilde that was typed
case $path in
  '~' | '') path=$1 ;;
  '~/'*) path=$1/${path#'~/'} ;;
  /*) ;;
  *) path=$1/$path ;;
esac
fail() { echo "rvm: $*" >&2; exit 1; }
denied() { echo "rvm: cannot write to $1" >&2; exit 220; }
give() { [ "$owner" = - ] || chown "$owner" "$1" || fail "cannot give $1 away"; }
make() {
  [ -d "$1" ] && return
  mkdir -p -- "$1" || denied "$1"
  give "$1"
}

case $path in
  */)
    if [ "$parents" = parents ]; then make "$path"; fi
    [ -d "$path" ] || fail "there is no folder $path" ;;
esac
if [ -d "$path" ] && { [ "$kind" = file ] || [ "$parents" != parents ]; }; then
  [ -n "$name" ] || fail "$path is a folder: name the file in it"
  path=${path%/}/$name
fi

if [ "$kind" = folder ]; then
  command -v tar >/dev/null || fail 'the guest has no tar'
  if [ ! -d "$path" ]; then
    make "$path"
    [ "$mode" = - ] || chmod "$mode" "$path" || denied "$path"
  fi
  { [ -w "$path" ] && cd -- "$path"; } || denied "$path"
  # The archive of one who keeps what they write says nothing of owners.
  if [ "$owner" = - ]; then tar -xpof - || exit 1; else tar -xpf - || exit 1; fi
  exit 223
fi

[ ! -d "$path" ] || denied "$path, which is a folder"
if [ -e "$path" ] && [ ! -f "$path" ]; then
  # A device or a pipe.
  cat >"$path" || denied "$path"
  exit 223
fi
dir=$(dirname -- "$path")
if [ "$parents" = parents ]; then make "$dir"; fi
# It takes its place in one move, so that it is never half there.
tmp=$(mktemp "$dir/.rvm-put.XXXXXX") || denied "$dir"
trap 'rm -f -- "$tmp"' EXIT
trap 'exit 129' HUP INT PIPE TERM
cat >"$tmp" || exit 1
[ "$size" = - ] || [ "$(wc -c <"$tmp")" -eq "$size" ] || fail 'the file did not arrive whole'
give "$tmp"
chmod "$mode" "$tmp" && mv -f -- "$tmp" "$path" || exit 1
trap - EXIT
# Never 0, which a connection that went away looks like.
exit 223
