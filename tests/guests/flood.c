// Writes to the stream that its argument names (1 or 2), for ever.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int fd = argc > 1 ? atoi(argv[1]) : 1;
    char block[1000];
    memset(block, 'x', sizeof block);
    while (write(fd, block, sizeof block) > 0) {
    }
    return 9;
}
