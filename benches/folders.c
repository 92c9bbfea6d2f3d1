// What a guest does in a shared folder while it is measured, by system calls: the folder `peer=`, mounted below /mnt.
// Results are lines `RESULT peer name value`.
#define _GNU_SOURCE
#include "guest.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDERS 100
#define LARGE (64 * MIB)

static const char *peer;
static int files;

static void told(const char *name, double value) {
    printf("RESULT %s folder_%s %.3f\n", peer, name, value);
    fflush(stdout);
}

void forget(void) {
    sync();
    int file = open("/proc/sys/vm/drop_caches", O_WRONLY);
    need(file >= 0 && write(file, "3", 1) == 1, "drop caches");
    close(file);
}

static char *path_of(int number) {
    static char path[64];
    snprintf(path, sizeof path, "d%d/f%d", number % FOLDERS, number);
    return path;
}

static char *folder_of(int number) {
    static char path[64];
    snprintf(path, sizeof path, "d%d", number);
    return path;
}

static size_t size_of(int number) { return 500 + number % 11 * 400; }

// As git checks out: each file made, written, closed and looked at.
static void create(void) {
    struct stat stat;
    for (int i = 0; i < FOLDERS; i++) need(mkdir(folder_of(i), 0755) == 0, "mkdir");
    for (int i = 0; i < files; i++) {
        char *path = path_of(i);
        int file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
        need(file >= 0, "create");
        need(write(file, buffer, size_of(i)) == (ssize_t)size_of(i), "write");
        need(close(file) == 0, "close");
        need(lstat(path, &stat) == 0 && (size_t)stat.st_size == size_of(i), "lstat");
    }
}

// As `git status`: each file that is known is looked at, then each folder listed for others.
static void status(void) {
    struct stat stat;
    int found = 0;
    for (int i = 0; i < files; i++) need(lstat(path_of(i), &stat) == 0, "lstat");
    for (int i = 0; i < FOLDERS; i++) {
        DIR *folder = opendir(folder_of(i));
        need(folder != NULL, "opendir");
        for (struct dirent *entry; (entry = readdir(folder));) found += entry->d_name[0] != '.';
        closedir(folder);
    }
    need(found == files, "as many as there are");
}

static void read_all(void) {
    struct stat stat;
    for (int i = 0; i < files; i++) {
        int file = open(path_of(i), O_RDONLY);
        need(file >= 0 && fstat(file, &stat) == 0, "open");
        need(read(file, buffer, MIB) == (ssize_t)size_of(i), "read");
        need(read(file, buffer, MIB) == 0, "end of file");
        close(file);
    }
}

static void remove_all(void) {
    for (int i = 0; i < files; i++) need(unlink(path_of(i)) == 0, "unlink");
    for (int i = 0; i < FOLDERS; i++) need(rmdir(folder_of(i)) == 0, "rmdir");
}

static void write_large(void) {
    int file = open("large", O_CREAT | O_WRONLY, 0644);
    need(file >= 0, "create");
    for (long left = LARGE; left > 0; left -= MIB) need(write(file, buffer, MIB) == MIB, "write");
    need(fsync(file) == 0, "fsync");
    close(file);
}

static void read_large(void) {
    int file = open("large", O_RDONLY);
    need(file >= 0, "open");
    for (long left = LARGE; left > 0; left -= MIB) need(read(file, buffer, MIB) == MIB, "read");
    close(file);
}

static double seconds(void (*work)(void)) {
    double begin = now();
    work();
    return now() - begin;
}

static void each(const char *name, void (*work)(void)) { told(name, seconds(work) / files * 1e6); }

void enter(const char *peer) {
    char path[80];
    snprintf(path, sizeof path, "/mnt/%s", peer);
    need(chdir(path) == 0, path);
}

void warm_up(void) {
    write_large();
    forget();
    read_large();
    need(unlink("large") == 0, "unlink");
}

static void turn(void) {
    each("create_us", create);
    forget();
    each("status_us", status);
    sleep(FORGETS);
    each("status_again_us", status);
    forget();
    each("read_us", read_all);
    each("remove_us", remove_all);
    forget();
    told("write_mib_s", LARGE / (double)MIB / seconds(write_large));
    forget();
    told("read_mib_s", LARGE / (double)MIB / seconds(read_large));
    need(unlink("large") == 0, "unlink");
}

const char *mount_peer(const char *words) {
    static char name[64];
    char place[80];
    const char *who = strstr(words, "peer=");
    need(who && sscanf(who, "peer=%63[^ \n]", name) == 1, "peer=");
    mkdir("/mnt", 0755);
    snprintf(place, sizeof place, "/mnt/%s", name);
    need(mkdir(place, 0755) == 0, place);
    int is_9p = strcmp(name, "9p") == 0;
    const char *options = is_9p ? "trans=virtio,version=9p2000.L,msize=1048576,cache=mmap" : NULL;
    need(mount(name, place, is_9p ? "9p" : "virtiofs", 0, options) == 0, place);
    return name;
}

void folders(const char *words) {
    const char *number = strstr(words, "rounds="), *many = strstr(words, "files=");
    int rounds = number ? atoi(number + strlen("rounds=")) : 1;
    files = many ? atoi(many + strlen("files=")) : 1000;
    peer = mount_peer(words);
    enter(peer);
    warm_up();
    for (int round = 0; round < rounds; round++) turn();
}
