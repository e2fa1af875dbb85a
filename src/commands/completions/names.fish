
# Names of images, runs, projects and profiles, which ces is asked for; and the links ces-run and ces-pull.
complete -c ces -n "__fish_ces_using_subcommand run rehearse spec bundle rmi inspect stack request" -a "(ces completions --names images 2>/dev/null)"
complete -c ces -n "__fish_ces_using_subcommand policy; and __fish_seen_subcommand_from explain" -a "(ces completions --names images 2>/dev/null)"
complete -c ces -n "__fish_ces_using_subcommand show record outputs verify precheck report export rerun logs" -f -a "(ces completions --names runs 2>/dev/null)"
complete -c ces -n "__fish_ces_using_subcommand stop exec" -f -a "(ces completions --names running 2>/dev/null)"
complete -c ces -n "__fish_ces_using_subcommand run rehearse spec bundle policy" -l project -x -a "(ces completions --names projects 2>/dev/null)"
complete -c ces -n "__fish_ces_using_subcommand run rehearse spec bundle policy" -l profile -x -a "(ces completions --names profiles 2>/dev/null)"
complete -c ces-run -w 'ces run'
complete -c ces-pull -f -a "podman apptainer k8s"
