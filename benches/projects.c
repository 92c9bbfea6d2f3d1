// What a guest does with a project in a shared folder while it is measured: the programs that developers use, run by
// the shell, first in the guest's own memory and then in the folder `peer=`. Results are lines `RESULT peer name value`.
#define _GNU_SOURCE
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *place_name;

// Runs one line of shell; gives its seconds.
static double run(const char *line) {
    int status;
    double begin = now();
    pid_t child = vfork();
    need(child >= 0, "vfork");
    if (child == 0) {
        execl("/bin/sh", "sh", "-e", "-c", line, NULL);
        _exit(127);
    }
    need(waitpid(child, &status, 0) == child, "wait");
    double took = now() - begin;
    if (status != 0) printf("status %d\n", status);
    need(status == 0, line);
    return took;
}

static void told(const char *name, const char *line) {
    printf("RESULT %s project_%s_ms %.3f\n", place_name, name, run(line) * 1e3);
    fflush(stdout);
}

#define STATUS "test -z \"$(git -C project status --porcelain)\""

static void turn(void) {
    told("clone", "git clone -q file:///repository.git project");
    // Git reads files again that are as new as its index: one status, a second later, writes another index.
    sleep(2);
    run(STATUS);
    forget();
    told("status", STATUS);
    sleep(FORGETS);
    told("status_again", STATUS);
    forget();
    told("checkout", "git -C project checkout -q next");
    forget();
    told("build", "make -s -C project");
    sleep(FORGETS);
    told("rebuild", "make -s -C project");
    run("mkdir modules");
    forget();
    told("unpack", "tar -C modules -xzf /modules.tar.gz");
    forget();
    told("remove", "rm -r modules");
    run("rm -rf project");
}

void projects(const char *words) {
    setenv("PATH", "/usr/bin", 1);
    setenv("HOME", "/root", 1);
    setenv("GIT_TEMPLATE_DIR", "", 1);
    // All is root's here, and what a folder says of its owner is not what is measured.
    setenv("GIT_CONFIG_COUNT", "1", 1);
    setenv("GIT_CONFIG_KEY_0", "safe.directory", 1);
    setenv("GIT_CONFIG_VALUE_0", "*", 1);
    const char *peer = mount_peer(words);
    // The programs are in memory then, and memory is the guest's.
    place_name = "ram";
    need(mkdir("/ram", 0755) == 0 && chdir("/ram") == 0, "/ram");
    turn();
    enter(peer);
    warm_up();
    place_name = peer;
    turn();
}
