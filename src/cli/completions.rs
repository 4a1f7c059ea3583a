//! The completions for shells: what clap makes from the arguments, and what depends on
//! the machine: ids, mountpoints, and the values of `-o`.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::option_list;

/// Replaces the function that clap makes, and calls it.
const BASH: &str = r#"
# The lines of a command's output that begin with the first argument.
_sessionfs_lines() {
    local cur=$1 line
    shift
    COMPREPLY=()
    while IFS= read -r line; do
        [[ $line != "$cur"* ]] || COMPREPLY+=("$(printf %q "$line")")
    done < <("$@" 2> /dev/null)
    # Otherwise a path.
    [[ ${#COMPREPLY[@]} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$cur"))
}

_sessionfs() {
    local cur=$2 prev=$3 command=${COMP_WORDS[1]} at dashes=0
    local -a repository=()
    _sessionfs_arguments "$@"
    [[ $COMP_CWORD -gt 1 ]] || return 0
    for ((at = 2; at < COMP_CWORD; at++)); do
        case ${COMP_WORDS[at]} in
            -r | --repository) repository=(-r "${COMP_WORDS[at + 1]}") ;;
            --) dashes=$at; break ;;
        esac
    done
    if [[ $command == save && $dashes -gt 0 ]]; then
        COMPREPLY=($(compgen -f -- "$cur"))
        [[ $dashes -ne COMP_CWORD-1 ]] || COMPREPLY=($(compgen -c -- "$cur"))
        return 0
    fi
    case $command,$prev in
        mount,-o | mount,--options)
            local list=
            [[ $cur != *,* ]] || list=${cur%,*},
            COMPREPLY=($(compgen -P "$list" -W "@OPTIONS@" -- "${cur##*,}"))
            compopt -o nospace 2> /dev/null
            return 0
            ;;
        *,-r | *,--repository | save,-i | save,--input | load,-o | load,--output) return 0 ;;
    esac
    [[ $cur != -* ]] || return 0
    case $command in
        load | save | remove | break-lock)
            _sessionfs_lines "$cur" sessionfs list "${repository[@]}"
            ;;
        umount | status) _sessionfs_lines "$cur" findmnt -nlo TARGET -t fuse.sessionfs ;;
    esac
}
"#;

const ZSH: &str = r#"
_sessionfs_ids() {
    local -a ids repository
    local -i at=${words[(I)(-r|--repository)]}
    (( at == 0 )) || repository=(-r ${(Q)words[at+1]})
    ids=(${(f)"$(sessionfs list $repository 2> /dev/null)"})
    compadd -a ids || _files
}
_sessionfs_mountpoints() {
    local -a mountpoints
    mountpoints=(${(f)"$(findmnt -nlo TARGET -t fuse.sessionfs 2> /dev/null)"})
    compadd -a mountpoints || _files -/
}
_sessionfs_options() {
    local -a options=(@OPTIONS@)
    compset -P '*,'
    compadd -S '' -a options
}
"#;

const FISH: &str = r#"
function __fish_sessionfs_ids
    set -l words (commandline -opc)
    set -l at (contains -i -- -r $words; or contains -i -- --repository $words)
    if set -q at[1]
        sessionfs list -r $words[(math $at[1] + 1)] 2>/dev/null
    else
        sessionfs list 2>/dev/null
    end
end
function __fish_sessionfs_options
    string split ' ' -- '@OPTIONS@'
end
for command in load save remove break-lock
    complete -c sessionfs -n "__fish_sessionfs_using_subcommand $command" -a '(__fish_sessionfs_ids)'
end
for command in umount status
    complete -c sessionfs -n "__fish_sessionfs_using_subcommand $command" -f -a '(findmnt -nlo TARGET -t fuse.sessionfs 2>/dev/null)'
end
complete -c sessionfs -n "__fish_sessionfs_using_subcommand mount" -s o -l options -x -a '(__fish_complete_list , __fish_sessionfs_options)'
"#;

/// Writes all of them into a directory.
pub(super) fn write(offered: &mut Command, directory: &Path) -> io::Result<()> {
    let options = offered
        .find_subcommand("mount")
        .map_or_else(Vec::new, names);
    let options = options.join(" ");
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let path = clap_complete::generate_to(shell, offered, "sessionfs", directory)?;
        let made = fs::read_to_string(&path)?;
        let text = match shell {
            Shell::Bash => bash(&made),
            Shell::Zsh => zsh(&made),
            _ => made + FISH,
        };
        fs::write(&path, text.replace("@OPTIONS@", &options))?;
    }
    Ok(())
}

/// The mount options as they stand in a list, with "=" where a value follows.
fn names(mount: &Command) -> Vec<String> {
    option_list::options_of(mount)
        .filter_map(|option| {
            let name = option.get_long()?.replace('-', "_");
            let takes_value = option.get_action().takes_values();
            Some(name + if takes_value { "=" } else { "" })
        })
        .collect()
}

fn bash(made: &str) -> String {
    let renamed = made.replacen("_sessionfs() {", "_sessionfs_arguments() {", 1);
    // The function is registered at the end.
    let end = renamed.rfind("\nif [[").unwrap_or(renamed.len());
    format!("{}{BASH}{}", &renamed[..end], &renamed[end..])
}

fn zsh(made: &str) -> String {
    const FIRST: &str = "autoload -U is-at-least\n";
    made.replacen(FIRST, &format!("{FIRST}{ZSH}"), 1)
        // With two colons, the words would not include the options before.
        .replace("'*::sessions", "'*:sessions")
        .replace("'*::command", "'*:command")
        .replace(":LIST:_default", ":LIST:_sessionfs_options")
        .replace(
            "An id, a name or a path:_default",
            "An id, a name or a path:_sessionfs_ids",
        )
        .replace(
            "Ids, names or paths:_default",
            "Ids, names or paths:_sessionfs_ids",
        )
        .replace(
            "Where it is mounted:_files",
            "Where it is mounted:_sessionfs_mountpoints",
        )
        .replace(
            "Only the mount here \\[default\\: all\\]:_files",
            "Only the mount here \\[default\\: all\\]:_sessionfs_mountpoints",
        )
}
