_ds4_fab_words() {
  local kind file="${DS4_FLEET_STATE:-@STATE@}/completion/${PWD//\//%}" one
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
  local -a found
  local one line="${(pj:\037:)words[2,CURRENT]}"
  while IFS=$'\t' read -r one text; do
    if [[ $one = :files ]]; then _files; return; fi
    found+=("${one//:/\\:}:$text")
  done < <(_ds4_fab_words "$line")
  _describe -V 'fab' found
}
compdef _ds4_fab fab
