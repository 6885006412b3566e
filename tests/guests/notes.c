// A WAGI handler that keeps notes: a body is added to the file that its argument names, and all of it is the answer.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    char block[4096];
    const char *query = getenv("QUERY_STRING");
    FILE *notes = fopen(argv[argc - 1], query && strcmp(query, "read") == 0 ? "r" : "a+");
    if (!notes) {
        perror(argv[argc - 1]);
        return 1;
    }
    if (!query || strcmp(query, "read") != 0) // with ?read the body stays where it is
        for (size_t got; (got = fread(block, 1, sizeof block, stdin)) > 0;)
            if (fwrite(block, 1, got, notes) != got)
                return 2;
    if (fflush(notes))
        return 3;
    rewind(notes);
    printf("Content-Type: application/octet-stream\n\n");
    for (size_t got; (got = fread(block, 1, sizeof block, notes)) > 0;)
        fwrite(block, 1, got, stdout);
    return 0;
}
