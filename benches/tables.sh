# The tables, for run.sh: of lines `PEER FIGURE VALUE`, of lines `PEER lost KIND` of turns that came to nothing, and of
# lines `row lost ROW`.
# shellcheck shell=bash disable=SC2154 # folder_peers and such: run.sh

figures="start_to_guest_ms start_to_init_ms beside_guest_kib threads binary_kib libraries_kib block_read_mib_s \
block_write_mib_s block_read_4k_us block_write_4k_fsync_us net_out_mib_s net_in_mib_s net_round_trip_us \
passt_out_mib_s passt_in_mib_s passt_round_trip_us vhost_out_mib_s vhost_in_mib_s vhost_round_trip_us"

tables() {
  table "$1" "rvm qemu $(cut -d'|' -f1 <<<"${BENCH_VMM:-}" | paste -sd' ')" "$figures"
  table "$1" "$folder_peers" "$folder_figures"
  table "$1" "$project_peers" "$project_figures"
  table "$1" "$machine_peers" "$machine_figures"
  command_table "$1"
  losses "$1"
}

# Medians of all rounds in the file RESULTS: a column for each of NAMES, a row for each of LABELS that was measured.
table() {
  sort -k1,1 -k2,2 -k3,3g "$1" | awk -v names="$2" -v order="$3" '
    $2 == "lost" { lost[$1, $3] = 1; next }
    { key = $1 SUBSEP $2; value[key, ++count[key]] = $3; row[$2] = 1 }
    function median(key) { return (key in count) ? value[key, int((count[key] + 1) / 2)] : "" }
    # What is measured in one turn.
    function kind(label) {
      if (label ~ /^start_/) return "boot"
      if (label ~ /^(beside|threads)/) return "hold"
      if (label ~ /^(up|machine)_/) return "machines"
      sub(/_.*/, "", label)
      return label
    }
    END {
      n = split(names, name, " ")
      m = split(order, label, " ")
      for (r = 1; r <= m; r++) {
        for (i = 1; i <= n; i++) if ((name[i], kind(label[r])) in lost && label[r] !~ /^(binary|libraries)/) row[label[r]] = 1
        if (label[r] in row) any = 1
      }
      if (!any) exit
      printf "| |"; for (i = 1; i <= n; i++) printf(" %s |%s", name[i], (i > 1 ? " " name[1] " / " name[i] " |" : ""))
      printf "\n|---|"; for (i = 1; i < 2 * n; i++) printf "---|"; printf "\n"
      for (r = 1; r <= m; r++) {
        if (!(label[r] in row)) continue
        printf "| %s |", label[r]
        for (i = 1; i <= n; i++) {
          x = median(name[i] SUBSEP label[r]); first = median(name[1] SUBSEP label[r])
          mark = ((name[i], kind(label[r])) in lost) ? " †" : ""
          printf " %s%s |", x == "" ? "" : sprintf("%.1f", x), mark
          if (i > 1) printf " %s |", (x == "" || x == 0 || first == "") ? "" : sprintf("%.2f", first / x)
        }
        printf "\n"
      }
      printf "\n"
    }'
}

# The commands, each beside one that does nothing.
command_table() {
  sort -k2,2 "$1" | awk '
    $1 == "cli" && $2 != "lost" { value[$2] = $3 }
    END {
      if (!("nothing_ms" in value)) exit
      printf "| command, 20 machines | ms | times /bin/true |\n|---|---|---|\n"
      for (c in value) printf "| %s | %.2f | %.1f |\n", c, value[c], value[c] / value["nothing_ms"]
      printf "\n"
    }'
}

# What the marks mean.
losses() {
  awk '
    $2 == "lost" && $1 == "row" { rows[$3] = 1; next }
    $2 == "lost" { turns[$1 " at " $3]++ }
    END {
      for (t in turns) printf "† %s: %d turn(s) failed or were not done in time, and count for nothing.\n", t, turns[t]
      for (r in rows) printf "† The row %s ended early: it has only what was measured until then.\n", r
    }' "$1"
}
