_rvm_names() {
    _rvm "$@"
    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"
    [[ "$current" == -* ]] && return
    # The generated part offers all options where no word has begun, and the words of the usage text, such
    # as [NAME]..., as if they could be typed.
    local reply word
    reply=()
    for word in "${COMPREPLY[@]}"; do
        case "$word" in
            -* | \[* | \<* | *...) ;;
            *) reply+=("$word") ;;
        esac
    done
    COMPREPLY=("${reply[@]}")
    local path="" at kind="" valued=" " behind=""
    for ((at = 1; at < COMP_CWORD; at++)); do
        word="${COMP_WORDS[at]}"
        [[ "$word" == -- ]] && return
        [[ "$word" == -* || -n "$behind" || " --color --var " == *" ${COMP_WORDS[at-1]} "* ]] && continue
        _rvm_command "${path:+$path }$word" || behind="$kind"
        path="${path:+$path }$word"
    done
    [[ -z "$kind" || "$valued" == *" $previous "* ]] && return
    COMPREPLY=()
    while IFS= read -r word; do
        [[ "$word" == "$current"* ]] && COMPREPLY+=("$word")
    done < <(rvm __complete "$kind" 2>/dev/null)
}

# Sets kind and valued of the caller to those of a command: what its words are, which options take one.
_rvm_command() {
    case "$1" in
        # COMMANDS
        *) return 1 ;;
    esac
}

complete -F _rvm_names -o bashdefault -o default rvm
