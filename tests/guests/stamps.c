// Sets the times of a file and of a link below its argument in every way, and prints those that it knows.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char file[512], soft[512];

static void say(const char *step, int result) { printf("%s %d\n", step, result < 0 ? errno : 0); }

// A time of the last hour is told as "now": which it was depends on when this runs.
static void one(const char *label, struct timespec stamp, time_t now) {
    if (stamp.tv_sec > now - 3600)
        printf(" %s now", label);
    else
        printf(" %s %lld.%09ld", label, (long long)stamp.tv_sec, stamp.tv_nsec);
}

static void show(const char *path) {
    struct stat status;
    if (lstat(path, &status)) {
        say("lstat", -1);
        return;
    }
    one("accessed", status.st_atim, time(NULL));
    one("modified", status.st_mtim, time(NULL));
    one("changed", status.st_ctim, time(NULL));
    putchar('\n');
}

int main(int argc, char **argv) {
    struct timespec both[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    struct timespec none[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}}, now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
    struct timespec half[2] = {{0, UTIME_OMIT}, {1200000000, 5}}, mixed[2] = {{900000000, 0}, {0, UTIME_NOW}};
    struct timespec wrong[2] = {{0, 1000000000}, {0, 0}};
    const char *base = argc > 1 ? argv[1] : "/data";
    snprintf(file, sizeof file, "%s/file", base);
    snprintf(soft, sizeof soft, "%s/soft", base);
    int fd = open(file, O_CREAT | O_RDWR, 0644);
    say("symlink", symlink("file", soft));
    show(file);
    say("both", utimensat(AT_FDCWD, file, both, 0));
    show(file);
    say("none", utimensat(AT_FDCWD, file, none, 0));
    show(file);
    say("the second", futimens(fd, half));
    show(file);
    say("mixed", futimens(fd, mixed));
    show(file);
    say("now", utimensat(AT_FDCWD, file, now, 0));
    show(file);
    say("without times", futimens(fd, NULL));
    show(file);
    say("too many nanoseconds", utimensat(AT_FDCWD, file, wrong, 0));
    say("the link itself", utimensat(AT_FDCWD, soft, both, AT_SYMLINK_NOFOLLOW));
    show(soft);
    show(file);
    say("through the link", utimensat(AT_FDCWD, soft, half, 0));
    show(file);
    snprintf(soft, sizeof soft, "%s/missing", base);
    say("missing", utimensat(AT_FDCWD, soft, both, 0));
    say("write", write(fd, "x", 1) == 1 ? 0 : -1);
    show(file);
    say("the directory", utimensat(AT_FDCWD, base, both, 0));
    close(fd);
    return 0;
}
