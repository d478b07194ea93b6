# Applies edits to a source file and prints it, or says on standard error what is not as the edits know it, and prints nothing.
#
#   usage: awk -f edit.awk EDITS SOURCE
#
# An edit takes the place of whole lines:
#
#   ==== what it is about
#   at       the first of them, exactly; nowhere else in the file
#   through  the last of them, exactly; the first one like it counts. Left out where it is one line
#   lines    how many they are, so that lines in between that came or went are noticed. 1 if left out
#   put
#   what comes there
#
# One blank stands behind the word. Blank lines before the next edit do not belong to what is put. Anything before the first edit is
# a comment.

function fail(text) {
    print "edit.awk: " edits ": " title[n] ": " text > "/dev/stderr"
    failed = 1
    exit 1
}

FNR == 1 && NR == 1 { edits = FILENAME; n = 0; putting = 0 }

FILENAME == edits {
    if (/^==== /) { n++; title[n] = substr($0, 6); lines[n] = 1; put[n] = ""; putting = 0 }
    else if (n == 0) { }
    else if (putting) put[n] = put[n] $0 "\n"
    else if ($0 == "put") putting = 1
    else if (sub(/^at /, "")) at[n] = $0
    else if (sub(/^through /, "")) through[n] = $0
    else if (sub(/^lines /, "")) lines[n] = $0 + 0
    else fail("this is neither at, through, lines nor put: " $0)
    next
}

{ source = FILENAME; text[++last] = $0; if (!edited) { edited = n; if (!n) fail("no edit is in it") } }

END {
    if (failed) exit 1
    for (n = 1; n <= edited; n++) {
        found = 0
        for (i = 1; i <= last; i++) if ((i in text) && text[i] == at[n]) { found++; first = i }
        if (found != 1) fail("in " source " the line '" at[n] "' is there " found " times, not once")
        end = first
        if (n in through) {
            # An edit before this one may have left a gap: what is put stands in the first of its lines.
            while (end < last && !((end in text) && text[end] == through[n] && end > first)) end++
            if (!(end in text) || text[end] != through[n])
                fail("in " source " no line '" through[n] "' comes after '" at[n] "'")
        }
        if (end - first + 1 != lines[n])
            fail("in " source " they are " (end - first + 1) " lines from '" at[n] "' on, not " lines[n])
        sub(/\n+$/, "", put[n])
        text[first] = put[n]
        for (i = first + 1; i <= end; i++) delete text[i]
    }
    for (i = 1; i <= last; i++) if (i in text) print text[i]
}
