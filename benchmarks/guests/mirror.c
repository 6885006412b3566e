// A WAGI handler that gives the request's body back, and says hello where there is none.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 1 << 16 };

static void put(const char *from, size_t size) {
    while (size) {
        ssize_t written = write(1, from, size);
        if (written <= 0)
            exit(1);
        from += written;
        size -= (size_t)written;
    }
}

int main(void) {
    static const char head[] = "Content-Type: text/plain\n\n", hello[] = "hello world\n";
    static char block[BLOCK];
    put(head, sizeof head - 1);
    ssize_t got = read(0, block, sizeof block);
    if (got <= 0)
        put(hello, sizeof hello - 1);
    for (; got > 0; got = read(0, block, sizeof block))
        put(block, (size_t)got);
    return 0;
}
