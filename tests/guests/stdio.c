// Asks its three streams for what streams and files can do; prints a line for each: the step, the answer or errno.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static void say(const char *step, int fd, long long answer) {
    printf("%s %d: %lld\n", step, fd, answer < 0 ? -(long long)errno : answer);
}

static void describe(int fd) {
    struct stat status;
    char byte;
    say("isatty", fd, isatty(fd) ? 1 : -1);
    memset(&status, 0, sizeof status);
    say("fstat", fd, fstat(fd, &status));
    printf("type %o size %lld links %lld\n", (unsigned)(status.st_mode & S_IFMT), (long long)status.st_size,
           (long long)status.st_nlink);
    say("lseek", fd, lseek(fd, 0, SEEK_CUR));
    say("flags", fd, fcntl(fd, F_GETFL));
    say("pread", fd, pread(fd, &byte, 1, 0));
    say("pwrite", fd, pwrite(fd, "", 0, 0));
    say("fsync", fd, fsync(fd));
    say("fdatasync", fd, fdatasync(fd));
    say("ftruncate", fd, ftruncate(fd, 0));
    say("futimens", fd, futimens(fd, NULL));
    say("fallocate", fd, posix_fallocate(fd, 0, 1));
    say("fadvise", fd, posix_fadvise(fd, 0, 1, POSIX_FADV_NORMAL));
}

static void read_in_pieces(void) {
    char first[3], second[5], third[64];
    struct iovec room[3] = {{first, sizeof first}, {second, 0}, {third, sizeof third}};
    ssize_t got = readv(0, room, 3);
    say("readv", 0, got > 0);
    for (int turn = 0; got > 0 && turn < 1000; turn++)
        got = read(0, third, sizeof third);
    say("at the end", 0, got);
    say("after the end", 0, read(0, third, sizeof third));
    say("no room", 0, read(0, third, 0));
}

static void write_in_pieces(void) {
    struct iovec parts[4] = {{"one ", 4}, {"", 0}, {"two ", 4}, {"three\n", 6}};
    for (int fd = 1; fd < 3; fd++) {
        fflush(stdout);
        // writev may stop at any byte: what is left is written as it is.
        ssize_t written = writev(fd, parts, 4);
        for (const char *rest = "one two three\n"; written >= 0 && written < 14;)
            written += write(fd, rest + written, 14 - (size_t)written);
        say("writev", fd, written);
        say("nothing", fd, write(fd, "", 0));
    }
}

int main(void) {
    char byte = 'x';
    for (int fd = 0; fd < 3; fd++)
        describe(fd);
    read_in_pieces();
    write_in_pieces();
    say("write", 0, write(0, &byte, 1));
    say("read", 1, read(1, &byte, 1));
    say("read", 2, read(2, &byte, 1));
    say("close", 0, close(0));
    say("closed", 0, read(0, &byte, 1));
    say("close", 2, close(2));
    say("closed", 2, write(2, &byte, 1));
    say("again", 2, close(2));
    say("unknown", 77, write(77, &byte, 1));
    say("unknown", 77, lseek(77, 0, SEEK_SET));
    return 0;
}
