// Reads and writes one file below its argument at every kind of offset; prints what each step gave, and the file.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char path[512];

static void say(const char *step, long long answer) {
    printf("%s %lld\n", step, answer < 0 ? -(long long)errno : answer);
}

static void show(int fd) {
    char text[64];
    struct stat status;
    fstat(fd, &status);
    ssize_t got = pread(fd, text, sizeof text, 0);
    printf("  %lld:", (long long)status.st_size);
    for (ssize_t i = 0; i < got; i++)
        putchar(text[i] ? text[i] : '.');
    putchar('\n');
}

static void seeks(int fd) {
    say("write", write(fd, "0123456789", 10));
    say("tell", lseek(fd, 0, SEEK_CUR));
    say("from the end", lseek(fd, -3, SEEK_END));
    say("from here", lseek(fd, -2, SEEK_CUR));
    say("before the start", lseek(fd, -1, SEEK_SET));
    say("far before here", lseek(fd, -100, SEEK_CUR));
    say("tell", lseek(fd, 0, SEEK_CUR));
    say("overwrite", write(fd, "abc", 3));
    show(fd);
    say("behind the end", lseek(fd, 14, SEEK_SET));
    say("read there", read(fd, (char[1]){0}, 1));
    say("write there", write(fd, "z", 1));
    show(fd);
    say("far away", lseek(fd, 1LL << 40, SEEK_SET));
    say("read far away", read(fd, (char[1]){0}, 1));
}

static void sizes(int fd) {
    say("shrink", ftruncate(fd, 4));
    show(fd);
    say("grow", ftruncate(fd, 8));
    show(fd);
    say("below zero", ftruncate(fd, -1));
    say("the offset stays", lseek(fd, 2, SEEK_SET));
    say("truncate", ftruncate(fd, 6));
    say("tell", lseek(fd, 0, SEEK_CUR));
    say("by path", truncate(path, 5));
    show(fd);
    say("allocate", posix_fallocate(fd, 0, 12));
    say("advise", posix_fadvise(fd, 0, 4, POSIX_FADV_SEQUENTIAL));
    say("sync", fsync(fd));
    say("datasync", fdatasync(fd));
}

static void at_a_place(int fd) {
    char first[2], second[3];
    struct iovec out[3] = {{"UV", 2}, {"", 0}, {"WXY", 3}}, in[2] = {{first, 2}, {second, 3}};
    say("truncate", ftruncate(fd, 0));
    // Both may stop after a part: a program that cares goes on from there.
    ssize_t written = pwritev(fd, out, 3, 3);
    if (written == 2)
        written += pwrite(fd, "WXY", 3, 5);
    say("pwritev", written);
    show(fd);
    ssize_t got = preadv(fd, in, 2, 3);
    if (got == 2)
        got += pread(fd, second, 3, 5);
    say("preadv", got);
    printf("  %.2s %.3s\n", first, second);
    say("pwrite", pwrite(fd, "!", 1, 20));
    say("pread behind the end", pread(fd, first, 2, 100));
    say("pread across the end", pread(fd, second, 3, 20));
    say("pread before the start", pread(fd, first, 2, -1));
    say("nothing", pwrite(fd, "", 0, 50));
    say("tell", lseek(fd, 0, SEEK_CUR));
    show(fd);
}

static void modes(void) {
    char byte = 'm';
    int fd = open(path, O_WRONLY | O_APPEND);
    say("seek", lseek(fd, 0, SEEK_SET));
    say("append", write(fd, "++", 2));
    say("tell", lseek(fd, 0, SEEK_CUR));
    say("flags", fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK));
    say("append no more", fcntl(fd, F_SETFL, 0));
    say("seek", lseek(fd, 0, SEEK_SET));
    say("write", write(fd, "--", 2));
    say("read what is to be written", read(fd, &byte, 1));
    close(fd);
    fd = open(path, O_RDONLY);
    show(fd);
    say("write what is to be read", write(fd, &byte, 1));
    say("truncate it", ftruncate(fd, 0));
    close(fd);
    say("closed", read(fd, &byte, 1));
    fd = open(path, O_RDWR | O_TRUNC);
    show(fd);
    close(fd);
}

static void big(void) {
    static char block[100000];
    int fd = open(path, O_RDWR | O_TRUNC);
    long long total = 0, sum = 0;
    for (int i = 0; i < 30; i++) {
        memset(block, i + 1, sizeof block);
        for (size_t done = 0; done < sizeof block;)
            done += (size_t)write(fd, block + done, sizeof block - done);
    }
    lseek(fd, 0, SEEK_SET);
    for (ssize_t got; (got = read(fd, block, sizeof block)) > 0; total += got)
        for (ssize_t i = 0; i < got; i++)
            sum += block[i];
    printf("big %lld %lld\n", total, sum);
    say("empty it", ftruncate(fd, 3));
    close(fd);
}

int main(int argc, char **argv) {
    snprintf(path, sizeof path, "%s/file", argc > 1 ? argv[1] : "/data");
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0644);
    say("create", fd < 0 ? -1 : 0);
    seeks(fd);
    sizes(fd);
    at_a_place(fd);
    say("close", close(fd));
    modes();
    big();
    return 0;
}
