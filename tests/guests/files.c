// Works through files below the directory that its argument names, and prints a line for each step: name and errno.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char base[256];

static const char *below(const char *name) {
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", base, name);
    return path;
}

static void say(const char *step, int result) { printf("%s %d\n", step, result < 0 ? errno : 0); }

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void list(const char *label, const char *path) {
    char *names[64];
    size_t count = 0;
    DIR *dir = opendir(path);
    if (!dir) {
        say(label, -1);
        return;
    }
    for (struct dirent *entry; count < 64 && (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            names[count++] = strdup(entry->d_name);
    closedir(dir);
    qsort(names, count, sizeof *names, compare);
    printf("%s", label);
    for (size_t i = 0; i < count; i++)
        printf(" %s", names[i]);
    printf("\n");
}

static void write_and_read(void) {
    char buffer[16] = {0};
    int fd = open(below("a.txt"), O_CREAT | O_EXCL | O_RDWR, 0644);
    say("create", fd);
    say("write", write(fd, "hello", 5) == 5 ? 0 : -1);
    say("seek", lseek(fd, 1, SEEK_SET) == 1 ? 0 : -1);
    say("read", read(fd, buffer, sizeof buffer) == 4 && !strcmp(buffer, "ello") ? 0 : -1);
    say("pread", pread(fd, buffer, 2, 3) == 2 && !memcmp(buffer, "lo", 2) ? 0 : -1);
    say("truncate", ftruncate(fd, 3));
    say("sync", fsync(fd));
    say("close", close(fd));
    say("exists", open(below("a.txt"), O_CREAT | O_EXCL | O_RDWR, 0644));
    fd = open(below("a.txt"), O_WRONLY | O_APPEND);
    say("append", write(fd, "!!", 2) == 2 ? 0 : -1);
    close(fd);
    struct stat status;
    say("stat", stat(below("a.txt"), &status));
    printf("size %lld regular %d\n", (long long)status.st_size, S_ISREG(status.st_mode));
}

static void times(void) {
    struct timespec stamps[2] = {{1000000000, 0}, {1100000000, 500}};
    struct stat status;
    say("utimens", utimensat(AT_FDCWD, below("a.txt"), stamps, 0));
    say("stat times", stat(below("a.txt"), &status));
    printf("atime %lld mtime %lld.%09ld\n", (long long)status.st_atim.tv_sec, (long long)status.st_mtim.tv_sec,
           (long)status.st_mtim.tv_nsec);
}

static void names(void) {
    char target[64];
    say("mkdir", mkdir(below("dir"), 0755));
    say("mkdir again", mkdir(below("dir"), 0755));
    say("rename", rename(below("a.txt"), below("dir/b.txt")));
    say("gone", open(below("a.txt"), O_RDONLY));
    say("link", link(below("dir/b.txt"), below("hard.txt")));
    say("symlink", symlink("dir/b.txt", below("soft.txt")));
    ssize_t length = readlink(below("soft.txt"), target, sizeof target);
    printf("readlink %.*s\n", (int)(length < 0 ? 0 : length), target);
    say("open soft", open(below("soft.txt"), O_RDONLY));
    list("list", below("."));
    list("list dir", below("dir"));
    say("rmdir full", rmdir(below("dir")));
    say("unlink", unlink(below("dir/b.txt")));
    say("unlink soft", unlink(below("soft.txt")));
    say("unlink hard", unlink(below("hard.txt")));
    say("rmdir", rmdir(below("dir")));
    say("missing", unlink(below("nothing")));
    list("list end", below("."));
}

static void escapes(void) {
    say("dotdot", open(below("../escaped"), O_CREAT | O_RDWR, 0644));
    say("absolute", open("/etc/passwd", O_RDONLY));
    say("symlink out", symlink("../../etc/passwd", below("out")));
    say("through", open(below("out"), O_RDONLY));
    unlink(below("out"));
}

int main(int argc, char **argv) {
    snprintf(base, sizeof base, "%s", argc > 1 ? argv[1] : "/data");
    write_and_read();
    times();
    names();
    escapes();
    return 0;
}
