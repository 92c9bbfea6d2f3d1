# Projects in shared folders, for run.sh: what developers wait for there, done by the programs that they use. The guest
# has in its own memory git, GNU make, gcc and tar of this host, a repository to clone and an archive to unpack
# (projects.c runs them).
# shellcheck shell=bash disable=SC2154,SC2034 # work, ram, folder_files and such: run.sh

project_peers="$folder_peers ram"
project_figures="project_clone_ms project_status_ms project_status_again_ms project_checkout_ms project_build_ms \
project_rebuild_ms project_unpack_ms project_remove_ms"

projects() {
  cp "$inside/projects" "$ram/bench/projects"
  # The guest holds the programs twice while it starts.
  each_folder project "files=$folder_files" /bench/projects 1024 "$((40 + folder_files / 10))"
}

# The initial RAM disk of these guests: $work/projects.
project_initrd() {
  # The distribution's, which are no scripts around others.
  local PATH=/usr/bin:/bin tool tree=$work/project-tree
  for tool in git make gcc as ar tar gzip mkdir rm dash; do
    command -v "$tool" >/dev/null || {
      echo "bench: row projects takes git, make, gcc, binutils, tar, gzip, coreutils and dash: $tool is missing" >&2
      return 1
    }
  done
  mkdir -p "$tree"/{proc,dev,tmp,root,usr/bin}
  ln -s usr/bin "$tree/bin"
  for tool in git make gcc as ar tar gzip mkdir rm; do ram=$tree take "$(command -v "$tool")"; done
  ram=$tree take "$(gcc -print-prog-name=cc1)"
  cp -L "$(command -v dash)" "$tree/usr/bin/sh"
  ln -s git "$tree/usr/bin/git-upload-pack"
  project_sources "$work/project"
  # One pack, as a server has it.
  git clone -q --bare "$work/project" "$tree/repository.git"
  git -C "$tree/repository.git" repack -q -a -d
  rm -rf "$tree/repository.git/hooks"
  # What a package manager unpacks: the same number of small files.
  tar -C "$work/project" --exclude=.git -czf "$tree/modules.tar.gz" .
  cp "$work/tree/init" "$tree/init"
  (cd "$tree" && find . | cpio -o -H newc --quiet) >"$work/projects"
}

# A project of so many files in a hundred folders, a hundredth of them C, and two branches a tenth of whose files differ.
# It is the same each time.
project_sources() {
  local GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
  export GIT_CONFIG_GLOBAL GIT_CONFIG_SYSTEM
  local by=(-c user.name=bench -c user.email=bench@localhost -c commit.gpgSign=false -c gc.auto=0)
  local when='2024-01-01T00:00:00Z'
  mkdir -p "$1"
  git -C "$1" init -q -b main
  awk -v top="$1" -v files="$folder_files" '
    # Words that pack about as well as source does; a generator of Park and Miller.
    function next_word() { seed = (seed * 16807) % 2147483647; return "name_" seed % 5000 }
    function text(path, bytes,    line, done) {
      for (done = 0; done < bytes; done += length(line) + 1) {
        line = "// " next_word() " " next_word() " " next_word() " " seed % 97
        print line >path
      }
    }
    BEGIN {
      seed = 42
      for (d = 0; d < 100; d++) system("mkdir -p " top "/d" d)
      sources = int(files / 100) > 10 ? int(files / 100) : 10
      for (i = 0; i < files - 2 * sources; i++) { path = top "/d" i % 100 "/f" i; text(path, 500 + i % 11 * 400); close(path) }
      for (i = 0; i < sources; i++) {
        path = top "/d" i % 100 "/h" i ".h"
        printf "#pragma once\nint h%d(int);\n", i >path; text(path, 1000); close(path)
        path = top "/d" i % 100 "/c" i ".c"
        # Each knows twenty headers, of other folders.
        for (j = 0; j < 20; j++) { k = (i * 7 + j * 3) % sources; printf "#include \"d%d/h%d.h\"\n", k % 100, k >path }
        printf "#include \"h%d.h\"\nint h%d(int x) { for (int i = 0; i < x; i++) x ^= i * %d; return x; }\n", i, i, i + 3 >path
        text(path, 2000); close(path)
      }
      path = top "/Makefile"
      print "objects := $(patsubst %.c,%.o,$(wildcard */*.c))" >path
      print "all.a: $(objects)\n\tar rcs $@ $^" >path
      print "%.o: %.c\n\tgcc -O1 -I. -MMD -c -o $@ $<\n-include $(objects:.o=.d)" >path
      print "*.o\n*.d\n*.a" >(top "/.gitignore")
    }'
  git -C "$1" add -A
  GIT_AUTHOR_DATE=$when GIT_COMMITTER_DATE=$when git -C "$1" "${by[@]}" commit -q -m 'A project'
  git -C "$1" checkout -q -b next
  find "$1" -path '*/d*/f*0' -exec sh -c 'for file; do echo "// changed" >>"$file"; done' sh {} +
  GIT_AUTHOR_DATE=$when GIT_COMMITTER_DATE=$when git -C "$1" "${by[@]}" commit -q -a -m 'A tenth of it changed'
  git -C "$1" checkout -q main
}
