# Runs one script in the guest. POSIX sh (dash, bash, busybox ash).
#
# Standard input carries, in this order: the count of variables, the count of all words, the
# words (variables as NAME=value, then arguments), how to run the script, the interpreter, its
# argument, the script's size in bytes, the script. Each but the script is a line with a count
# of lines, and that many lines. Then standard input stays open until the host is done or gone.
#
# `read` takes no byte too many from a pipe; `head` may, so the script comes last.
_rvm_die() { printf 'rvm: %s\n' "$1" >&2; exit 222; }
_rvm_nl='
'
_rvm_get() {
  IFS= read -r _rvm_n || _rvm_die 'the connection ended while the step was being sent'
  _rvm_v=
  while [ "$_rvm_n" -gt 0 ]; do
    IFS= read -r _rvm_l || _rvm_die 'the connection ended while the step was being sent'
    _rvm_v=$_rvm_v$_rvm_l
    _rvm_n=$((_rvm_n - 1))
    [ "$_rvm_n" -eq 0 ] || _rvm_v=$_rvm_v$_rvm_nl
  done
}
_rvm_get; _rvm_env=$_rvm_v
_rvm_get; _rvm_all=$_rvm_v
set --
while [ "$_rvm_all" -gt 0 ]; do
  _rvm_get
  set -- "$@" "$_rvm_v"
  _rvm_all=$((_rvm_all - 1))
done
_rvm_get; _rvm_how=$_rvm_v
_rvm_get; _rvm_interp=$_rvm_v
_rvm_get; _rvm_arg=$_rvm_v
_rvm_get; _rvm_size=$_rvm_v

# The script may hold secrets: in memory where possible, and gone with this shell.
_rvm_umask=$(umask)
umask 077
for _rvm_d in /dev/shm "${TMPDIR:-/tmp}"; do
  _rvm_t=$(mktemp -d "$_rvm_d/rvm.XXXXXX" 2>/dev/null) && break
  _rvm_t=
done
[ -n "$_rvm_t" ] || _rvm_die 'no temporary folder can be made in /dev/shm or /tmp'
trap 'rm -rf "$_rvm_t"' EXIT
trap 'exit 129' HUP INT PIPE TERM
head -c "$_rvm_size" >"$_rvm_t/script" || _rvm_die 'the script cannot be stored'
[ "$(wc -c <"$_rvm_t/script")" -eq "$_rvm_size" ] ||
  _rvm_die 'the connection ended while the step was being sent'
if [ "$_rvm_how" = shell ]; then
  _rvm_interp=$(command -v bash || command -v sh)
fi
_rvm_setsid=$(command -v setsid)

# When the host goes away, or the step's time is up, the step must not go on in the background, where
# the next one would meet it: end of file on standard input ends its process group.
exec 3<&0 </dev/null
(
  trap - EXIT HUP INT PIPE TERM
  while IFS= read -r _rvm_l <&3; do :; done
  : >"$_rvm_t/ending"
  for _rvm_i in 1 2 3 4 5; do
    [ ! -s "$_rvm_t/pid" ] || break
    sleep 1
  done
  IFS= read -r _rvm_p <"$_rvm_t/pid" || exit
  _rvm_g=-$_rvm_p
  kill -TERM "$_rvm_g" || { _rvm_g=$_rvm_p; kill -TERM "$_rvm_g"; }
  for _rvm_i in 1 2 3; do
    sleep 1
    kill -0 "$_rvm_g" || exit
  done
  kill -KILL "$_rvm_g"
) >/dev/null 2>&1 &
_rvm_w=$!

(
  trap - EXIT HUP INT PIPE TERM
  exec 3<&-
  umask "$_rvm_umask"
  _rvm_v=$_rvm_t/script
  while [ "$_rvm_env" -gt 0 ]; do
    export "$1"
    shift
    _rvm_env=$((_rvm_env - 1))
  done
  case $_rvm_how in
    direct) chmod 700 "$_rvm_v"; set -- "$_rvm_v" "$@" ;;
    *) if [ -n "$_rvm_arg" ]; then
        set -- "$_rvm_interp" "$_rvm_arg" "$_rvm_v" "$@"
      else
        set -- "$_rvm_interp" "$_rvm_v" "$@"
      fi ;;
  esac
  set -- /bin/sh -c 'echo $$ >"$0/pid" && exec "$@"' "$_rvm_t" "$@"
  if [ -n "$_rvm_setsid" ]; then
    set -- "$_rvm_setsid" "$@"
  fi
  exec "$@"
)
_rvm_c=$?
# What is left of a group that is being ended is the watcher's to end. Else the watcher goes. Not by
# TERM: on a busy guest it may not have run yet, still has the trap of this shell, and would forget
# the signal when it puts its own in place.
{
  [ -e "$_rvm_t/ending" ] || kill -KILL "$_rvm_w"
  wait "$_rvm_w"
} 2>/dev/null
# Success has a code of its own: to the host, 0 is also what a broken channel looks like.
case $_rvm_c in
  0) exit 223 ;;
  222 | 223) exit 221 ;;
esac
exit "$_rvm_c"
