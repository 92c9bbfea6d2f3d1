# What a step with `docker` does in the guest, as root. Its calls of these functions follow, made on the host. POSIX
# sh. Standard input is empty, so nothing is asked.
set -u
export LC_ALL=C.UTF-8
fail() { echo "rvm: $*" >&2; exit 1; }
# The environment of a container must not change where the client looks for its own things.
export DOCKER_CONFIG="${DOCKER_CONFIG:-${HOME:-/root}/.docker}"
docker=$(command -v docker) || fail 'the guest has no docker'
# A container's labels lie here for a moment, where no process list shows them.
umask 077
labels=$(mktemp) || exit
trap 'rm -f "$labels"' EXIT

# The engine runs, now and after each boot.
engine() {
  "$docker" info >/dev/null 2>&1 && return
  if command -v systemctl >/dev/null 2>&1; then
    systemctl enable --now docker
  elif command -v rc-service >/dev/null 2>&1; then
    rc-update -q add docker default && rc-service docker start
  fi
  waited=0
  until "$docker" info >/dev/null 2>&1; do
    # On a small guest a first start takes a while.
    [ "$waited" -lt 120 ] || { "$docker" info >/dev/null; fail 'the docker engine does not start'; }
    sleep 1
    waited=$((waited + 1))
  done
}

# Those of an image or container; empty where it is not there.
ask() { "$docker" "$@" 2>/dev/null || true; }
image_id() { ask image inspect -f '{{.Id}}' "$1"; }

# image NAME: there is an image of that name.
image() {
  [ -n "$(image_id "$1")" ] || "$docker" pull -q "$1" || fail "there is no image $1"
}

# network NAME
network() {
  "$docker" network inspect "$1" >/dev/null 2>&1 || "$docker" network create "$1" >/dev/null ||
    fail "no network $1"
}

# container STEP DIGEST NAME IMAGE OPTION… -- WORD…: it runs, and is as it should be. The digest is that of all of it.
container() {
  step=$1 digest=$2 name=$3 image=$4
  shift 4
  image "$image"
  now=$(ask container inspect -f '{{index .Config.Labels "rvm.digest"}} {{.Image}}' "$name")
  if [ "$now" = "$digest $(image_id "$image")" ]; then
    case $(ask container inspect -f '{{.State.Running}}' "$name") in
      true) echo "container $name: as it should be"; return ;;
    esac
    "$docker" start "$name" >/dev/null || fail "container $name does not start"
    echo "container $name: started"
  else
    if [ -n "$now" ]; then
      case $(ask container inspect -f '{{index .Config.Labels "rvm.step"}}' "$name") in
        '' | '<no value>') fail "there is a container $name that no step made: remove or rename it" ;;
      esac
      "$docker" rm -f "$name" >/dev/null || exit
    fi
    printf 'rvm.step=%s\nrvm.digest=%s\n' "$step" "$digest" >"$labels" || exit
    # Options come first and end with `--`, then the image, then its words.
    options=$#
    for word; do
      shift
      if [ "$word" = -- ] && [ "$options" -gt 0 ]; then
        set -- "$@" "$image"
        options=0
      else
        set -- "$@" "$word"
      fi
    done
    "$docker" run -d --label-file "$labels" --name "$name" "$@" >/dev/null || {
      # One that was made and did not start would be in the way.
      "$docker" rm -f "$name" >/dev/null 2>&1
      fail "container $name does not run"
    }
    if [ -n "$now" ]; then echo "container $name: made anew"; else echo "container $name: made"; fi
  fi
  case $(ask container inspect -f '{{.State.Status}}' "$name") in
    running | restarting) ;;
    *)
      "$docker" logs --tail 20 "$name" >&2
      fail "container $name has ended at once; above is what it said last" ;;
  esac
}

# keep_only STEP NAME…: of the containers that the step made, others are removed.
keep_only() {
  step=$1
  shift
  for there in $("$docker" ps -a --filter "label=rvm.step=$step" --format '{{.Names}}'); do
    keep=
    for name; do
      if [ "$name" = "$there" ]; then keep=1; fi
    done
    [ -n "$keep" ] || { "$docker" rm -f "$there" >/dev/null && echo "container $there: removed"; }
  done
}
