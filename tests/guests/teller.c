// A WAGI handler that leaves a trace of each call: its query goes to stderr as one line, then comes back as the body.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    const char *query = getenv("QUERY_STRING");
    char line[256];
    int length = snprintf(line, sizeof line, "%s\n", query ? query : "");
    if (write(2, line, (size_t)length) != length)
        return 1;
    for (volatile int i = 0; i < 300000; i++) // a millisecond or so: long enough to be killed in
        ;
    printf("Content-Type: text/plain\n\n%s", query ? query : "");
    return 0;
}
