// Loops for ever.
#include <stdio.h>

int main(void) {
    puts("going round");
    fflush(stdout);
    for (volatile unsigned i = 0;; i++) {
    }
}
