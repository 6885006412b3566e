// Takes memory in steps of its argument (KiB, default 1024) until there is none; then aborts, or returns 7 if asked to.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    size_t step = (size_t)(argc > 1 ? atoi(argv[1]) : 1024) * 1024;
    size_t total = 0;
    // Volatile, for the compiler drops an allocation that nobody can see.
    for (char *volatile block; (block = malloc(step)); total += step)
        memset(block, 1, step);
    printf("%zu\n", total);
    fflush(stdout);
    if (argc > 2 && !strcmp(argv[2], "return"))
        return 7;
    abort();
}
