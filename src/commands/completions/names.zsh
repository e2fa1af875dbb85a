# Names of images, runs, projects and profiles, which ces is asked for; and the links ces-run and ces-pull.
_ces_offer() {
    local -a names
    names=(${(f)"$(ces completions --names $1 2>/dev/null)"})
    compadd -a names
}
# Of several words the first one is the name, and the others are the program's.
_ces_first() { if (( CURRENT == 1 )); then _ces_offer $1; else _default; fi }
_ces_images() { _ces_first images }
_ces_running() { _ces_first running }
_ces_runs() { _ces_offer runs }
_ces_projects() { _ces_offer projects }
_ces_profiles() { _ces_offer profiles }
_ces() {
    case $service in
        (ces-run) words=(ces run "${(@)words[2,-1]}"); (( CURRENT += 1 )) ;;
        (ces-pull) compadd podman apptainer k8s; return ;;
    esac
    _ces_verbs "$@"
}
