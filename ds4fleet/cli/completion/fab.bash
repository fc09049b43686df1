_ds4_fab_words() {
  local file="${DS4_FLEET_STATE:-@STATE@}/completion/${PWD//\//%}" one
  [ -e "$file" ] || fab completion refresh >/dev/null 2>&1 || return
  while IFS="$(printf '\t')" read -r kind one _; do
    [ "$kind" = stale ] || break
    if [ "$one" -nt "$file" ]; then
      # Once, however often Tab is pressed meanwhile.
      touch "$file"
      (fab completion refresh >/dev/null 2>&1 &)
      break
    fi
  done <"$file"
  awk -v line="$1" '@AWK@' "$file"
}

_ds4_fab() {
  local IFS=$'\037' kind line
  line="${COMP_WORDS[*]:1:COMP_CWORD}"
  IFS=$'\n'
  COMPREPLY=($(_ds4_fab_words "$line" | cut -f 1))
  if [ "${COMPREPLY[0]-}" = :files ]; then
    COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
  fi
}
complete -F _ds4_fab fab
