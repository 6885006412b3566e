// Takes the file `a` of its first argument to its second: by link, by rename, and then by copying; errno of each step.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static void say(const char *step, int result) { printf("%s %d\n", step, result < 0 ? errno : 0); }

int main(int argc, char **argv) {
    char from[512], to[512], text[64];
    if (argc != 3)
        return 2;
    snprintf(from, sizeof from, "%s/a", argv[1]);
    snprintf(to, sizeof to, "%s/a", argv[2]);
    say("link", link(from, to));
    say("rename", rename(from, to));
    int source = open(from, O_RDONLY), target = open(to, O_CREAT | O_EXCL | O_WRONLY, 0644);
    ssize_t got = read(source, text, sizeof text);
    say("copy", got > 0 && write(target, text, (size_t)got) == got ? 0 : -1);
    say("unlink", unlink(from));
    return 0;
}
