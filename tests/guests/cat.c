// Copies stdin to stdout; with an argument to stderr too.
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char buffer[4096];
    ssize_t got;
    (void)argv;
    while ((got = read(0, buffer, sizeof buffer)) > 0) {
        if (write(1, buffer, (size_t)got) != got)
            return 1;
        if (argc > 1 && write(2, buffer, (size_t)got) != got)
            return 2;
    }
    return got < 0 ? 3 : 0;
}
