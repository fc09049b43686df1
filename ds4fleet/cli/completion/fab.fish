function __ds4_fab_words
    set -l state @STATE@
    set -q DS4_FLEET_STATE; and set state $DS4_FLEET_STATE
    set -l file $state/completion/(string replace -a / % -- $PWD)
    test -e $file; or fab completion refresh >/dev/null 2>&1; or return
    for source in (string match -r '^stale\t(.*)' -g < $file)
        if test $source -nt $file
            touch $file
            fab completion refresh >/dev/null 2>&1 &
            break
        end
    end
    set -l typed (commandline -opc) (commandline -ct)
    set -e typed[1]
    set -l found (awk -v line=(string join \x1f -- $typed) '@AWK@' $file)
    if test "$found[1]" = :files
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $found
    end
end
complete -c fab -f -a '(__ds4_fab_words)'
