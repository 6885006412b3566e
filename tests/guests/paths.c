// Names, links and directories below its first argument and across to its second: every step's errno, one a line.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *base, *other;

static const char *below(const char *directory, const char *name) {
    static char paths[4][1024];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
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
    say("missing", opened(below(base, "missing"), O_RDONLY));
    say("missing on the way", opened(below(base, "missing/file"), O_CREAT | O_WRONLY));
    say("a file on the way", opened(below(base, "a/file"), O_RDONLY));
    say("a file as a directory", opened(below(base, "a"), O_DIRECTORY | O_RDONLY));
    say("a file with a slash", opened(below(base, "a/"), O_RDONLY));
    say("a directory to write", opened(below(base, "d"), O_WRONLY));
    say("a directory to read", opened(below(base, "d"), O_RDONLY));
    say("exclusive", opened(below(base, "a"), O_CREAT | O_EXCL | O_WRONLY));
    say("a long name", opened(below(base, long_name), O_CREAT | O_WRONLY));
    say("an empty name", opened("", O_RDONLY));
    say("dots within", opened(below(base, "d/../a"), O_RDONLY));
    say("dots out and in", opened(below(base, "../a"), O_RDONLY));
    say("many slashes", opened(below(base, "d///.//../a"), O_RDONLY));
    say("opendir of a file", opendir(below(base, "a")) ? 0 : -1);
    say("access", access(below(base, "a"), R_OK | W_OK));
    say("no access", access(below(base, "missing"), F_OK));
}

static void directories(void) {
    say("mkdir over a file", mkdir(below(base, "a"), 0755));
    say("mkdir over a directory", mkdir(below(base, "d"), 0755));
    say("mkdir without a parent", mkdir(below(base, "x/y"), 0755));
    say("mkdir with a slash", mkdir(below(base, "slash/"), 0755));
    say("rmdir of a file", rmdir(below(base, "a")));
    say("rmdir of a full one", rmdir(below(base, "d")));
    say("rmdir of a missing one", rmdir(below(base, "missing")));
    say("rmdir of its root", rmdir(base));
    say("unlink of a directory", unlink(below(base, "d")));
    say("unlink with a slash", unlink(below(base, "a/")));
    say("rmdir", rmdir(below(base, "slash")));
}

static void renames(void) {
    file(below(base, "old"), "old");
    file(below(base, "new"), "new");
    say("rename over a file", rename(below(base, "old"), below(base, "new")));
    show(below(base, "new"));
    say("rename of a missing one", rename(below(base, "old"), below(base, "new")));
    say("rename over a directory", rename(below(base, "new"), below(base, "d")));
    say("rename of a directory over a file", rename(below(base, "d"), below(base, "new")));
    say("mkdir e", mkdir(below(base, "e"), 0755));
    say("rename over an empty directory", rename(below(base, "d"), below(base, "e")));
    say("mkdir d", mkdir(below(base, "d"), 0755));
    say("rename over a full directory", rename(below(base, "d"), below(base, "e")));
    say("rename into itself", rename(below(base, "e"), below(base, "e/e")));
    say("rename to itself", rename(below(base, "e"), below(base, "e")));
    say("rename across", rename(below(base, "new"), below(other, "moved")));
    say("rename across back", rename(below(other, "there"), below(base, "back")));
}

static void links(void) {
    struct stat one, two;
    say("link", link(below(base, "a"), below(base, "twin")));
    say("stat a", stat(below(base, "a"), &one));
    say("stat twin", stat(below(base, "twin"), &two));
    printf("links %lld, the same %d\n", (long long)one.st_nlink, one.st_ino == two.st_ino && one.st_dev == two.st_dev);
    say("link over a file", link(below(base, "a"), below(base, "twin")));
    say("link of a directory", link(below(base, "d"), below(base, "d2")));
    say("link of a missing one", link(below(base, "missing"), below(base, "m")));
    say("link across", link(below(base, "a"), below(other, "a")));
    say("unlink a", unlink(below(base, "a")));
    show(below(base, "twin"));
    say("rename to its own link", rename(below(base, "twin"), below(base, "a")));
}

static void symlinks(void) {
    char target[8];
    struct stat status;
    say("symlink", symlink("a", below(base, "to-file")));
    say("symlink to a directory", symlink("e", below(base, "to-directory")));
    say("symlink to nothing", symlink("nowhere", below(base, "dangling")));
    say("symlink to itself", symlink("loop", below(base, "loop")));
    say("symlink to the root", symlink("/etc", below(base, "absolute")));
    say("symlink up", symlink("../outside", below(base, "up")));
    say("symlink to nowhere at all", symlink("", below(base, "empty")));
    say("symlink over a file", symlink("a", below(base, "a")));
    show(below(base, "to-file"));
    say("through a directory", opened(below(base, "to-directory/inner"), O_RDONLY));
    say("dangling", opened(below(base, "dangling"), O_RDONLY));
    say("create through it", opened(below(base, "dangling"), O_CREAT | O_WRONLY));
    say("loop", opened(below(base, "loop"), O_RDONLY));
    say("absolute", opened(below(base, "absolute/passwd"), O_RDONLY));
    say("up", opened(below(base, "up"), O_CREAT | O_WRONLY));
    say("not followed", opened(below(base, "to-file"), O_RDONLY | O_NOFOLLOW));
    say("stat", stat(below(base, "to-file"), &status));
    printf("regular %d\n", S_ISREG(status.st_mode));
    say("lstat", lstat(below(base, "to-file"), &status));
    printf("link %d, size %lld\n", S_ISLNK(status.st_mode), (long long)status.st_size);
    say("lstat of a loop", lstat(below(base, "loop"), &status));
    ssize_t length = readlink(below(base, "absolute"), target, 3);
    printf("readlink in part %d %.*s\n", (int)length, (int)(length < 0 ? 0 : length), target);
    say("readlink of a file", (int)readlink(below(base, "a"), target, sizeof target));
    say("rmdir of a link", rmdir(below(base, "to-directory")));
    say("rename of a link", rename(below(base, "to-directory"), below(base, "renamed")));
    say("unlink of a link", unlink(below(base, "to-file")));
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    base = argv[1];
    other = argv[2];
    file(below(base, "a"), "file a");
    file(below(other, "there"), "over there");
    say("mkdir d", mkdir(below(base, "d"), 0755));
    file(below(base, "d/inner"), "inner");
    what_is_not_so();
    directories();
    renames();
    links();
    symlinks();
    return 0;
}
