// A WAGI handler with C's stdio: says hello, tells its request with ?tell, and gives a body back as it came.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

int main(int argc, char **argv) {
    if (strcmp(variable("QUERY_STRING"), "tell") == 0) {
        printf("Content-Type: text/plain\n\n");
        for (int i = 1; i < argc; i++)
            printf("argument %s\n", argv[i]);
        for (char **each = environ; *each; each++)
            printf("%s\n", *each);
        return 0;
    }
    long length = atol(variable("CONTENT_LENGTH"));
    if (length <= 0) {
        printf("Content-Type: text/plain\n\nhello world\n");
        return 0;
    }
    printf("Content-Type: %s\nStatus: 201 Made\n\n", variable("CONTENT_TYPE"));
    char block[4096];
    for (size_t got; (got = fread(block, 1, sizeof block, stdin)) > 0;)
        fwrite(block, 1, got, stdout);
    return 0;
}
