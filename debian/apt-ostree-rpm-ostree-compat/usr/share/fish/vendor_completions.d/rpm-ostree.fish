# Completion of rpm-ostree for fish: the program says what can stand there.
function __rpm_ostree
    set -l before (commandline -opc)
    set -e before[1]
    set -l reply (rpm-ostree internals complete -- $before (commandline -ct) 2> /dev/null)
    if test "$reply[1]" = ":files"
        __fish_complete_path (commandline -ct)
    else if set -q reply[1]
        printf '%s\n' $reply
    end
end
complete -c rpm-ostree -f -a '(__rpm_ostree)'
