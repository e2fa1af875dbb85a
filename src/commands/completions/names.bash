
# Names of images, runs, projects and profiles, which ces is asked for; and the links ces-run and ces-pull.

# The names of a kind that begin with the word at the cursor. bash breaks words at ":", and inserts what follows the last one.
_ces_offer() {
    local line="${COMP_LINE:0:COMP_POINT}" word strip="" name
    word="${line##*[[:space:]]}"
    if [[ "$word" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then strip="${word%:*}:"; fi
    for name in $(ces completions --names "$1" 2>/dev/null); do
        if [[ "$name" == "$word"* ]]; then COMPREPLY+=("${name#"$strip"}"); fi
    done
}

# Whether an image is named already: then the words are its program's.
_ces_has_image() {
    local line="${COMP_LINE:0:COMP_POINT}" word names
    names=" $(ces completions --names images 2>/dev/null | tr '\n' ' ') "
    for word in ${line%[[:space:]]*}; do
        if [[ "$names" == *" $word "* ]]; then return 0; fi
    done
    return 1
}

_ces_with_names() {
    local line="${COMP_LINE:0:COMP_POINT}" verb="" word kind=""
    _ces ces "$2" "$3"
    for word in ${line%[[:space:]]*}; do
        case "$word" in
            run|rehearse|spec|bundle|explain|rmi|inspect|stack|request) verb="$word"; kind=images; break ;;
            show|record|outputs|verify|precheck|report|export|rerun|logs|prove) kind=runs; break ;;
            stop|exec) kind=running; break ;;
        esac
    done
    if [[ "$2" == -* ]]; then return 0; fi
    case "$3" in
        --project) COMPREPLY=(); _ces_offer projects; return 0 ;;
        --profile) COMPREPLY=(); _ces_offer profiles; return 0 ;;
        -*) if [[ "${#COMPREPLY[@]}" -gt 0 && -n "$2" ]]; then return 0; fi ;;
    esac
    if [[ -z "$kind" ]]; then return 0; fi
    COMPREPLY=()
    if [[ "$kind" == images && "$verb" != rmi ]] && _ces_has_image; then return 0; fi
    _ces_offer "$kind"
}

_ces_link_run() {
    local called="${COMP_LINE%%[[:space:]]*}"
    COMP_WORDS=(ces run "${COMP_WORDS[@]:1}")
    COMP_CWORD=$((COMP_CWORD + 1))
    COMP_LINE="ces run${COMP_LINE#"$called"}"
    COMP_POINT=$((COMP_POINT + 7 - ${#called}))
    _ces_with_names ces "$2" "$3"
}

complete -F _ces_with_names -o bashdefault -o default ces
complete -F _ces_link_run -o bashdefault -o default ces-run
complete -W "podman apptainer k8s" ces-pull
