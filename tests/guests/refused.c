// Tries to read and to change what is below its argument; prints a line for each: the step and errno.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *base;

static const char *below(const char *name) {
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", base, name);
    return path;
}

static void say(const char *step, long long result) { printf("%s %d\n", step, result < 0 ? errno : 0); }

static void look(const char *name) {
    char text[32] = "";
    struct stat status;
    DIR *dir;
    int fd = open(below(name), O_RDONLY);
    printf("%s:\n", name);
    say("open", fd);
    say("read", read(fd, text, sizeof text - 1));
    say("stat", stat(below(name), &status));
    say("opendir", (dir = opendir(below(name))) ? 0 : -1);
    say("list", dir && readdir(dir) ? 0 : -1);
    say("write", write(fd, "x", 1));
    say("truncate", ftruncate(fd, 0));
    say("set times", futimens(fd, NULL));
    say("allocate", posix_fallocate(fd, 0, 100) ? -1 : 0);
    say("sync", fsync(fd));
    say("open to write", open(below(name), O_WRONLY));
    say("open for both", open(below(name), O_RDWR));
    say("open to append", open(below(name), O_WRONLY | O_APPEND));
    say("open to truncate", open(below(name), O_WRONLY | O_TRUNC));
    // Of what can't be opened the engine sets times through /proc, where there is one: not the same everywhere.
    if (fd >= 0)
        say("times by path", utimensat(AT_FDCWD, below(name), NULL, 0));
    printf("holds \"%s\"\n", text);
}

int main(int argc, char **argv) {
    char target[64] = "";
    base = argc > 1 ? argv[1] : "/data";
    look("file");
    look("private");
    look("closed/file");
    look("closed");
    look("directory");
    say("create", open(below("made"), O_CREAT | O_WRONLY, 0644));
    say("create in closed", open(below("closed/made"), O_CREAT | O_WRONLY, 0644));
    say("mkdir", mkdir(below("made-directory"), 0755));
    say("rmdir", rmdir(below("directory/empty")));
    say("unlink", unlink(below("directory/file")));
    say("rename", rename(below("directory/file"), below("directory/renamed")));
    say("link", link(below("file"), below("linked")));
    say("symlink", symlink("file", below("made-link")));
    say("readlink", readlink(below("soft"), target, sizeof target - 1));
    say("through the link", open(below("soft"), O_RDONLY));
    printf("to \"%s\"\n", target);
    return 0;
}
