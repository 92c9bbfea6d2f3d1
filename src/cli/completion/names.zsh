
_rvm_machines() {
    local -a names
    names=(${(f)"$(rvm __complete machines 2>/dev/null)"})
    compadd -a names
}

_rvm_boxes() {
    local -a names
    names=(${(f)"$(rvm __complete boxes 2>/dev/null)"})
    compadd -a names
}
