// Asks for files by paths that no directory of its own leads to; prints a line for each: the step and errno.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void say(const char *step, int result) { printf("%s %d\n", step, result < 0 ? errno : 0); }

static void ask(const char *path) {
    char target[16];
    struct stat status;
    printf("%s:\n", path);
    say("open", open(path, O_RDONLY));
    say("create", open(path, O_CREAT | O_RDWR, 0644));
    say("open a directory", open(path, O_DIRECTORY | O_RDONLY));
    say("opendir", opendir(path) ? 0 : -1);
    say("stat", stat(path, &status));
    say("lstat", lstat(path, &status));
    say("access", access(path, F_OK));
    say("mkdir", mkdir(path, 0755));
    say("rmdir", rmdir(path));
    say("unlink", unlink(path));
    say("rename", rename(path, "other"));
    say("link", link(path, "other"));
    say("symlink", symlink("target", path));
    say("readlink", (int)readlink(path, target, sizeof target));
    say("utimens", utimensat(AT_FDCWD, path, NULL, 0));
}

int main(void) {
    ask("file");
    ask("/etc/passwd");
    ask("../up");
    ask(".");
    ask("");
    printf("%s\n", strerror(ENOTCAPABLE));
    return 0;
}
