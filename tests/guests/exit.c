// Ends as its argument says: a number is the exit code, "return N" comes back from main, "abort" aborts.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    printf("before the end\n");
    fflush(stdout);
    if (argc > 2 && !strcmp(argv[1], "return"))
        return atoi(argv[2]);
    if (argc > 1 && !strcmp(argv[1], "abort"))
        abort();
    exit(argc > 1 ? atoi(argv[1]) : 0);
}
