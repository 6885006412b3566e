// Sleeps for an hour in the host, where neither fuel nor epoch reaches.
#include <stdio.h>
#include <unistd.h>

int main(void) {
    puts("going to sleep");
    fflush(stdout);
    sleep(3600);
    puts("woke up");
    return 0;
}
