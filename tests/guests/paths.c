// Names, links and directories below its argument: every step's errno, one a line.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *base;

static const char *below(const char *name) {
    static char paths[4][1024];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", base, name);
    return path;
}

static void say(const char *step, int result) { printf("%s %d\n", step, result < 0 ? errno : 0); }

static int opened(const char *path, int flags) {
    int fd = open(path, flags, 0644);
    if (fd >= 0)
        close(fd);
    return fd;
}

static void file(const char *path, const char *text) {
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) < 0 || close(fd)) {
        printf("no file %s: %d\n", path, errno);
        exit(1);
    }
}

static void show(const char *path) {
    char text[64] = "";
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    printf("holds %s\n", got < 0 ? strerror(errno) : text);
    if (fd >= 0)
        close(fd);
}

static void what_is_not_so(void) {
    char long_name[400];
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    say("missing", opened(below("missing"), O_RDONLY));
    say("missing on the way", opened(below("missing/file"), O_CREAT | O_WRONLY));
    say("a file on the way", opened(below("a/file"), O_RDONLY));
    say("a file as a directory", opened(below("a"), O_DIRECTORY | O_RDONLY));
    say("a file with a slash", opened(below("a/"), O_RDONLY));
    say("a directory to write", opened(below("d"), O_WRONLY));
    say("a directory to read", opened(below("d"), O_RDONLY));
    say("exclusive", opened(below("a"), O_CREAT | O_EXCL | O_WRONLY));
    say("a long name", opened(below(long_name), O_CREAT | O_WRONLY));
    say("an empty name", opened("", O_RDONLY));
    say("dots within", opened(below("d/../a"), O_RDONLY));
    say("dots out and in", opened(below("../a"), O_RDONLY));
    say("many slashes", opened(below("d///.//../a"), O_RDONLY));
    say("opendir of a file", opendir(below("a")) ? 0 : -1);
    say("access", access(below("a"), R_OK | W_OK));
    say("no access", access(below("missing"), F_OK));
}

static void directories(void) {
    say("mkdir over a file", mkdir(below("a"), 0755));
    say("mkdir over a directory", mkdir(below("d"), 0755));
    say("mkdir without a parent", mkdir(below("x/y"), 0755));
    say("mkdir with a slash", mkdir(below("slash/"), 0755));
    say("rmdir of a file", rmdir(below("a")));
    say("rmdir of a full one", rmdir(below("d")));
    say("rmdir of a missing one", rmdir(below("missing")));
    say("rmdir of its root", rmdir(base));
    say("unlink of a directory", unlink(below("d")));
    say("unlink with a slash", unlink(below("a/")));
    say("rmdir", rmdir(below("slash")));
}

static void renames(void) {
    file(below("old"), "old");
    file(below("new"), "new");
    say("rename over a file", rename(below("old"), below("new")));
    show(below("new"));
    say("rename of a missing one", rename(below("old"), below("new")));
    say("rename over a directory", rename(below("new"), below("d")));
    say("rename of a directory over a file", rename(below("d"), below("new")));
    say("mkdir e", mkdir(below("e"), 0755));
    say("rename over an empty directory", rename(below("d"), below("e")));
    say("mkdir d", mkdir(below("d"), 0755));
    say("rename over a full directory", rename(below("d"), below("e")));
    say("rename into itself", rename(below("e"), below("e/e")));
    say("rename to itself", rename(below("e"), below("e")));
}

static void links(void) {
    struct stat one, two;
    say("link", link(below("a"), below("twin")));
    say("stat a", stat(below("a"), &one));
    say("stat twin", stat(below("twin"), &two));
    printf("links %lld, the same %d\n", (long long)one.st_nlink, one.st_ino == two.st_ino && one.st_dev == two.st_dev);
    say("link over a file", link(below("a"), below("twin")));
    say("link of a directory", link(below("d"), below("d2")));
    say("link of a missing one", link(below("missing"), below("m")));
    say("unlink a", unlink(below("a")));
    show(below("twin"));
    say("rename to its own link", rename(below("twin"), below("a")));
}

static void symlinks(void) {
    char target[8];
    struct stat status;
    say("symlink", symlink("a", below("to-file")));
    say("symlink to a directory", symlink("e", below("to-directory")));
    say("symlink to nothing", symlink("nowhere", below("dangling")));
    say("symlink to itself", symlink("loop", below("loop")));
    say("symlink to the root", symlink("/etc", below("absolute")));
    say("symlink up", symlink("../outside", below("up")));
    say("symlink to nowhere at all", symlink("", below("empty")));
    say("symlink over a file", symlink("a", below("a")));
    show(below("to-file"));
    say("through a directory", opened(below("to-directory/inner"), O_RDONLY));
    say("dangling", opened(below("dangling"), O_RDONLY));
    say("create through it", opened(below("dangling"), O_CREAT | O_WRONLY));
    say("loop", opened(below("loop"), O_RDONLY));
    say("absolute", opened(below("absolute/passwd"), O_RDONLY));
    say("up", opened(below("up"), O_CREAT | O_WRONLY));
    say("not followed", opened(below("to-file"), O_RDONLY | O_NOFOLLOW));
    say("stat", stat(below("to-file"), &status));
    printf("regular %d\n", S_ISREG(status.st_mode));
    say("lstat", lstat(below("to-file"), &status));
    printf("link %d, size %lld\n", S_ISLNK(status.st_mode), (long long)status.st_size);
    say("lstat of a loop", lstat(below("loop"), &status));
    ssize_t length = readlink(below("absolute"), target, 3);
    printf("readlink in part %d %.*s\n", (int)length, (int)(length < 0 ? 0 : length), target);
    say("readlink of a file", (int)readlink(below("a"), target, sizeof target));
    say("rmdir of a link", rmdir(below("to-directory")));
    say("rename of a link", rename(below("to-directory"), below("renamed")));
    say("unlink of a link", unlink(below("to-file")));
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    base = argv[1];
    file(below("a"), "file a");
    say("mkdir d", mkdir(below("d"), 0755));
    file(below("d/inner"), "inner");
    what_is_not_so();
    directories();
    renames();
    links();
    symlinks();
    return 0;
}
