// Waits for clocks and streams; prints a line for each wait: the step, the answer or errno, and what was ready.
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

static void say(const char *step, int answer) { printf("%s: %d\n", step, answer < 0 ? -errno : answer); }

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void polls(void) {
    // Not all at once: a stdin that is read in the background may come after the others.
    struct pollfd in = {0, POLLIN, 0}, out[2] = {{1, POLLOUT, 0}, {2, POLLOUT, 0}};
    say("poll stdin", poll(&in, 1, 1000));
    say("poll both outputs", poll(out, 2, 1000));
    printf("0: %x, 1: %x, 2: %x\n", (unsigned)in.revents, (unsigned)out[0].revents, (unsigned)out[1].revents);
    struct pollfd stranger = {99, POLLIN, 0};
    say("poll a stranger", poll(&stranger, 1, 0));
    printf("revents %x\n", (unsigned)stranger.revents);
    long long before = now_ms();
    say("poll nothing", poll(NULL, 0, 15));
    printf("15 ms passed: %d\n", now_ms() - before >= 14);
}

static void selects(void) {
    fd_set readable, writable;
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_SET(0, &readable);
    FD_SET(1, &writable);
    struct timeval second = {1, 0};
    say("select stdin", select(1, &readable, NULL, NULL, &second));
    say("select stdout", select(2, NULL, &writable, NULL, &second));
    printf("0: %d, 1: %d\n", !!FD_ISSET(0, &readable), !!FD_ISSET(1, &writable));
}

static void sleeps(void) {
    struct timespec nothing = {0, 0}, past = {1, 0}, soon = {0, 5000000}, wrong = {0, 1000000000};
    say("sleep 0", nanosleep(&nothing, NULL));
    say("until an instant that has passed", clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &past, NULL));
    say("5 ms of the wall clock", clock_nanosleep(CLOCK_REALTIME, 0, &soon, NULL));
    say("too many nanoseconds", nanosleep(&wrong, NULL));
}

int main(void) {
    struct timespec resolution, first, second;
    say("resolution", clock_getres(CLOCK_REALTIME, &resolution));
    printf("%lld.%09ld\n", (long long)resolution.tv_sec, resolution.tv_nsec);
    clock_gettime(CLOCK_MONOTONIC, &first);
    for (int i = 0; i < 1000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &second);
        if (second.tv_sec < first.tv_sec || (second.tv_sec == first.tv_sec && second.tv_nsec < first.tv_nsec))
            puts("the clock went back");
        first = second;
    }
    polls();
    selects();
    sleeps();
    return 0;
}
