# `line`: the words behind fab, \037 between them, the one that is being typed last. Prints each candidate and,
# behind a tab, what it is; ":files" where the shell is to look for files.
BEGIN {
  FS = "\t"
  number = split(line, given, "\037")
  for (i = 1; i <= number; i++) {
    one = given[i]
    if (one == "=" && i < number) continue
    if (one == "=") one = ""
    if (one ~ /^--[a-z-]+=/) {
      typed[++count] = substr(one, 1, index(one, "=") - 1)
      if (i == number) before = typed[count] "="
      one = substr(one, index(one, "=") + 1)
    }
    typed[++count] = one
  }
  current = typed[count]
}
$1 == "verb" { verbs[++nverbs] = $2; said[$2] = $3; isverb[$2] = 1 }
$1 == "word" {
  n = ++nwords[$2]
  words[$2, n] = $3
  kinds[$2, $3] = $4
  about[$2, $3] = $5
  isword[$2, $3] = 1
}
$1 == "option" { n = ++noptions[$2]; options[$2, n] = $3; takes[$2, $3] = $4; what[$2, $3] = $5 }
$1 == "value" { n = ++nvalues[$2]; values[$2, n] = $3 }
function show(word, text) { if (index(word, current) == 1) print before word "\t" text }
function list(kind,    i) { for (i = 1; i <= nvalues[kind]; i++) show(values[kind, i], kind) }
END {
  for (i = 1; i < count; i++) {
    one = typed[i]
    if (skip) { skip = 0; continue }
    if (verb == "") { if (one in isverb) verb = one; continue }
    if (substr(one, 1, 1) == "-") { used[one] = 1; if (takes[verb, one] != "") skip = 1; continue }
    if (word == "") { if ((verb, one) in isword) word = one } else behind++
  }
  if (skip) {
    kind = takes[verb, typed[count - 1]]
    if (kind == "file") print ":files"
    else {
      if (match(current, /.*,/)) {
        before = before substr(current, 1, RLENGTH)
        current = substr(current, RLENGTH + 1)
      }
      list(kind)
    }
    exit
  }
  if (verb == "") { for (i = 1; i <= nverbs; i++) show(verbs[i], said[verbs[i]]); exit }
  if (substr(current, 1, 1) != "-") {
    if (word == "") for (i = 1; i <= nwords[verb]; i++) show(words[verb, i], about[verb, words[verb, i]])
    else {
      split(kinds[verb, word], each, ",")
      kind = each[behind + 1]
      if (kind == "file") { print ":files"; exit }
      if (kind != "") { list(kind); exit }
    }
    if (word == "" && nwords[verb]) exit
  }
  for (i = 1; i <= noptions[verb]; i++)
    if (!(options[verb, i] in used)) show(options[verb, i], what[verb, options[verb, i]])
}
