// A program that tests put into guests: prints what inotify tells of places.
//
//   events PLACE...     prints `watching`, then a line for each event: place, what happened, name ("-": the place itself)
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>

static const struct {
    unsigned bit;
    const char *word;
} words[] = {
    {IN_MODIFY, "modify"},   {IN_ATTRIB, "attrib"},     {IN_CREATE, "create"},
    {IN_DELETE, "delete"},   {IN_MOVED_FROM, "from"},   {IN_MOVED_TO, "to"},
    {IN_ISDIR, "folder"},    {IN_DELETE_SELF, "gone"},  {IN_Q_OVERFLOW, "overflow"},
};

static void need(int good, const char *what) {
    if (good) return;
    perror(what);
    exit(1);
}

int main(int count, char **places) {
    const unsigned all = IN_MODIFY | IN_ATTRIB | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF;
    int group = inotify_init();
    need(group >= 0, "inotify_init");
    for (int i = 1; i < count; i++) need(inotify_add_watch(group, places[i], all) == i, places[i]);
    puts("watching");
    fflush(stdout);
    for (;;) {
        _Alignas(struct inotify_event) char buffer[8192];
        ssize_t len = read(group, buffer, sizeof buffer);
        need(len > 0, "read");
        for (char *at = buffer; at < buffer + len;) {
            struct inotify_event *event = (void *)at;
            at += sizeof *event + event->len;
            if (event->mask & IN_IGNORED) continue;
            fputs(event->wd > 0 ? places[event->wd] : "?", stdout);
            for (size_t i = 0; i < sizeof words / sizeof *words; i++)
                if (event->mask & words[i].bit) printf(" %s", words[i].word);
            printf(" %s\n", event->len ? event->name : "-");
        }
        fflush(stdout);
    }
}
