// Opens the file that its first argument names, idles so many milliseconds as its second says, and opens it again.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int show(const char *path) {
    char text[64];
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (got < 0)
        return 1;
    printf("%.*s\n", (int)got, text);
    fflush(stdout);
    return close(fd);
}

int main(int argc, char **argv) {
    if (argc != 3 || show(argv[1]))
        return 3;
    long ms = atol(argv[2]);
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
    return show(argv[1]) ? 4 : 0;
}
